"""Learners of prompts beside their peers: same tasks, same models, same budget of metric calls.

    python -m benchmarks.learners                          # ours and the arms that need no learner
    benchmarks/peers/setup FOLDER                          # once: an environment for each peer
    python -m benchmarks.learners --peers FOLDER           # and gepa, dspy (GEPA, MIPROv2), textgrad, Trace
    options: --quick, --seeds N, --budget CALLS, --only gepa,dspy-gepa, --json FILE

Both models are stand-ins (``peers/stand_ins.py``), so the best prompt is known: it defines every verb of a small world.
What is compared is what a method makes of a budget, not how well a large model writes. A metric call is an answer that
was judged while learning; whoever looks at a budget between rounds may go beyond it, and the table shows it.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from benchmarks.peers.stand_ins import do, judge, write
from whet.agents import Agent
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core.budget import Budget
from whet.core.models.tiny.world import World
from whet.core.records import Completion, Message, Run, Sampling, Task, ToolSpec, Usage, Verdict
from whet.learners.adoption import incumbent_arm
from whet.learners.evaluation import evaluator
from whet.learners.gate import Gate
from whet.learners.learner import load_learner
from whet.learners.prompts.archive import Evidence
from whet.learners.prompts.learner import examples, fenced
from whet.learners.view import TrainMemory
from whet.memory import Memory

Row: TypeAlias = dict[str, Any]

HERE = Path(__file__).parent / "peers"
OURS = ("gepa", "textgrad", "prefpo", "promptagent", "promst", "opto", "mipro")
PEERS = {
    "gepa (library)": ("gepa", "run_gepa.py", ()),
    "dspy GEPA": ("dspy", "run_dspy.py", ("gepa",)),
    "dspy MIPROv2": ("dspy", "run_dspy.py", ("mipro",)),
    "textgrad (library)": ("textgrad", "run_textgrad.py", ()),
    "Trace OptoPrime": ("trace", "run_trace.py", ()),
}
BATCH = 5


@dataclass
class Bench:
    """The tasks of one seed, and what was used: ``calls`` of the metric and ``asked`` of the model that writes."""

    seed: int
    budget: int
    train: list[Task]
    heldout: list[Task]
    calls: int = 0
    asked: int = 0
    by_prompt: dict[str, Task] = field(default_factory=dict)

    @classmethod
    def of(cls, seed: int, budget: int) -> "Bench":
        """Returns the tasks of a world of eight verbs: 30 to learn from, 60 held out."""
        world = World(seed, verbs=8)
        tasks = [world_task(task, world) for task in world.tasks(90, lengths=(1, 2, 3), seed=seed)]
        train = [msgspec.structs.replace(task, split="train") for task in tasks[:30]]
        heldout = [msgspec.structs.replace(task, split="heldout") for task in tasks[30:]]
        return cls(seed, budget, train, heldout, by_prompt={task.prompt: task for task in tasks})

    def halves(self) -> tuple[list[Task], list[Task]]:
        """Returns the training tasks for feedback and those for scores, as Whet's learners split them."""
        mixed = random.Random(self.seed).sample(self.train, len(self.train))
        half = len(mixed) // 2
        return mixed[half:], mixed[:half]

    def judge(self, prompt: str, answer: str) -> tuple[float, str]:
        """Returns score and feedback of an answer; a metric call."""
        self.calls += 1
        return judge(self.by_prompt[prompt], answer)

    def write(self, text: str) -> str:
        """Returns what the model that writes answers."""
        self.asked += 1
        return write(text)

    def try_out(self, system: str, tasks: Sequence[Task]) -> list[Evidence]:
        """Returns what the model that does tasks makes of them under a prompt; each is a metric call."""
        found = []
        for task in tasks:
            answer = told(system, task.prompt)
            self.judge(task.prompt, answer)
            verdicts = judge_answer(task, answer)
            run = Run(task_id=task.id, agent="x", answer=answer)
            found.append(Evidence(task=task, run=run, verdicts=verdicts, score=float(verdicts[0].score or 0.0)))
        return found

    def held_out(self, predict: Callable[[str], str]) -> float:
        """Returns the share of held-out tasks that are solved."""
        return sum(judge(task, predict(task.prompt))[0] == 1.0 for task in self.heldout) / len(self.heldout)


def told(system: str, prompt: str) -> str:
    """Returns the answer to a task under a system prompt."""
    return do([{"role": "system", "content": system}, {"role": "user", "content": prompt}])


# --- arms without a learner -----------------------------------------------------------------------------------------


def no_learning(bench: Bench) -> str:
    """Returns the prompt to begin with."""
    return ""


def one_shot(bench: Bench) -> str:
    """Returns what is written from one look at a few tasks."""
    return _written(bench, random.Random(bench.seed).sample(bench.train, BATCH))


def one_look_at_all(bench: Bench) -> str:
    """Returns what is written from one look at all training tasks."""
    return _written(bench, bench.train)


def best_of_n(bench: Bench) -> str:
    """Returns the best, by validation, of prompts written from a few tasks each, as many as the budget allows."""
    rng, best, kept = random.Random(bench.seed), -1.0, ""
    learn, validation = bench.halves()
    while bench.calls + BATCH + len(validation) <= bench.budget and best < 1.0:
        prompt = _written(bench, rng.sample(learn, BATCH))
        score = sum(each.score for each in bench.try_out(prompt, validation)) / len(validation)
        if score > best:
            best, kept = score, prompt
    return kept


def _written(bench: Bench, tasks: Sequence[Task]) -> str:
    return fenced(bench.write(f"Write a prompt from these results.\n\n{examples(bench.try_out('', tasks))}"))


ARMS = {
    "no learning": no_learning,
    "one shot": one_shot,
    "one shot, all tasks": one_look_at_all,
    "best of n": best_of_n,
}


# --- ours -----------------------------------------------------------------------------------------------------------


class Doer:
    """The model that does tasks, as an agent asks it."""

    name = "doer"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns an answer."""
        text = do([{"role": message.role, "content": message.content} for message in messages])
        return Completion(text=text, usage=Usage(input_tokens=1, output_tokens=len(text) // 4, calls=1))


class Writer:
    """The model that writes, as a learner asks it."""

    name = "writer"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns what the colleague writes."""
        return Completion(text=self.bench.write("\n\n".join(message.content for message in messages)))


async def ours(name: str, bench: Bench, folder: Path) -> tuple[str, str]:
    """Returns the prompt that a learner proposes (the one to begin with, if none) and what the gate says of it."""

    async def verify(task: Task, run: Run) -> Sequence[Verdict]:
        found = judge_answer(task, run.answer or "")
        return [msgspec.structs.replace(verdict, task_id=task.id, run_id=run.id) for verdict in found]

    async with await Memory.open(folder) as memory, Agent("react", Doer(), memory=memory, verify=verify) as agent:
        view = TrainMemory(memory, agent, bench.train, held_back=bench.heldout)
        learner = load_learner(name, model=Writer(bench), runs=bench.budget, seed=bench.seed)
        incumbent = await incumbent_arm(memory)
        proposals = [each async for each in learner.propose(view, incumbent, Budget())]
        bench.calls = await memory.count(Run, where={"purpose": "train"})
        if not proposals:
            return "", "nothing proposed"
        arm = proposals[0].arm(incumbent)
        promotion = await Gate().decide(arm, incumbent, bench.heldout, evaluator(agent))
        return arm.policy.text("prompts/system.md"), promotion.decision


# --- peers ----------------------------------------------------------------------------------------------------------


def peer(name: str, bench: Bench, folder: Path) -> float | None:
    """Returns the held-out score of a peer, which runs in an environment of its own and speaks lines of JSON.

    One that breaks off has none; the end of what it said is shown.
    """
    place, script, arguments = PEERS[name]
    with tempfile.TemporaryDirectory() as work, (Path(work) / "log").open("w") as log:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": work,
            "DSPY_CACHEDIR": work,
            "LITELLM_LOCAL_MODEL_COST_MAP": "1",
        }
        command = [str(folder.resolve() / place / "bin" / "python"), str(HERE / script), *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=work, env=environment
        )
        with process:
            score = _serve(process, bench)
        if score is None:
            print(f"{name} broke off: …{(Path(work) / 'log').read_text()[-1500:]}", file=sys.stderr)
    return score


def _serve(process: "subprocess.Popen[str]", bench: Bench) -> float | None:
    """Answers what a peer asks until it has answered the held-out tasks; ``None`` where it ended before."""
    assert process.stdin is not None
    assert process.stdout is not None

    def send(reply: Row) -> None:
        assert process.stdin is not None
        print(json.dumps(reply), file=process.stdin, flush=True)

    learn, validation = bench.halves()
    hello = {"train": _prompts(learn), "validation": _prompts(validation), "budget": bench.budget, "seed": bench.seed}
    send({**hello, "start": ""})
    waiting, solved = list(bench.heldout), 0
    for line in process.stdout:
        request = json.loads(line)
        match request["method"]:
            case "complete" if request["role"] == "task":
                send({"text": do(request["messages"])})
            case "complete":
                send({"text": bench.write("\n\n".join(message["content"] for message in request["messages"]))})
            case "judge":
                found, feedback = bench.judge(request["prompt"], request["answer"])
                send({"score": found, "feedback": feedback})
            case "answer":
                solved += judge(waiting.pop(0), request["answer"])[0] == 1.0
                send({"prompt": waiting[0].prompt} if waiting else {})
            case "done":
                send({"prompt": waiting[0].prompt})
    return None if waiting else solved / len(bench.heldout)


def _prompts(tasks: Iterable[Task]) -> dict[str, str]:
    return {task.id: task.prompt for task in tasks}


# --- the table ------------------------------------------------------------------------------------------------------


def run_one(name: str, seed: int, budget: int, peers: Path | None) -> Row:
    """Returns what one arm made of one seed."""
    bench, gate = Bench.of(seed, budget), ""
    if name in PEERS:
        assert peers is not None
        score = peer(name, bench, peers)
    elif name in ARMS:
        prompt = ARMS[name](bench)
        score = bench.held_out(lambda asked: told(prompt, asked))
    else:
        with tempfile.TemporaryDirectory() as folder:
            prompt, gate = asyncio.run(ours(name, bench, Path(folder)))
        score = bench.held_out(lambda asked: told(prompt, asked))
    return {"name": name, "seed": seed, "score": score, "calls": bench.calls, "asked": bench.asked, "gate": gate}


def show(rows: Sequence[Row], budget: int) -> None:
    """Prints a row for each arm: mean, least and largest over seeds."""
    table = Table(title=f"Share of held-out tasks solved, budget of {budget} metric calls")
    for column in ("arm", "held-out", "least", "most", "metric calls", "questions", "gate"):
        table.add_column(column, justify="left" if column in ("arm", "gate") else "right")
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        scores = [row["score"] for row in mine if row["score"] is not None] or [float("nan")]
        calls, asked = ([row[key] for row in mine] for key in ("calls", "asked"))
        promoted = sum(row["gate"] == "promoted" for row in mine)
        table.add_row(
            name,
            f"{sum(scores) / len(scores):.2f}",
            f"{min(scores):.2f}",
            f"{max(scores):.2f}",
            f"{sum(calls) / len(calls):.0f} (≤ {max(calls)})",
            f"{sum(asked) / len(asked):.0f}",
            f"{promoted} of {len(mine)} promoted" if name in OURS else "",
        )
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the arms and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", type=Path, help="folder that benchmarks/peers/setup made")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=200, help="metric calls")
    parser.add_argument("--only", default="", help="arms, with commas")
    parser.add_argument("--quick", action="store_true", help="one seed, a budget of 100")
    add_json(parser)
    given = parser.parse_args(argv)
    seeds, budget = (1, 100) if given.quick else (given.seeds, given.budget)
    known = [*ARMS, *OURS, *(PEERS if given.peers else ())]
    wanted = [name.strip() for name in given.only.split(",") if name.strip()] or known
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no arm {unknown[0]!r}; there are {', '.join(known)} (peers need --peers FOLDER)")
    rows = []
    for name in wanted:
        for seed in range(1, seeds + 1):
            rows.append(run_one(name, seed, budget, given.peers))
            print(rows[-1], file=sys.stderr, flush=True)
    if not printed(given.json, {"budget": budget, "rows": rows}):
        show(rows, budget)
    return 0


if __name__ == "__main__":
    sys.exit(main())
