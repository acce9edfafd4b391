"""``whet judge``: measure, report, weights."""

from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.improve import Calls, Dollars, MinTrust, Seconds, limits
from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, Row, View, emit_json, listing, note
from whet.apps.cli.session import with_memory
from whet.core.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from whet.feedback import Verifier
    from whet.feedback.judge import Comparer
    from whet.feedback.report import Effect, JudgeReport
    from whet.memory import Memory

app = typer.Typer()


@app.command()
@listing
def report(
    view: View,
    judge: Annotated[str, typer.Argument(help="Name of one judge, or its beginning: the whole report on it.")] = "",
    min_trust: MinTrust = 0.7,
) -> None:
    """Show what each judge is worth: agreement with verifiers and people, calibration, what sways it, its weight."""
    from whet.learners.judging import measured_judges

    found = with_memory(measured_judges, read_only=True)
    if judge:
        _show_one(_named(found, judge), min_trust, json=view.output == "json")
        return
    view.show(
        [_row(one, min_trust) for one in found],
        ("judge", "judged", "agreement", "low", "brier", "ece", "length", "family", "weight", "heard"),
        ("model", "abstained", "verifiers", "people", "reason"),
        empty="no judge gave a verdict yet; let one judge recorded runs: whet judge measure SPEC",
    )


@app.command()
@listing
def weights(view: View) -> None:
    """Show what the vote of each judge and each person is worth, learned from where they agree and differ."""
    from whet.learners.judging import measured_weights

    found = with_memory(measured_weights, read_only=True)
    view.show(
        [{"id": source, **as_row(one), "weight": one.weight} for source, one in found.items()],
        ("id", "votes", "sensitivity", "specificity", "weight"),
        empty="nobody said whether a run is right yet: whet judge measure SPEC, whet feedback add RUN accept",
    )


@app.command()
def measure(
    spec: Annotated[str, typer.Argument(help='{"kind": "judge", "params": {…}}, or a file with it.')],
    runs: Annotated[int, typer.Option(min=0, help="Runs to judge: the newest whose truth is known.")] = 200,
    probes: Annotated[int, typer.Option(min=0, help="Tasks to probe it on, 20 verdicts each.")] = 0,
    pairs: Annotated[bool, typer.Option("--pairs", help="Probe its model on pairs as well.")] = False,
    min_trust: MinTrust = 0.7,
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Let a judge judge recorded runs on training tasks, probe it, and report what it is worth."""
    from whet.feedback.judges import judging_under

    asked, budget = _load(spec), limits(calls, dollars, seconds)
    comparer = _comparer(asked) if pairs else None

    async def work(memory: "Memory") -> "list[JudgeReport]":
        from whet.learners.judging import measure_judge, measured_judges, probe_judge

        with judging_under(budget):
            made = await measure_judge(memory, asked, limit=runs)
            probed = await probe_judge(memory, asked, limit=probes, comparer=comparer) if probes else None
        lost = [one.detail for one in made if one.outcome == "infra_error"]
        if lost:
            note(f"{len(lost)} runs were not judged: {lost[0]}")
        note(f"{len(made) - len(lost)} runs judged" + (f", {probed.cases} tasks probed" if probed else ""))
        if probes and not probed:
            note("no training task has a right answer and a wrong one, so nothing was probed")
        return await measured_judges(memory)

    _show_one(_named(with_memory(work), asked.name), min_trust, json=json)


def _load(spec: str) -> "Verifier":
    """Returns the judge that JSON describes, as it stands or in a file.

    Raises:
        UserError: it is no specification of a verifier, or one of another kind.
        VerifierError: the judge cannot be made.
    """
    from pathlib import Path

    from whet.core import VerifierSpec
    from whet.core.wire import decode
    from whet.feedback import load_verifier
    from whet.feedback.verifiers.configured import ConfiguredVerifier

    if not (inline := spec.lstrip().startswith("{")) and not Path(spec).is_file():
        example = '{"kind": "judge", "params": {"items": ["It holds."]}}'
        raise UserError(f"{spec!r} is no file, and no JSON such as {example}")
    text = spec if inline else Path(spec).read_text()
    made = load_verifier(decode(text, VerifierSpec))
    if isinstance(made, ConfiguredVerifier) and made.verdict_kind != "model":
        raise UserError(f"{made.name!r} is no judge: it asks no model; verify runs again with whet verdict rerun RUN")
    return made


def _comparer(judge: "Verifier") -> "Comparer":
    from whet.feedback.judges import ModelJudge, Pairwise

    if not isinstance(judge, ModelJudge):
        raise UserError(f"--pairs compares with the judge's own model, and {judge.name!r} has not one; leave it out")
    return Pairwise(judge.model, longer=0)


def _named(found: "list[JudgeReport]", name: str) -> "JudgeReport":
    fitting = [one for one in found if one.judge.startswith(name)]
    if len(fitting) != 1:
        there = ", ".join(one.judge for one in found) or "none"
        raise NotFoundError(f"{name!r} names {len(fitting)} judges; there are {there}")
    return fitting[0]


def _show_one(found: "JudgeReport", min_trust: float, *, json: bool) -> None:
    if json:
        emit_json({"report": found, "refusal": found.refusal(min_trust)})
    else:
        print("\n".join(found.lines(min_trust)))


def _row(found: "JudgeReport", min_trust: float) -> Row:
    """Returns a report as a row: without intervals, and of biases on wrong runs those that are surely there."""
    standard, refusal = found.standard, found.refusal(min_trust)
    return {
        "id": found.judge,
        "judge": found.judge,
        "model": found.model,
        "judged": found.judged,
        "abstained": found.abstained,
        "agreement": standard.balanced,
        "low": None if standard.balanced is None else standard.low,
        "verifiers": found.verifiers.all.value if found.verifiers.all.n else None,
        "people": found.people.all.value if found.people.all.n else None,
        "brier": found.calibration.brier if found.calibration else None,
        "ece": found.calibration.ece if found.calibration else None,
        "length": _shown(found.length),
        "family": _shown(found.family),
        "weight": found.trust.weight if found.trust else None,
        "heard": not refusal,
        "reason": refusal,
    }


def _shown(effect: "Effect") -> float | None:
    return effect.wrong.value if effect.wrong is not None and effect.shown else None
