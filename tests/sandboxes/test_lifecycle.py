"""Boxes begin and end whole: whatever happens to the owner, the loop, the thread or the box itself."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from whet.core.errors import RefusedError, SandboxError
from whet.sandboxes import Limits, SandboxSpec, open_sandbox
from whet.sandboxes.box import Box
from whet.sandboxes.ladder import load_backend

SPEC = SandboxSpec(limits=Limits(work_bytes=8 << 20, tmp_bytes=8 << 20))


async def opened(backend: str) -> Box:
    box = await load_backend(backend).create(SPEC)
    assert isinstance(box, Box)
    return box


def below(pid: int) -> list[psutil.Process]:
    return list(psutil.Process(pid).children(recursive=True))


def state() -> tuple[int, int, str]:
    """Returns how many descriptors and child processes we have, and what is mounted."""
    return len(os.listdir("/proc/self/fd")), len(below(os.getpid())), Path("/proc/self/mounts").read_text()


def strays(word: str) -> list[int]:
    """Returns the processes with a word in their command line, whoever their parent is by now."""
    return [process.pid for process in psutil.process_iter() if word in safe_cmdline(process)]


def safe_cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.asyncio
async def test_two_hundred_boxes_leave_nothing() -> None:
    """Bubblewrap only: 200 times create, run, close; and a few that are broken off at every stage."""
    async with await opened("bubblewrap") as box:
        await box.run_python("print(1)")
    gc.collect()
    before = state()
    for _ in range(25):
        boxes = await asyncio.gather(*(opened("bubblewrap") for _ in range(8)))
        await asyncio.gather(*(box.run_python("open('x', 'w').write('1')") for box in boxes))
        await asyncio.gather(*(box.close() for box in boxes))
    gc.collect()
    assert state() == before


@pytest.mark.asyncio
async def test_broken_off_creations_leave_nothing(backend: str) -> None:
    async with await opened(backend) as box:
        await box.run_python("print(1)")
    before, marked = state(), SandboxSpec(limits=Limits(work_bytes=(8 << 20) + 4096 * os.getpid(), tmp_bytes=8 << 20))
    for delay in (0.0, 0.001, 0.005, 0.01, 0.02, 0.04, 0.08):
        task = asyncio.create_task(load_backend(backend).create(marked))
        await asyncio.sleep(delay)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, Box):
            await result.close()
    await asyncio.sleep(0.1)
    gc.collect()
    assert state() == before
    assert strays(str(marked.limits.work_bytes)) == []


@pytest.mark.asyncio
async def test_killed_from_outside_is_lost_and_stays_so(backend: str) -> None:
    box = await opened(backend)
    inside = [process.pid for process in below(box.pid)] + [box.pid]
    waiting = asyncio.create_task(box.exec("sleep 30"))
    await asyncio.sleep(0.3)
    os.kill(inside[0], signal.SIGKILL)
    with pytest.raises(SandboxError, match="lost"):
        await waiting
    with pytest.raises(SandboxError, match="lost"):
        await box.run_python("print(1)")
    await box.close()
    assert gone(inside)


@pytest.mark.asyncio
async def test_health_of_a_good_box(backend: str) -> None:
    async with await opened(backend) as box:
        await box.health()


def test_one_box_serves_several_event_loops(backend: str) -> None:
    box = asyncio.run(opened(backend))
    for n in range(3):
        result = asyncio.run(box.run_python(f"print({n})"))
        assert result.stdout == f"{n}\n"
    asyncio.run(box.close())


def test_box_outlives_the_thread_that_asked_for_it(backend: str) -> None:
    made: list[Box] = []
    thread = threading.Thread(target=lambda: made.append(asyncio.run(opened(backend))))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert asyncio.run(made[0].run_python("print('alive')")).stdout == "alive\n"
    asyncio.run(made[0].close())


OWNER = """
import asyncio, sys
from whet.sandboxes import SandboxPool
from whet.sandboxes.ladder import load_backend
from whet.sandboxes import SandboxSpec
async def main():
    box = await load_backend({backend!r}).create(SandboxSpec())
    print(box.pid, flush=True)
    {then}
asyncio.run(main())
"""


def start_owner(backend: str, then: str) -> tuple["subprocess.Popen[str]", list[int]]:
    argv = [sys.executable, "-c", OWNER.format(backend=backend, then=then)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    time.sleep(0.5)
    pids = [child.pid for child in below(process.pid)] if process.poll() is None else []
    return process, [int(line), *pids]


def end_owner(process: "subprocess.Popen[str]") -> None:
    process.wait(timeout=20)
    assert process.stdout is not None
    process.stdout.close()


def test_owner_killed_takes_everything_along(backend: str) -> None:
    process, pids = start_owner(backend, "await box.exec('sleep 60 & sleep 60')")
    assert len(pids) >= 3, "the box and its guests are there"
    process.kill()
    end_owner(process)
    assert gone(pids), [psutil.Process(pid).cmdline() for pid in pids if psutil.pid_exists(pid)]


def test_interpreter_exits_with_a_box_open(backend: str) -> None:
    process, pids = start_owner(backend, "await box.run_python('print(1)')")
    end_owner(process)
    assert process.returncode == 0
    assert gone(pids)


def test_boot_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bwrap that is forbidden to make namespaces, as on a host with a strict profile."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    tmp_path.chmod(0o755)
    fake.chmod(0o755)
    for folder in tmp_path.parents:
        if (
            os.access(folder, os.W_OK)
            and folder != Path("/")
            and folder.stat().st_uid == os.geteuid()
            and folder != Path("/tmp")
        ):
            folder.chmod(folder.stat().st_mode | 0o055)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match="setting up uid map: Permission denied"):
        asyncio.run(opened("bubblewrap"))


def test_no_bubblewrap_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match="apt install bubblewrap"):
        asyncio.run(opened("bubblewrap"))


def test_network_is_refused_rather_than_closed_in_silence(backend: str) -> None:
    with pytest.raises(RefusedError, match=r"example\.com"):
        asyncio.run(open_sandbox(SandboxSpec(network=(("example.com", 443),)), backend))
