"""Skills discovered offline: invent tasks, let the agent try them, keep only what verifies.

    learner = DiscoveryLearner(tasks=12, attempts=4)            # needs no model but the agent's
    async for proposal in learner.propose(view, incumbent, Budget(calls=200)):
        print(proposal.policy.text("skills/world-7-discovered/references/solved.md"))

Tasks are invented from known helpers (``invention``), as in Xu et al. 2025; the agent, told what the helpers do, tries
each of them a few times and hears which checks failed; what passed becomes a function with its checks, and only that
does (Voyager, Wang et al. 2023). A function that is written anew keeps its earlier versions (``repertoire``).
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import msgspec

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.prompting import describe_failure, render_retry
from whet.core.records import Candidate, Json, Record, Run, Task, Usage, Verdict, VerifierSpec
from whet.feedback import FreshSandboxes, verify_all
from whet.feedback.answers import extract_code
from whet.learners.cases import read_cases
from whet.learners.definitions import Case, Definition, find_definitions
from whet.learners.evaluation import score_of
from whet.learners.gate import Arm
from whet.learners.invention import Invented, invent
from whet.learners.learner import Proposal
from whet.learners.programs import dissect, rename
from whet.learners.repertoire import Repertoire
from whet.learners.replay import lent_or_own
from whet.learners.skills import imports_of, make_skill, proves_itself, skill_name
from whet.learners.view import Judged, TrainMemory
from whet.learners.weights.heldback import look
from whet.skills import Skill, install

__all__ = ["DiscoveryLearner"]

NAME = "discovery"


class Solved(Record, frozen=True, kw_only=True):
    """An invented task and the answer that passed its checks."""

    invented: Invented
    code: str


class DiscoveryLearner:
    """Proposes a skill with the helpers and chains that the agent was seen to master.

    ``sandboxes`` is where answers are verified (a pool of its own unless given); ``tasks``: at most so many new tasks
    on single helpers, and as many on pairs, in a round; ``attempts``: how often each is tried.
    """

    def __init__(self, sandboxes: FreshSandboxes | None = None, tasks: int = 12, attempts: int = 4) -> None:
        if tasks < 1 or attempts < 1:
            raise UserError(f"tasks={tasks!r}, attempts={attempts!r}: at least 1 of each is needed")
        self._sandboxes = sandboxes
        self._tasks, self._attempts = tasks, attempts

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields at most one proposal; none where no helper is known, or nothing new verifies.

        Raises:
            UserError: the view has no agent to try the tasks.
            BudgetError: the budget ended a run.
            SandboxError: no sandbox could be had.
        """
        task_set, judged = _largest_set(await view.judged())
        name = skill_name(task_set, "discovered")
        before = Repertoire.of(incumbent.policy.skill(name))
        async with lent_or_own(self._sandboxes) as sandboxes:
            cases = read_cases(judged)
            known = await _independent(cases, sandboxes)
            helpers = {key: definition.helper for key, definition in known.items()}
            imports = sorted({line for definition in known.values() for line in imports_of(definition)})
            tried = before.mastered(helpers)
            found = await invent(cases, helpers, sandboxes, tried=tried, limit=self._tasks, imports=imports)
            held_back = await view.held_back()
            invented = [each for each in found if not held_back.match(look(each.task.prompt))]
            if not invented:
                return
            policy = install(incumbent.policy, make_skill(name, known)).with_settings(withhold_rate=0.0)
            solved, usage = await self._try(view, policy, invented, budget, sandboxes)
            skill = _grown(before, known, solved).skill(name)
            if not solved or not await proves_itself(skill, sandboxes):
                return
        yield _proposal(incumbent, install(incumbent.policy, skill), skill, solved, len(invented), known, usage)

    async def _try(
        self,
        view: TrainMemory,
        policy: Policy,
        invented: Sequence[Invented],
        budget: Budget,
        sandboxes: FreshSandboxes,
    ) -> tuple[list[Solved], Usage]:
        """Returns the tasks that the agent solved, each tried until it passes or the attempts are used up."""
        left = {each.task.id: (each, each.task) for each in invented}
        solved, usage = [], Usage()
        for attempt in range(self._attempts):
            if not left:
                break
            results = await view.practise(
                [task for _, task in left.values()], policy=policy, seeds=(attempt,), budget=budget, tags=("invented",)
            )
            for key, result in zip([*left], results, strict=True):
                usage += score_of(result).usage
                each, answer = left[key][0], result.run.answer or ""
                verdicts = await verify_all(_judged_by(each), result.run, sandboxes)
                if verdicts and all(verdict.outcome == "pass" for verdict in verdicts):
                    solved.append(Solved(invented=each, code=extract_code(answer, each.entry_point)[0].strip()))
                    del left[key]
                else:
                    left[key] = each, _again(each, result.run, verdicts)
        return solved, usage


def _largest_set(judged: Sequence[Judged]) -> tuple[str, list[Judged]]:
    """Returns the task set that most runs are of, and its runs."""
    sets = Counter(item.task.task_set for item in judged)
    most = sets.most_common(1)[0][0] if sets else ""
    return most, [item for item in judged if item.task.task_set == most]


async def _independent(cases: Sequence[Case], sandboxes: FreshSandboxes) -> dict[str, Definition]:
    """Returns the trusted definitions that need no other helper."""
    found = await find_definitions(cases, sandboxes)
    return {
        name: definition
        for name, definition in found.known.items()
        if definition.trust == "trusted" and not set(definition.helper.needs) & set(found.known)
    }


def _judged_by(each: Invented) -> Task:
    """Returns the task with the verifier that the run was not told of."""
    test = "\n".join(f"assert {call} == {expected}" for call, expected in each.checks)
    params: dict[str, Json] = {"form": "asserts", "entry_point": each.entry_point, "test": test}
    return msgspec.structs.replace(each.task, verifiers=(VerifierSpec(kind="python_tests", params=params),))


def _again(each: Invented, run: Run, verdicts: Sequence[Verdict]) -> Task:
    """Returns the task with the last answer and what was wrong with it, in one message: skills open by its words."""
    failed = [check for verdict in verdicts for check in verdict.checks if not check.passed]
    said = [
        describe_failure(check.call, check.got, check.expected) if check.call else check.message for check in failed
    ]
    prompt = f"{each.task.prompt}\n\nYour last answer:\n{run.answer or ''}\n\n{render_retry(said[:3])}"
    message = msgspec.structs.replace(each.task.messages[-1], content=prompt)
    return msgspec.structs.replace(each.task, id=f"{each.task.id}/{run.id[-8:]}", messages=(message,))


def _grown(before: Repertoire, known: Mapping[str, Definition], solved: Sequence[Solved]) -> Repertoire:
    """Returns what the skill held, with the functions, checks and programs of what was solved."""
    used = sorted({helper for each in solved for helper in each.invented.helpers})
    functions = {helper: known[helper].helper.source for helper in used} | dict(_composed(solved))
    return before.add(
        functions=functions,
        checks={each.invented.name: _check(each.invented) for each in solved if each.invented.name in functions},
        programs={each.invented.name: f"{each.invented.task.prompt}\n\n```python\n{each.code}\n```" for each in solved},
        imports={line for helper in used for line in imports_of(known[helper])},
    )


def _composed(solved: Sequence[Solved]) -> Iterable[tuple[str, str]]:
    """Yields the entry points of solved pairs as functions of their own, where they need nothing but the pair."""
    for each in solved:
        parts = dissect(each.code, each.invented.entry_point)
        if len(each.invented.helpers) > 1 and parts and set(parts.entry.needs) <= set(each.invented.helpers):
            yield each.invented.name, rename(parts.entry, each.invented.name).source


def _check(each: Invented) -> str:
    lines = [f"    assert {each.name}{call.removeprefix(each.entry_point)} == {value}" for call, value in each.checks]
    return "\n".join([f"def check_{each.name}():", *lines])


def _proposal(
    incumbent: Arm,
    policy: Policy,
    skill: Skill,
    solved: Sequence[Solved],
    tried: int,
    known: Mapping[str, Definition],
    usage: Usage,
) -> Proposal:
    used = dict.fromkeys(helper for each in solved for helper in each.invented.helpers)
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=NAME,
        config={"skill": skill.name, "solved": [each.invented.name for each in solved], "tried": tried},
        summary=f"skill {skill.name}: {len(solved)} of {tried} invented tasks solved",
        evidence=tuple(dict.fromkeys(id for helper in used for id in known[helper].evidence)),
        usage=usage,
    )
    return Proposal(candidate=candidate, policy=policy)
