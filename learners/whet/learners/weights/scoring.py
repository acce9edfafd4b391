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
from whet.learners.weights.packing import Packed, pack
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
        self.tuned, self.chunk, self.room, self.world = tuned, chunk, room, tuned.world
        self.old: Known = {}
        self.reference: Known = {}

    def scores(self, objective: Objective, data: Sequence[Datum], point: float) -> Scores:
        """Returns everything the loss of a micro-batch is given."""
        packed = pack(data, self.tuned.device)
        if isinstance(objective, Distillation):
            return self._taught(objective, data, packed)
        wanted = needs(objective)
        if "head" in wanted:
            return Scores(packed=packed, logp_n=torch.zeros_like(packed.weights_n), head_n=self._head(packed))
        # What carries no gradient comes first, while no activations are held.
        reference_n = torch.cat(self._reference_of(data)) if "reference" in wanted else None
        old_n = self._old(data) if "old" in wanted else None
        logp_n, entropy_n = self.tuned.logprobs(packed)
        return Scores(
            packed=packed, logp_n=logp_n, entropy_n=entropy_n, reference_n=reference_n, old_n=old_n, point=point
        )

    def _taught(self, objective: Distillation, data: Sequence[Datum], packed: Packed) -> Scores:
        """Returns what a distillation is given; the logprobs carry a gradient only where it goes through them."""
        teacher_nd, head_vd = self._teacher(objective, data), self.tuned.head_vd
        before_nd = self.tuned.hidden(packed)[packed.before_n]
        looked_nd = before_nd if objective.token else before_nd.detach()
        logp_n, entropy_n = token_logprobs(looked_nd, head_vd, packed.targets_n, chunk=self.chunk)
        if objective.token:
            teacher_n, _ = token_logprobs(teacher_nd, head_vd, packed.targets_n, chunk=self.chunk)
            return Scores(packed=packed, logp_n=logp_n, entropy_n=entropy_n, teacher_n=teacher_n)
        divergence_n = divergence(
            before_nd, teacher_nd, head_vd, alpha=objective.alpha, top_k=objective.top_k, chunk=self.chunk
        )
        return Scores(packed=packed, logp_n=logp_n, entropy_n=entropy_n, divergence_n=divergence_n)

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
        if self.tuned.head is None:
            raise UserError("this adapter has no scalar head; train one with a method of the reward family")
        return self._each(data, self._head)

    def point(self, objective: Objective, data: Sequence[Datum]) -> float:
        """Returns the reference point of an unpaired loss over a whole batch; 0 for every other loss."""
        if not isinstance(objective, Unpaired):
            return 0.0
        wanted = [datum for datum in data if objective.form != "kto" or datum.side == "kl"]
        mine, theirs = self.score(wanted), self._reference_of(wanted)
        ratios = [float((mine_n - theirs_n).sum()) for mine_n, theirs_n in zip(mine, theirs, strict=True)]
        return reference_point(objective, wanted, ratios)

    def remember(self, data: Sequence[Datum]) -> None:
        """Takes the policy as it stands for the old one of these data."""
        self.old = dict(zip(map(_key, data), self.score(data), strict=True))

    def prepare(self, objective: Objective, data: Sequence[Datum]) -> None:
        """Computes what a whole batch needs of the reference, where several processes have to do so together."""
        if not self.world.alone and "reference" in needs(objective):
            self._reference_of(data)

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

        places = {id(datum): place for place, datum in enumerate(data)}

        def attempt(tokens: int) -> dict[int, Tensor]:
            found: dict[int, Tensor] = {}
            for work in self.world.work([[datum] for datum in data], tokens) if data else ():
                value_n = compute(pack(work.data, self.tuned.device))
                parts = torch.split(value_n, [datum.counted for datum in work.data])
                if work.counts:
                    found |= {places[id(datum)]: part for datum, part in zip(work.data, parts, strict=True)}
            return found

        found = self._together(self.room.attempt(attempt))
        return [found[places[id(datum)]] for datum in data]

    def _together(self, found: dict[int, Tensor]) -> dict[int, Tensor]:
        """Returns what all processes found."""
        if self.world.alone:
            return found
        parts = self.world.gather({place: value_n.cpu() for place, value_n in found.items()})
        return {place: value_n.to(self.tuned.device) for part in parts for place, value_n in part.items()}

    def _head(self, packed: Packed) -> Tensor:
        """Returns the scalar head on the counted tokens themselves, (N,)."""
        assert self.tuned.head is not None, "there is one where an objective needs it"
        value_n: Tensor = self.tuned.head(self.tuned.hidden(packed)[packed.at_n].float())[:, 0]
        return value_n

    @torch.no_grad()
    def _teacher(self, objective: Distillation, data: Sequence[Datum]) -> Tensor:
        """Returns the teacher's hidden states that predict the counted tokens, (N, d)."""
        packed = pack([datum.under_teacher() if datum.teacher else datum for datum in data], self.tuned.device)
        with self.tuned.weights(objective.teacher):
            return self.tuned.hidden(packed)[packed.before_n]

    def _reference_of(self, data: Sequence[Datum]) -> list[Tensor]:
        """Returns each datum's logprobs under the factors at the start; they never change, so are computed once."""
        missing = [datum for datum in data if _key(datum) not in self.reference]
        self.reference |= dict(zip(map(_key, missing), self.score(missing, weights="initial"), strict=True))
        return [self.reference[_key(datum)] for datum in data]

    def _old(self, data: Sequence[Datum]) -> Tensor | None:
        """Returns logprobs under the old policy, (N,), NaN where unknown; ``None`` where nothing is."""
        if not self.old:
            return None
        nowhere = torch.full((1,), torch.nan, device=self.tuned.device)
        return torch.cat([self.old.get(_key(datum), nowhere.expand(datum.counted)) for datum in data])


def _key(datum: Datum) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return datum.tokens, datum.mask
