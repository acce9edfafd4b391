"""Which Python runs in a box: a real binary, of a version Whet knows, that the box's user can read."""

import os
import pwd
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec

from whet.core.errors import RefusedError

__all__ = ["Interpreter", "find_interpreter", "sandbox_uid"]

_DEFAULT_UID = 59_487
# Opening the binary again matters: setpriv may still hold root's rights at the moment of the exec.
_PROBE = (
    "import sys; from importlib.util import MAGIC_NUMBER as m; open(sys.argv[1], 'rb'); "
    "print(sys.version_info[0], sys.version_info[1], sys.prefix, m.hex(), sep='\\n')"
)


class Interpreter(msgspec.Struct, frozen=True):
    """A binary, the folder that holds its standard library, and the version of its bytecode."""

    path: str
    version: tuple[int, int]
    prefix: str
    magic: bytes


@cache
def sandbox_uid() -> int | None:
    """Returns the uid that boxes run under: ours (``None``), or a dedicated one when we are root.

    Raises:
        RefusedError: the dedicated uid is somebody's.
    """
    if os.geteuid() != 0:
        return None
    text = os.environ.get("WHET_SANDBOX_UID", str(_DEFAULT_UID))
    if not text.isdigit() or int(text) == 0:
        raise RefusedError(f"WHET_SANDBOX_UID={text!r}: an unused uid above 0 is needed")
    try:
        name = pwd.getpwuid(int(text)).pw_name
    except KeyError:
        return int(text)
    raise RefusedError(f"uid {text} belongs to {name!r}; set WHET_SANDBOX_UID to an unused uid for sandboxes")


def as_user(argv: list[str], uid: int | None) -> list[str]:
    """Returns the command that runs ``argv`` under ``uid`` with no groups and no capabilities."""
    if uid is None:
        return argv
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--", *argv]


@cache
def find_interpreter(uid: int | None) -> Interpreter:
    """Returns the first interpreter that ``uid`` can run: ours where that is possible, else the system's.

    Raises:
        RefusedError: none; the message says why each was passed over.
    """
    reasons = []
    for path in _candidates():
        found = _probe(path, uid)
        if isinstance(found, Interpreter):
            return found
        reasons.append(f"{path} ({found})")
    who = os.getuid() if uid is None else uid
    raise RefusedError(
        f"no Python >= 3.11 that uid {who} can read: {', '.join(reasons) or 'none found'}; "
        "install one under /usr or /opt, or set WHET_SANDBOX_PYTHON"
    )


def _candidates() -> list[str]:
    """Real files only: a version manager's shim starts slowly and reads its owner's home."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    named = os.environ.get("WHET_SANDBOX_PYTHON")
    if named:
        return [os.path.realpath(named)]
    places = [os.path.join(sys.base_prefix, "bin", version)]
    places += [f"{folder}/{name}" for folder in ("/usr/bin", "/usr/local/bin") for name in (version, "python3")]
    real = [os.path.realpath(place) for place in places if os.path.exists(place)]
    return list(dict.fromkeys(real))


def _probe(path: str, uid: int | None) -> Interpreter | str:
    argv = as_user([path, "-I", "-S", "-c", _PROBE, path], uid)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd="/", env={}, check=False)
    except OSError as error:
        return str(error.strerror)
    except subprocess.TimeoutExpired:
        return "did not start in 20 s"
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    major, minor, prefix, magic = done.stdout.splitlines()
    if (int(major), int(minor)) < (3, 11):
        return f"version {major}.{minor}"
    return Interpreter(path, (int(major), int(minor)), str(Path(prefix).resolve()), bytes.fromhex(magic))
