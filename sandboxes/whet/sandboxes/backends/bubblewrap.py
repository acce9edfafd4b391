"""Bubblewrap: user, pid, mount, network, IPC and UTS namespaces, a system-call filter, sized memory file systems.

Never as uid 0: a box that root starts can write /proc/sys, so root drops to a dedicated uid first.

The nested form is for hosts that are containers themselves, where no new /proc can be mounted: the host's is bound
read-only for the zygote, and a Landlock domain keeps the guests out of it.
"""

import os
import shutil
from functools import partial
from pathlib import Path

from whet.core.errors import RefusedError
from whet.sandboxes import seccomp
from whet.sandboxes.box import Box
from whet.sandboxes.cgroup import adopt_into_cgroup
from whet.sandboxes.interpreter import Interpreter, as_user, find_interpreter, sandbox_uid
from whet.sandboxes.launch import Started, memory_file, start, zygote_argv, zygote_limits
from whet.sandboxes.owner import in_owner_thread
from whet.sandboxes.packages import prepare_packages
from whet.sandboxes.sandbox import SandboxSpec, Tier

__all__ = ["BubblewrapBackend", "NestedBubblewrapBackend"]

_BIN = "/opt/whet/bin"
_PACKAGES = "/opt/whet/packages"
_SHM_BYTES = 64 << 20
_ETC = {
    "/etc/passwd": "root:x:0:0::/root:/bin/false\nagent:x:65534:65534::/work:/bin/sh\n",
    "/etc/group": "root:x:0:\nagent:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
}
_SHARED_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types")


class BubblewrapBackend:
    """Boxes of bubblewrap with a /proc of their own."""

    name = "bubblewrap"
    tier: Tier = "namespaces"
    _proc: tuple[str, ...] = ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys")

    async def create(self, spec: SandboxSpec) -> Box:
        """Returns a running box.

        Raises:
            SandboxError: it did not start.
            RefusedError: bubblewrap, an interpreter, or a way to keep what the spec asks for is missing.
        """
        if spec.network:
            raise RefusedError(
                f"network={spec.network!r}: the bubblewrap sandbox has no network; "
                "fetch what is needed outside and write() it into the sandbox, or name packages in the spec"
            )
        uid = sandbox_uid()
        python = find_interpreter(uid)
        packages = await prepare_packages(spec.packages, python)
        started = await in_owner_thread(lambda: self._start(spec, uid, python, packages), Started.discard)
        return await Box(started, spec, self.tier, partial(self.create, spec)).boot()

    def _start(self, spec: SandboxSpec, uid: int | None, python: Interpreter, packages: Path | None) -> Started:
        """Starts the processes. Runs in the owner thread."""
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise RefusedError("bubblewrap is not installed: apt install bubblewrap")
        data = {path: memory_file(text.encode()) for path, text in _ETC.items()}
        filter_fd = memory_file(seccomp.assemble(namespaces=True))
        env = _environment(packages)
        argv = [bwrap, *_namespaces(), *_mounts(python, packages), *self._proc, *_writable(spec)]
        argv += [word for path, fd in data.items() for word in ("--ro-bind-data", str(fd), path)]
        argv += ["--remount-ro", "/dev", "--remount-ro", "/", "--seccomp", str(filter_fd)]
        argv += [word for name, value in env.items() for word in ("--setenv", name, value)]
        argv += ["--chdir", "/work", "--"]
        started = start(
            lambda fd: as_user([*argv, *zygote_argv(python, fd)], uid),
            {**self._config(), "path": [] if packages is None else [_PACKAGES], "limits": zygote_limits(spec.limits)},
            env,
            files=[*data.values(), filter_fd],
        )
        started.adopt = partial(adopt_into_cgroup, limits=spec.limits)
        return started

    def _config(self) -> dict[str, object]:
        return {
            "work": "/work",
            "tmpfs": ["/work", "/tmp", "/dev/shm"],
            "quota": [],
            "other_processes": 2,  # the zygote and bubblewrap itself
            "domain": None,
            "keeper_domain": None,
            "filter": "",
        }


class NestedBubblewrapBackend(BubblewrapBackend):
    """Boxes of bubblewrap inside a container that masks parts of /proc."""

    name = "nested"
    _proc: tuple[str, ...] = ("--ro-bind", "/proc", "/proc")

    def _config(self) -> dict[str, object]:
        readable = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt"]
        domain = {"read": readable, "write": ["/work", "/tmp", "/dev"], "sockets": True}
        return {**super()._config(), "domain": domain}


def _namespaces() -> list[str]:
    shut = ["user", "ipc", "pid", "net", "uts", "cgroup-try"]
    flags = [f"--unshare-{name}" for name in shut]
    flags += ["--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    return [*flags, "--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--clearenv"]


def _mounts(python: Interpreter, packages: Path | None) -> list[str]:
    """An allow-list: system binaries and libraries, the interpreter, packages. The rest of the host is not there."""
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        link = Path("/", name)
        if link.is_symlink():
            argv += ["--symlink", os.readlink(link), str(link)]
        elif link.is_dir():
            argv += ["--ro-bind", str(link), str(link)]
    for path in _SHARED_ETC:
        argv += ["--ro-bind-try", path, path]
    if not Path(python.prefix).is_relative_to("/usr"):
        argv += ["--ro-bind", python.prefix, python.prefix]
    for name in ("python", "python3"):
        argv += ["--symlink", python.path, f"{_BIN}/{name}"]
    if packages is not None:
        argv += ["--ro-bind", str(packages), _PACKAGES]
    return argv


def _writable(spec: SandboxSpec) -> list[str]:
    sized = {"/dev/shm": _SHM_BYTES, "/tmp": spec.limits.tmp_bytes, "/work": spec.limits.work_bytes}
    mounts = [word for path, size in sized.items() for word in ("--size", str(size), "--tmpfs", path)]
    return ["--dev", "/dev", *mounts]


def _environment(packages: Path | None) -> dict[str, str]:
    """The guest's whole environment: nothing of the owner's comes in."""
    path = [_BIN, "/usr/local/bin", "/usr/bin", "/bin"]
    env = {"HOME": "/work", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "USER": "agent"}
    if packages is not None:
        env["PYTHONPATH"] = _PACKAGES
        path.insert(1, f"{_PACKAGES}/bin")
    return {**env, "PATH": ":".join(path)}
