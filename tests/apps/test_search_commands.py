"""Every pattern of search by its name from the command line."""

from collections.abc import Callable
from typing import Any

import pytest

Whet = Callable[..., Any]


@pytest.mark.parametrize(
    "graph", ["iad", "self_consistency", "rethink", "swe_search", "code_tree", "map_elites", "code_test"]
)
def test_a_pattern_is_run_by_its_name_and_kept_on_record(graph: str, whet: Whet) -> None:
    whet("init")
    (row,) = whet("run", "What is the answer?", "--graph", graph, "--calls", "200", "--json").json["runs"]
    assert row["status"] == "done"
    assert row["answer"] in ("42", "dunno"), "the model knows no role, and says so"
    assert whet("run", "replay", row["id"]).code == 0
