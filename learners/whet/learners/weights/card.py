"""``Card``: what a data set is made of, how it came to be, and what it rests on; kept with the adapter and the export.

    stages = [Stage(name="deduplicated", rows=len(rows), dropped=dropped)]
    card = make_card("rft", rows, experience, where=where, stages=stages)
    print(render(card))                         # a page of Markdown

``fingerprint(rows)`` names exactly these rows: after data was forgotten, the rows that are left have another one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from whet.core.ids import digest, now_ms
from whet.core.records import Json, Record, Run
from whet.core.wire import encode
from whet.learners.weights.experience import Experience
from whet.learners.weights.rows import Row
from whet.learners.weights.where import EVERYTHING, Where

__all__ = ["Card", "Stage", "fingerprint", "make_card", "render", "row_ids"]

SHOWN = 20
"""How many lines of a table are rendered; the record has all of them."""


class Stage(Record, frozen=True, kw_only=True):
    """A step on the way from experience to rows: how many rows were left after it, and how many it dropped and why."""

    name: str
    rows: int
    dropped: dict[str, int] = msgspec.field(default_factory=dict)


class Card(Record, frozen=True, kw_only=True):
    """A data set's origin.

    ``digest`` is the fingerprint of the rows. ``runs`` were taken, and ``left_out`` not, by reason. ``sources`` has for
    each row, by its id, the ids of the records it rests on, ``kinds`` says what those are. ``tasks``, ``policies`` and
    ``models`` count rows: of which task, and written by whom. ``tokens`` is ``None`` where nobody counted them.
    ``since`` and ``until`` are when the first and the last of the runs began, in UTC milliseconds.
    """

    method: str
    options: dict[str, Json] = msgspec.field(default_factory=dict)
    where: str = ""
    digest: str
    runs: int
    left_out: dict[str, int] = msgspec.field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    rows: int
    tokens: int | None = None
    off_policy: int = 0
    tainted: int = 0
    tasks: dict[str, int] = msgspec.field(default_factory=dict)
    policies: dict[str, int] = msgspec.field(default_factory=dict)
    models: dict[str, int] = msgspec.field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    kinds: dict[str, str] = msgspec.field(default_factory=dict)
    since: int | None = None
    until: int | None = None
    remarks: tuple[str, ...] = ()
    at: int


def row_ids(rows: Sequence[Row]) -> list[str]:
    """Returns an id for each row, from its content; a row that occurs again gets a number as well."""
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        name = digest(encode(row))[:16]
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def fingerprint(rows: Sequence[Row]) -> str:
    """Returns the SHA-256 of the rows and their order."""
    return digest(encode(list(rows)))


def make_card(
    method: str,
    rows: Sequence[Row],
    experience: Experience,
    *,
    options: Mapping[str, Json] | None = None,
    where: Where = EVERYTHING,
    stages: Sequence[Stage] = (),
    tokens: int | None = None,
    remarks: Sequence[str] = (),
) -> Card:
    """Returns the card of rows that a method built from experience; ``remarks`` go after those that follow from it."""
    kinds = _kinds(experience)
    writers = _Writers(experience)
    written = [writers.of(row) for row in rows]
    starts = [episode.run.started_at for episode in experience.episodes]
    return Card(
        method=method,
        options=dict(options or {}),
        where=str(where),
        digest=fingerprint(rows),
        runs=len(experience.episodes),
        left_out=experience.left_out,
        stages=tuple(stages),
        rows=len(rows),
        tokens=tokens,
        off_policy=sum(row.off_policy for row in rows),
        tainted=sum(row.trust == "tainted" for row in rows),
        tasks=_count(row.task_id for row in rows if row.task_id),
        policies=_count(run.policy for run in written if run is not None and run.policy),
        models=_count(_SOMEBODY if run is None else run.model or run.agent for run in written),
        sources={id: row.sources for id, row in zip(row_ids(rows), rows, strict=True)},
        kinds={id: kinds[id] for row in rows for id in row.sources if id in kinds},
        since=min(starts, default=None),
        until=max(starts, default=None),
        remarks=(*_remarks(rows, experience), *remarks),
        at=now_ms(),
    )


def render(card: Card) -> str:
    """Returns the card as a page of Markdown; long tables are cut, and say so."""
    facts = [
        ("method", card.method),
        ("options", ", ".join(f"{key}={value}" for key, value in card.options.items())),
        ("where", f"`{card.where}`" if card.where else ""),
        ("rows", f"{card.rows:,}" + (f", {card.off_policy:,} of them not by the policy" if card.off_policy else "")),
        ("tokens", "not counted" if card.tokens is None else f"{card.tokens:,}"),
        ("tasks", f"{len(card.tasks):,}"),
        ("runs", f"{card.runs:,}, begun {_day(card.since)} to {_day(card.until)}" if card.runs else "0"),
        ("rests on", ", ".join(f"{n:,} {kind}" for kind, n in _count(card.kinds.values()).items())),
        ("made", _day(card.at)),
        ("digest", f"`{card.digest}`"),
    ]
    parts = [f"# Data for {card.method}\n", _table(("", ""), [fact for fact in facts if fact[1]])]
    parts += ["## Way\n", _table(("step", "left", "dropped"), _way(card))]
    for title, counts in (("model", card.models), ("policy", card.policies), ("task", card.tasks)):
        if counts:
            parts += [f"## By {title}\n", _table((title, "rows"), [(key, f"{n:,}") for key, n in counts.items()])]
    parts += ["## Remarks\n", "".join(f"- {remark}\n" for remark in card.remarks)] if card.remarks else []
    shown = [
        (id, ", ".join(f"{card.kinds.get(one, 'record')} {one}" for one in ids)) for id, ids in card.sources.items()
    ]
    parts += ["## Sources\n", _table(("row", "rests on"), shown)] if shown else []
    return "\n".join(parts)


_SOMEBODY = "somebody else"


class _Writers:
    """Which run wrote the text that counts in a row."""

    def __init__(self, experience: Experience) -> None:
        self._runs = {episode.run.id: episode.run for episode in experience.episodes}
        self._texts = {
            episode.run.id: {episode.answer, *(attempt.text for attempt in episode.attempts)}
            for episode in experience.episodes
        }

    def of(self, row: Row) -> Run | None:
        """Returns the first of the row's runs that wrote some of it; ``None`` where a person or another model did."""
        counted = {row.messages[piece.message].content for piece in row.pieces}
        return next((self._runs[id] for id in row.sources if counted & self._texts.get(id, set())), None)


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _kinds(experience: Experience) -> dict[str, str]:
    """Returns what each record is: a run, step, verdict, critique or feedback."""
    found = {item.id: "feedback" for item in experience.feedback}
    for episode in experience.episodes:
        found[episode.run.id] = "run"
        found |= {item.id: "feedback" for item in episode.feedback}
        found |= {attempt.step_id: "step" for attempt in episode.attempts if attempt.step_id}
        of_attempts = [(attempt.verdicts, attempt.critiques) for attempt in episode.attempts]
        for verdicts, critiques in ((episode.verdicts, episode.critiques), *of_attempts):
            found |= {verdict.id: "verdict" for verdict in verdicts}
            found |= {critique.id: "critique" for critique in critiques}
    return found


def _remarks(rows: Sequence[Row], experience: Experience) -> list[str]:
    """Returns what somebody should know before training on the rows or passing them on."""
    resting = {id for row in rows for id in row.sources}
    said = [item for episode in experience.episodes for item in episode.feedback] + [*experience.feedback]
    people = {item.source for item in said if item.id in resting}
    licences = {str(task.meta[key]) for task in experience.tasks for key in ("licence", "license") if key in task.meta}
    tools = sum(any(message.role == "tool" for message in row.messages) for row in rows)
    tainted = sum(row.trust == "tainted" for row in rows)
    found = ["Text by a model may be bound by its provider's terms; see the models above."]
    found.append(f"Licences of the tasks: {', '.join(sorted(licences))}." if licences else "The tasks name no licence.")
    if people:
        found.append(f"Feedback of {len(people)} sources is in it; ask them before it is passed on.")
    if tools:
        found.append(f"{tools:,} rows show, as context, what tools returned; it may come from strangers.")
    if tainted:
        found.append(f"{tainted:,} rows rest on what strangers wrote; a person has to look at them.")
    return found


def _way(card: Card) -> list[tuple[str, str, str]]:
    stages = [("collected", card.runs, card.left_out), *((each.name, each.rows, each.dropped) for each in card.stages)]
    return [
        (name, f"{left:,} {'rows' if number else 'runs'}", "; ".join(f"{why}: {n:,}" for why, n in dropped.items()))
        for number, (name, left, dropped) in enumerate(stages)
    ]


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    shown = [" ".join(f"| {cell}" for cell in line) + " |" for line in (titles, ["---"] * len(titles), *lines[:SHOWN])]
    rest = [f"\n… and {len(lines) - SHOWN:,} more in card.json"] if len(lines) > SHOWN else []
    return "\n".join([*shown, *rest, ""])


def _day(moment: int | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%d %H:%M")
