"""The panel: several judges, each heard by its weight.

    spec = VerifierSpec(kind="panel_judge", params={"judges": [
        {"kind": "judge", "params": {"model": "openai:one", "items": ["It is right."]}},
        {"kind": "judge", "params": {"model": "openai:other", "items": ["It is right."]}},
    ], "weights": [2.1, 0.8]})

Several smaller judges of different families err less, and less alike, than one large one (Verga et al. 2024, arXiv
2404.18796). The weights are what ``whet judge report`` shows: the log odds of being right, by Dawid and Skene.
"""

from collections.abc import Sequence

from whet.core.errors import VerifierError
from whet.core.records import Check, Json, Outcome, Run, Task, Verdict, VerifierSpec
from whet.feedback.judges.asking import gathered
from whet.feedback.verifier import FreshSandboxes, Verifier
from whet.feedback.verifiers.configured import ConfiguredVerifier, Finding, Params

__all__ = ["Panel", "PanelParams"]


class PanelParams(Params, frozen=True, kw_only=True):
    """``judges``: specifications of verifiers. ``weights``: one each, equal unless given. ``threshold``: of the mean.

    ``quorum``: the share of the weight that has to have judged.
    """

    judges: tuple[VerifierSpec, ...]
    weights: tuple[float, ...] = ()
    threshold: float = 0.5
    quorum: float = 0.5


class Panel(ConfiguredVerifier[PanelParams]):
    """Each judge votes pass or fail; the score is the weighted share of those that pass, each judge a check."""

    kind = "panel_judge"
    params_type = PanelParams
    verdict_kind = "model"

    def __init__(
        self,
        params: dict[str, Json],
        sandboxes: FreshSandboxes | None = None,
        *,
        judges: Sequence[Verifier] | None = None,
    ) -> None:
        self._given = judges
        named: list[Json] = [{"kind": judge.name} for judge in judges or ()]
        super().__init__(params if judges is None else {**params, "judges": named}, sandboxes)

    def check_params(self) -> None:
        """Raises ``VerifierError`` for no judges, weights that do not fit them, or shares that are none."""
        from whet.feedback.verifiers.registry import load_verifier

        count = len(self.params.judges)
        self.weights = self.params.weights or (1.0,) * count
        if not count or len(self.weights) != count or min(self.weights) < 0 or not sum(self.weights):
            raise VerifierError(
                f"verifier {self.kind!r} has {count} judges and weights {self.params.weights!r}; "
                "give at least one judge, and a weight for each, none negative and not all 0"
            )
        if not 0 < self.params.threshold <= 1 or not 0 <= self.params.quorum <= 1:
            raise VerifierError(f"verifier {self.kind!r}: threshold and quorum are shares, the threshold above 0")
        made = self._given or [load_verifier(spec, self._sandboxes) for spec in self.params.judges]
        self.judges = tuple(made)

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding; abstain where too much of the weight abstains."""
        run = Run(task_id=task.id, agent=self.name, status="done", answer=answer, scope=task.scope)
        verdicts = await gathered(lambda judge: judge.verify(task, run), [(judge,) for judge in self.judges])
        voted = [(verdict, weight) for verdict, weight in zip(verdicts, self.weights, strict=True) if verdict.judged]
        heard = sum(weight for _, weight in voted)
        if not heard or heard < self.params.quorum * sum(self.weights):
            return Finding(outcome="abstain", detail=f"{len(voted)} of {len(verdicts)} judges gave a verdict")
        score = sum(weight for verdict, weight in voted if verdict.outcome == "pass") / heard
        outcome: Outcome = "pass" if score >= self.params.threshold else "fail"
        models = ", ".join(sorted({verdict.environment for verdict, _ in voted}))
        return Finding(outcome=outcome, score=score, checks=tuple(map(_check, verdicts)), environment=models)


def _check(verdict: Verdict) -> Check:
    said = verdict.detail or "; ".join(check.name for check in verdict.checks if not check.passed)
    return Check(name=verdict.verifier, passed=verdict.outcome == "pass", got=verdict.outcome, message=said)
