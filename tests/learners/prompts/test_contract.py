"""Every learner of prompts keeps to the contract of learners, with an agent to practise with."""

import json
from typing import Any

import pytest

from whet.core.errors import UserError
from whet.core.records import Run
from whet.learners.conformance import check_learner
from whet.learners.learner import load_learner
from whet.learners.prompts.testing import Colleague, definitions
from whet.learners.view import TrainMemory

Bench = Any  # the fixture of conftest.py

FEW = {"runs": 40, "validation": 6, "steps": 3}
OPTIONS: dict[str, dict[str, object]] = {
    "apohf": {"pool": ["Be brief.", "def zorp(x): return x"], "by": "verifiers"},
    "ensemble": {"engines": "exemplars", "share": 20},
    "exemplars": {},
    "mipro": {"model": Colleague(), "candidates": 2, "rounds": 1},
    "opto": {"model": Colleague(lambda known, asked: json.dumps({"suggestion": {"system": definitions(known)}}))},
    "playbook": {"model": Colleague(lambda known, asked: '[{"op": "add", "text": "Mind the order."}]')},
    "tune": {"ranges": "temperature=0:1"},
    "zo-ranksgd": {"ranges": "temperature=0:1", "candidates": 2, "tries": 1},
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", OPTIONS)
async def test_the_contract_is_kept(bench: Bench, name: str) -> None:
    options = {option: value for option, value in FEW.items() if not (name == "apohf" and option == "validation")}
    async with bench.agent() as agent:
        view = TrainMemory(bench.memory, agent, bench.train[:12])
        await check_learner(load_learner(name, **options, **OPTIONS[name]), bench.memory, view)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", OPTIONS)
async def test_without_an_agent_one_line_says_how_to_get_one(bench: Bench, name: str) -> None:
    with pytest.raises(UserError, match="--tasks TASKS"):
        await check_learner(load_learner(name, **OPTIONS[name]), bench.memory)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("apohf", "ridge"),
        ("exemplars", "demos"),
        ("mipro", "candidates"),
        ("playbook", "tokens"),
        ("tune", "startup"),
        ("zo-ranksgd", "spread"),
    ],
)
def test_an_impossible_value_is_refused_by_name(name: str, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is 0"):
        load_learner(name, **{option: "0"})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("promst", {"margin": "-1"}, "margin is -1.0; at least 0"),
        ("promptagent", {"iterations": "0"}, "iterations is 0"),
        ("ensemble", {}, "--set engines=gepa,textgrad"),
    ],
)
def test_what_could_not_work_is_refused_with_the_way_out(name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_learner(name, **options)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["textgrad", "mipro", "opto", "playbook", "apohf", "coding-agent"])
async def test_a_learner_without_the_model_it_needs_says_so_before_anything_is_run(name: str, bench: Bench) -> None:
    with pytest.raises(UserError, match=r"needs a model that can write prompts: .* --set LEARNER\.model=NAME"):
        await bench.proposals(load_learner(name))
    assert await bench.memory.count(Run) == 0


@pytest.mark.parametrize("name", ["gepa", "prefpo", "promptagent", "promst", "apohf", "textgrad", "principles"])
def test_a_model_that_does_not_exist_is_refused_when_the_learner_is_made(name: str) -> None:
    with pytest.raises(UserError, match="nosuch"):
        load_learner(name, model="nosuch")
