"""Bubblewrap: user, pid, mount, network, IPC and UTS namespaces, a system-call filter, sized memory file systems.

Never as uid 0: a box that root starts can write /proc/sys, so root drops to a dedicated uid first.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from whet.core.errors import RefusedError, SandboxError
from whet.sandboxes import seccomp
from whet.sandboxes.box import Box, Started, zygote_limits
from whet.sandboxes.channel import Channel
from whet.sandboxes.guest import program
from whet.sandboxes.interpreter import Interpreter, as_user, find_interpreter, sandbox_uid
from whet.sandboxes.owner import in_owner_thread
from whet.sandboxes.packages import prepare_packages
from whet.sandboxes.sandbox import SandboxSpec, Tier

__all__ = ["BubblewrapBackend"]

_BIN = "/opt/whet/bin"
_PACKAGES = "/opt/whet/packages"
_SHM_BYTES = 64 << 20
_DEV_BYTES = 1 << 20
_ETC = {
    "/etc/passwd": "root:x:0:0::/root:/bin/false\nagent:x:65534:65534::/work:/bin/sh\n",
    "/etc/group": "root:x:0:\nagent:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
}
_SHARED_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types")


class BubblewrapBackend:
    """Boxes of bubblewrap."""

    name = "bubblewrap"
    tier: Tier = "namespaces"

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
        started = await in_owner_thread(lambda: _start(spec, uid, python, packages), Started.discard)
        return await Box(started, spec, self.tier, lambda: self.create(spec)).boot()


def _start(spec: SandboxSpec, uid: int | None, python: Interpreter, packages: Path | None) -> Started:
    """Starts the processes. Runs in the owner thread."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise RefusedError("bubblewrap is not installed: apt install bubblewrap")
    ours, theirs = socket.socketpair()
    said = os.memfd_create("said")
    inherited = [theirs.fileno()]
    try:
        data = {path: _memory_file(text.encode()) for path, text in _ETC.items()}
        filter_fd = _memory_file(seccomp.assemble(sockets=True))
        inherited += [*data.values(), filter_fd]
        env = _environment(packages)
        argv = [bwrap, *_namespaces(), *_mounts(spec, python, packages), *_bind_data(data), *_seal(spec)]
        argv += ["--seccomp", str(filter_fd), *_setenv(env), "--chdir", "/work", "--"]
        argv += [python.path, "-I", "-S", "-c", program(), str(theirs.fileno())]
        process = subprocess.Popen(
            as_user(argv, uid),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=inherited,
            cwd="/",
        )
    except OSError as error:
        ours.close()
        os.close(said)
        raise SandboxError(f"bubblewrap could not be started: {error}") from error
    finally:
        theirs.close()
        for fd in inherited[1:]:
            os.close(fd)
    return Started(
        process, Channel(ours), _config(spec, packages), env, lambda: _read(said), lambda: os.close(said), lambda: 0
    )


def _namespaces() -> list[str]:
    shut = ["user", "ipc", "pid", "net", "uts", "cgroup-try"]
    flags = [f"--unshare-{name}" for name in shut]
    flags += ["--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    return [*flags, "--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--clearenv"]


def _mounts(spec: SandboxSpec, python: Interpreter, packages: Path | None) -> list[str]:
    """An allow-list: system binaries and libraries, the interpreter, its packages. The rest of the host is not there."""
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
    argv += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    sized = {"/dev/shm": _SHM_BYTES, "/tmp": spec.limits.tmp_bytes, "/work": spec.limits.work_bytes}
    for path, size in sized.items():
        argv += ["--size", str(size), "--tmpfs", path]
    return argv


def _bind_data(data: dict[str, int]) -> list[str]:
    return [word for path, fd in data.items() for word in ("--ro-bind-data", str(fd), path)]


def _seal(spec: SandboxSpec) -> list[str]:
    return ["--remount-ro", "/dev", "--remount-ro", "/"]


def _environment(packages: Path | None) -> dict[str, str]:
    """The guest's whole environment: nothing of the owner's comes in."""
    path = [_BIN, "/usr/local/bin", "/usr/bin", "/bin"]
    env = {"HOME": "/work", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "USER": "agent"}
    if packages is not None:
        env["PYTHONPATH"] = _PACKAGES
        path.insert(1, f"{_PACKAGES}/bin")
    return {**env, "PATH": ":".join(path)}


def _setenv(env: dict[str, str]) -> list[str]:
    return [word for name, value in env.items() for word in ("--setenv", name, value)]


def _config(spec: SandboxSpec, packages: Path | None) -> dict[str, object]:
    return {
        "work": "/work",
        "sweep": "all",
        "domain": None,
        "tmpfs": ["/work", "/tmp", "/dev/shm"],
        "other_processes": 2,  # the zygote and bubblewrap itself
        "path": [] if packages is None else [_PACKAGES],
        "limits": zygote_limits(spec.limits),
    }


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("whet")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _read(fd: int) -> str:
    """Returns the last line that the box's own programs wrote."""
    lines = os.pread(fd, 1 << 16, 0).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
