"""Servers as child processes: started, ended with all they started, and with this process however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from whet.core.errors import ModelError
from whet.core.models.vllm.processes import ServerProcess, quiet_environment

# Starts a child of its own, tells both process ids, and serves until it is asked to end.
SERVER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
folder = pathlib.Path(sys.argv[1])
(folder / "new").write_text(f"{os.getpid()} {child.pid}")
(folder / "new").rename(folder / "pids")
time.sleep(600)
"""


def _pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def _gone(pids: list[int]) -> bool:
    """Returns whether all of them end soon."""
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)
    return all(each.status() == psutil.STATUS_ZOMBIE for each in alive if each.is_running())


def _ready(folder: Path) -> Callable[[], bool]:
    return (folder / "pids").exists


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    process = ServerProcess([sys.executable, "-c", SERVER, str(tmp_path)], env=quiet_environment(), what="server")
    assert not process.running
    process.start(_ready(tmp_path), seconds=60)
    pids = _pids(tmp_path)
    assert process.running
    assert process.ended() == ""
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in pids)
    process.stop()
    assert _gone(pids)
    assert (process.running, process.ended(), process.log.exists()) == (False, "", False)
    process.stop()


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_it_ends_with_this_process_however_that_ends(tmp_path: Path, end: str) -> None:
    owner = f"""
import os, pathlib, signal, sys
from whet.core.models.vllm.processes import ServerProcess, quiet_environment
process = ServerProcess([sys.executable, "-c", {SERVER!r}, {str(tmp_path)!r}], env=quiet_environment(), what="server")
process.start((pathlib.Path({str(tmp_path)!r}) / "pids").exists, seconds=60)
if {end!r} == "kill": os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", owner], capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr
    assert _gone(_pids(tmp_path))


def test_one_that_ends_says_how(tmp_path: Path) -> None:
    code = "import sys; print('ValueError: no room'); sys.exit(7)"
    process = ServerProcess([sys.executable, "-c", code], env=quiet_environment(), what="little server")
    with pytest.raises(ModelError, match=r"the little server ended with code 7; the end of its log .*: .*no room"):
        process.start(lambda: False, seconds=60)
    assert process.log.read_text() == "ValueError: no room\n"
    process.log.unlink()


def test_one_that_is_killed_later_says_so_too(tmp_path: Path) -> None:
    process = ServerProcess([sys.executable, "-c", SERVER, str(tmp_path)], env=quiet_environment(), what="server")
    process.start(_ready(tmp_path), seconds=60)
    pids = _pids(tmp_path)
    os.kill(pids[0], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while process.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "the server ended with code 137" in process.ended()
    assert _gone(pids)  # what it left running as well
    process.stop()
    assert not process.log.exists()


def test_one_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    process = ServerProcess([sys.executable, "-c", SERVER, str(tmp_path)], env=quiet_environment(), what="server")
    with pytest.raises(ModelError, match=r"the server did not answer within 0\.2 seconds"):
        process.start(lambda: False, seconds=0.2)
    assert not process.running
    process.log.unlink()


def test_secrets_are_not_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "DATABASE_PASSWORD", "aws_secret"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    env = quiet_environment()
    assert "secret" not in env.values()
    assert (env["CUDA_VISIBLE_DEVICES"], env["HF_HUB_OFFLINE"], env["DO_NOT_TRACK"]) == ("0", "1", "1")
