"""Workflows: a model writes a program over listed tools, it is tried on tasks, a person accepts its plain steps.

    learner = WorkflowLearner(tools=[order_items, price], model="openai/gpt-4o-mini", review=ask)
    async for proposal in learner.propose(view, incumbent, Budget(calls=5)):
        print(proposal.policy.text("skills/order-total/SKILL.md"))

After FlowMind (Zeng et al. 2023): the model is told the catalogue of tools and what is asked, never what the tools
return. A program that calls anything else is refused with the line; what fails on training tasks goes back to it.
Without somebody to review it the proposal is tainted, so that it waits for a person (``whet skill approve``).
"""

import inspect
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeAlias

from whet.agents.tools import FunctionTool
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.loading import load_object
from whet.core.models import Budgeted, Model, as_model
from whet.core.records import Candidate, Message, Record, Run, Sampling, Task, Usage
from whet.feedback import FreshSandboxes, verify_all
from whet.feedback.answers import extract_code
from whet.learners.asking import again
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.replay import lent_or_own
from whet.learners.view import TrainMemory
from whet.sandboxes.sandbox import SandboxSpec
from whet.skills import Skill, install, plain_steps, run_workflow, workflow_faults

__all__ = ["Reviewer", "Workflow", "WorkflowLearner"]

NAME = "workflows"
MAX_SHOWN = 6
_LINE = re.compile(r"^# (name|description|keywords): *(.+?) *$", re.MULTILINE)
_ASK = """Write a workflow: a Python program that does tasks like those below by calling the functions listed here and
nothing else. The text of a task is in the variable `task`; the program puts the answer into `answer`.
Allowed are assignments, if and for, comprehensions, the plainest built-in functions, and methods of texts, lists and
dictionaries. There are no imports, no functions of its own, no while, no exceptions. What the functions return is not
shown to you.
Answer with one block of Python that begins with three comments:
# name: lower-case words with hyphens
# description: what the workflow does, and when to use it
# keywords: words of a task that call for it"""

Function: TypeAlias = Callable[..., object]


class Workflow(Record, frozen=True, kw_only=True):
    """A program over an allow-list of tools, with what it is called and what calls for it."""

    name: str
    description: str
    keywords: str
    code: str
    tools: tuple[str, ...]

    @property
    def steps(self) -> list[str]:
        """What it does, as numbered lines that a person can read."""
        return plain_steps(self.code, self.tools)

    def skill(self) -> Skill:
        """Returns the workflow as a skill: the steps, and the program, which names the tools it needs."""
        steps = "\n".join(self.steps)
        program = f"The same as a program; `task` is the text of the task:\n```python\n{self.code}\n```"
        return Skill(
            name=self.name,
            description=self.description,
            body=f"Follow these steps with your tools:\n\n{steps}\n\n{program}",
            metadata={"keywords": self.keywords},
            allowed_tools=self.tools,
        )


class Reviewer(Protocol):
    """A person who decides on a workflow."""

    async def __call__(self, workflow: Workflow) -> str:
        """Returns what should be different, in words; the empty text accepts it."""
        ...


class WorkflowLearner:
    """Proposes a workflow over an allow-list of tools as a skill.

    ``tools``: functions, or ``package.module:NAME`` of a list of them; they are called when a draft is tried, so give
    stand-ins for those that act. ``review`` is who accepts the plain steps or says what to change; ``remark`` is what
    a person said about an earlier draft. ``model`` writes (the agent's own unless given); ``rounds``: how often it may
    revise; ``tasks``: training tasks a draft is tried on, of which it has to do ``min_share``.
    """

    def __init__(
        self,
        tools: Sequence[Function | FunctionTool] | str = (),
        sandboxes: FreshSandboxes | None = None,
        model: Model | str | None = None,
        review: Reviewer | None = None,
        remark: str = "",
        rounds: int = 2,
        tasks: int = 8,
        min_share: float = 0.8,
    ) -> None:
        if rounds < 0 or tasks < 1 or not 0 <= min_share <= 1:
            raise UserError(
                f"rounds={rounds!r}, tasks={tasks!r}, min_share={min_share!r}: at least 0, 1, and a share from 0 to 1"
            )
        self._tools = _callables(tools)
        self._sandboxes = sandboxes
        self._model = None if model is None else as_model(model)
        self._review, self._remark = review, remark
        self._rounds, self._tasks, self._min_share = rounds, tasks, min_share

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields at most one proposal; none where no draft does enough training tasks, or a person wants none of them.

        Raises:
            UserError: there is no model to write with, or no tool.
            ModelError: the model could not be asked.
            BudgetError: the budget does not allow to ask the model.
            SandboxError: no sandbox could be had.
        """
        model = self._model or view.model
        if model is None or not self._tools:
            raise UserError(
                "workflows needs tools and a model that writes: --set tools=package.module:NAME --set model=NAME"
            )
        tasks = [task for task in await view.tasks() if task.verifiers]
        if not tasks:
            return
        messages, usage, asked = [self._request(tasks)], Usage(), Budgeted(model, budget)
        async with lent_or_own(self._sandboxes) as sandboxes:
            for _ in range(1 + self._rounds):
                completion = await asked.complete(messages, sampling=Sampling(temperature=0.0))
                usage += completion.usage
                draft = self._read(completion.text)
                complaint = draft if isinstance(draft, str) else await self._try(draft, tasks, sandboxes)
                if isinstance(draft, Workflow) and not complaint and self._review is not None:
                    complaint = await self._review(draft)
                if isinstance(draft, Workflow) and not complaint:
                    if install(incumbent.policy, draft.skill()) != incumbent.policy:
                        yield _proposal(incumbent, draft, usage, accepted=self._review is not None)
                    return
                messages += again(completion.text, f"{complaint}\nAnswer with the whole program.")

    def _request(self, tasks: Sequence[Task]) -> Message:
        shown = "\n".join(f"- {task.prompt}" for task in tasks[:MAX_SHOWN])
        remark = [f"A person said about an earlier draft: {self._remark}"] if self._remark else []
        catalogue = "\n".join(_describe(name, function) for name, function in self._tools.items())
        parts = [_ASK, f"# Functions\n{catalogue}", f"# Tasks\n{shown}", *remark]
        return Message(role="user", content="\n\n".join(parts))

    def _read(self, answer: str) -> Workflow | str:
        """Returns the workflow in an answer, or what is wrong with it, in one line."""
        code = extract_code(answer)[0].strip()
        if faults := workflow_faults(code, self._tools):
            return "; ".join(faults)
        head = dict(_LINE.findall(code))
        used = tuple(name for name in self._tools if re.search(rf"\b{re.escape(name)}\(", code))
        plain = _LINE.sub("", code).strip()
        workflow = Workflow(
            name=head.get("name", ""),
            description=head.get("description", ""),
            keywords=head.get("keywords", ""),
            code=plain,
            tools=used,
        )
        try:
            skill = Skill.parse(workflow.skill().render())
        except UserError as error:
            return str(error)
        return "; ".join(skill.advice()) or workflow

    async def _try(self, draft: Workflow, tasks: Sequence[Task], sandboxes: FreshSandboxes) -> str:
        """Returns what there is to say against a draft after it was tried: never what a tool returned."""
        tried = [*tasks[MAX_SHOWN:], *tasks[:MAX_SHOWN]][: self._tasks]
        said = []
        async with sandboxes.fresh(SandboxSpec(isolation="fresh")) as box:
            results = [await run_workflow(box, draft.code, self._tools, {"task": task.prompt}) for task in tried]
        for task, result in zip(tried, results, strict=True):
            run = Run(task_id=task.id, agent=NAME, status="done", answer=result.answer)
            verdicts = await verify_all(task, run, sandboxes) if result.answer is not None else ()
            if not verdicts or any(verdict.outcome != "pass" for verdict in verdicts):
                said.append(f"{task.prompt!r}: {result.error or 'a wrong answer'}")
        if len(tried) - len(said) >= self._min_share * len(tried):
            return ""
        return "\n".join([f"It failed {len(said)} of {len(tried)} tasks.", *said[:3]])


def _callables(tools: Sequence[Function | FunctionTool] | str) -> dict[str, Function]:
    """Returns the functions by name.

    Raises:
        UserError: there is no such list, or a tool that is bound to a run.
    """
    found = load_object(tools, what=f"tools {tools!r}") if isinstance(tools, str) else tools
    if not isinstance(found, Sequence):
        raise UserError(f"tools {tools!r} is no list of functions")
    named: dict[str, Function] = {}
    for each in found:
        if isinstance(each, FunctionTool):
            if each.context_parameter is not None:
                raise UserError(f"tool {each.spec.name!r} works inside a run only; a workflow cannot call it")
            named[each.spec.name] = each.function
        elif inspect.isfunction(each):
            named[each.__name__] = each
        else:
            raise UserError(f"{each!r} is no function; give functions, or what @tool made")
    return named


def _describe(name: str, function: Function) -> str:
    about = (inspect.getdoc(function) or "").partition("\n")[0]
    return f"{name}{inspect.signature(function)}: {about}"


def _proposal(incumbent: Arm, draft: Workflow, usage: Usage, *, accepted: bool) -> Proposal:
    policy = install(incumbent.policy, draft.skill())
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=NAME,
        config={"skill": draft.name, "tools": [*draft.tools], "steps": [*draft.steps]},
        summary=f"workflow {draft.name} over {', '.join(draft.tools)}" + ("" if accepted else ", read by nobody yet"),
        usage=usage,
        trust="trusted" if accepted else "tainted",
    )
    return Proposal(candidate=candidate, policy=policy)
