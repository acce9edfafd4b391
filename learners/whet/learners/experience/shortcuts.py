"""Shortcuts: sequences of tool calls that agents repeat with success, mined and replayed, to be called as one tool.

    async for proposal in ShortcutLearner().propose(view, incumbent, Budget()):
        print(proposal.policy.text("skills/sort-uniq-wc/shortcut.json"))

After the shortcuts of Mobile-Agent-E (Wang et al. 2025, arXiv 2501.11733), without a model: sequences of calls of equal
names in runs that passed are anti-unified (``generalize``), and what differs becomes a parameter. A parameter has to be
known before the first step, from the task or from what was seen by then. Each shortcut is replayed by the agent's own
machinery in fresh sandboxes; it is proposed only where every step returns again what is on record.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from whet.agents import Agent
from whet.agents.shortcuts import FILE, PLACE, Shortcut, ShortcutStep, fill
from whet.agents.tools import FunctionTool, python, shell
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import ScriptedModel, say_tool
from whet.core.policy import Policy
from whet.core.records import Candidate, Json, Step, Task, ToolResult
from whet.core.wire import encode
from whet.feedback import FreshSandboxes
from whet.learners.experience.generalize import generalize
from whet.learners.experience.habits import Habit, Trace, arguments, find_habits, leaves, read_traces
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import joint_trust
from whet.learners.replay import lent_or_own
from whet.learners.view import TrainMemory
from whet.skills import Skill, install

__all__ = ["ShortcutLearner"]

NAME = "shortcuts"
REPLAYS = 2
_NAME_PART = re.compile(r"[a-z][a-z0-9]+")
_PATH = re.compile(r"[^\s'\"<>|;&()]+")
_WORD_BEFORE = r"([a-z]\w+)\W{1,3}"


class ShortcutLearner:
    """Proposes a policy with the shortcuts that prove themselves.

    ``sandboxes`` is where they are replayed (a pool of its own unless given); ``min_tasks``: in so many tasks a
    sequence has to have led to success; ``purity``: to success in this share of the judged runs that have it;
    ``longest``: steps of a shortcut at most; ``at_most``: shortcuts in a proposal.

    Raises:
        UserError: fewer than two tasks or steps are asked for, or another number is out of range.
    """

    def __init__(
        self,
        sandboxes: FreshSandboxes | None = None,
        min_tasks: int = 3,
        purity: float = 0.8,
        longest: int = 6,
        at_most: int = 3,
    ) -> None:
        if min_tasks < 2 or longest < 2:
            raise UserError(f"min_tasks={min_tasks!r} and longest={longest!r} have to be 2 or more: once is no habit")
        if not 0 < purity <= 1 or at_most < 1:
            raise UserError(f"purity={purity!r} has to be a share above 0, at_most={at_most!r} 1 or more")
        self._sandboxes = sandboxes
        self._min_tasks, self._purity, self._longest, self._at_most = min_tasks, purity, longest, at_most

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields one proposal with all new shortcuts; none where no sequence repeats, or no replay agrees.

        Raises:
            SandboxError: no sandbox could be had.
        """
        tools = {tool.spec.name: tool for tool in view.tools or (shell, python)}
        again = {name: tool for name, tool in tools.items() if isinstance(tool, FunctionTool) and tool.in_sandbox}
        traces = await read_traces(view, set(again))
        policy, used = incumbent.policy, list[Habit]()
        found = await asyncio.to_thread(self._habits, traces)
        async with lent_or_own(self._sandboxes) as sandboxes:
            for habit in found:
                skill = _skill(habit, policy, {*policy.skill_names(), *tools})
                if skill is None or not await _proves_itself(skill, habit, again, sandboxes):
                    continue
                policy = install(policy, skill)
                used.append(habit)
                if len(used) == self._at_most:
                    break
        if used:
            yield _proposal(incumbent, policy, used)

    def _habits(self, traces: Sequence[Trace]) -> list[Habit]:
        return [*find_habits(traces, min_tasks=self._min_tasks, purity=self._purity, longest=self._longest)]


def _skill(habit: Habit, policy: Policy, taken: set[str]) -> Skill | None:
    """Returns the habit as a skill with a name that is not ``taken``; ``None`` where the policy has it."""
    names = _names(habit)
    places: dict[str, Json] = {old: f"{{{{{new}}}}}" for old, new in names.items()}
    steps = tuple(
        ShortcutStep(tool=call.call.name, arguments=renamed, ends_with=_ending(habit, number))
        for number, (call, step) in enumerate(zip(habit.windows[0].calls, habit.steps, strict=True))
        if isinstance(renamed := fill(step, places), dict)
    )
    shortcut = Shortcut(parameters=_schemas(habit, names), requires=_requires(habit, places), steps=steps)
    data = encode(shortcut)
    if any(policy.skill(name).get(FILE) == data for name in policy.skill_names()):
        return None
    name = _free_name(habit, taken)
    lines = [f"{n}. {step.tool} {encode(step.arguments).decode()}" for n, step in enumerate(steps, start=1)]
    when = _precondition(habit, names)
    given = ", ".join(names.values()) or "no parameters"
    description = f"{' and '.join(name.split('-'))} in one call instead of {len(steps)}. Use for tasks such as: {when}"
    body = f"Call the tool `{name}` with {given}. It does this, and stops where a step fails:\n\n" + "\n".join(lines)
    return Skill(name=name, description=description[:1000], body=body, files={FILE: data})


def _names(habit: Habit) -> dict[str, str]:
    """Returns names for the parameters: the word before the value in the task, where there is one."""
    prompt = habit.windows[0].trace.item.task.prompt.lower()
    names: dict[str, str] = {}
    for old, values in habit.general.values.items():
        found = re.search(_WORD_BEFORE + re.escape(str(values[0]).lower()), prompt)
        names[old] = found[1] if found and found[1] not in names.values() else old
    return names


def _schemas(habit: Habit, names: dict[str, str]) -> dict[str, dict[str, Json]]:
    def schema(values: Sequence[Json]) -> dict[str, Json]:
        kind: dict[str, Json] = {"type": "string"} if all(isinstance(value, str) for value in values) else {}
        return {**kind, "description": f"for example {encode(values[0]).decode()}"}

    return {names[old]: schema(values) for old, values in habit.general.values.items()}


def _requires(habit: Habit, places: dict[str, Json]) -> tuple[str, ...]:
    """Returns the paths with parameters that were files of the task in every run."""
    texts = [leaf for step in habit.steps for leaf in leaves(step) if isinstance(leaf, str)]
    paths = dict.fromkeys(path for text in texts for path in _PATH.findall(text) if PLACE.search(path))
    return tuple(
        str(fill(path, places))
        for path in paths
        if all(fill(path, habit.values(n)) in each.trace.item.task.files for n, each in enumerate(habit.windows))
    )


def _ending(habit: Habit, step: int) -> str:
    """Returns how the step's result ended every time, where that is a status line such as ``[exit code 0]``."""
    lines = {window.calls[step].content.rstrip().rpartition("\n")[2] for window in habit.windows}
    (line, *others) = lines
    return line if not others and line.startswith("[") else ""


def _precondition(habit: Habit, names: dict[str, str]) -> str:
    """Returns what the tasks have in common, with the parameters' names in capitals."""
    terms: list[Json] = [[window.term, window.trace.item.task.prompt] for window in habit.windows]
    general = generalize(terms)
    text = general.template[1] if general is not None and isinstance(general.template, list) else ""
    shown = PLACE.sub(lambda match: names.get(match[1], "something").upper(), str(text))
    return " ".join(re.sub(r"[<>]", "", shown).split())


def _free_name(habit: Habit, taken: set[str]) -> str:
    parts = []
    for step in habit.steps:
        words = _NAME_PART.findall(PLACE.sub("", " ".join(map(str, leaves(step)))).lower())
        parts.append(words[0] if words else "step")
    base = "-".join(dict.fromkeys(parts))[:50].strip("-")
    return next(name for n in range(1, len(taken) + 2) if (name := base if n == 1 else f"{base}-{n}") not in taken)


async def _proves_itself(skill: Skill, habit: Habit, tools: dict[str, FunctionTool], sandboxes: FreshSandboxes) -> bool:
    """Whether the shortcut, called by an agent in the place of the recorded calls, returns what they returned."""
    names = list(Shortcut.parse(skill.files[FILE], FILE).parameters)
    chosen = {window.trace.item.task.id: number for number, window in enumerate(habit.windows)}
    for number in list(chosen.values())[:REPLAYS]:
        window = habit.windows[number]
        values = dict(zip(names, habit.values(number).values(), strict=True))
        before = [(each.call.name, arguments(each) or {}) for each in window.trace.calls[: window.start]]
        calls = [*before, (skill.name, values)]
        results = await _call(calls, skill, window.trace.item.task, tools, sandboxes)
        recorded = "\n".join(each.content for each in window.calls)
        if len(results) != len(calls) or results[-1].error or results[-1].content != recorded:
            return False
    return True


async def _call(
    calls: Sequence[tuple[str, dict[str, Json]]],
    skill: Skill,
    task: Task,
    tools: dict[str, FunctionTool],
    sandboxes: FreshSandboxes,
) -> list[ToolResult]:
    """Returns what these calls return to an agent that has the skill and makes them one after the other."""
    policy = install(Policy(), skill).with_settings(max_turns=len(calls) + 1)
    script = [say_tool(name, arguments, id=f"call{number}") for number, (name, arguments) in enumerate(calls)]
    model = ScriptedModel([*script, "done"])
    agent = Agent("react", model, tools=[*tools.values()], sandbox=sandboxes, policy=policy)
    steps: list[object] = []
    await agent.arun(msgspec.structs.replace(task, verifiers=()), listener=steps.append)
    bodies = [step.body for step in steps if isinstance(step, Step)]
    return [body for body in bodies if isinstance(body, ToolResult)]


def _proposal(incumbent: Arm, policy: Policy, habits: Iterable[Habit]) -> Proposal:
    items = [window.trace.item for habit in habits for window in habit.windows]
    names = [name for name in policy.skill_names() if name not in incumbent.policy.skill_names()]
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=NAME,
        config={"skills": [*names]},
        summary=f"{len(names)} shortcuts: {', '.join(names)}",
        evidence=tuple(
            dict.fromkeys(id for item in items for id in (item.run.id, *(verdict.id for verdict in item.verdicts)))
        ),
        trust=joint_trust(item.run.trust for item in items),
    )
    return Proposal(candidate=candidate, policy=policy)
