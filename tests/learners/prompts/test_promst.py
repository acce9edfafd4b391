"""PROMST: a person's rules on the steps say what the writer needs; a forecast saves runs; noise teaches nothing."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from whet.agents import Agent
from whet.agents.tools import tool
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import say_tool
from whet.core.models.tiny.world import read_definitions
from whet.core.policy import Policy
from whet.core.records import (
    Completion,
    ExecResult,
    Execution,
    Message,
    Run,
    Sampling,
    Step,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    VerifierSpec,
)
from whet.learners.adoption import incumbent_arm
from whet.learners.evaluation import evaluator
from whet.learners.gate import Gate
from whet.learners.learner import load_learner
from whet.learners.prompts.archive import Archive, Evidence
from whet.learners.prompts.forecast import Forecast
from whet.learners.prompts.learner import Draft
from whet.learners.prompts.methods.promst import Promst
from whet.learners.prompts.steps import Rule, load_rules, remarks_on
from whet.learners.prompts.testing import Colleague, definitions, in_a_fence
from whet.learners.view import TrainMemory
from whet.memory import Memory

Bench = Any  # the fixture of conftest.py

RULES = """
[[rule]]
name = "loop"
tool = "open_door"
repeats = 3
say = "The same door was opened {count} times in a row: {what}"
"""


def summarises(known: Mapping[str, str], asked: str) -> str:
    """Says in the summary which verbs were not known, and writes from the summary."""
    if asked.startswith("An agent was told"):
        return definitions(known)
    return in_a_fence({**known, **read_definitions(asked.partition("# What went wrong")[2])}, asked)


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    (proposal,) = await bench.check(load_learner("promst", model=Colleague(summarises), children="2", runs=300))
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("promst", model=Colleague(summarises), children=2, runs=150)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


# --- a task of several steps: behind one of three doors is the key --------------------------------------------------


@tool(trust="trusted")
def open_door(door: str, key: int) -> str:
    """Opens a door (a, b or c) and returns what is behind it."""
    return f"key-{key}" if "abc".index(door) == key % 3 else "empty"


class Walker:
    """Opens the same door until it has to stop, unless its prompt tells it to open each door once."""

    name = "walker"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        system = "".join(message.content for message in messages if message.role == "system")
        asked = next(message.content for message in messages if message.role == "user")
        key, opened = int(asked.split()[-1]), [message for message in messages if message.role == "tool"]
        found = [message.content for message in opened if message.content.startswith("key")]
        if found or not tools:
            return Completion(text=found[0] if found else "no key", model=self.name)
        door = "abc"[len(opened) % 3] if "each door once" in system else "a"
        return say_tool("open_door", {"door": door, "key": key})


class Coach(Colleague):
    """Writes what to do once it was told what went wrong, and nothing of use before."""

    def __init__(self) -> None:
        def form(known: Mapping[str, str], asked: str) -> str:
            told = "The same door was opened" in asked
            if asked.startswith("An agent was told"):
                return "The same door was opened again and again." if told else "The key was not found."
            return "```\nOpen each door once.\n```" if told else f"```\nTry harder. {'Really. ' * len(self.asked)}\n```"

        super().__init__(form)


def keys(split: str, numbers: Sequence[int]) -> list[Task]:
    return [
        Task(
            id=f"key/{n}",
            messages=(Message(role="user", content=f"Find the key {n}"),),
            verifiers=(VerifierSpec(kind="exact", params={"expected": f"key-{n}"}),),
            split=split,  # type: ignore[arg-type]
        )
        for n in numbers
    ]


@pytest.mark.parametrize("with_rules", [True, False])
@pytest.mark.asyncio
async def test_the_rules_say_what_verifiers_do_not(memory: Memory, tmp_path: Path, with_rules: bool) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    rules = {"rules": str(tmp_path / "rules.toml")} if with_rules else {}
    learner = load_learner("promst", model=Coach(), children=1, runs=60, steps=3, **rules)
    policy = Policy.of({"settings.toml": "max_turns = 4\n"})
    async with Agent("react", Walker(), memory=memory, tools=[open_door]) as agent:
        incumbent = msgspec.structs.replace(await incumbent_arm(memory), policy=policy)
        view = TrainMemory(memory, agent, keys("train", range(24)))
        proposals = [each async for each in learner.propose(view, incumbent, Budget(calls=2000))]
        assert len(proposals) == with_rules
        for proposal in proposals:
            assert proposal.policy.text("prompts/system.md") == "Open each door once."
            heldout = keys("heldout", range(30, 60))
            decision = await Gate().decide(proposal.arm(incumbent), incumbent, heldout, evaluator(agent))
            assert decision.decision == "promoted", decision.reason


# --- rules ----------------------------------------------------------------------------------------------------------


def steps(*bodies: Any) -> list[Step]:
    return [Step(run_id="r", seq=seq, node="tools", body=body) for seq, body in enumerate(bodies)]


def called(name: str, content: str, arguments: str = "{}") -> ToolResult:
    return ToolResult(call=ToolCall(id="c", name=name, arguments=arguments), content=content)


WALK = steps(
    called("go", "ok"),
    called("look", "wall"),
    called("look", "wall"),
    called("go", "bump: wall"),
    called("go", "bump: wall"),
    called("go", "bump: wall"),
    Execution(command="ls", result=ExecResult(status="timeout")),
)


@pytest.mark.parametrize(
    ("rule", "remark"),
    [
        (Rule(name="x", repeats=3, say="{count}: {what}"), "3: go({}): bump: wall"),
        (Rule(name="x", repeats=4, say="{count}"), None),
        (Rule(name="x", tool="look", repeats=2, say="{count}"), "2"),
        (Rule(name="x", matches="bump", say="bumped {count} times"), "bumped 3 times"),
        (Rule(name="x", matches="bump", at_least=4, say="bumped"), None),
        (Rule(name="x", tool="ask", at_most=0, say="never asked"), "never asked"),
        (Rule(name="x", tool="look", at_most=1, say="hardly looked"), None),
        (Rule(name="x", kind="execution", matches="timeout", say="{what}"), "ls: timeout "),
        (Rule(name="x", kind="answer", matches="^$", say="no answer"), None),
        (Rule(name="x", kind="answer", matches="42", say="said {what}"), "said It is 42."),
        (Rule(name="x", node="model", say="model"), None),
    ],
)
def test_a_rule_speaks_when_the_steps_are_as_it_says(rule: Rule, remark: str | None) -> None:
    run = Run(task_id="t", agent="x", answer="It is 42.")
    assert remarks_on(run, WALK, [rule]) == ([] if remark is None else [remark])


def never_moved(run: Run, found: Sequence[Step]) -> str | None:
    return None if len(found) > 7 else "It hardly moved."


def test_rules_in_python_and_what_is_no_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text("def rule(run, steps): return 'from python'\nRULES = [rule]\nNONE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(task_id="t", agent="x")
    assert remarks_on(run, WALK, [never_moved, *load_rules("my_rules:RULES")]) == ["It hardly moved.", "from python"]
    for source, said in (
        ("my_rules:NONE", "a function of a run and its steps"),
        (str(tmp_path / "no.toml"), "cannot be read"),
        ('[[rule]]\nname = "x"\n', "missing required field `say`"),
        ('[[rule]]\nname = "x"\nsay = "s"\nkinds = "y"', "unknown field `kinds`"),
        ('[[rule]]\nname = "x"\nsay = "{who}"', "matches or say cannot be used"),
        ('[[rule]]\nname = "x"\nsay = "s"\nkind = "answer"\ntool = "t"', "is for kind 'tool_result'"),
    ):
        if source.startswith("["):
            (tmp_path / "rules.toml").write_text(source)
            source = str(tmp_path / "rules.toml")
        with pytest.raises(UserError, match=re.escape(said)):
            Promst(rules=source)


# --- the forecast ---------------------------------------------------------------------------------------------------

GOOD = [f"Check the border and count to {n}." for n in range(6)]
POOR = [f"Write poems about the number {n}, please." for n in range(6)]


def test_a_forecast_tells_texts_of_two_kinds_apart_and_knows_its_error() -> None:
    scores = [0.8] * 6 + [0.2] * 6
    forecast = Forecast.of([*GOOD, *POOR], scores)
    good, poor = forecast.at(["Check the border and count to 9.", "Write poems about the number 9, please."])
    assert good > 0.65
    assert poor < 0.35
    left_out = [Forecast.of(texts, left).at([one])[0] - score for texts, left, one, score in one_out(scores)]
    assert forecast.error == pytest.approx(np.sqrt(np.mean(np.square(left_out))), abs=0.05)
    mixed = Forecast.of([*GOOD, *POOR], [0.2, 0.8] * 6)
    assert mixed.error > 2 * forecast.error, "where texts say nothing about scores, it knows that it knows nothing"


def one_out(scores: list[float]) -> list[tuple[list[str], list[float], str, float]]:
    texts = [*GOOD, *POOR]
    return [(texts[:i] + texts[i + 1 :], scores[:i] + scores[i + 1 :], texts[i], scores[i]) for i in range(12)]


def test_children_that_are_forecast_to_be_worse_are_not_tried() -> None:
    archive, task = Archive(), Task(id="t", messages=(Message(role="user", content="x"),))
    for text, score in [*((text, 0.8) for text in GOOD), *((text, 0.2) for text in POOR)]:
        node = archive.add(Policy.of({"prompts/system.md": text}), {"system": text})
        run = Run(task_id="t", agent="x")
        archive.record(node, [Evidence(task=task, run=run, verdicts=(), score=score)])
    lab: Any = type("Desk", (), {"archive": archive})
    parent = archive.nodes[0]
    good, poor = (
        Draft(parts={"system": text}, parents=(parent,))
        for text in ("Check the border and count to 9.", "Write poems about the number 9, please.")
    )
    assert Promst().promising([good, poor], lab) == [good]
    assert Promst(margin=0).promising([good, poor], lab) == [good, poor]
    archive.nodes = archive.nodes[:5]
    assert Promst().promising([good, poor], lab) == [good, poor], "five texts are too few to tell"
