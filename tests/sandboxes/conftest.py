"""Back ends that work here, canaries on the host, and owners of sandboxes under different users.

The abuse suite runs its owner as a process of its own: under our uid and, if that is root, under an ordinary one too.
"""

import asyncio
import contextlib
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from whet.sandboxes import ladder, seccomp
from whet.sandboxes.interpreter import as_user, find_interpreter
from whet.sandboxes.packages import prepare_packages

BOX_UID, ORDINARY_UID = 59_488, 59_489  # not the default, so that other sandboxes on the machine are not counted
ROOT = Path(__file__).resolve().parents[2]


@cache
def why_not(name: str) -> str:
    return asyncio.run(ladder.why_not(name))


@pytest.fixture(params=["bubblewrap", "nested", "landlock", "unsafe_local"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := why_not(name):
        pytest.skip(f"{name} does not work here: {reason}")
    return name


def _address() -> str:
    """Returns an address of this machine that is not its loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])
    return "127.0.0.1"


class Canaries:
    """What on the host must not be touched. ``about`` is what payloads are told, ``damage`` what came of it."""

    def __init__(self, folder: Path, guest_uid: int) -> None:
        self.token = secrets.token_hex(16)
        self.folder, self.guest_uid = folder, guest_uid
        (folder / "secret").write_text(self.token)
        self.hits: list[str] = []
        self.tcp = socket.create_server(("0.0.0.0", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("0.0.0.0", 0))
        self.abstract, self.unix = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.abstract.bind("\0whet-" + self.token)
        self.unix.bind(str(folder / "socket"))
        for listener in (self.abstract, self.unix):
            listener.listen()
        for path in (folder, folder / "secret", folder / "socket"):
            path.chmod(0o777)
            if os.geteuid() == 0:
                os.chown(path, guest_uid, guest_uid)
        self.process = subprocess.Popen(as_user(["sleep", "3600"], guest_uid if os.geteuid() == 0 else None))
        self.settings = self.kernel_settings()
        for kind, sock in (("tcp", self.tcp), ("udp", self.udp), ("abstract", self.abstract), ("unix", self.unix)):
            threading.Thread(target=self.listen, args=(kind, sock), daemon=True).start()

    def listen(self, kind: str, sock: socket.socket) -> None:
        while True:
            try:
                sock.recvfrom(1) if kind == "udp" else sock.accept()[0].close()
            except OSError:
                return
            self.hits.append(kind)

    def about(self) -> dict[str, object]:
        column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
        return {
            "secret": str(self.folder / "secret"),
            "folder": str(self.folder),
            "variable": f"CANARY_{self.token[:8]}",
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "address": _address(),
            "abstract": "whet-" + self.token,
            "unix": str(self.folder / "socket"),
            "pid": self.process.pid,
            "calls": {name: numbers[column] for name, numbers in seccomp.DENIED.items() if numbers[column] is not None},
            "clone": (56, 220)[column],
        }

    def kernel_settings(self) -> list[str]:
        """Settings, and the System V objects that belong to guests."""
        settings = [Path("/proc/sys", name).read_text() for name in ("kernel/core_pattern", "vm/overcommit_memory")]
        objects = [
            line for kind in ("shm", "sem", "msg") for line in Path("/proc/sysvipc", kind).read_text().splitlines()
        ]
        return settings + [line for line in objects if str(self.guest_uid) in line.split()]

    def damage(self) -> list[str]:
        """Returns what happened to the canaries."""
        found = [f"heard on {kind}" for kind in self.hits]
        if sorted(path.name for path in self.folder.iterdir()) != ["secret", "socket"]:
            found.append("the folder has other files")
        if (self.folder / "secret").read_text() != self.token:
            found.append("the secret was written")
        if self.folder.stat().st_mode & 0o777 != 0o777:
            found.append("modes were changed")
        if self.process.poll() is not None:
            found.append("the process was killed")
        if self.kernel_settings() != self.settings:
            found.append("kernel settings or System V objects changed")
        return found

    def guests(self) -> list[str]:
        """Returns the command lines of what still runs under the boxes' own uid; nothing may outlive its box."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status") if os.geteuid() == 0 else ():
            with contextlib.suppress(OSError):
                text = status.read_text()
                if f"\nUid:\t{self.guest_uid}\t" in text and "\nState:\tZ" not in text:
                    found.append((status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
        return [line for line in found if not line.startswith("sleep 3600") and "driver.py" not in line]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for sock in (self.tcp, self.udp, self.abstract, self.unix):
            sock.shutdown(socket.SHUT_RDWR) if sock is not self.udp else None
            sock.close()


class Owner:
    """A process that opens sandboxes and fires payloads; see ``driver.py``."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], canaries: Canaries) -> None:
        self.name, self.canaries = name, canaries
        env = {**env, "PATH": os.environ["PATH"], f"CANARY_{canaries.token[:8]}": canaries.token}
        self.process = subprocess.Popen(
            argv, env=env, cwd="/", text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def fire(self, backend: str, limits: dict[str, float], programs: list[str], timeout: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"backend": backend, "limits": limits, "programs": programs, "timeout": timeout}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.canaries.close()


@pytest.fixture(scope="session", params=["ourselves", "ordinary"])
def owner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    root = os.geteuid() == 0
    if request.param == "ordinary" and not root:
        pytest.skip("we are an ordinary user ourselves")
    place = Path("/tmp", f"whet-tests-{secrets.token_hex(6)}")
    place.mkdir(mode=0o755)
    (place / "canary").mkdir()
    try:
        guest = BOX_UID if request.param == "ourselves" else ORDINARY_UID
        canaries = Canaries(place / "canary", guest if root else os.geteuid())
        argv, env = _ordinary(place) if request.param == "ordinary" else _ourselves()
        made = Owner(request.param, argv, env, canaries)
        yield made
        made.close()
    finally:
        shutil.rmtree(place)


def _ourselves() -> tuple[list[str], dict[str, str]]:
    rooms = ":".join([str(ROOT / "core"), str(ROOT / "sandboxes"), os.environ.get("PYTHONPATH", "")])
    return [sys.executable, str(ROOT / "tests/sandboxes/driver.py")], {
        "PYTHONPATH": rooms,
        "WHET_SANDBOX_UID": str(BOX_UID),
    }


def _ordinary(place: Path) -> tuple[list[str], dict[str, str]]:
    """A copy of what the driver needs that an ordinary user can read, and that user's own interpreter."""
    python = find_interpreter(ORDINARY_UID)
    packages = asyncio.run(prepare_packages(("msgspec",), python))
    for room in ("core", "sandboxes"):
        shutil.copytree(ROOT / room, place / room, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "tests/sandboxes/driver.py", place)
    subprocess.run(
        ["chmod", "-R", "a+rX", str(place / "core"), str(place / "sandboxes"), str(place / "driver.py")], check=True
    )
    env = {
        "PYTHONPATH": f"{packages}:{place / 'core'}:{place / 'sandboxes'}",
        "HOME": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return as_user([python.path, str(place / "driver.py")], ORDINARY_UID), env
