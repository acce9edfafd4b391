"""Boxes without namespaces: confined by Landlock, a call filter and limits, or (``unsafe_local``) by limits only.

The workspace is a folder of the host; ``/work`` in paths given to a sandbox means it, programs inside see its real
name in ``$WORK``. There is no quota of the kernel: the watchdog measures the folder every quarter of a second.
"""

import contextlib
import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

from whet.core.errors import RefusedError
from whet.sandboxes import seccomp
from whet.sandboxes.box import Box
from whet.sandboxes.cgroup import adopt_into_cgroup
from whet.sandboxes.interpreter import Interpreter, as_user, find_interpreter, sandbox_uid
from whet.sandboxes.launch import Started, start, zygote_argv, zygote_limits
from whet.sandboxes.owner import in_owner_thread
from whet.sandboxes.packages import prepare_packages
from whet.sandboxes.sandbox import SandboxSpec, Tier

__all__ = ["LandlockBackend", "UnsafeLocalBackend"]

_SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"]
_ETC = ["/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types"]
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
_PREFIX = "whet-box-"
_SPARE_PROCESSES = 256  # RLIMIT_NPROC counts by user here; the watchdog counts what is below the zygote


class UnsafeLocalBackend:
    """Processes with limits and no isolation whatsoever. Only by name.

    Even so root drops to the dedicated uid: one ``kill -9 -1`` of a guest would otherwise end the whole machine.
    """

    name = "unsafe_local"
    tier: Tier = "none"

    async def create(self, spec: SandboxSpec) -> Box:
        """Returns a running box.

        Raises:
            SandboxError: it did not start.
            RefusedError: an interpreter, or a way to keep what the spec asks for, is missing.
        """
        self._refuse(spec)
        uid = sandbox_uid()
        python = find_interpreter(uid)
        packages = await prepare_packages(spec.packages, python)
        started = await in_owner_thread(lambda: self._start(spec, uid, python, packages), Started.discard)
        return await Box(started, spec, self.tier, partial(self.create, spec)).boot()

    def _refuse(self, spec: SandboxSpec) -> None:
        if spec.network:
            raise RefusedError(f"network={spec.network!r}: {self.name} cannot keep an allow-list; leave it empty")

    def _start(self, spec: SandboxSpec, uid: int | None, python: Interpreter, packages: Path | None) -> Started:
        """Starts the zygote in a folder of its own. Runs in the owner thread."""
        _sweep()
        home = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        try:
            for folder in (home, f"{home}/work", f"{home}/tmp"):
                os.makedirs(folder, mode=0o700, exist_ok=True)
                if uid is not None:
                    os.chown(folder, uid, uid)
            env = _environment(home, python, packages)
            config = {**self._config(home, python, packages), "limits": zygote_limits(spec.limits)}
            argv = partial(zygote_argv, python)
            started = start(lambda fd: as_user(argv(fd), uid), config, env, cwd=f"{home}/work", process_env=env)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        started.adopt = partial(adopt_into_cgroup, limits=spec.limits)
        started.cleanup = partial(_remove, home)
        return started

    def _config(self, home: str, python: Interpreter, packages: Path | None) -> dict[str, object]:
        return {
            "work": f"{home}/work",
            "tmpfs": [],
            "quota": [f"{home}/work", f"{home}/tmp"],
            "other_processes": _SPARE_PROCESSES + _processes_of(sandbox_uid()),
            "path": [] if packages is None else [str(packages)],
            "domain": None,
            "keeper_domain": None,
            "filter": "",
        }


class LandlockBackend(UnsafeLocalBackend):
    """Boxes of Landlock (ABI 6, Linux 6.12) and a system-call filter that leaves no sockets at all."""

    name = "landlock"
    tier: Tier = "landlock"

    def _config(self, home: str, python: Interpreter, packages: Path | None) -> dict[str, object]:
        readable = [*_SYSTEM, *_ETC, python.prefix, *([str(packages)] if packages else [])]
        guests = {"read": readable, "write": [home, *_DEVICES], "sockets": False}
        return {
            **super()._config(home, python, packages),
            "domain": guests,
            "keeper_domain": {**guests, "read": [*readable, "/proc"]},
            "filter": seccomp.assemble(namespaces=False).hex(),
        }


def _environment(home: str, python: Interpreter, packages: Path | None) -> dict[str, str]:
    work = f"{home}/work"
    path = [str(Path(python.path).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    env = {"HOME": work, "WORK": work, "TMPDIR": f"{home}/tmp", "LANG": "C.UTF-8", "USER": "agent"}
    if packages is not None:
        env["PYTHONPATH"] = str(packages)
        path.insert(0, f"{packages}/bin")
    return {**env, "PATH": ":".join(path)}


def _processes_of(uid: int | None) -> int:
    """Returns how many threads a user has, which is what RLIMIT_NPROC counts."""
    wanted = os.geteuid() if uid is None else uid
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == wanted:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it ended meanwhile
    return count


@cache
def _sweep() -> None:
    """Removes, once per process, the folders of boxes whose owner was killed before it could."""
    ours = {os.geteuid(), sandbox_uid()}
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            mine = folder.lstat().st_uid in ours and folder.is_dir() and not folder.is_symlink()
            if mine and owner.isdigit() and not Path("/proc", owner).exists():
                _remove(str(folder))


def _remove(home: str) -> None:
    """Removes a box's folders, whatever modes the guest left behind; no link is followed."""
    for folder, names, _ in os.walk(home):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(home)
