"""What judges of one answer share: their parameters, their model, and how a score becomes a finding.

    judge = Checklist({"model": "openai:judge", "items": ["It is polite."]})
    judge = Checklist({"items": ["It is polite."]}, model=model)         # with a model that is open already

A judge is a verifier whose verdicts are of kind ``model``. Its name tells configurations and models apart, since trust
is measured for each; its verdicts name the model as their environment.
"""

import re
from typing import Generic, TypeVar

import msgspec

from whet.core.errors import VerifierError
from whet.core.models import Model
from whet.core.records import Check, Json, Message, Outcome, Sampling, Task
from whet.core.wire import encode
from whet.feedback.judges.asking import model_of, question
from whet.feedback.verifier import FreshSandboxes
from whet.feedback.verifiers.configured import ConfiguredVerifier, Finding, Params

__all__ = ["J", "JudgeParams", "ModelJudge"]

_POLICY_FILE = re.compile(r"rubrics/[\w.-]+\.md")


class JudgeParams(Params, frozen=True, kw_only=True):
    """What every judge takes.

    ``model`` and ``model_options``: as ``load_model`` takes them; not needed where a model is given to the constructor.
    ``rubric``: what to look at, in words. ``show_reference``: the judge sees the task's reference answer.
    ``threshold``: the score in [0, 1] that a pass needs. ``longest``: characters of an answer; a longer one fails,
    since what does not fit the model would otherwise be judged by nobody.
    """

    model: str = ""
    model_options: dict[str, Json] = msgspec.field(default_factory=dict)
    rubric: str = ""
    show_reference: bool = False
    threshold: float = 1.0
    temperature: float = 0.0
    longest: int = 60_000


J = TypeVar("J", bound=JudgeParams)


class ModelJudge(ConfiguredVerifier[J], Generic[J]):
    """A verifier that asks a model.

    Raises:
        VerifierError: no model is named, or the rubric is the path of a policy's file in place of its text.
    """

    verdict_kind = "model"

    def __init__(
        self, params: dict[str, Json], sandboxes: FreshSandboxes | None = None, *, model: Model | None = None
    ) -> None:
        self._given = model
        super().__init__(params if model is None else {**params, "model": model.name}, sandboxes)
        if not self.params.model:
            raise VerifierError(f"verifier {self.kind!r} asks a model; give params model=NAME, as load_model takes it")
        if not 0 < self.params.threshold <= 1:
            raise VerifierError(f"verifier {self.kind!r}: threshold={self.params.threshold!r} is no share above 0")
        if _POLICY_FILE.fullmatch(self.params.rubric.strip()):
            raise VerifierError(
                f"verifier {self.kind!r}: {self.params.rubric!r} is a file of a policy; "
                "put its text there with whet.feedback.judges.with_rubric(spec, policy)"
            )

    @property
    def model(self) -> Model:
        """The model that is asked, loaded when it is first needed."""
        return self._given or model_of(self.params.model, encode(self.params.model_options))

    @property
    def longest(self) -> int:
        """How many characters an answer may have; a longer one fails."""
        return self.params.longest

    @property
    def sampling(self) -> Sampling:
        """How the model is sampled."""
        return Sampling(temperature=self.params.temperature)

    def shown(self, task: Task, answer: str, **more: str) -> Message:
        """Returns the question about an answer, with the reference where the judge may see it."""
        if self.params.show_reference and task.reference is not None:
            more = {"reference": task.reference, **more}
        return question(task, answer, **more)

    def unreadable(self) -> Finding:
        """Returns that the judge abstains: what it said could not be read, twice."""
        return Finding(outcome="abstain", detail="the judge's reply could not be read", environment=self.params.model)

    def found(self, score: float, checks: tuple[Check, ...], detail: str = "") -> Finding:
        """Returns pass where the score reaches the threshold, else fail."""
        outcome: Outcome = "pass" if score >= self.params.threshold - 1e-9 else "fail"
        return Finding(outcome=outcome, score=score, checks=checks, detail=detail, environment=self.params.model)
