"""Skills from experience: verified helpers as an Agent Skills folder, run in a sandbox before anybody sees it.

    learner = SkillLearner()                       # needs no model
    async for proposal in learner.propose(view, incumbent, Budget()):
        print(proposal.policy.text("skills/world-7-helpers/SKILL.md"))

A skill holds the definitions that the record confirms (``definitions``), one line each, and a script with the same
functions and a self-test made of recorded checks. The self-test runs in a fresh sandbox; where it fails nothing is
proposed. With a model, the model words name and description; the functions stay those of the record.
"""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

from whet.core.budget import Budget
from whet.core.models import Budgeted, Model, as_model
from whet.core.policy import Policy
from whet.core.records import Candidate, Json, Lesson, Usage
from whet.feedback import FreshSandboxes
from whet.learners.asking import ask_for_wording
from whet.learners.cases import corrected, read_cases
from whet.learners.definitions import Case, Definition, Definitions, find_definitions
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.replay import lent_or_own
from whet.learners.view import TrainMemory
from whet.sandboxes.sandbox import SandboxSpec
from whet.skills import Skill, install, run_script

__all__ = ["SkillLearner", "imports_of", "make_skill", "proves_itself", "self_test", "skill_name"]

NAME = "skills"
MAX_HELPERS = 60
MAX_DESCRIPTION = 1000
CHECKS_PER_CASE = 2
CASES_PER_HELPER = 2


class SkillLearner:
    """Proposes a policy with skills made of verified helpers, one skill per task set.

    ``sandboxes`` is where definitions are replayed and self-tests run (a pool of its own unless given); ``model`` a
    model or its name to word descriptions with; ``min_helpers``: with fewer a lesson will do.
    """

    def __init__(
        self, sandboxes: FreshSandboxes | None = None, model: Model | str | None = None, min_helpers: int = 2
    ) -> None:
        self._sandboxes = sandboxes
        self._model = None if model is None else as_model(model)
        self._min_helpers = min_helpers

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields one proposal with all new or changed skills; none when there is nothing new, or a self-test fails.

        Raises:
            BudgetError: the budget does not allow to ask the model.
            SandboxError: no sandbox could be had.
        """
        async with lent_or_own(self._sandboxes) as sandboxes:
            judged = await view.judged()
            cases = read_cases([*judged, *await corrected(view, await view.feedback(), sandboxes)])
            sets = {item.task.id: item.task.task_set for item in judged}
            policy, skills, usage = incumbent.policy, [], Usage()
            found = await find_definitions(cases, sandboxes)
            for name, chosen in _grouped(found, sets).items():
                if len(chosen) < self._min_helpers:
                    continue
                skill, cost = await self._worded(make_skill(name, chosen), budget)
                usage += cost
                if policy.skill(skill.name) != skill.render() and await proves_itself(skill, sandboxes):
                    policy = install(policy, skill)
                    skills.append((skill, chosen))
            lessons = await view.lessons()
        if skills:
            yield _proposal(incumbent, policy, skills, usage, _absorbed(skills, lessons))

    async def _worded(self, skill: Skill, budget: Budget) -> tuple[Skill, Usage]:
        """Returns the skill with the model's wording where there is a model and its wording keeps to the format."""
        if self._model is None:
            return skill, Usage()
        return await ask_for_wording(Budgeted(self._model, budget), skill)


def make_skill(name: str, chosen: Mapping[str, Definition]) -> Skill:
    """Returns the skill of these definitions.

    Raises:
        UserError: it would break the format.
    """
    lines = [definition.helper.source for definition in chosen.values()]
    imports = sorted({line for definition in chosen.values() for line in imports_of(definition)})
    code = "\n".join([*imports, *lines])
    return Skill(
        name=name,
        description=_description(list(chosen)),
        body=f"Use these definitions:\n```python\n{code}\n```",
        metadata={"keywords": " ".join(chosen), "version": "1"},
        files={f"scripts/{name.replace('-', '_')}.py": self_test(code, chosen).encode()},
    )


def self_test(code: str, chosen: Mapping[str, Definition]) -> str:
    """Returns a script with the functions; run as a program it checks them against what verifiers recorded."""
    tests: list[str] = []
    for case in _cases(chosen):
        lines = [f"    {line}" for line in case.parts.entry.source.splitlines()]
        asserts = [f"    assert {call} == {expected}" for call, expected in case.checks[:CHECKS_PER_CASE]]
        tests.append("\n".join([f"def check_{len(tests) + 1}():", *lines, *asserts]))
    calls = [f"    check_{number + 1}()" for number in range(len(tests))]
    main = [
        'if __name__ == "__main__":',
        *calls,
        f'    print("{len(tests)} checks pass: {len(chosen)} functions do what was recorded")',
    ]
    return "\n\n\n".join([code, *tests, "\n".join(main)]) + "\n"


def _cases(chosen: Mapping[str, Definition]) -> list[Case]:
    """Returns a few of the cases that support each definition and need no others; those that check it alone first."""
    picked: dict[tuple[str, str], Case] = {}
    for definition in chosen.values():
        usable = [case for case in definition.supports if set(case.parts.helpers) <= set(chosen) and case.checks]
        usable.sort(key=lambda case: (len(case.parts.helpers), case.task_id))
        for case in usable[:CASES_PER_HELPER]:
            picked[case.task_id, case.parts.entry.source] = case
    return list(picked.values())


def imports_of(definition: Definition) -> set[str]:
    """Returns the import lines that a definition needs."""
    names = set(definition.helper.needs)
    return {line for case in definition.supports for line in case.parts.imports if names & set(line.split())}


def _description(names: Sequence[str]) -> str:
    """Returns what the skill holds and when to use it; a long list of names is cut, the keywords have all of them."""
    listed = ", ".join(names)
    if len(listed) > MAX_DESCRIPTION // 2:
        listed = listed[: MAX_DESCRIPTION // 2].rsplit(",", 1)[0] + " and others"
    return f"What the functions {listed} do, verified. Use when the task mentions one of them."


def _grouped(found: Definitions, sets: Mapping[str, str]) -> dict[str, dict[str, Definition]]:
    """Returns the trusted definitions by the skill they belong to: one per task set, cut where it would be long."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, definition in found.known.items():
        # A helper that needs another one is left to lessons: a skill must not depend on what it does not hold.
        needs = {need for need in definition.helper.needs if need in found.known}
        if definition.trust == "trusted" and not needs:
            grouped[skill_name(sets.get(definition.supports[0].task_id, ""), "helpers")].append(name)
    skills: dict[str, dict[str, Definition]] = {}
    for base, names in sorted(grouped.items()):
        for start in range(0, len(names), MAX_HELPERS):
            part = f"-{start // MAX_HELPERS + 1}" if len(names) > MAX_HELPERS else ""
            skills[f"{base}{part}"] = {name: found.known[name] for name in names[start : start + MAX_HELPERS]}
    return skills


def skill_name(task_set: str, ending: str) -> str:
    """Returns what a skill for a task set is called: ``world-7-helpers`` for the ending ``helpers``."""
    plain = re.sub(r"[^a-z0-9]+", "-", task_set.lower()).strip("-")[:40].strip("-")
    return f"{plain}-{ending}" if plain else ending


async def proves_itself(skill: Skill, sandboxes: FreshSandboxes) -> bool:
    """Returns whether the skill keeps to the format's recommendations and its self-test passes in a sandbox.

    Raises:
        SandboxError: no sandbox could be had, or it was lost.
    """
    if skill.advice():
        return False
    async with sandboxes.fresh(SandboxSpec(isolation="fresh")) as box:
        result = await run_script(box, skill, skill.scripts[0], timeout=30.0)
    return result.ok and "checks pass" in result.stdout


def _proposal(
    incumbent: Arm,
    policy: Policy,
    skills: Sequence[tuple[Skill, Mapping[str, Definition]]],
    usage: Usage,
    retires: tuple[str, ...],
) -> Proposal:
    evidence = [id for _, chosen in skills for definition in chosen.values() for id in definition.evidence]
    names: list[Json] = [skill.name for skill, _ in skills]
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=NAME,
        config={"skills": names, "helpers": sum(len(chosen) for _, chosen in skills), "retires": [*retires]},
        summary=", ".join(f"skill {skill.name} with {len(chosen)} functions" for skill, chosen in skills),
        evidence=tuple(dict.fromkeys(evidence)),
        usage=usage,
    )
    return Proposal(candidate=candidate, policy=policy, retires=retires)


def _absorbed(skills: Sequence[tuple[Skill, Mapping[str, Definition]]], lessons: Sequence[Lesson]) -> tuple[str, ...]:
    """Returns the active lessons that say nothing but what a skill holds: the skill takes their place."""
    held = {definition.helper.source for _, chosen in skills for definition in chosen.values()}
    return tuple(lesson.id for lesson in lessons if lesson.status == "active" and lesson.text in held)
