"""Which of the papers' claims hold on a small model: method beside method, on the embedded model and a world of verbs.

    python -m benchmarks.weights --quick          # the directions, some minutes on a CPU; --json FILE also writes them
    python -m benchmarks.weights --seeds 5        # more seeds; means and the seeds' own figures are printed

Every comparison trains the same model with the same LoRA, learning rate and number of generated answers on both sides,
and measures on chains of verbs that were never practised, without help in context. Five claims:

- ``sdpo``: SDPO needs fewer answers than GRPO to reach a score (arXiv 2601.20802);
- ``critique``: Critique-GRPO beats GRPO at equal answers (arXiv 2506.03106);
- ``flips``: robust DPO beats DPO when a known share of preferences is flipped (arXiv 2403.00409);
- ``agent-r``: splicing at the first error recovers better from a forced error than imitation (arXiv 2501.11425);
- ``b-star``: balancing temperature beats fixed ones (arXiv 2412.17256).
"""

import argparse
import asyncio
import random
import statistics
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.world import OPERATIONS, World, program
from whet.core.policy import Policy
from whet.core.prompting import describe_failure, render_retry
from whet.core.records import Critique, Message, Task, Verdict
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Method, load_method
from whet.learners.weights.objectives import Preference
from whet.learners.weights.practice import Practice
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import encode_rows, load_template
from whet.learners.weights.trainer import Trainer

Outcome: TypeAlias = dict[str, float]
Claim: TypeAlias = Callable[["Bench"], Awaitable[dict[str, Outcome]]]

VERBS = 8
TARGET = 0.5
FLIPS = (0.0, 0.1, 0.2, 0.4)
TEMPLATE = load_template(WEIGHTS, spelled="text")


def criticise(task: Task, answer: str, verdicts: Sequence[Verdict]) -> tuple[Critique, ...]:
    """Names one failing check."""
    check = next(check for verdict in verdicts for check in verdict.checks if not check.passed)
    return (Critique(run_id="", text=describe_failure(check.call, check.got, check.expected), source="checks"),)


class Bench:
    """One seed's world, with tasks to practise (single verbs and some chains) and chains that are never practised."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed, self.quick = seed, quick
        self.world = World(100 + seed, verbs=VERBS)
        found = self.world.tasks(44, lengths=(1, 2))
        ones, twos = ([task for task in found if len(task.verbs) == n] for n in (1, 2))
        self.train = [world_task(task, self.world) for task in (*ones, *twos[:8])]
        self.held = [world_task(task, self.world) for task in twos[8:]]

    def trainer(self, method: Method, **settings: object) -> Trainer:
        """Returns a trainer for the method; what both sides of a comparison share is in ``settings``."""
        config = msgspec.structs.replace(method.training(), seed=self.seed, **settings)
        return Trainer(WEIGHTS, config, method.objectives())

    def practice(self, trainer: Trainer, *, retries: int = 0, temperature: float = 1.0) -> Practice:
        """Returns the trainer's model, practising on this world."""
        return Practice(
            trainer,
            TEMPLATE,
            judge_answer,
            criticise,
            retries=retries,
            max_tokens=40,
            temperature=temperature,
            seed=self.seed,
        )

    def rate(self, trainer: Trainer) -> float:
        """Returns the pass rate on chains that were not practised, at temperature 0.5, four answers each."""
        experience = self.practice(trainer, temperature=0.5).rollout(self.held, 4)
        return _passed(experience)


def _passed(experience: Experience) -> float:
    return statistics.fmean(float(bool(episode.passed)) for episode in experience.episodes)


# --- the claims -----------------------------------------------------------------------------------------------------


async def rounds(bench: Bench, name: str, answers: int, *, retries: int = 0, **options: object) -> Outcome:
    """Practises by one method until so many answers were generated; returns the score and the answers to ``TARGET``."""
    method = load_method(name, **options)
    trainer = bench.trainer(method, schedule="constant", warmup=0.0)
    practice = bench.practice(trainer, retries=retries)
    reached, number, practised = float("nan"), 0, 0.0
    while practice.asked < answers:
        experience = practice.rollout(bench.train, 8)
        practised = _first(experience)
        if reached != reached and practised >= TARGET:
            reached = float(practice.asked)
        practice.round = number
        rows = await method.build(experience, practice)
        if data := encode_rows(rows, TEMPLATE, split=True).data:
            trainer.run(data, max(1, round(len(data) / trainer.config.batch)))
        number += 1
    scores = {"practised": practised, "not practised": bench.rate(trainer)}
    return {**scores, "answers to half": reached, "answers": float(practice.asked)}


def _first(experience: Experience) -> float:
    """Returns the share of first attempts that passed."""
    return statistics.fmean(float(bool(episode.attempts[0].passed)) for episode in experience.episodes)


async def sdpo(bench: Bench) -> dict[str, Outcome]:
    """SDPO, with the critique of the own attempt as the teacher's context, and GRPO."""
    answers = 4000 if bench.quick else 8000
    return {
        "grpo": await rounds(bench, "grpo", answers),
        "sdpo": await rounds(bench, "sdpo", answers, preflight=False),
    }


async def critique(bench: Bench) -> dict[str, Outcome]:
    """Critique-GRPO, which spends answers on revisions, and GRPO."""
    answers = 4000 if bench.quick else 8000
    return {
        "grpo": await rounds(bench, "grpo", answers),
        "critique-grpo": await rounds(bench, "critique-grpo", answers, retries=1),
    }


async def flips(bench: Bench) -> dict[str, Outcome]:
    """DPO and robust DPO on the same pairs, a share of them flipped."""
    base = bench.trainer(load_method("dpo"))
    experience = bench.practice(base, retries=3).rollout(bench.train, 16)
    pairs = await load_method("dpo").build(experience, bench.practice(base))
    found: dict[str, Outcome] = {}
    for name in ("dpo", "rdpo"):
        for share in FLIPS:
            # With a small β every margin is small, and so both losses have the same slope: nothing could be told.
            form: Literal["sigmoid", "robust"] = "robust" if name == "rdpo" else "sigmoid"
            objective = Preference(beta=1.0, form=form, flip=share if name == "rdpo" else 0.0)
            config = TrainConfig(seed=bench.seed, lr=1e-3, steps=40 if bench.quick else 120, batch=32)
            trainer = Trainer(WEIGHTS, config, {"": objective})
            trainer.fit(encode_rows(flipped(pairs, share, bench.seed), TEMPLATE).data)
            found[f"{name}, {share:.0%} flipped"] = {"score": bench.rate(trainer), "margin": _margin(trainer, pairs)}
    return found


def flipped(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Returns the pairs with the sides of a share of them exchanged."""
    pairs = sorted({row.pair for row in rows})
    chosen = set(random.Random(seed).sample(pairs, round(share * len(pairs))))
    other = {"chosen": "rejected", "rejected": "chosen"}
    return [
        msgspec.structs.replace(row, side=other[row.side]) if row.pair in chosen and row.side in other else row
        for row in rows
    ]


def _margin(trainer: Trainer, pairs: Sequence[Row]) -> float:
    """Returns the share of the true pairs whose chosen side gained more log-probability than its rejected one."""
    data = [datum for datum in encode_rows(pairs, TEMPLATE).data if datum.pair]
    gains = {
        (datum.pair, datum.side): float((now - before).sum())
        for datum, now, before in zip(data, trainer.score(data), trainer.score(data, weights="initial"), strict=True)
    }
    names = {pair for pair, _ in gains}
    return statistics.fmean(float(gains[pair, "chosen"] > gains[pair, "rejected"]) for pair in names)


async def agent_r(bench: Bench) -> dict[str, Outcome]:
    """Imitation of verified answers, and the same experience spliced at the first error."""
    base = bench.trainer(load_method("rft"))
    experience = bench.practice(base, retries=3).rollout(bench.train, 24)
    found = {}
    for name in ("rft", "agent-r"):
        method = load_method(name)
        trainer = bench.trainer(method, lr=1e-3, epochs=1.0, steps=40 if bench.quick else 120, batch=32)
        rows = await method.build(experience, bench.practice(trainer))
        trainer.fit(encode_rows(rows, TEMPLATE, split=True).data)
        found[name] = {"score": bench.rate(trainer), "after a forced error": await recovered(bench, trainer)}
    return found


async def recovered(bench: Bench, trainer: Trainer) -> float:
    """Returns how often the second attempt is right where the first was made wrong for the model."""
    practice, rng = bench.practice(trainer, temperature=0.5), random.Random(bench.seed)
    right = []
    for task in bench.held:
        verbs = [str(verb) for verb in task.meta["verbs"]]  # type: ignore[union-attr]
        answer = wrong_program(task, verbs, bench.world, rng)
        (said,) = criticise(task, answer, judge_answer(task, answer))
        dialogue = (
            *task.messages,
            Message(role="assistant", content=answer),
            Message(role="user", content=render_retry([said.text])),
        )
        for completion in await practice.ask(dialogue, n=2):
            right.append(judge_answer(task, completion.text)[0].outcome == "pass")
    return statistics.fmean(map(float, right))


def wrong_program(task: Task, verbs: Sequence[str], world: World, rng: random.Random) -> str:
    """Returns a program in the right form with the first verb's meaning exchanged, so that it fails."""
    while True:
        meanings = {verb: world.meaning(verb) for verb in verbs}
        meanings[verbs[0]] = rng.choice(list(OPERATIONS))
        answer = program(verbs, meanings)
        if judge_answer(task, answer)[0].outcome == "fail":
            return answer


async def b_star(bench: Bench) -> dict[str, Outcome]:
    """Rounds of imitation of what was verified, sampled at a fixed temperature or at the one with the best balance.

    Each round of B-STaR spends a third of its answers on a grid of temperatures, and the rest at the chosen one.
    """
    found = {}
    for name, fixed in (("T = 0.5", 0.5), ("T = 1.0", 1.0), ("T = 1.3", 1.3), ("b-star", None)):
        method, chooser = load_method("rft", per_task=16), load_method("b-star")
        trainer = bench.trainer(method, lr=1e-3, schedule="constant", warmup=0.0, batch=32)
        chosen = list[float]()
        for _ in range(3 if bench.quick else 6):
            episodes: tuple[Episode, ...] = ()
            if fixed is None:
                for temperature in _GRID:
                    episodes += bench.practice(trainer, temperature=temperature).rollout(bench.train, 4).episodes
                served = chooser.serving(Policy(), Experience(episodes=episodes))
                chosen.append(float(Policy.of(served).settings()["temperature"]))  # type: ignore[arg-type]
            temperature = chosen[-1] if fixed is None else fixed
            left = 48 - len(_GRID) * 4 if fixed is None else 48
            episodes += bench.practice(trainer, temperature=temperature).rollout(bench.train, left).episodes
            rows = await method.build(Experience(episodes=episodes), bench.practice(trainer))
            trainer.run(encode_rows(rows, TEMPLATE).data, 15)
        sampled = bench.practice(trainer).rollout(bench.held, 8)
        solved = {episode.task.id for episode in sampled.episodes if episode.passed}
        found[name] = {
            "score": bench.rate(trainer),
            "solved by one of 8": len(solved) / len(bench.held),
            "first T": chosen[0] if chosen else fixed or 0.0,
            "last T": chosen[-1] if chosen else fixed or 0.0,
        }
    return found


_GRID = (0.5, 0.8, 1.0, 1.3)

CLAIMS: dict[str, Claim] = {
    "sdpo": sdpo,
    "critique": critique,
    "flips": flips,
    "agent-r": agent_r,
    "b-star": b_star,
}


# --- all of them ----------------------------------------------------------------------------------------------------


async def run(names: Sequence[str], seeds: Sequence[int], quick: bool) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Returns for each claim, side and measure the figures of all seeds."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in names:
        for seed in seeds:
            torch.manual_seed(seed)
            for side, outcome in (await CLAIMS[name](Bench(seed, quick))).items():
                for measure, value in outcome.items():
                    found.setdefault(name, {}).setdefault(side, {}).setdefault(measure, []).append(value)
    return found


def show(found: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Prints a table for each claim: means over the seeds, the seeds' own figures behind."""
    for name, sides in found.items():
        measures = list(next(iter(sides.values())))
        table = Table(title=name, title_justify="left", box=None, header_style="bold")
        for column in ("", *measures):
            table.add_column(column, justify="left" if not column else "right")
        for side, outcome in sides.items():
            table.add_row(side, *(_cell(outcome[measure]) for measure in measures))
        Console().print(table)


def _cell(values: Sequence[float]) -> str:
    known = [value for value in values if value == value]
    if not known:
        return "not reached"
    digits = 0 if max(known) > 2 else 2
    each = " ".join("–" if value != value else f"{value:.{digits}f}" for value in values)
    return f"{statistics.fmean(known):.{digits}f}" + (f"  ({each})" if len(values) > 1 else "")


def main() -> None:
    """Parses the command line, runs the claims and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer answers and steps, one seed unless --seeds is given"
    )
    parser.add_argument("--seeds", type=int, help="how many seeds (default 3, with --quick 1)")
    parser.add_argument("--only", choices=[*CLAIMS], action="append", help="this claim alone; may be repeated")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    add_json(parser)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    seeds = range(options.seeds or (1 if options.quick else 3))
    found = asyncio.run(run(options.only or list(CLAIMS), seeds, options.quick))
    if not printed(options.json, {"quick": options.quick, "seconds": time.monotonic() - started, "claims": found}):
        show(found)


if __name__ == "__main__":
    main()
