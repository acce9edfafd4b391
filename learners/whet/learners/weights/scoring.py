"""Scoring: what the model, its reference, its teacher and its former self make of data; all a loss is given.

scorer = Scorer(tuned, chunk=1024, room=Room(4096))
logprobs = scorer.score(data, weights="initial")            # per datum, its counted tokens
loss, measures = loss_of(objective, scorer.scores(objective, micro_batch, point=0.0))
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from whet.core.errors import UserError
from whet.learners.weights.datum import Datum
from whet.learners.weights.logprobs import divergence, token_logprobs
from whet.learners.weights.lora import TunedModel, Weights
from whet.learners.weights.losses import Scores, needs, reference_point
from whet.learners.weights.objectives import Distillation, Objective, Unpaired
from whet.learners.weights.packing import Packed, micro_batches, pack
from whet.learners.weights.room import Room

__all__ = ["Known", "Scorer"]

Known: TypeAlias = dict[tuple[tuple[int, ...], tuple[bool, ...]], Tensor]
"""Logprobs of counted tokens, by what they are of: the tokens, and which of them count."""


class Scorer:
    """Computes scores with a tuned model.

    ``old``: logprobs under the policy at the start of a round, where they are known. ``reference``: those under the
    factors at the start of training, which never change.
    """

    def __init__(self, tuned: TunedModel, *, chunk: int, room: Room) -> None:
        self.tuned, self.chunk, self.room = tuned, chunk, room
        self.old: Known = {}
        self.reference: Known = {}

    def scores(self, objective: Objective, data: Sequence[Datum], point: float) -> Scores:
        """Returns everything the loss is given; whatever carries no gradient is computed first."""
        wanted = needs(objective)
        packed = pack(data, self.tuned.device)
        reference_n = self._reference(data) if "reference" in wanted else None
        teacher_nd = self._teacher(objective, data) if isinstance(objective, Distillation) else None
        head_vd = self.tuned.head_vd
        hidden_td = self.tuned.hidden(packed)
        predicting_nd = hidden_td[packed.at_n - 1]
        logp_n, entropy_n = token_logprobs(predicting_nd, head_vd, packed.targets_n, chunk=self.chunk)
        teacher_n = divergence_n = head_n = None
        if teacher_nd is not None and "teacher" in wanted:
            teacher_n, _ = token_logprobs(teacher_nd, head_vd, packed.targets_n, chunk=self.chunk)
        elif teacher_nd is not None and isinstance(objective, Distillation):
            divergence_n = divergence(
                predicting_nd, teacher_nd, head_vd, alpha=objective.alpha, top_k=objective.top_k, chunk=self.chunk
            )
        if "head" in wanted and self.tuned.head is not None:
            head_n = self.tuned.head(hidden_td[packed.at_n].float())[:, 0]
        return Scores(
            packed=packed,
            logp_n=logp_n,
            entropy_n=entropy_n,
            reference_n=reference_n,
            old_n=self._old(data) if "old" in wanted else None,
            teacher_n=teacher_n,
            divergence_n=divergence_n,
            head_n=head_n,
            point=point,
        )

    def score(self, data: Sequence[Datum], *, weights: Weights = "live", teacher: bool = False) -> list[Tensor]:
        """Returns the logprobs of each datum's counted tokens; with ``teacher``, after its teacher context."""
        seen = [datum.under_teacher() if teacher and datum.teacher else datum for datum in data]
        with self.tuned.weights(weights):
            return self._each(seen, lambda packed: self.tuned.logprobs(packed)[0])

    def values(self, data: Sequence[Datum]) -> list[Tensor]:
        """Returns the scalar head on each datum's counted tokens.

        Raises:
            UserError: there is no head.
        """
        head = self.tuned.head
        if head is None:
            raise UserError("this adapter has no scalar head; train one with a method of the reward family")
        return self._each(data, lambda packed: head(self.tuned.hidden(packed)[packed.at_n].float())[:, 0])

    def point(self, objective: Objective, data: Sequence[Datum]) -> float:
        """Returns the reference point of an unpaired loss over a whole batch; 0 for every other loss."""
        if not isinstance(objective, Unpaired):
            return 0.0
        wanted = [datum for datum in data if objective.form != "kto" or datum.side == "kl"]
        mine, theirs = self.score(wanted), self.score(wanted, weights="initial")
        ratios = [float((mine_n - theirs_n).sum()) for mine_n, theirs_n in zip(mine, theirs, strict=True)]
        return reference_point(objective, wanted, ratios)

    def remember(self, data: Sequence[Datum]) -> None:
        """Takes the policy as it stands for the old one of these data."""
        self.old = dict(zip(map(_key, data), self.score(data), strict=True))

    def known(self, data: Sequence[Datum]) -> dict[str, list[Tensor | None]]:
        """Returns what is remembered of data, in their order, for a checkpoint."""
        return {
            "old": [self.old.get(_key(datum)) for datum in data],
            "reference": [self.reference.get(_key(datum)) for datum in data],
        }

    def recall(self, data: Sequence[Datum], known: dict[str, list[Tensor | None]]) -> None:
        """Remembers again what a checkpoint knows of data."""
        for mine, kept in ((self.old, known["old"]), (self.reference, known["reference"])):
            mine |= {_key(datum): logp_n for datum, logp_n in zip(data, kept, strict=True) if logp_n is not None}

    def forget(self) -> None:
        """Forgets the old policy and the reference's logprobs."""
        self.old, self.reference = {}, {}

    @torch.no_grad()
    def _each(self, data: Sequence[Datum], compute: Callable[[Packed], Tensor]) -> list[Tensor]:
        """Returns what is computed per counted token, for each datum."""

        def attempt(tokens: int) -> dict[int, Tensor]:
            found: dict[int, Tensor] = {}
            for micro in micro_batches([[datum] for datum in data], tokens):
                parts = torch.split(compute(pack(micro, self.tuned.device)), [datum.counted for datum in micro])
                found |= dict(zip(map(id, micro), parts, strict=True))
            return found

        found = self.room.attempt(attempt)
        return [found[id(datum)] for datum in data]

    def _teacher(self, objective: Distillation, data: Sequence[Datum]) -> Tensor:
        """Returns the teacher's hidden states that predict the counted tokens, (N, d)."""
        packed = pack([datum.under_teacher() if datum.teacher else datum for datum in data], self.tuned.device)
        with torch.no_grad(), self.tuned.weights(objective.teacher):
            hidden_nd: Tensor = self.tuned.hidden(packed)[packed.at_n - 1]
        return hidden_nd

    def _reference(self, data: Sequence[Datum]) -> Tensor:
        """Returns logprobs under the factors at the start, (N,); they never change, so each datum is computed once."""
        missing = [datum for datum in data if _key(datum) not in self.reference]
        self.reference |= dict(zip(map(_key, missing), self.score(missing, weights="initial"), strict=True))
        return torch.cat([self.reference[_key(datum)] for datum in data])

    def _old(self, data: Sequence[Datum]) -> Tensor | None:
        found = [self.old.get(_key(datum)) for datum in data]
        known = [logp_n for logp_n in found if logp_n is not None]
        return torch.cat(known) if len(known) == len(found) else None


def _key(datum: Datum) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return datum.tokens, datum.mask
