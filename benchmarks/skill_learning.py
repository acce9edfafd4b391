"""The protocol of SkillLearnBench on generated worlds: how good are skills that were learned, and what do they cost?

    python -m benchmarks.skill_learning --quick                        # a table; --json FILE also writes it
    python -m benchmarks.skill_learning --learners skills,my.module:Learner
    python -m benchmarks.skill_learning --author openai/gpt-4o-mini --agent openai/gpt-4o-mini

A family of tasks is a world of made-up verbs; its instances chain them. Whoever writes a skill sees instance 1 without
its verifier: here a chain with a worked example of each verb. The skill is tested on other instances, at three levels:

- the skill: coverage (share of the reference skill's key points), executability (format, recommendations, scripts that
  run and repeat themselves), safety (1 to 5: 5 less one for each kind of finding of the safety report);
- the trajectory: alignment (share of a task's key points in the answer), order (put together in the right one), usage
  (share of runs that opened the skill);
- the outcome: accuracy, and tokens of a run.

Arms: no skill; one-shot; feedback from oneself (K = 2 rounds: the answer to instance 1, and a request to look again);
from a teacher (K up to 3: it sees the reference skill and gives directions only); learners; the reference skill itself.
Learners get judged runs on practice instances, which the others do not: another deal, so a column says who sees what.

The author and the teacher are scripted unless named. The author takes an example carelessly, for any operation whose
result is as long; he mends one mistake when he looks again, and those that he is pointed to. So what his arms score is
in his script, and shows that the protocol runs; ``skills`` and ``discovery`` ask no author.
"""

import argparse
import ast
import asyncio
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core import Budget, Completion, Message, Policy, Run, Sampling, Task, ToolSpec, Usage, Use, UserError, Verdict
from whet.core.models import Model, load_model
from whet.core.models.tiny.world import OPERATIONS, World, program, read_definitions
from whet.learners import TrainMemory, incumbent_arm, load_learner
from whet.learners.evolve import read_skill, write_files
from whet.memory import Memory
from whet.sandboxes import SandboxPool, SandboxSpec
from whet.skills import Skill, inspect_skill, install, run_scripts

Row: TypeAlias = dict[str, float | str]

SETTINGS = {"temperature": 0.0, "max_tokens": 120}
PRACTICE = {"temperature": 1.0, "max_tokens": 120, "rounds": 3}
MEASURES = ("coverage", "executability", "safety", "alignment", "order", "usage", "accuracy", "tokens", "written with")

ASK = """Write a skill that helps with tasks like the one below: all tasks of its kind, not this one alone.
A skill is a folder. SKILL.md begins with a front matter between two lines '---': name, description (what it holds and
when to use it) and metadata with keywords (words that call for it); then the body. Scripts go to scripts/*.py and run
without arguments. Answer with every file, each like this:
<file path="SKILL.md">
…
</file>"""
LOOK_AGAIN = "With your skill the agent answered:\n{answer}\nLook again, improve the skill, answer with every file."
DIRECTIONS = "A teacher says:\n{said}\nImprove the skill, answer with every file."
TEACH = """A colleague wrote a skill. You know a better one. Say what to look at again, one line each: directions only,
never the solution. Say nothing where it is as good.
# Theirs
{theirs}
# Yours
{yours}"""

_EXAMPLE = re.compile(r"^(\w+)\((\[.*?\])\) == (\[.*?\])$", re.MULTILINE)
_SINGLE = re.compile(r"Task: Write solve\(x\): (\w+)\.\n")
_CHECKED = re.compile(r"solve\((\[.*?\])\) returned .*?, expected (\[.*?\])\.")
_PROBE = "[3, 1, 6, 2, 7]"


# --- scripted people ------------------------------------------------------------------------------------------------


class Author:
    """Takes examples carelessly, mends one mistake when he looks again, and those that he is pointed to."""

    name = "author"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the skill's files."""
        request = messages[0].content
        examples = dict(_from_runs(request)) | {verb: pair for verb, *pair in _EXAMPLE.findall(request)}
        answers = [message.content for message in messages if message.role == "assistant"]
        known = (
            read_definitions(answers[-1]) if answers else {verb: _guess(verb, *pair) for verb, pair in examples.items()}
        )
        wrong = [verb for verb, pair in examples.items() if known.get(verb) not in _fitting(*pair)]
        pointed = [verb for verb in wrong if "A teacher says" in messages[-1].content and verb in messages[-1].content]
        for verb in pointed or (wrong[:1] if answers else []):
            known[verb] = _fitting(*examples[verb])[0]
        text = write_files(verbs_skill("verbs", known).render())
        return Completion(text=text, usage=_usage(messages, text), model=self.name)


class Teacher:
    """Names the verbs that the skill has wrong, and does not say what they mean."""

    name = "teacher"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns directions."""
        theirs, _, yours = messages[0].content.partition("# Yours")
        found = read_definitions(theirs)
        lines = [
            f"Look at the example of {verb} again."
            for verb, it in read_definitions(yours).items()
            if found.get(verb) != it
        ]
        text = "\n".join(lines)
        return Completion(text=text, usage=_usage(messages, text), model=self.name)


def _from_runs(request: str) -> Iterator[tuple[str, list[str]]]:
    """Yields what runs on single verbs show: a check that failed, or what the answer that passed does."""
    for shown in request.split("## Run ")[1:]:
        single, checked = _SINGLE.search(shown), _CHECKED.search(shown)
        if single and checked:
            yield single[1], [checked[1], checked[2]]
        elif single and "Outcome: passed" in shown:
            does = OPERATIONS[read_definitions(shown)[single[1]]]
            yield single[1], [_PROBE, repr(does(ast.literal_eval(_PROBE)))]


def _guess(verb: str, value: str, expected: str) -> str:
    size = len(ast.literal_eval(expected))
    alike = [name for name, does in OPERATIONS.items() if len(does(ast.literal_eval(value))) == size]
    return random.Random(f"author/{verb}").choice(alike)


def _fitting(value: str, expected: str) -> list[str]:
    wanted = ast.literal_eval(expected)
    return [name for name, does in OPERATIONS.items() if does(ast.literal_eval(value)) == wanted]


def _usage(messages: Sequence[Message], text: str) -> Usage:
    words = sum(len(message.content.split()) for message in messages)
    return Usage(input_tokens=words, output_tokens=len(text.split()), calls=1)


def verbs_skill(name: str, known: dict[str, str]) -> Skill:
    """Returns a skill with these definitions, in the body and as a script."""
    code = "\n".join(f"def {verb}(x): return {meaning}" for verb, meaning in known.items())
    return Skill(
        name=name,
        description=f"What {', '.join(known) or 'nothing'} do. Use when a task names one of them.",
        body=f"Use these definitions:\n```python\n{code}\n```\nAs a script: scripts/verbs.py",
        metadata={"keywords": " ".join(known)},
        files={"scripts/verbs.py": f"{code}\nprint('{len(known)} verbs')\n".encode()},
    )


# --- families -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A world: instance 1 as an author sees it, instances to practise on, others to be tested on."""

    world: World
    first: Task
    practice: list[Task]
    test: list[Task]

    @classmethod
    def of(cls, seed: int, practice: int, test: int) -> "Family":
        """Returns the family of a seed, with so many instances."""
        world = World(seed, verbs=4)
        found = [world_task(task, world) for task in world.tasks(practice + test, lengths=(1, 2, 3), seed=seed)]
        found = [msgspec.structs.replace(task, split="train") for task in found]
        singles_first = sorted(found, key=lambda task: len(_verbs(task)) != 1)
        first = world_task(world.task(list(world.verbs)), world)
        examples = "\n".join([first.prompt, *(world.example(verb) for verb in world.verbs)])
        seen = msgspec.structs.replace(first, messages=(Message(role="user", content=examples),), verifiers=())
        return cls(world, seen, singles_first[:practice], singles_first[practice:])

    @property
    def reference(self) -> Skill:
        """The skill that a person who knows would write."""
        return verbs_skill("reference", {verb: self.world.meaning(verb) for verb in self.world.verbs})


def _verbs(task: Task) -> list[str]:
    found = task.meta["verbs"]
    assert isinstance(found, list)
    return [str(verb) for verb in found]


def judge(task: Task, run: Run) -> Sequence[Verdict]:
    """Judges by the world's grammar, which executes nothing; instance 1 has no verifier."""
    found = judge_answer(task, run.answer or "") if task.verifiers else ()
    return [msgspec.structs.replace(each, run_id=run.id) for each in found]


# --- arms -----------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """What the arms share: the agent's model, who writes and who teaches, sandboxes, and what writing took so far."""

    agent: Model
    author: Model
    teacher: Model
    pool: SandboxPool
    folder: Path
    tokens: float = 0.0
    opened: int = field(default=0)

    async def ask(self, model: Model, messages: Sequence[Message]) -> str:
        """Returns an answer, and counts its tokens."""
        completion = await model.complete(messages, sampling=Sampling(temperature=0.0))
        self.tokens += completion.usage.input_tokens + completion.usage.output_tokens
        return completion.text

    async def open(self) -> Memory:
        """Returns a new memory."""
        self.opened += 1
        return await Memory.open(self.folder / str(self.opened))

    async def answer(self, skill: Skill, task: Task) -> str:
        """Returns what the agent answers with a skill."""
        policy = install(Policy().with_settings(**SETTINGS), skill)
        return (await Agent("react", self.agent, policy=policy, verify=judge).arun(task)).answer or ""

    async def written(self, family: Family, rounds: int, *, taught: bool = False) -> Policy:
        """Returns a policy with the skill that the author wrote, after so many rounds of feedback."""
        messages = [Message(role="user", content=f"{ASK}\n\n{family.first.prompt}")]
        skill: Skill | None = None
        for left in range(rounds, -1, -1):
            text = await self.ask(self.author, messages)
            found = await read_skill(text, self.pool)
            skill = found if isinstance(found, Skill) else skill
            if not left:
                break
            said = await self._feedback(family, skill, found, taught=taught)
            if not said:
                break
            messages += [Message(role="assistant", content=text), Message(role="user", content=said)]
        return install(Policy(), skill) if skill else Policy()

    async def _feedback(self, family: Family, skill: Skill | None, found: Skill | str, *, taught: bool) -> str:
        if skill is None or isinstance(found, str):
            return f"This is no skill: {found}. Answer with every file."
        if not taught:
            return LOOK_AGAIN.format(answer=await self.answer(skill, family.first))
        theirs, yours = write_files(skill.render()), write_files(family.reference.render())
        said = await self.ask(self.teacher, [Message(role="user", content=TEACH.format(theirs=theirs, yours=yours))])
        return DIRECTIONS.format(said=said) if said.strip() else ""

    async def learned(self, family: Family, name: str) -> Policy:
        """Returns what a learner makes of judged runs on the practice instances; the empty policy for nothing."""
        try:
            learner = load_learner(name, sandboxes=self.pool, model=self.author)
        except UserError:
            learner = load_learner(name, sandboxes=self.pool)
        start = Policy().with_settings(**PRACTICE)
        async with await self.open() as memory:
            await memory.policies.commit(start, reason="settings of the practice", actor="benchmark")
            async with Agent("refine", self.agent, memory=memory, verify=judge) as agent:
                results = await run_tasks(agent, family.practice, concurrency=1, progress=lambda result: None)
                view = TrainMemory(memory, agent, family.practice)
                proposals = [p async for p in learner.propose(view, await incumbent_arm(memory), Budget(calls=2000))]
        used = [result.run.usage for result in results] + [proposal.candidate.usage for proposal in proposals]
        self.tokens += sum(usage.input_tokens + usage.output_tokens for usage in used)
        return next((proposal.policy for proposal in proposals if proposal.policy.skill_names()), Policy())


async def make(bench: Bench, family: Family, arm: str) -> Policy:
    """Returns the policy of an arm."""
    if arm == "no skill":
        return Policy()
    if arm == "reference":
        return install(Policy(), family.reference)
    if arm in ROUNDS:
        return await bench.written(family, ROUNDS[arm], taught=arm == "teacher, K<=3")
    return await bench.learned(family, arm)


ROUNDS = {"one-shot": 0, "self, K=2": 2, "teacher, K<=3": 3}
SEES = {"no skill": "nothing", "reference": "the world"} | dict.fromkeys(ROUNDS, "instance 1")


# --- levels ---------------------------------------------------------------------------------------------------------


async def measure(bench: Bench, family: Family, policy: Policy) -> Row:
    """Returns the figures of a policy on all three levels."""
    skills = [Skill.parse(policy.skill(name)) for name in policy.skill_names()]
    plain = policy.edit({"settings.toml": None}).with_settings(**SETTINGS, withhold_rate=0.0)
    async with await bench.open() as memory, Agent("react", bench.agent, memory=memory, verify=judge) as agent:
        results = await run_tasks(agent, family.test, concurrency=1, policy=plain, progress=lambda result: None)
        uses = await memory.find(Use)
    opened = {use.run_id for use in uses if use.kind == "shown"}
    tokens = [result.run.usage.input_tokens + result.run.usage.output_tokens for result in results]
    answers = [(result.answer or "", _verbs(task)) for result, task in zip(results, family.test, strict=True)]
    return {
        **(await level_of_skill(bench, family, skills)),
        "alignment": statistics.fmean(_recall(family.world, answer, verbs) for answer, verbs in answers),
        "order": statistics.fmean(answer.splitlines()[-1:] == _last(verbs) for answer, verbs in answers),
        "usage": len(opened) / len(results),
        "accuracy": statistics.fmean(result.passed for result in results),
        "tokens": statistics.fmean(tokens),
    }


async def level_of_skill(bench: Bench, family: Family, skills: Sequence[Skill]) -> Row:
    """Returns coverage, executability and safety of skills; not a number where there is none."""
    if not skills:
        return dict.fromkeys(("coverage", "executability", "safety"), float("nan"))
    known = {verb: it for skill in skills for verb, it in read_definitions(skill.body).items()}
    verbs = family.world.verbs
    kinds = {finding.kind for skill in skills for finding in inspect_skill(skill).findings}
    return {
        "coverage": sum(known.get(verb) == family.world.meaning(verb) for verb in verbs) / len(verbs),
        "executability": statistics.fmean([await _runs(bench, skill) for skill in skills]),
        "safety": float(max(1, 5 - len(kinds))),
    }


async def _runs(bench: Bench, skill: Skill) -> bool:
    """Whether a skill keeps to the recommendations, and its scripts end well and say the same twice."""
    said = []
    for _ in range(2):
        async with bench.pool.fresh(SandboxSpec(isolation="fresh")) as box:
            said.append({path: (each.ok, each.stdout) for path, each in (await run_scripts(box, skill)).items()})
    return not skill.advice() and said[0] == said[1] and all(ok for ok, _ in said[0].values())


def _recall(world: World, answer: str, verbs: Sequence[str]) -> float:
    found = read_definitions(answer)
    return statistics.fmean(found.get(verb) == world.meaning(verb) for verb in verbs)


def _last(verbs: Sequence[str]) -> list[str]:
    return program(verbs, dict.fromkeys(verbs, "x")).splitlines()[-1:]


# --- all of it ------------------------------------------------------------------------------------------------------


async def run(bench: Bench, learners: Sequence[str], families: int, practice: int, test: int) -> list[Row]:
    """Returns a row for each arm: means over the families."""
    arms = ["no skill", *ROUNDS, *learners, "reference"]
    found: dict[str, list[Row]] = {arm: [] for arm in arms}
    for seed in range(families):
        family = Family.of(100 + seed, practice, test)
        for arm in arms:
            bench.tokens = 0.0
            policy = await make(bench, family, arm)
            written: Row = {"written with": bench.tokens}
            found[arm].append(await measure(bench, family, policy) | written)
    return [_mean(arm, rows, f"{practice} judged runs") for arm, rows in found.items()]


def _mean(arm: str, rows: Sequence[Row], practice: str) -> Row:
    means: Row = {}
    for measure in MEASURES:
        known = [value for row in rows if isinstance(value := row[measure], float) and value == value]
        means[measure] = statistics.fmean(known) if known else float("nan")
    return {"arm": arm, "sees": SEES.get(arm, practice), **means}


def show(rows: Sequence[Row]) -> None:
    """Prints the rows as a table."""
    table = Table(title="skills, learned and tested", title_justify="left", box=None, header_style="bold")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("arm", "sees") else "right")
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    Console(width=160).print(table)


def _cell(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "–" if value != value else f"{value:.0f}" if name in ("tokens", "written with") else f"{value:.2f}"


async def main(options: argparse.Namespace) -> list[Row]:
    """Returns the rows that the command line asks for."""
    with tempfile.TemporaryDirectory() as folder:
        async with SandboxPool(size=1) as pool:
            bench = Bench(
                agent=load_model(options.agent),
                author=load_model(options.author) if options.author else Author(),
                teacher=load_model(options.teacher) if options.teacher else Teacher(),
                pool=pool,
                folder=Path(folder),
            )
            families, practice, test = (1, 16, 10) if options.quick else (options.families, 24, 20)
            return await run(bench, options.learners.split(","), families, practice, test)


def parse() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one family, fewer instances")
    parser.add_argument("--families", type=int, default=4, help="how many worlds (default 4)")
    parser.add_argument("--learners", default="skills,discovery,skill-evolve", help="names or package.module:Class")
    parser.add_argument("--agent", default="tiny", help="model that is tested with the skills")
    parser.add_argument("--author", default="", help="model that writes; scripted unless given")
    parser.add_argument("--teacher", default="", help="model that teaches; scripted unless given")
    add_json(parser)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse()
    started = time.monotonic()
    rows = asyncio.run(main(chosen))
    if not printed(chosen.json, {"quick": chosen.quick, "seconds": time.monotonic() - started, "rows": rows}):
        show(rows)
