"""Skills that a model writes from trajectories: several files, one candidate, compared in three arms before.

    learner = SkillEvolver(model="openai/gpt-4o-mini")
    async for proposal in learner.propose(view, incumbent, Budget(calls=200)):
        print(proposal.candidate.config["arms"])       # without / old / new: pass rate, tokens, seconds

The model sees runs with what was found about them (Letta's skill learning) and writes a skill folder, or the next
version of one. What breaks the format, a script that fails in the sandbox, and a version that gains nothing over no
skill or over the old version go back to it as a complaint, a few times (the skill-creator's loop). The gate decides.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from whet.core.budget import Budget
from whet.core.errors import NotFoundError, UserError
from whet.core.models import Budgeted, Model, as_model
from whet.core.policy import Policy
from whet.core.records import Candidate, Feedback, Json, Message, Sampling, Step, Task, ToolResult, Trust, Usage
from whet.core.wire import decode, encode
from whet.feedback import FreshSandboxes
from whet.learners.arms import Comparison, compare_arms, skill_arms
from whet.learners.asking import again, describe_run, writing_model
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.replay import lent_or_own
from whet.learners.view import Judged, TrainMemory
from whet.sandboxes.sandbox import SandboxSpec
from whet.skills import Skill, disclose, install, run_scripts

__all__ = ["SkillEvolver", "read_skill", "write_files"]

NAME = "skill-evolve"
MAX_FAILED, MAX_PASSED, MAX_FAILURES = 8, 4, 3
_CLIPPED = 400
_FILE = re.compile(r'<file path="([^"\n]+)">[ \t]*\n(.*?)^</file>', re.DOTALL | re.MULTILINE)

_ASK = """Below are attempts at tasks and what was found about them. Write a skill that helps with other such tasks.
A skill is a folder. SKILL.md begins with a front matter between two lines '---': name (lower-case words with single
hyphens), description (what the skill holds and when to use it, at most 1024 characters, no angle brackets), and
metadata with keywords (words that call for the skill). The body says what to do, in fewer than 500 lines; detail goes
to files under references/, code that is needed again to scripts/*.py. A script that is run without arguments tests
itself. Nothing in the skill may be about one single task.
Answer with every file of the folder, whole, each like this:
<file path="SKILL.md">
…
</file>"""


class SkillEvolver:
    """Proposes one skill, new or improved, that a model wrote.

    ``sandboxes`` is where scripts run (a pool of its own unless given); ``model`` writes (the agent's own unless
    given); ``skill`` names the one to improve or to write (the one that most runs opened, or a new one, unless given);
    ``rounds``: how often the model may revise; ``tasks`` and ``seeds``: what the arms are compared on; ``min_gain``:
    what the new version has to exceed the other arms by, in pass rate.
    """

    def __init__(
        self,
        sandboxes: FreshSandboxes | None = None,
        model: Model | str | None = None,
        skill: str = "",
        rounds: int = 2,
        tasks: int = 8,
        seeds: int = 1,
        min_gain: float = 0.0,
    ) -> None:
        if rounds < 0 or tasks < 1 or seeds < 1:
            raise UserError(f"rounds={rounds!r}, tasks={tasks!r}, seeds={seeds!r}: at least 0, 1 and 1 are needed")
        self._sandboxes = sandboxes
        self._model = None if model is None else as_model(model)
        self._skill, self._rounds, self._tasks = skill, rounds, tasks
        self._seeds, self._min_gain = range(seeds), min_gain

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields at most one proposal; without an agent to compare the arms with, what the sandbox did not refuse.

        Raises:
            UserError: there is no model to write with.
            ModelError: the model could not be asked.
            BudgetError: the budget does not allow to ask the model, or to run the arms.
            SandboxError: no sandbox could be had.
        """
        model = writing_model(self._model, view, NAME)
        shown = _chosen(await view.judged())
        if not shown:
            return
        name = self._skill or _opened(incumbent.policy, shown)
        messages, trust = await _request(view, shown, incumbent.policy, name)
        tasks = _unseen(await view.tasks(), shown)[: self._tasks]
        usage, asked = Usage(), Budgeted(model, budget)
        async with lent_or_own(self._sandboxes) as sandboxes:
            for _ in range(1 + self._rounds):
                completion = await asked.complete(messages, sampling=Sampling(temperature=0.0))
                usage += completion.usage
                draft = await read_skill(completion.text, sandboxes, name)
                complaint = draft if isinstance(draft, str) else ""
                if isinstance(draft, Skill):
                    if install(incumbent.policy, draft) == incumbent.policy:
                        return
                    compared = await self._compare(view, incumbent.policy, draft, tasks, budget)
                    usage += compared.usage if compared else Usage()
                    complaint = self._objection(compared) if compared else ""
                    if not complaint:
                        yield _proposal(incumbent, draft, shown, compared, usage, trust)
                        return
                messages += again(completion.text, f"{complaint}\nAnswer with every file of the folder again.")

    async def _compare(
        self, view: TrainMemory, old: Policy, skill: Skill, tasks: Sequence[Task], budget: Budget
    ) -> Comparison | None:
        """Returns how the arms do; ``None`` where there is no agent to run, or nothing that judges its answers."""
        if not view.can_practise:
            return None
        arms = skill_arms(install(old, skill), skill.name, old)
        try:
            return await compare_arms(view, tasks, arms, seeds=self._seeds, budget=budget)
        except NotFoundError:
            return None

    def _objection(self, compared: Comparison) -> str:
        """Returns what there is to say against the new version, with checks that it fails; empty for nothing."""
        worse = [arm for arm in compared.arms if arm != "new" and compared.gain("new", arm) <= self._min_gain]
        if not worse:
            return ""
        rates = ", ".join(f"{arm} {result.passed:.2f}" for arm, result in compared.arms.items())
        failures = [each.failures["new"] for each in compared.assertions if "new" in each.failures]
        said = [f"On other tasks the new version gains nothing over {' or '.join(worse)} (pass rates: {rates})."]
        return "\n".join(said + failures[:MAX_FAILURES])


async def read_skill(answer: str, sandboxes: FreshSandboxes, name: str = "") -> Skill | str:
    """Returns the skill whose files an answer holds; or what is wrong with it, in one line.

    It has to keep to the format and its recommendations, to be called ``name`` where that is given, and each of its
    scripts has to end well when it is run without arguments in a sandbox.

    Raises:
        SandboxError: no sandbox could be had, or it was lost.
    """
    try:
        skill = Skill.parse({path.strip(): text.encode() for path, text in _FILE.findall(answer)})
    except UserError as error:
        return str(error)
    faults = skill.advice()
    if name and skill.name != name:
        faults.append(f"the skill is called {skill.name!r}; its name has to be {name!r}")
    if skill.scripts and not faults:
        async with sandboxes.fresh(SandboxSpec(isolation="fresh")) as box:
            results = await run_scripts(box, skill, timeout=30.0)
        failed = {path: result for path, result in results.items() if not result.ok}
        faults = [f"{path} ended as {each.status}: {each.stderr.strip()[-300:]!r}" for path, each in failed.items()]
    return "; ".join(faults) or skill


def write_files(files: Mapping[str, bytes]) -> str:
    """Returns files in the form that ``read_skill`` reads."""
    return "\n".join(
        f'<file path="{path}">\n{data.decode(errors="replace").rstrip()}\n</file>' for path, data in files.items()
    )


def _chosen(judged: Sequence[Judged]) -> list[Judged]:
    """Returns the runs that the model is shown: the newest failures, and some of the newest successes."""
    newest = sorted(judged, key=lambda item: -item.run.started_at)
    failed, passed = ([item for item in newest if item.passed == outcome] for outcome in (False, True))
    return failed[:MAX_FAILED] + passed[:MAX_PASSED]


def _opened(policy: Policy, shown: Sequence[Judged]) -> str:
    """Returns the skill of the policy that the tasks of most runs call for; empty for none."""
    opened = Counter(name for item in shown for name, _ in disclose(policy, item.task.prompt))
    return opened.most_common(1)[0][0] if opened else ""


def _unseen(tasks: Sequence[Task], shown: Sequence[Judged]) -> list[Task]:
    """Returns the training tasks, those first that have verifiers and that the model was not shown.

    So the arms do not reward what was learned by heart.
    """
    seen = {item.task.id for item in shown}
    known = {task.id: task for task in (*tasks, *(item.task for item in shown))}
    return sorted(known.values(), key=lambda task: (not task.verifiers, task.id in seen))


async def _request(
    view: TrainMemory, shown: Sequence[Judged], policy: Policy, name: str
) -> tuple[list[Message], Trust]:
    """Returns the conversation that asks for the skill, and whether strangers wrote something of what it shows."""
    ids = [item.run.id for item in shown]
    steps = await view.about(Step, ids, kinds=("tool_result",))
    feedback = await view.about(Feedback, ids)
    parts = [_ASK, *(_trajectory(item, steps, feedback) for item in shown)]
    if old := policy.skill(name) if name else {}:
        parts.append(f"# The skill as it is; write its next version under the same name\n{write_files(old)}")
    elif name:
        parts.append(f"The skill's name is {name}.")
    tainted = (
        any(item.run.trust == "tainted" for item in shown)
        or any(item.trust == "tainted" for item in feedback)
        or any(isinstance(step.body, ToolResult) and step.body.trust == "tainted" for step in steps)
    )
    return [Message(role="user", content="\n\n".join(parts))], "tainted" if tainted else "trusted"


def _trajectory(item: Judged, steps: Sequence[Step], feedback: Sequence[Feedback]) -> str:
    """Returns a run with the tools it called and what people said about it."""
    lines = [describe_run(item)]
    for step in steps:
        if step.run_id == item.run.id and isinstance(body := step.body, ToolResult):
            outcome = body.content if body.error is None else f"error: {body.error}"
            lines.append(f"Called {body.call.name}({body.call.arguments[:_CLIPPED]}): {outcome[:_CLIPPED]}")
    lines += [f"Said about it: {each.text[:_CLIPPED]}" for each in feedback if each.run_id == item.run.id and each.text]
    return "\n".join(lines)


def _proposal(
    incumbent: Arm, skill: Skill, shown: Sequence[Judged], compared: Comparison | None, usage: Usage, trust: Trust
) -> Proposal:
    policy = install(incumbent.policy, skill)
    arms: Json = None if compared is None else decode(encode(compared.arms), dict[str, Json])
    rates = "" if compared is None else ", ".join(f"{arm} {each.passed:.2f}" for arm, each in compared.arms.items())
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=NAME,
        config={"skill": skill.name, "files": [*skill.render()], "arms": arms},
        summary=f"skill {skill.name} with {len(skill.files) + 1} files ({rates or 'not compared'})",
        evidence=tuple(dict.fromkeys(id for item in shown for id in (item.run.id, *(v.id for v in item.verdicts)))),
        usage=usage,
        trust=trust,
    )
    return Proposal(candidate=candidate, policy=policy)
