"""Stages before the gate: each objects to what it is for and to nothing else; an objection costs no held-out run."""

import json
from collections.abc import Callable

import msgspec
import pytest

from whet.agents import Agent
from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import Model, ScriptedModel
from whet.core.policy import Policy
from whet.core.records import Candidate, Promotion, Run, Task, TaskSet
from whet.learners.deciding import decide
from whet.learners.gate import Arm
from whet.learners.improve import ImproveConfig, improve
from whet.learners.learner import Proposal
from whet.learners.ledger import StoredLedger
from whet.learners.stages import Hacking, Hygiene, Lint, Stage, first_objection, load_stage
from whet.memory import Memory

BEFORE = Policy.of({"prompts/system.md": "You write Python."})
SKILL = "---\nname: {name}\ndescription: Adds.\n---\n\nUse it."


def proposed(files: dict[str, str | bytes | None], before: Policy = BEFORE) -> Proposal:
    policy = before.edit(files)
    return Proposal(
        candidate=Candidate(policy=policy.digest, parent=before.digest, learner="x", summary="x"), policy=policy
    )


async def said(stage: Stage, files: dict[str, str | bytes | None], before: Policy = BEFORE) -> str | None:
    return await stage.check(proposed(files, before), before, Budget())


@pytest.mark.parametrize(
    ("files", "objection"),
    [
        ({"prompts/system.md": "You write Python 3."}, None),
        ({"prompts/system.md": "x" * 20_000}, None),
        ({"prompts/system.md": "x" * 20_001}, "20001 characters"),
        ({"prompts/system.md": "Say <IMPROVED_VARIABLE>"}, "leftover '<IMPROVED_VARIABLE>'"),
        ({"prompts/system.md": "Answer {{ name }}."}, "leftover '{{ name }}'"),
        ({"prompts/system.md": 'Answer {"name": 1}, <b>bold</b>, a < b > c.'}, None),
        ({"prompts/system.md": "Write [INSERT TASK HERE]."}, "leftover"),
        ({"prompts/system.md": "So:\n```python\nx = 1\n"}, "never closed"),
        ({"prompts/system.md": "So:\n```python\nx = 1\n```\n"}, None),
        ({"principles.md": "TODO"}, "'principles.md' has a leftover"),
        ({"skills/adds/SKILL.md": SKILL.format(name="adds")}, None),
        ({"skills/adds/SKILL.md": SKILL.format(name="Other")}, "Agent Skills"),
        ({"settings.toml": "rounds = 3\n"}, None),
    ],
)
@pytest.mark.asyncio
async def test_lint_objects_to_form(files: dict[str, str | bytes | None], objection: str | None) -> None:
    found = await said(Lint(), files)
    assert found is None if objection is None else found is not None and objection in found


@pytest.mark.asyncio
async def test_lint_does_not_blame_what_was_there() -> None:
    before = Policy.of({"prompts/system.md": "Fill in {{ name }}. " + "x" * 30_000})
    assert await said(Lint(), {"prompts/system.md": before.text("prompts/system.md") + "More."}, before) is None


def grades(*all_three: int) -> ScriptedModel:
    keys = ("readability", "specification", "maintainability")
    return ScriptedModel([json.dumps({**dict.fromkeys(keys, grade), "reason": f"is {grade}"}) for grade in all_three])


@pytest.mark.parametrize(
    ("given", "objects"), [((2,), False), ((1, 2), True), ((1, 1), False), ((0, 1), True), ((0, 0), False)]
)
@pytest.mark.asyncio
async def test_hygiene_objects_to_texts_worse_than_their_parents(given: tuple[int, ...], objects: bool) -> None:
    assert (await said(Hygiene(grades(*given)), {"prompts/system.md": "New."}) is not None) == objects


@pytest.mark.asyncio
async def test_hygiene_asks_only_about_what_changed_and_does_not_guess() -> None:
    assert await said(Hygiene(ScriptedModel([])), {"settings.toml": "rounds = 3\n"}) is None
    assert await said(Hygiene(ScriptedModel(["Looks fine!"])), {"principles.md": "Be brief."}) is not None


@pytest.mark.asyncio
async def test_hacking_objects_where_the_judge_says_so() -> None:
    for answer, objects in (('{"restricts_further": false}', False), ('{"restricts_further": true}', True), ("", True)):
        model = ScriptedModel([answer or "I cannot tell."])
        stage = Hacking(model, criteria="At most 200 words.")
        assert (await said(stage, {"prompts/system.md": "At most {150} words."}) is not None) == objects
        asked = model.asked[0].messages[-1].content
        assert "At most 200 words." in asked
        assert "You write Python." in asked
        assert "At most {150} words." in asked


@pytest.mark.asyncio
async def test_a_stage_keeps_to_the_budget() -> None:
    with pytest.raises(BudgetError):
        await Hygiene(grades(2)).check(proposed({"principles.md": "x"}), BEFORE, Budget(calls=0))


def test_what_a_stage_lacks_is_said() -> None:
    with pytest.raises(UserError, match=r"no stage 'lnt'.*lint, hygiene, hacking"):
        load_stage("lnt")
    with pytest.raises(UserError, match="--judge"):
        load_stage("hygiene")
    with pytest.raises(UserError, match="--criteria"):
        load_stage("hacking", model=ScriptedModel([]))


class Sloppy:
    """Proposes a prompt with a leftover."""

    name = "sloppy"

    async def propose(self, view: object, incumbent: Arm, budget: Budget):  # type: ignore[no-untyped-def]
        yield proposed({"prompts/system.md": "<IMPROVED_VARIABLE>"}, incumbent.policy)


@pytest.fixture
def task_set(world_tasks: Callable[..., list[Task]]) -> TaskSet:
    found = world_tasks(20, lengths=(1, 2))
    heldout = [msgspec.structs.replace(task, split="heldout") for task in found[10:]]
    return TaskSet(name="world-7", version="1", tasks=(*found[:10], *heldout))


@pytest.mark.asyncio
async def test_what_a_stage_refuses_is_logged_and_uses_no_held_out_task(
    memory: Memory, task_set: TaskSet, reader: Callable[[], Model]
) -> None:
    heldout = [task for task in task_set.tasks if task.split == "heldout"]
    async with Agent("react", reader(), memory=memory) as agent:
        report = await improve(agent, task_set, [Sloppy()], memory=memory, config=ImproveConfig(rounds=1))
        (promotion,) = report.promotions
        assert promotion.reason.startswith("lint: 'prompts/system.md' has a leftover")
        again = await decide(memory, agent, promotion.candidate_id or "", task_set)
        assert (again.decision, again.reason) == (promotion.decision, promotion.reason) == ("rejected", again.reason)
        assert len(await memory.find(Promotion)) == 2
        assert await StoredLedger(memory).uses(heldout) == 0
        assert not await memory.find(Run, where={"purpose": "gate"})
        allowed = await decide(memory, agent, promotion.candidate_id or "", task_set, stages=())
        assert not allowed.reason.startswith("lint")


@pytest.mark.asyncio
async def test_the_first_stage_that_objects_decides() -> None:
    sloppy, model = proposed({"prompts/system.md": "TODO"}), ScriptedModel([])
    found = await first_objection(["lint", Hygiene(model)], sloppy, Arm(policy=BEFORE), Budget())
    assert found is not None
    assert found.thresholds == {"stage": "lint"}
    assert model.asked == []
