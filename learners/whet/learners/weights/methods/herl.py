"""HeRL: rejected answers are rewritten with the checks they missed in view; the best rewrite joins the group."""

from collections.abc import Sequence

from whet.core.prompting import describe_failure
from whet.core.records import Check, Message
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, RewardKind, Turn
from whet.learners.weights.methods.critique_grpo import Guided
from whet.learners.weights.methods.hindsight import Revision, Wording, ask_revisions, teacher_context, together

__all__ = ["HeRL"]


class HeRL(Guided, frozen=True, kw_only=True):
    """Hindsight experience from unmet checks, and a bonus for answers that a rewrite improved.

    ``rewrites`` of each rejected answer and ``most`` in a group, at ``temperature``. A rewrite is used if it earns no
    less than the group's best. ``bonus``: a rewritten answer earns that share of what its best rewrite gained.
    """

    info = Info(
        name="herl",
        family="policy-gradient",
        title="grpo, with rejected answers rewritten by the checks they missed",
        paper="arXiv 2603.20046",
        needs=("several judged runs of each task, with checks",),
    )
    rollouts = Rollouts()
    reward: RewardKind = "score"
    std: bool = True
    shape: float = 1.0
    rewrites: int = 2
    most: int = 16
    temperature: float = 0.3
    bonus: float = 0.05

    async def revise(self, whole: Sequence[Conversation], group: Sequence[Conversation], kit: Kit) -> list[Revision]:
        """Returns rewrites of the rejected answers, the least failed first, up to ``most``."""
        rejected = [one for one in group if one.turns[-1].passed is False]
        rejected.sort(key=lambda one: -(one.turns[-1].score or 0.0))
        counts = [min(self.rewrites, self.most - self.rewrites * place) for place in range(len(rejected))]
        asked = await together(
            self._rewrite(one, count, kit) for one, count in zip(rejected, counts, strict=True) if count > 0
        )
        return [revision for revisions in asked for revision in revisions]

    async def _rewrite(self, one: Conversation, n: int, kit: Kit) -> list[Revision]:
        asked = unmet_prompt(one.turns[-1], self.context)
        return await ask_revisions(kit, one, asked, self.reward, n=n, temperature=self.temperature)

    def chosen(self, found: Sequence[Revision], rewards: Sequence[float]) -> Revision | None:
        """Returns the best rewrite, if it earns no less than the best answer."""
        best = max(found, key=lambda revision: revision.reward, default=None)
        return best if best is not None and best.reward >= max(rewards) else None

    def rewards(self, group: Sequence[Conversation], found: Sequence[Revision]) -> list[float]:
        """Returns what each first attempt earned, and its bonus."""
        return [
            value + self._bonus(one, found) for one, value in zip(group, super().rewards(group, found), strict=True)
        ]

    def _bonus(self, one: Conversation, found: Sequence[Revision]) -> float:
        own = [revision.reward for revision in found if revision.before is one.turns[-1]]
        gained = max(own, default=0.0) - (one.turns[-1].reward(self.reward) or 0.0)
        return self.bonus * max(0.0, gained) if own else 0.0


def unmet_prompt(turn: Turn, wording: Wording) -> tuple[Message, ...]:
    """Returns the conversation that asks to rewrite an answer: what it missed, and for a hint also what it met."""
    checks = [check for verdict in turn.verdicts for check in verdict.checks]
    missed = [_missed(check) for check in checks if not check.passed] or list(turn.said)
    met = [f"Already right: {check.call or check.name}." for check in checks if check.passed]
    attempt = turn.attempt
    if wording == "retry":
        return teacher_context(attempt.messages, attempt.text, said=missed, wording="retry")
    said = (f"The answer was:\n{attempt.text}", *missed, *met)
    return teacher_context(attempt.messages, attempt.text, said=said, wording="hint")


def _missed(check: Check) -> str:
    if check.call and check.expected:
        return describe_failure(check.call, check.got, check.expected)
    return f"{check.call or check.name}: {check.message or check.got or 'not met'}."
