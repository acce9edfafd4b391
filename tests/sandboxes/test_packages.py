"""Packages: prepared once, read-only, importable by both ways of running Python; and which Python that is."""

import asyncio
import os
from pathlib import Path

import pytest

from whet.core.errors import RefusedError, SandboxError, UserError
from whet.sandboxes import SandboxSpec, open_sandbox
from whet.sandboxes.interpreter import find_interpreter, sandbox_uid
from whet.sandboxes.ladder import load_backend
from whet.sandboxes.packages import prepare_packages

WITH_PYTEST = SandboxSpec(packages=("pytest",))


@pytest.mark.asyncio
async def test_packages_are_there_read_only(backend: str) -> None:
    async with await load_backend(backend).create(WITH_PYTEST) as box:
        imported = await box.run_python("import pytest; print(pytest.__name__, pytest.__file__)")
        assert imported.stdout.startswith("pytest "), imported
        await box.write("test_sum.py", "def test_good(): assert 1 + 1 == 2\ndef test_bad(): assert 1 + 1 == 3\n")
        for command in ("pytest -q -p no:cacheprovider", "python3 -m pytest -q -p no:cacheprovider"):
            ran = await box.exec(command)
            assert ran.exit_code == 1, ran
            assert "1 failed, 1 passed" in ran.stdout, ran
        written = await box.run_python("import pytest; open(pytest.__file__, 'a')")
        assert written.status == "nonzero", written


@pytest.mark.asyncio
async def test_without_packages_there_are_none() -> None:
    async with await open_sandbox() as box:
        assert "ModuleNotFoundError" in (await box.run_python("import pytest")).stderr


def test_environment_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    python = find_interpreter(sandbox_uid())

    async def twice() -> list[Path | None]:
        return list(await asyncio.gather(*(prepare_packages(("iniconfig",), python) for _ in range(4))))

    first = asyncio.run(twice())
    assert len(set(first)) == 1
    assert first[0] is not None
    stamp = first[0].stat().st_mtime_ns
    assert asyncio.run(prepare_packages(("iniconfig", "iniconfig"), python)) == first[0]
    assert first[0].stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.glob("packages/.staging-*")] == []


@pytest.mark.parametrize("name", ["-r requirements.txt", "../evil", "evil @ file:///tmp/evil", "--index-url=http://x"])
def test_only_names_are_packages(name: str) -> None:
    with pytest.raises(UserError, match="name"):
        asyncio.run(open_sandbox(SandboxSpec(packages=(name,))))


def test_unknown_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    with pytest.raises(SandboxError, match="no-such-package-as-this-one"):
        asyncio.run(prepare_packages(("no-such-package-as-this-one",), find_interpreter(sandbox_uid())))
    assert list(tmp_path.glob("packages/.staging-*")) == []


def test_interpreter_is_a_binary_that_the_user_can_read() -> None:
    python = find_interpreter(sandbox_uid())
    assert os.path.realpath(python.path) == python.path
    assert Path(python.path).read_bytes()[:4] == b"\x7fELF"
    assert python.version >= (3, 11)


def test_interpreter_out_of_reach_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "python3").symlink_to("/bin/false")
    monkeypatch.setenv("WHET_SANDBOX_PYTHON", str(shut / "python3"))
    find_interpreter.cache_clear()
    try:
        with pytest.raises(RefusedError, match=r"/false \(exit code 1\).*WHET_SANDBOX_PYTHON"):
            find_interpreter(sandbox_uid())
    finally:
        find_interpreter.cache_clear()
