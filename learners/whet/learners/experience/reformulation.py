"""Reformulations: what people mean when they ask something that fails, mined from what they asked instead.

    async for proposal in ReformulationLearner().propose(view, incumbent, Budget()):
        print(proposal.lessons[0].text)          # Asked "play maj", what is meant is "play madge".
    for result in await review(memory):          # after deployment: won and lost, by version
        print(result.version, result.won, result.lost, result.better)

After Ponnusamy et al. (2019, arXiv 1911.02557): requests are states of an absorbing Markov chain. From a request a
session goes on to another one, or ends in success or failure. ``u`` is rewritten to ``v`` when sessions that begin
at ``u`` are likelier to succeed at ``v`` than at ``u`` itself, and ``v`` succeeds more often than ``u``. No model.

What happens after deployment depends on the rewrite that was shown: such runs say nothing about the request itself
and are not mined, and each version of a rewrite is judged by its own runs, against those it was withheld from.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.records import Lesson, Record
from whet.learners.experience.sessions import Turn, read_sessions
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import joint_trust, propose_lessons, replaced
from whet.learners.view import TrainMemory, current_lessons
from whet.memory import Memory
from whet.memory.similar import resemblance

__all__ = ["Absorbed", "ReformulationLearner", "WinLoss", "absorb", "review"]

NAME = "reformulation"
MAX_TEXT = 300
_EVIDENCE = 20
_DRAWS = 20_000


class ReformulationLearner:
    """Proposes rewrites as lessons.

    ``min_sessions``: in so many sessions the one was asked before the other. ``margin``: by so much the chance of
    success has to be higher. ``alike``: resemblance (0 to 1) from which the next request of a session is the same one
    asked again. ``gap``: seconds between two runs of one session.

    Raises:
        UserError: one of the numbers is out of range.
    """

    def __init__(self, min_sessions: int = 3, margin: float = 0.1, alike: float = 0.2, gap: float = 300.0) -> None:
        if not 0 <= margin < 1 or not 0 <= alike <= 1:
            raise UserError(f"margin={margin!r} and alike={alike!r} have to be shares, for example 0.1 and 0.2")
        if min_sessions < 1 or gap <= 0:
            raise UserError(
                f"min_sessions={min_sessions!r} has to be 1 or more, gap={gap!r} a number of seconds above 0"
            )
        self._min_sessions, self._margin, self._alike, self._gap = min_sessions, margin, alike, gap

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal of all rewrites, each in the place of an older one of the same request."""
        known = await view.lessons()
        mine = {lesson.id for lesson in known if lesson.source == NAME}
        chains = [
            chain
            for session in await read_sessions(view, gap=self._gap)
            for chain in _chains(session, self._alike, mine)
        ]
        lessons = [self._lesson(u, v, chains) for u, v in self._rewrites(chains)]
        for proposal in propose_lessons(
            NAME, "rewrites", lessons, known, incumbent, retires=lambda chosen: replaced(chosen, known)
        ):
            yield proposal

    def _rewrites(self, chains: Sequence[Sequence[Turn]]) -> list[tuple[str, str]]:
        asked = [[turn.text for turn in chain] for chain in chains]
        ended = [bool(chain[-1].ended) for chain in chains]
        absorbed = absorb(asked, ended)
        found = []
        for u, at in absorbed.at.items():
            v = max(at, key=lambda text: (text != u, at[text]))
            better = absorbed.success[v] > absorbed.success[u] + self._margin
            if v != u and at[v] > at[u] and better and len(_together(u, v, chains)) >= self._min_sessions:
                found.append((u, v))
        return found

    def _lesson(self, u: str, v: str, chains: Sequence[Sequence[Turn]]) -> Lesson:
        together = _together(u, v, chains)
        runs = [turn.run for chain in together for turn in chain]
        return Lesson(
            text=f'Asked "{u}", what is meant is "{v}".',
            applies_when=f"asked: {u}",
            task_text=u,
            source=NAME,
            trust=joint_trust(run.trust for run in runs),
            derived_from=tuple(run.id for run in runs)[:_EVIDENCE],
            reason=f"asked again so in {len(together)} sessions, with more success",
        )


class Absorbed(Record, frozen=True, kw_only=True):
    """Where sessions end that begin at ``u``: ``at[u][v]`` is the chance of success at ``v``; ``success[u]`` of any."""

    at: dict[str, dict[str, float]]
    success: dict[str, float]


def absorb(asked: Sequence[Sequence[str]], ended: Sequence[bool]) -> Absorbed:
    """Returns the absorption probabilities of the chain of these sessions, B = (I - Q)^-1 R, by request.

    ``asked`` are the requests of each session, ``ended`` whether its last one succeeded. Every request has failed once
    more than was seen, so what was seen once proves nothing.
    """
    texts = list(dict.fromkeys(text for session in asked for text in session))
    place = {text: number for number, text in enumerate(texts)}
    moves_uv = np.zeros((len(texts), len(texts)))
    won_u, left_u = np.zeros(len(texts)), np.ones(len(texts))
    for session, well in zip(asked, ended, strict=True):
        for before, after in pairwise(session):
            moves_uv[place[before], place[after]] += 1
        (won_u if well else left_u)[place[session[-1]]] += 1
    total_u = moves_uv.sum(axis=1) + won_u + left_u
    visits_uv = np.linalg.inv(np.eye(len(texts)) - moves_uv / total_u[:, None]) if texts else moves_uv
    at_uv = visits_uv * (won_u / total_u)[None, :]
    return Absorbed(
        at={u: {v: float(at_uv[i, j]) for j, v in enumerate(texts)} for i, u in enumerate(texts)},
        success={u: float(at_uv[i].sum()) for i, u in enumerate(texts)},
    )


class WinLoss(Record, frozen=True, kw_only=True):
    """How a version of a rewrite fared: runs it was shown in, and those it was withheld from.

    ``better``: the probability that showing it helps, by Beta(1 + won, 1 + lost) of both sides.
    """

    lesson: Lesson
    version: str
    won: int = 0
    lost: int = 0
    won_without: int = 0
    lost_without: int = 0

    @property
    def better(self) -> float:
        draw = np.random.default_rng(0).beta
        shown = draw(1 + self.won, 1 + self.lost, _DRAWS)
        withheld = draw(1 + self.won_without, 1 + self.lost_without, _DRAWS)
        return float((shown > withheld).mean())


async def review(memory: Memory, *, floor: float = 0.05, gap: float = 300.0) -> list[WinLoss]:
    """Returns how each rewrite in force does, by version; one that is hardly ``better`` (below ``floor``) is retired.

    Only the newest version decides: what an older one did says nothing about it.
    """
    rewrites = [each for each in await current_lessons(memory) if each.source == NAME and each.status == "active"]
    tallies: Mapping[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for session in await read_sessions(TrainMemory(memory), gap=gap):
        for turn in session:
            for use in turn.uses if turn.ended is not None else ():
                side = "" if use.kind == "shown" else "_without"
                tallies[use.item, use.version][f"{'won' if turn.ended else 'lost'}{side}"] += 1
    found = []
    for lesson in rewrites:
        versions = sorted({version for item, version in tallies if item == lesson.id} | {str(lesson.version)})
        results = [WinLoss(lesson=lesson, version=each, **tallies[lesson.id, each]) for each in versions]
        newest = next(result for result in results if result.version == str(lesson.version))
        if newest.better < floor:
            why = (
                f"won {newest.won}, lost {newest.lost}; without it won {newest.won_without}, lost {newest.lost_without}"
            )
            await memory.lessons.retire(lesson.id, reason=why, actor=NAME)
        found += results
    return found


def _chains(session: Sequence[Turn], alike: float, rewrites: set[str]) -> list[list[Turn]]:
    """Returns the stretches of a session in which one thing is asked until it succeeds or is given up.

    A run that was shown a rewrite did not get the request as it was asked, so a stretch ends before it.
    """
    chains: list[list[Turn]] = [[]]
    for turn in session:
        if any(use.item in rewrites and use.kind == "shown" for use in turn.uses):
            chains.append([])
            continue
        last = chains[-1][-1] if chains[-1] else None
        if last is not None and (last.ended or resemblance(last.text, turn.text) < alike):
            chains.append([])
        chains[-1].append(turn)
    return [
        chain for chain in chains if chain and chain[-1].judged and max(len(turn.text) for turn in chain) <= MAX_TEXT
    ]


def _together(u: str, v: str, chains: Sequence[Sequence[Turn]]) -> list[Sequence[Turn]]:
    """Returns the chains in which ``u`` was asked before ``v``."""
    asked = [[turn.text for turn in chain] for chain in chains]
    both = (u in texts and v in texts[texts.index(u) + 1 :] for texts in asked)
    return [chain for chain, found in zip(chains, both, strict=True) if found]
