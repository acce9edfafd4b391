"""Advantages: from the rewards of a group to how much each answer (turn, phase) counts. Pure functions, no torch.

    group_center([1.0, 0.0, 0.0, 1.0])                  # [0.5, -0.5, -0.5, 0.5]
    per_step_index([[0.0, 1.0], [0.0, 0.0], [1.0]])     # first turns against first turns, second against second

A group is what was sampled for one task. Whatever is subtracted depends on the other members only through their
rewards, so that it is a baseline and not a bias.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

__all__ = [
    "Advantage",
    "contributions",
    "duration_scale",
    "first_turn_baseline",
    "group_center",
    "group_std",
    "improvement",
    "informative",
    "leave_one_out",
    "overlong",
    "per_segment",
    "per_step_index",
    "progress",
    "unary",
]

Advantage: TypeAlias = Callable[[Sequence[float]], list[float]]
K = TypeVar("K", bound=Hashable)

_TINY = 1e-9


def informative(rewards: Sequence[float]) -> bool:
    """Returns whether a group says anything: at least two members, not all of one reward (DAPO, arXiv 2503.14476)."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > _TINY


def group_center(rewards: Sequence[float]) -> list[float]:
    """Returns r − mean: zero in sum (Dr. GRPO, arXiv 2503.20783)."""
    mean = sum(rewards) / len(rewards) if rewards else 0.0
    return [reward - mean for reward in rewards]


def group_std(rewards: Sequence[float]) -> list[float]:
    """Returns (r − mean) / std, the std over the group's members (GRPO, arXiv 2402.03300); zeros where all are equal.

    It weighs groups that are nearly solved, or hardly, above the others.
    """
    if not informative(rewards):
        return [0.0] * len(rewards)
    centred = group_center(rewards)
    std = (sum(value * value for value in centred) / len(centred)) ** 0.5
    return [value / std for value in centred]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Returns r less the mean of the others, which is n/(n−1) times ``group_center`` (RLOO, arXiv 2402.14740)."""
    n = len(rewards)
    return [value * n / (n - 1) for value in group_center(rewards)] if n > 1 else [0.0] * n


def per_segment(rewards: Sequence[Mapping[K, float]], advantage: Advantage = group_center) -> list[dict[K, float]]:
    """Returns, for each member, the advantage of each of its segments among the members that have the segment.

    Every segment is compared on its own reward, so that one phase is not praised for another (F-GRPO, arXiv
    2605.12995). Segments in which nothing differs are left out.
    """
    found: list[dict[K, float]] = [{} for _ in rewards]
    for segment in dict.fromkeys(name for member in rewards for name in member):
        members = [index for index, member in enumerate(rewards) if segment in member]
        values = [rewards[index][segment] for index in members]
        if informative(values):
            for index, value in zip(members, advantage(values), strict=True):
                found[index][segment] = value
    return found


def per_step_index(returns: Sequence[Sequence[float]], advantage: Advantage = group_center) -> list[list[float | None]]:
    """Returns advantages among the same step of every member (OpenClaw-RL, arXiv 2603.10165).

    ``None`` for a step in which nothing differs: there is nothing to learn from it.
    """
    by_step = per_segment([dict(enumerate(member)) for member in returns], advantage)
    return [[found.get(step) for step in range(len(member))] for found, member in zip(by_step, returns, strict=True)]


def first_turn_baseline(first: Sequence[float], later: Sequence[float]) -> list[float]:
    """Returns each later reward less the mean of the first turns' (RLTF-SD, arXiv 2602.02482).

    A baseline from the later turns themselves goes to zero as revisions succeed; this one does not, as long as first
    answers fail.
    """
    mean = sum(first) / len(first) if first else 0.0
    return [reward - mean for reward in later]


def improvement(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Returns what each critique gained: the reward after it less the one before (DIR, arXiv 2510.08240)."""
    return [new - old for old, new in zip(before, after, strict=True)]


def duration_scale(advantages: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Returns A·Δt / mean Δt (arXiv 2509.01684): a slow action is no rarer in the gradient than a fast one.

    Unchanged where no duration is known; a single unknown one (0) counts as the mean of the known.
    """
    known = [value for value in seconds if value > 0]
    if not known:
        return list(advantages)
    mean = sum(known) / len(known)
    return [a * (value if value > 0 else mean) / mean for a, value in zip(advantages, seconds, strict=True)]


def progress(estimates: Sequence[float], final: float) -> list[float]:
    """Returns what each step contributed: its estimates, shifted so that they sum to the final reward.

    SPA-RL (arXiv 2505.20732) trains the estimates to have that sum; what they miss is spread evenly.
    """
    if not estimates:
        return []
    missing = (final - sum(estimates)) / len(estimates)
    return [estimate + missing for estimate in estimates]


def contributions(steps: Sequence[Sequence[str]], finals: Sequence[float], ridge: float = 1.0) -> list[list[float]]:
    """Returns each step's share in its run's final reward, estimated from the other runs of the group.

    The final reward is fitted as a constant plus a sum of effects of what was done (``steps``: a run's actions, as
    text), by least squares with a penalty ``ridge`` on the effects. The fit for a run leaves it out, so no run
    explains itself; an action that no other run took has no effect. Shares sum to the final reward.
    """
    if len(steps) < 2:
        return [progress([0.0] * len(own), final) for own, final in zip(steps, finals, strict=True)]
    names = {name: column for column, name in enumerate(dict.fromkeys(name for own in steps for name in own))}
    counts = np.zeros((len(steps), len(names)))
    for row, own in enumerate(steps):
        for name, count in Counter(own).items():
            counts[row, names[name]] = count
    rewards, found = np.asarray(finals, dtype=float), []
    for row, own in enumerate(steps):
        others = np.arange(len(steps)) != row
        effects = _ridge(counts[others], rewards[others], ridge)
        found.append(progress([float(effects[names[name]]) for name in own], float(finals[row])))
    return found


def _ridge(counts: np.ndarray, rewards: np.ndarray, ridge: float) -> np.ndarray:
    """Returns the effects w of min ‖y − ȳ − (X − X̄)w‖² + ridge·‖w‖², solved in the space of runs (few, X is wide)."""
    centred = counts - counts.mean(axis=0)
    residual = rewards - rewards.mean()
    kernel = centred @ centred.T + ridge * np.eye(len(rewards))
    effects: np.ndarray = centred.T @ np.linalg.solve(kernel, residual)
    return effects


def unary(turns: int, solved: bool, distinct: int, gamma: float, repetition: float) -> float:
    """Returns γ^t if turn t (the last, from 0) solved it, less a penalty on repeated answers (UFO, arXiv 2507.14295).

    ``distinct`` of the ``turns`` answers differ; the penalty is repetition·(1 − distinct/turns).
    """
    return (gamma ** (turns - 1) if solved else 0.0) - repetition * (1 - distinct / turns)


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """Returns the penalty of an answer's length: 0 up to limit − buffer, then down to −1 at the limit (DAPO)."""
    over = tokens - (limit - buffer)
    return -min(1.0, max(0.0, over / buffer)) if buffer else -float(tokens > limit)
