"""``whet judge``: a judge is measured on what is recorded, and reported on."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whet.core import Message, Record, Run, Task, Verdict
from whet.core.models import Model
from whet.feedback.judges.testing import PlantedModel
from whet.memory import Memory

Whet = Callable[..., Any]


def fair() -> Model:
    return PlantedModel(lambda answer: answer.startswith("right"))


SPEC = {"kind": "judge", "params": {"model": f"{__name__}:fair", "items": ["It is right."]}}


def records(n: int) -> list[Record]:
    found: list[Record] = []
    for i in range(n):
        good = i % 2 == 0
        task = Task(id=f"t{i // 2}", messages=(Message(role="user", content="?"),))
        answer = f"{'right' if good else 'wrong'} {i}"
        run = Run(id=f"run{i:03}", task_id=task.id, agent="a", status="done", answer=answer)
        outcome = "pass" if good else "fail"
        found += [task, run, Verdict(run_id=run.id, task_id=task.id, verifier="tests@1", outcome=outcome)]
    return found


@pytest.fixture
def judged(whet: Whet, tmp_path: Path) -> Whet:
    async def put() -> None:
        async with await Memory.open(tmp_path / ".whet") as memory:
            await memory.put(*{(type(one), getattr(one, "id", "")): one for one in records(60)}.values())

    whet("init")
    asyncio.run(put())
    (tmp_path / "judge.json").write_text(json.dumps(SPEC))
    return whet


def test_a_judge_is_measured_probed_and_reported(judged: Whet) -> None:
    assert "whet judge measure" in judged("judge", "report").err
    measured = judged("judge", "measure", "judge.json", "--probes", "10", "--pairs")
    assert "60 runs judged, 10 tasks probed" in measured.err
    assert "agreement with verifiers on 60 runs 1.000" in measured.out
    assert "of pairs: the right one wins 1.000" in measured.out
    assert measured.out.splitlines()[-1] == "the gate hears it"
    (row,) = judged("judge", "report", "--json").json["items"]
    assert (row["judged"], row["agreement"], row["heard"], row["length"]) == (60, 1.0, True, None)
    assert "judge@" in judged("judge", "report").out
    whole = judged("judge", "report", "judge@", "--json").json
    assert (whole["report"]["probed"]["cases"], whole["refusal"]) == (10, "")
    strict = judged("judge", "report", "judge@", "--min-trust", "0.999")
    assert "0.999 is needed" in strict.out


def test_votes_of_judges_and_people_are_weighed(judged: Whet) -> None:
    assert "whet feedback add" in judged("judge", "weights").err
    judged("judge", "measure", "judge.json")
    for number in range(6):
        judged("feedback", "add", f"run{number:03}", "accept" if number % 2 else "reject", "--source", "contrary")
    rows = judged("judge", "weights", "--json").json["items"]
    assert [(row["id"][:6], row["votes"]) for row in rows] == [("judge@", 60), ("contra", 6)]
    assert rows[0]["weight"] > 3
    assert rows[1]["weight"] == 0


def test_measuring_again_asks_nothing_and_a_budget_is_kept(judged: Whet) -> None:
    said = judged("judge", "measure", json.dumps(SPEC), "--calls", "20", code=1).err
    assert said.count("\n") == 1
    assert "16" in judged("judge", "report", "-o", "csv").out
    judged("judge", "measure", json.dumps(SPEC))
    assert "0 runs judged" in judged("judge", "measure", json.dumps(SPEC), "--calls", "0").err


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["judge", "report", "nobody"], "'nobody' names 0 judges; there are none", 3),
        (["judge", "measure", "nowhere.json"], "'nowhere.json' is no file, and no JSON such as", 2),
        (["judge", "measure", '{"kind": "exact", "params": {"expected": "x"}}'], "is no judge", 2),
        (["judge", "measure", '{"kind": "judge", "params": {"items": ["x"]}}'], "asks a model", 1),
        (["judge", "measure", '{"params": {}}'], "kind", 2),
        (["judge", "measure", "."], "'.' is no file", 2),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(judged: Whet, arguments: list[str], said: str, code: int) -> None:
    error = judged(*arguments, code=code).err
    assert said in error
    assert error.count("\n") == 1
