"""The doctor tells the truth, the ladder goes down one rung at a time, and nothing unsafe is ever chosen."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whet.core.errors import RefusedError, UserError
from whet.sandboxes import doctor, ladder, open_sandbox


def test_reports_are_of_real_boots() -> None:
    reports = asyncio.run(doctor())
    assert [report.backend for report in reports] == ["bubblewrap", "nested", "landlock"]
    assert sum(report.chosen for report in reports) == any(report.usable for report in reports)
    for report in reports:
        assert report.usable == all(check.passed for check in report.checks) or not report.checks
        assert report.usable or report.reason


def test_unsafe_local_fails_the_probes_and_is_never_chosen() -> None:
    (report,) = asyncio.run(doctor(["unsafe_local"]))
    assert not report.usable
    assert not report.chosen
    assert "unsafe_local" not in ladder.LADDER


def test_without_bubblewrap_the_ladder_goes_down_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    (tmp_path / "setpriv").symlink_to(setpriv)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ladder, "_chosen", {})
    reports = asyncio.run(doctor())
    assert "apt install bubblewrap" in reports[0].reason
    if not reports[2].usable:
        with pytest.raises(RefusedError, match="apt install bubblewrap"):
            asyncio.run(open_sandbox())
        return
    box = asyncio.run(open_sandbox())
    assert box.tier == "landlock"
    assert "fall back to landlock: bubblewrap: bubblewrap is not installed" in caplog.text
    asyncio.run(box.close())


@pytest.mark.parametrize("name", ["bubblwrap", "os:path", "no.such.module:Thing", "whet.sandboxes:Limits"])
def test_unknown_back_ends_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="sandbox back end"):
        asyncio.run(open_sandbox(backend=name))


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap for the container around it")
def test_nested_works_where_proc_cannot_be_mounted(tmp_path: Path) -> None:
    """A container that masks part of /proc, as Docker's do, made with bubblewrap itself."""
    program = (
        "import asyncio\nfrom whet.sandboxes import doctor\n"
        "for r in asyncio.run(doctor(['bubblewrap', 'nested'])):\n    print(r.backend, r.usable, r.reason)"
    )
    masked = [
        word for name in ("acpi", "scsi", "fs") if Path("/proc", name).is_dir() for word in ("--tmpfs", f"/proc/{name}")
    ]
    argv = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--unshare-pid", "--proc", "/proc", *masked]
    done = subprocess.run(
        [*argv, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0 and "bwrap:" in done.stderr:
        pytest.skip(f"no container can be made here: {done.stderr.strip()}")
    first, second = done.stdout.splitlines()
    assert first.startswith("bubblewrap False"), done.stdout
    assert "proc" in first
    assert second.startswith("nested True"), done.stdout + done.stderr
