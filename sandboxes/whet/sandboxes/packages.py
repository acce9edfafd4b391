"""Packages that a box's Python sees: installed once into a folder of the cache, then bound read-only."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from whet.core.errors import SandboxError, UserError
from whet.sandboxes.interpreter import Interpreter

__all__ = ["cache_folder", "prepare_packages"]

_INSTALL_SECONDS = 600


def cache_folder() -> Path:
    """Returns the folder of package environments: ``WHET_CACHE``, for root ``/var/cache/whet``, else ``~/.cache/whet``.

    The user that boxes run under must be able to read it, which is why root's is not in root's home.
    """
    named = os.environ.get("WHET_CACHE")
    if named:
        return Path(named).resolve()
    return Path("/var/cache/whet") if os.geteuid() == 0 else Path.home() / ".cache" / "whet"


async def prepare_packages(requirements: tuple[str, ...], python: Interpreter) -> Path | None:
    """Returns the folder that holds ``requirements`` for ``python``, installed if need be; ``None`` for none.

    Raises:
        UserError: a requirement is an option, a path or an address rather than a name with a version.
        SandboxError: pip failed; the message holds its last line.
    """
    if not requirements:
        return None
    for requirement in requirements:
        if requirement.startswith("-") or "/" in requirement or "@" in requirement:
            raise UserError(f"package {requirement!r}: a name with an optional version is needed, as 'pytest>=8'")
    wanted = sorted(set(requirements))
    key = hashlib.sha256("\n".join([python.path, repr(python.version), *wanted]).encode()).hexdigest()[:20]
    folder = cache_folder() / "packages" / key
    if not folder.is_dir():
        await asyncio.to_thread(_install, wanted, python, folder)
    return folder


def _install(wanted: list[str], python: Interpreter, folder: Path) -> None:
    """One process installs, others wait at the lock; the rename makes it appear whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _locked(folder.with_suffix(".lock")):
        if folder.is_dir():
            return
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".staging-"))
        try:
            _pip(wanted, python, staging)
            for path in (staging, *staging.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() else (path.stat().st_mode & 0o555) | 0o444)
            staging.rename(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def _pip(wanted: list[str], python: Interpreter, target: Path) -> None:
    argv = [sys.executable, "-m", "pip", "--python", python.path, "--disable-pip-version-check", "install"]
    argv += [
        "--quiet",
        "--no-input",
        "--no-warn-script-location",
        "--only-binary=:all:",
        "--target",
        str(target),
        *wanted,
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"packages {wanted!r} were not installed in {_INSTALL_SECONDS} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise SandboxError(f"packages {wanted!r} could not be installed for {python.path}: {last}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
