"""A coding agent as a learner: it edits the policy's folder in a sandbox, and may try it on training tasks.

learner = CodingAgent(model="openai/gpt-4o", runs=120)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

from whet.agents import Agent, shell, tool
from whet.core.errors import BudgetError, UserError
from whet.core.policy import Policy
from whet.feedback import FreshSandboxes
from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, examples
from whet.sandboxes import Sandbox, SandboxPool, SandboxSpec

__all__ = ["CodingAgent"]

_FOLDER = "policy"
_KEPT = "adapter"  # Weights are no text: they stay what they are.

_SYSTEM = """\
You improve another agent. What it is told and how it is set is a folder, /work/policy: prompts/NAME.md, principles.md,
skills/NAME/SKILL.md with scripts, rubrics/NAME.md, settings.toml. Look at it and change it with shell; try it with
evaluate, which runs the agent on training tasks under the folder as it then is and says what failed. It is judged on
tasks that you do not see, so write what helps with all tasks of the kind. Leave the folder as it should be, and answer
with a sentence on what you changed and why."""

_TASK = """\
Improve the agent whose policy is in /work/policy. It reads the prompts {prompts}; its settings may be {settings}.
{runs} runs on training tasks are left."""


@dataclass(kw_only=True)
class CodingAgent(PromptLearner):
    """A ``react`` agent with a shell and a budgeted ``evaluate`` in the place of an algorithm.

    ``turns``: answers of the model in a session. ``steps``: sessions, each from the best policy so far. ``minibatch``:
    tasks of an evaluation unless the agent asks for more or less. ``sandboxes``: where sessions run, a pool of its own
    unless given. The model has to call tools.
    """

    name: ClassVar[str] = "coding-agent"
    counts: ClassVar[tuple[str, ...]] = ("turns",)
    unused: ClassVar[tuple[str, ...]] = ("parts",)
    turns: int = 40
    steps: int = 1
    minibatch: int = 8
    sandboxes: FreshSandboxes | None = None

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the policy as the agent left it; none where that cannot be used."""
        if self.sandboxes is not None:
            return await self._session(parents[0], lab, self.sandboxes)
        async with SandboxPool(size=1) as pool:
            return await self._session(parents[0], lab, pool)

    async def _session(self, parent: Node, lab: Lab, sandboxes: FreshSandboxes) -> list[Draft]:
        async with sandboxes.fresh(SandboxSpec()) as box:
            desk = _Desk(parent=parent, lab=lab, box=box, usual=self.minibatch)
            await desk.lay_out()
            told = Policy.of({"prompts/system.md": _SYSTEM}).with_settings(max_turns=self.turns)
            evaluate = tool(trust="trusted", seconds=24 * 3600.0)(desk.evaluate)
            worker = Agent("react", lab.model, sandbox=box, tools=[shell, evaluate], policy=told)
            result = await worker.arun(desk.task())
            lab.asked += result.run.usage
            if result.run.status == "failed":
                raise UserError(f"the coding agent broke down: {result.run.error}; give it a model that calls tools")
            try:
                policy = await desk.read()
            except UserError:  # It was told so whenever it evaluated.
                return []
        note = " ".join((result.run.answer or "").split())
        evidence = tuple(id for each in desk.seen for id in each.ids)
        tainted = any(each.run.trust == "tainted" for each in desk.seen)
        return [Draft(parts={}, policy=policy, parents=(parent,), note=note, evidence=evidence, tainted=tainted)]


@dataclass(kw_only=True)
class _Desk:
    """The workspace of a session: the policy's folder, and what may be tried."""

    parent: Node
    lab: Lab
    box: Sandbox
    usual: int
    seen: list[Evidence] = field(default_factory=list)

    async def lay_out(self) -> None:
        """Writes the policy's files, with the defaults of the prompts that it leaves to the graph."""
        for path, data in {**self._defaults(), **self.parent.policy.files}.items():
            if path != _KEPT:
                await self.box.write(f"{_FOLDER}/{path}", data)

    def _defaults(self) -> dict[str, bytes]:
        prompts = self.lab.view.prompts(Policy())
        return {f"prompts/{name}.md": text.encode() for name, text in prompts.items()}

    def task(self) -> str:
        """Returns what the agent is asked to do."""
        knobs = {name: knob for name, knob in self.lab.view.settings.items() if not name.startswith("withhold")}
        settings = ", ".join(f"{name} ({knob.low:g} to {knob.high:g})" for name, knob in knobs.items())
        prompts = ", ".join(sorted(self.lab.view.prompts(self.parent.policy)))
        return _TASK.format(prompts=prompts, settings=settings, runs=self._left())

    async def read(self) -> Policy:
        """Returns the policy in the folder.

        Raises:
            UserError: it is none, or none that the agent can run under.
        """
        paths = await self.box.list(_FOLDER)
        files = {path: await self.box.read(f"{_FOLDER}/{path}") for path in paths if path != _KEPT}
        old, defaults = self.parent.policy, self._defaults()
        changed = {path: data for path, data in files.items() if path in old.files or data != defaults.get(path)}
        policy = Policy.of({**changed, **({_KEPT: old.adapter} if old.adapter else {})})
        self.lab.view.check(policy)
        return policy

    async def evaluate(self, tasks: int = 0) -> str:
        """Run the agent on training tasks under /work/policy as it is now. Returns its mean score and what failed.

        Every task counts against the runs that are left; give a number of tasks, or 0 for the usual number.
        """
        policy, wanted = await self.read(), self.lab.minibatch(tasks or self.usual)
        if len(wanted) > self._left():
            return f"{self._left()} runs are left, {len(wanted)} are needed; ask for fewer, or finish."
        try:
            found = await self.lab.run(policy, wanted)
        except BudgetError as error:
            return f"The budget is used up ({error}); finish."
        self.seen += found
        mean = fmean(each.score for each in found) if found else 0.0
        return f"Mean score {mean:.2f} on {len(found)} tasks; {self._left()} runs are left.\n\n{examples(found)}"

    def _left(self) -> int:
        """Returns how many runs may be spent before what is left is needed to score the result."""
        return max(0, self.lab.left - len(self.lab.validation))
