"""What a judge is worth: how often it agrees with what outranks it, how honest its scores are, what sways it.

    found = judge_reports(verdicts, feedback, runs)                 # of all judges that gave verdicts on these runs
    print("\\n".join(found[0].lines()))
    found[0].refusal(0.7)                                           # "" where the gate may hear it, else why not

Everything comes from recorded verdicts; what they cannot tell (the pull of position, distractors, critics) is tried out
by ``whet.feedback.probes``, whose findings a report takes in.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TypeAlias

import msgspec

from whet.core.calibration import Calibration, Share, calibrate
from whet.core.models.families import families as families_of
from whet.core.records import Feedback, Record, Run, Verdict
from whet.feedback.dawid_skene import Reliability
from whet.feedback.probes import Probed
from whet.feedback.votes import judgements, learned_trust, majority, opinions, truths

__all__ = ["MIN_TRUST", "Agreement", "Effect", "JudgeReport", "judge_reports"]

MIN_TRUST = 0.7
"""What the lower bound of a judge's balanced agreement has to reach before the gate hears it."""

Truth: TypeAlias = Mapping[str, bool]


class Agreement(Record, frozen=True, kw_only=True):
    """How often a judge said of runs what the truth is: of all, of the right ones, and of the wrong ones."""

    all: Share
    right: Share
    wrong: Share

    @property
    def balanced(self) -> float | None:
        """The mean over right and wrong runs: 0.5 for a judge that passes everything, whatever the runs are.

        ``None`` where one kind is missing.
        """
        return (self.right.value + self.wrong.value) / 2 if self.right.n and self.wrong.n else None

    @property
    def low(self) -> float:
        """The mean of both lower bounds, which is no higher than the lower bound of ``balanced``."""
        return (self.right.low + self.wrong.low) / 2

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], truth: Truth) -> "Agreement":
        """Returns the agreement on the runs whose truth is known."""
        found = [(truth[one.run_id], one.outcome == "pass") for one in verdicts if one.judged and one.run_id in truth]
        right, wrong = [said for known, said in found if known], [not said for known, said in found if not known]
        return cls(
            all=Share.of(sum(right) + sum(wrong), len(found)),
            right=Share.of(sum(right), len(right)),
            wrong=Share.of(sum(wrong), len(wrong)),
        )


class Effect(Record, frozen=True, kw_only=True):
    """How much oftener runs with a trait pass than runs without: of the wrong ones, and of the right ones.

    ``None`` where there are none on one side. On wrong ones it is leniency, on right ones severity to the others.
    """

    wrong: Share | None = None
    right: Share | None = None

    @property
    def shown(self) -> bool:
        """Whether one of the intervals leaves zero out."""
        return any(one is not None and not one.low <= 0 <= one.high for one in (self.wrong, self.right))

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], truth: Truth, trait: Mapping[str, bool]) -> "Effect":
        """Returns the effect of a trait of runs on the verdicts, among those of the same truth."""
        return cls(wrong=_difference(verdicts, truth, trait, False), right=_difference(verdicts, truth, trait, True))


def _difference(verdicts: Sequence[Verdict], truth: Truth, trait: Mapping[str, bool], which: bool) -> Share | None:
    known = [one for one in verdicts if truth.get(one.run_id) is which and one.run_id in trait]
    shares = []
    for having in (True, False):
        passed = [one.outcome == "pass" for one in known if trait[one.run_id] is having]
        shares.append(Share.of(sum(passed), len(passed)))
    return shares[0].less(shares[1]) if all(share.n for share in shares) else None


class JudgeReport(Record, frozen=True, kw_only=True):
    """What a judge is worth.

    ``verifiers`` and ``people``: agreement with executions and rules, and with people. ``standard``: with the highest
    of them that judged each run, which is what counts. ``calibration``: its scores as forecasts of that. ``length``: of
    runs with an answer longer than the median; ``family``: of runs by a model of its own family. ``trust``: by Dawid
    and Skene, from all judges and people together. ``probed``: what probe suites found.
    """

    judge: str
    model: str = ""
    judged: int = 0
    abstained: int = 0
    verifiers: Agreement
    people: Agreement
    standard: Agreement
    calibration: Calibration | None = None
    length: Effect = Effect()
    family: Effect = Effect()
    trust: Reliability | None = None
    probed: Probed | None = None

    def refusal(self, threshold: float = MIN_TRUST) -> str:
        """Returns why the gate may not hear the judge, or the empty text.

        Its balanced agreement has to be at least ``threshold`` with confidence: agreement alone would let a judge in
        that passes everything where most runs are right.
        """
        known, balanced = self.standard, self.standard.balanced
        if not known.all.n:
            return "no run that it judged was judged by a verifier or a person"
        if balanced is None:
            return f"of the runs that it judged {known.right.n} are right and {known.wrong.n} wrong; both are needed"
        if known.low < threshold:
            found = f"its balanced agreement on {known.all.n} runs is {balanced:.2f}, surely above {known.low:.2f} only"
            return f"{found}; {threshold:g} is needed"
        return ""

    def lines(self, threshold: float = MIN_TRUST) -> list[str]:
        """Returns the report for people."""
        said = [
            f"{self.judge} ({self.model or 'model unknown'}): {self.judged} verdicts, {self.abstained} abstentions",
        ]
        for name, one in (("verifiers", self.verifiers), ("people", self.people)):
            if one.all.n:
                kinds = (("right", one.right), ("wrong", one.wrong))
                shares = "".join(f"; of {share.n} {kind} ones {share}" for kind, share in kinds if share.n)
                said.append(f"agreement with {name} on {one.all.n} runs {one.all}{shares}")
        if self.calibration is not None:
            said.append(f"Brier score {self.calibration.brier:.3f}, ECE {self.calibration.ece:.3f}")
            said += _table(self.calibration)
        for name, effect in (("longer answers", self.length), ("answers of its own family", self.family)):
            for kind, share in (("wrong", effect.wrong), ("right", effect.right)):
                if share is not None:
                    said.append(f"{name}, where {kind}: pass oftener by {share}")
        if self.trust is not None:
            rates = f"passes {self.trust.sensitivity:.2f} of right, fails {self.trust.specificity:.2f} of wrong ones"
            said.append(f"among all judges and people: {rates}, weight {self.trust.weight:.2f}")
        said += self.probed.lines() if self.probed is not None else []
        refusal = self.refusal(threshold)
        return [*said, f"the gate does not hear it: {refusal}" if refusal else "the gate hears it"]


def _table(found: Calibration) -> list[str]:
    head = "score          runs   mean score   right"
    return [head] + [
        f"{one.low:.2f} to {one.high:.2f}  {one.count:6}   {one.predicted:10.3f}   {one.observed:5.3f}"
        for one in found.bins
    ]


def judge_reports(
    verdicts: Iterable[Verdict],
    feedback: Iterable[Feedback] = (),
    runs: Iterable[Run] = (),
    *,
    families: Mapping[str, str] | None = None,
    probed: Mapping[str, Probed] | None = None,
) -> list[JudgeReport]:
    """Returns a report for each judge that gave verdicts, in the order of their names.

    Args:
        runs: the runs judged; without them nothing is said of length and family.
        families: of models by name, where ``whet.core.models.families`` would guess wrong (``Actor.family``).
        probed: what probe suites found, by the judge's name.
    """
    found, said, known = list(verdicts), list(feedback), {run.id: run for run in runs}
    verified, people = truths(found), majority(opinions(found, said))
    trust = learned_trust(found, said)
    made = []
    for judge in sorted({one.verifier for one in judgements(found)}):
        own = [one for one in judgements(found) if one.verifier == judge]
        report = _report(judge, own, verified, people)
        length, family = _traits(own, known, report.model, families or {})
        made.append(
            msgspec.structs.replace(
                report,
                length=Effect.of(own, {**people, **verified}, length),
                family=Effect.of(own, {**people, **verified}, family),
                trust=trust.sources.get(judge) if trust else None,
                probed=(probed or {}).get(judge),
            )
        )
    return made


def _report(judge: str, verdicts: Sequence[Verdict], verified: Truth, people: Truth) -> JudgeReport:
    judged = [one for one in verdicts if one.judged]
    standard = {**people, **verified}
    held = [one for one in judged if one.run_id in standard]
    return JudgeReport(
        judge=judge,
        model=next((one.environment for one in verdicts if one.environment), ""),
        judged=len(judged),
        abstained=sum(one.outcome == "abstain" for one in verdicts),
        verifiers=Agreement.of(judged, verified),
        people=Agreement.of(judged, people),
        standard=Agreement.of(judged, standard),
        calibration=calibrate([one.score for one in held], [float(standard[one.run_id]) for one in held])
        if held
        else None,
    )


def _traits(
    verdicts: Sequence[Verdict], runs: Mapping[str, Run], model: str, families: Mapping[str, str]
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Returns of each run judged whether its answer is longer than the median, and of the judge's own family."""
    seen = {one.run_id: runs[one.run_id] for one in verdicts if one.judged and one.run_id in runs}
    lengths = {id: len(run.answer or "") for id, run in seen.items()}
    middle = median(lengths.values()) if lengths else 0
    known = {name: frozenset({family}) for name, family in families.items()}
    own = known.get(model, families_of(model))
    theirs = {id: known.get(run.model, families_of(run.model)) for id, run in seen.items()}
    same = {id: bool(found & own) for id, found in theirs.items() if found and own}
    return {id: length > middle for id, length in lengths.items()}, same
