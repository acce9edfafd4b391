"""The zygote as it is sent: compiled for our bytecode, as text for any other, and small enough for one argument."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from whet.sandboxes import guest

STDLIB = sys.stdlib_module_names


@pytest.mark.parametrize("magic", [None, b"another version"])
def test_both_forms_load(magic: bytes | None) -> None:
    text = guest.program() if magic is None else guest.program(magic)
    assert len(text) < 128 << 10, "one argument of a command may not be longer"
    loaded = text.replace("module.main()", "print(module.Zygote.__name__, COMPILED)")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", loaded], capture_output=True, text=True, check=False)
    assert done.stdout == f"Zygote {magic is None}\n", done.stderr


def test_it_needs_the_standard_library_only() -> None:
    for path in Path(guest.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in STDLIB or name.startswith("whet.sandboxes.guest."), (path.name, name)
