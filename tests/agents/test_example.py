"""The example of a LangGraph graph of one's own: recorded as it is, and better afterwards, on the embedded model."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "langgraph_own.py"


@pytest.mark.slow
def test_a_graph_of_ones_own_is_recorded_and_improved(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "draft    ModelCall" in done.stdout
    assert "review   VerdictGiven" in done.stdout
    assert "promoted: +" in done.stdout


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "hf:./nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
