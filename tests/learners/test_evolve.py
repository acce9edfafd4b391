"""Skills that a model writes: learned where the answer is known, refused where they gain nothing, nothing from noise.

The model that writes is scripted: a colleague who reads tasks, answers and failing checks in the prompt, and says which
operation of a world explains them. Where no check tells, he guesses.
"""

import ast
import random
import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import judge_answer
from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import Model, ScriptedModel
from whet.core.models.tiny.world import OPERATIONS, World, read_definitions
from whet.core.policy import Policy
from whet.core.records import (
    Completion,
    Feedback,
    Message,
    Promotion,
    Run,
    Sampling,
    Step,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
    Verdict,
)
from whet.learners.adoption import incumbent_arm
from whet.learners.arms import compare_arms, skill_arms
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.evolve import SkillEvolver, read_skill, write_files
from whet.learners.gate import Arm, Gate
from whet.learners.learner import Proposal, load_learner
from whet.learners.view import TrainMemory
from whet.memory import Memory
from whet.sandboxes import SandboxPool
from whet.skills import Skill, install

Tasks = Callable[..., list[Task]]
Judge = Callable[[Task, Run], Sequence[Verdict]]

_RUN = re.compile(r"Task: Write solve\(x\): (\w+)\.\n.*?(?=\n## Run|\n\n#|\Z)", re.DOTALL)
_FAILED = re.compile(r"solve\((\[.*?\])\) returned .*?, expected (\[.*?\])\.")


class Colleague:
    """Writes a skill with the operation that explains each verb's runs."""

    name = "colleague"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.asked.append(messages[-1].content)
        request = messages[0].content
        known = read_definitions(request.partition("# The skill as it is")[2])
        known |= {match[1]: _explains(match[1], match[0]) for match in _RUN.finditer(request)}
        files = write_files(verbs_skill(known).render())
        return Completion(text=f"Here it is.\n{files}", usage=Usage(input_tokens=900, output_tokens=90, calls=1))


def _explains(verb: str, run: str) -> str:
    if "Outcome: passed" in run:
        return read_definitions(run)[verb]
    pairs = [(ast.literal_eval(value), ast.literal_eval(expected)) for value, expected in _FAILED.findall(run)]
    fitting = [name for name, does in OPERATIONS.items() if all(does(value) == expected for value, expected in pairs)]
    return (fitting or ["x[::-1]"])[0]


def verbs_skill(known: dict[str, str]) -> Skill:
    code = "\n".join(f"def {verb}(x): return {meaning}" for verb, meaning in known.items())
    return Skill(
        name="verbs",
        description="What the verbs of this world do. Use when a task names one of them.",
        body=f"Use these:\n```python\n{code}\n```\nThe same as a program: scripts/verbs.py",
        metadata={"keywords": " ".join(known)},
        files={"references/origin.md": b"From runs.\n", "scripts/verbs.py": f"{code}\n".encode()},
    )


@pytest.fixture
def train(world_tasks: Tasks) -> list[Task]:
    """Eight tasks of one verb each, and eight chains of two."""
    return world_tasks(16, lengths=(1, 2))


@pytest.fixture
def heldout(world_tasks: Tasks, train: list[Task]) -> list[Task]:
    seen = {task.prompt for task in train}
    return [task for task in world_tasks(50, lengths=(2,), split="heldout", draw=1) if task.prompt not in seen]


@pytest.fixture
def noise(train: list[Task]) -> Judge:
    """Judges every answer by the checks of a task drawn at random."""
    rng = random.Random(0)

    def judge(task: Task, run: Run) -> Sequence[Verdict]:
        found = judge_answer(rng.choice(train), run.answer or "")
        return [msgspec.structs.replace(verdict, run_id=run.id, task_id=task.id) for verdict in found]

    return judge


def truth(task: Task, run: Run) -> Sequence[Verdict]:
    """Judges an answer by its world's grammar, which takes no sandbox."""
    found = judge_answer(task, run.answer or "")
    return [msgspec.structs.replace(verdict, run_id=run.id) for verdict in found]


def make_agent(memory: Memory, model: Model, verify: Judge = truth) -> Agent:
    return Agent("react", model, memory=memory, verify=verify)


async def propose(agent: Agent, memory: Memory, train: Sequence[Task], learner: SkillEvolver) -> list[Proposal]:
    singles = [task for task in train if task.tags == ("length-1",)]
    await run_tasks(agent, singles, progress=lambda result: None)
    view = TrainMemory(memory, agent, train)
    return [p async for p in learner.propose(view, await incumbent_arm(memory), Budget(calls=1000))]


async def decide(agent: Agent, memory: Memory, proposal: Proposal, heldout: Sequence[Task]) -> Promotion:
    before = await incumbent_arm(memory)
    return await Gate().decide(proposal.arm(before), before, heldout, evaluator(agent))


@pytest.mark.asyncio
async def test_a_skill_of_several_files_is_learned_and_the_gate_promotes_it(
    memory: Memory, pool: SandboxPool, reader: type, world: World, train: list[Task], heldout: list[Task]
) -> None:
    async with make_agent(memory, reader()) as agent:
        (proposal,) = await propose(agent, memory, train, SkillEvolver(pool, Colleague(), tasks=6))
        decision = await decide(agent, memory, proposal, heldout)
    assert decision.decision == "promoted", decision.reason
    assert proposal.candidate.config["files"] == ["SKILL.md", "references/origin.md", "scripts/verbs.py"]
    arms = msgspec.convert(proposal.candidate.config["arms"], dict[str, dict[str, float]])
    assert arms.keys() == {"without", "new"}
    assert arms["new"]["passed"] > arms["without"]["passed"] + 0.5
    assert arms["new"]["tokens"] > arms["without"]["tokens"]
    assert proposal.candidate.usage.calls == 1 + 2 * 6
    assert len(proposal.candidate.evidence) >= 16
    known = read_definitions(proposal.policy.text("skills/verbs/SKILL.md"))
    assert all(world.meaning(verb) == meaning for verb, meaning in known.items())


@pytest.mark.asyncio
async def test_what_is_written_from_noise_the_gate_does_not_promote(
    memory: Memory, pool: SandboxPool, reader: type, train: list[Task], heldout: list[Task], noise: Judge
) -> None:
    # The arms hear the same noise, so they are told to let anything through.
    async with make_agent(memory, reader(), noise) as misled:
        (proposal,) = await propose(misled, memory, train, SkillEvolver(pool, Colleague(), tasks=2, min_gain=-1.1))
    async with make_agent(memory, reader()) as agent:
        assert (await decide(agent, memory, proposal, heldout)).decision != "promoted"


@pytest.mark.asyncio
async def test_an_old_skill_is_an_arm_and_a_version_no_better_is_sent_back_with_what_it_fails(
    memory: Memory, pool: SandboxPool, reader: type, world: World, train: list[Task]
) -> None:
    verbs = list(world.verbs)
    right = {verb: world.meaning(verb) for verb in verbs}
    half = verbs_skill({verb: right[verb] for verb in verbs[:4]} | dict.fromkeys(verbs[4:], "x"))
    full = verbs_skill(right)
    worse = verbs_skill(dict.fromkeys(verbs, "x+x"))
    await memory.policies.commit(install(Policy(), half), reason="a beginning", actor="test")
    replies = [write_files(worse.render()), write_files(full.render())]
    async with make_agent(memory, reader()) as agent, ScriptedModel(replies) as model:
        (proposal,) = await propose(agent, memory, train, SkillEvolver(pool, model))
    first, second = model.asked
    assert "# The skill as it is" in first.messages[0].content
    assert "gains nothing over without or old" in second.messages[-1].content
    assert "expected" in second.messages[-1].content
    arms = proposal.candidate.config["arms"]
    assert isinstance(arms, dict)
    assert arms.keys() == {"without", "old", "new"}
    assert Skill.parse(proposal.policy.skill("verbs")) == full


@pytest.mark.asyncio
async def test_what_breaks_the_format_or_fails_in_the_sandbox_goes_back(
    memory: Memory, pool: SandboxPool, reader: type, world: World, train: list[Task]
) -> None:
    full = verbs_skill({verb: world.meaning(verb) for verb in world.verbs})
    broken = msgspec.structs.replace(full, files={"scripts/verbs.py": b"assert 1 == 2, 'wrong'\n"})
    replies = ["I would rather not.", write_files(broken.render()), write_files(full.render())]
    async with make_agent(memory, reader()) as agent, ScriptedModel(replies) as model:
        (proposal,) = await propose(agent, memory, train, SkillEvolver(pool, model, tasks=4))
    assert "there is no SKILL.md" in model.asked[1].messages[-1].content
    assert "AssertionError: wrong" in model.asked[2].messages[-1].content
    assert proposal.candidate.usage.calls == 3 + 2 * 4


@pytest.mark.asyncio
async def test_a_skill_has_the_name_that_was_asked_for(pool: SandboxPool) -> None:
    skill = verbs_skill({"zorp": "x"})
    assert await read_skill(write_files(skill.render()), pool, "verbs") == skill
    assert "has to be 'words'" in str(await read_skill(write_files(skill.render()), pool, "words"))


@pytest.mark.asyncio
async def test_it_keeps_the_contract_and_says_what_is_missing(
    memory: Memory, pool: SandboxPool, train: list[Task], live: Callable[..., Awaitable[None]]
) -> None:
    await live(memory, train)
    (proposal,) = await check_learner(SkillEvolver(pool, Colleague()), memory)
    assert "not compared" in proposal.candidate.summary
    with pytest.raises(UserError, match="--set model=NAME"):
        [p async for p in load_learner("skill-evolve").propose(TrainMemory(memory), Arm(policy=Policy()), Budget())]
    with pytest.raises(UserError, match="tasks=0"):
        SkillEvolver(tasks=0)
    with pytest.raises(BudgetError):
        [
            p
            async for p in SkillEvolver(pool, Colleague()).propose(
                TrainMemory(memory), Arm(policy=Policy()), Budget(calls=0)
            )
        ]


@pytest.mark.asyncio
async def test_arms_are_run_alike_and_assertions_that_say_nothing_are_dropped(
    memory: Memory, pool: SandboxPool, reader: type[Model], world: World, train: list[Task]
) -> None:
    verbs = {verb: world.meaning(verb) for verb in world.verbs}
    new = install(Policy(), verbs_skill(verbs))
    arms = skill_arms(new, "verbs", install(Policy(), verbs_skill({next(iter(verbs)): "x"})))
    assert skill_arms(new, "verbs", new).keys() == {"without", "new"}
    async with make_agent(memory, reader()) as agent:
        found = await compare_arms(TrainMemory(memory, agent), train[:6], arms, seeds=(0, 1))
        same = await compare_arms(TrainMemory(memory, agent), train[:2], {"a": new, "b": new})
        with pytest.raises(BudgetError):
            await compare_arms(TrainMemory(memory, agent), train[:6], arms, budget=Budget(calls=3))
    assert list(found.arms) == ["without", "old", "new"]
    assert found.arms["new"].passed == 1.0
    assert found.arms["new"].tasks == 6
    assert found.usage.calls == 3 * 6 * 2
    assert found.gain("new", "without") == pytest.approx(1 - found.arms["without"].passed)
    assert {each.task_id for each in found.assertions} <= {task.id for task in train[:6]}
    assert all(each.shares["new"] == 1.0 and "new" not in each.failures for each in found.assertions)
    assert same.gain("a", "b") == 0.0
    assert (same.assertions, same.dropped) == ((), 8)


@pytest.mark.asyncio
async def test_where_nothing_judges_the_arms_the_gate_has_to(
    memory: Memory, pool: SandboxPool, reader: type, train: list[Task]
) -> None:
    async with make_agent(memory, reader()) as agent:
        await run_tasks(agent, train[:4], progress=lambda result: None)
    bare = [msgspec.structs.replace(task, id=f"bare/{task.id}", verifiers=()) for task in train]
    async with make_agent(memory, reader(), lambda task, run: ()) as agent:
        view, before = TrainMemory(memory, agent, bare), await incumbent_arm(memory)
        (proposal,) = [p async for p in SkillEvolver(pool, Colleague()).propose(view, before, Budget())]
    assert "not compared" in proposal.candidate.summary


@pytest.mark.asyncio
async def test_what_tools_returned_and_people_said_is_shown_and_makes_the_skill_wait(
    memory: Memory, pool: SandboxPool, train: list[Task]
) -> None:
    run = Run(task_id=train[0].id, agent="x", status="done", answer="dunno")
    call = ToolCall(id="1", name="search", arguments='{"word": "zorp"}')
    step = Step(run_id=run.id, seq=0, body=ToolResult(call=call, content="it reverses"))
    verdict = Verdict(run_id=run.id, task_id=run.task_id, verifier="v", outcome="fail")
    said = Feedback(kind="comment", source="ana", run_id=run.id, text="Look it up first.")
    await memory.put(train[0], run, step, verdict, said)
    async with ScriptedModel([write_files(verbs_skill({"zorp": "x[::-1]"}).render())]) as model:
        learner = SkillEvolver(pool, model)
        (proposal,) = [p async for p in learner.propose(TrainMemory(memory), Arm(policy=Policy()), Budget())]
    shown = model.asked[0].messages[0].content
    assert 'Called search({"word": "zorp"}): it reverses' in shown
    assert "Said about it: Look it up first." in shown
    assert proposal.candidate.trust == "tainted"
