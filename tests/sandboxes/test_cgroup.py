"""Where a control group may be made, the kernel bounds the box; where one was named that cannot be used, it is said."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from whet.core.errors import SandboxError
from whet.sandboxes import Limits, SandboxSpec, cgroup
from whet.sandboxes.ladder import load_backend

SMALL = Limits(memory_bytes=64 << 20, work_bytes=4 << 20, tmp_bytes=4 << 20)
ROOTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/pids"))


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Delegated folders of the memory and pids controllers."""
    if os.geteuid() != 0 or not all((root / "cgroup.procs").exists() for root in ROOTS):
        pytest.skip("needs root and control groups of version 1")
    made = [root / f"whet-tests-{secrets.token_hex(4)}" for root in ROOTS]
    try:
        for folder in made:
            folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    monkeypatch.setenv("WHET_CGROUP", ":".join(map(str, made)))
    yield made
    for folder in made:
        folder.rmdir()


def members(folder: Path) -> list[str]:
    return [pid for file in folder.glob("whet-*/cgroup.procs") for pid in file.read_text().split()]


@pytest.mark.parametrize("name", ["bubblewrap", "unsafe_local"])
def test_box_lives_in_a_group_of_its_own(name: str, groups: list[Path]) -> None:
    async def run() -> str:
        async with await load_backend(name).create(SandboxSpec(limits=SMALL)) as box:
            assert all(members(folder) for folder in groups)
            result = await box.run_python("keep = b'x' * (220 << 20)\nprint('kept')")
            assert (await box.run_python("print('fine')")).stdout == "fine\n"
            return result.status

    assert asyncio.run(run()) == "oom"
    assert "control group below" in cgroup.memory_keeper()
    assert [child.name for folder in groups for child in folder.iterdir() if child.is_dir()] == []


def test_group_that_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHET_CGROUP", str(tmp_path / "nowhere"))
    with pytest.raises(SandboxError, match="WHET_CGROUP"):
        asyncio.run(load_backend("bubblewrap").create(SandboxSpec()))
