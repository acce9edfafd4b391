"""Heavy libraries stay out of ``import whet.core`` and ``whet --help``."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "litellm", "chromadb", "ray", "transformers", "langgraph", "openai", "sqlalchemy")


def loaded_by(code: str) -> set[str]:
    """Returns which of the heavy libraries a Python program loads."""
    probe = f"{code}\nimport sys; sys.stderr.write('\\n' + ' '.join(n for n in {HEAVY!r} if n in sys.modules))"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(result.stderr.rsplit("\n", 1)[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import whet.core",
        "import whet.core.models",
        "from whet.apps.cli.main import main\nimport sys; sys.argv = ['whet', '--help']\n"
        "try: main()\nexcept SystemExit: pass",
    ],
    ids=["core", "models", "help"],
)
def test_loads_no_heavy_library(code: str) -> None:
    assert loaded_by(code) == set()
