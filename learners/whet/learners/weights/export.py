"""``export``: rows as files that other trainers read, with the card that says what they rest on.

    export(rows, "out", card)                   # out/preference.jsonl, …, rows.jsonl, card.json, README.md
    datasets.load_dataset("out", "preference")  # as TRL's trainers take it

``trl`` writes a file for each shape that occurs: ``sft`` (prompt, completion), ``conversations`` (messages, where all
that the assistant says counts), ``preference`` (prompt, chosen, rejected), ``kto`` (prompt, completion, label),
``rollouts`` (prompt, completions, rewards) and ``prompts`` for training online. ``rows`` writes the rows alone, which
both have: nothing is lost in them. The folder is written whole or not at all.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from whet.core.errors import StoreError, UserError
from whet.core.loading import nearest
from whet.core.records import Json, Message, ToolCall, ToolSpec
from whet.core.wire import decode, encode
from whet.learners.weights.card import Card, render, row_ids
from whet.learners.weights.files import write_whole
from whet.learners.weights.rows import Row

__all__ = ["FORMATS", "export", "read_rows"]

Line = dict[str, Json]
Files = Mapping[str, Sequence[Line]]

_ROWS = "rows.jsonl"
_CARD = "card.json"
_TRAINERS = {
    "sft": "SFTTrainer",
    "conversations": "SFTTrainer with SFTConfig(assistant_only_loss=True)",
    "preference": "DPOTrainer",
    "kto": "KTOTrainer",
    "prompts": "GRPOTrainer",
    "rollouts": "no trainer: rewards that were given, to compare with or to make pairs of",
}


def export(
    rows: Sequence[Row], folder: str | Path, card: Card, format: str = "trl", *, overwrite: bool = False
) -> dict[str, int]:
    """Returns how many lines each file has, after they were written.

    Raises:
        UserError: no such format, no rows, the folder exists, or a row says what the format cannot.
        StoreError: the folder cannot be written; what was there before is untouched.
    """
    if format not in FORMATS:
        raise UserError(f"no format {format!r}{nearest(format, FORMATS)}; there are {', '.join(FORMATS)}")
    if not rows:
        raise UserError("there are no rows to export")
    target = Path(folder)
    _refuse_existing(target, overwrite)
    files, weights = FORMATS[format](rows)
    texts = {f"{name}.jsonl": b"".join(encode(line) + b"\n" for line in lines) for name, lines in files.items()}
    texts[_ROWS] = b"".join(encode(row) + b"\n" for row in rows)
    texts[_CARD] = msgspec.json.format(encode(card), indent=2) + b"\n"
    texts["README.md"] = _readme(card, files, weights).encode()
    _write(target, texts)
    return {name: data.count(b"\n") for name, data in texts.items() if name.endswith(".jsonl")}


def read_rows(folder: str | Path) -> list[Row]:
    """Returns the rows of an exported folder.

    Raises:
        UserError: it is none, or a line is no row.
    """
    try:
        lines = (Path(folder) / _ROWS).read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{str(folder)!r} is no exported data set: {error.strerror} {_ROWS!r}") from error
    return [decode(line, Row) for line in lines]


# --- files ----------------------------------------------------------------------------------------------------------


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{str(target)!r} exists; name another folder, or overwrite it with --overwrite")
    if not (target / _CARD).is_file():
        raise UserError(f"{str(target)!r} holds no exported data set, so it is not overwritten; name another folder")


def _write(target: Path, texts: Mapping[str, bytes]) -> None:
    """Writes a folder beside its place and moves it there; a folder that it replaces goes last."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
            new = Path(beside) / "new"
            new.mkdir()
            for name, data in texts.items():
                write_whole(new / name, data)
            _replace(target, new, Path(beside) / "old")
    except OSError as error:
        raise StoreError(f"{str(target)!r} cannot be written: {error.strerror}") from error


def _replace(target: Path, new: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _readme(card: Card, files: Files, weights: Mapping[str, float]) -> str:
    """Returns the card as a page that data set libraries understand: its head names the files."""
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in files)
    head = f"---\nconfigs:\n{configs}---\n\n" if files else ""
    uses = [f"- `{name}.jsonl`, {len(lines):,} lines: {_TRAINERS[name]}\n" for name, lines in files.items()]
    rest = f"- `{_ROWS}`, {card.rows:,} lines: everything, for whet.learners.weights\n"
    settings = ", ".join(f"{side}_weight={weight:.6g}" for side, weight in weights.items())
    note = f"\nThe rows are weighed by side: KTOConfig({settings}).\n" if settings else ""
    return f"{head}{render(card)}\n## Files\n\n{''.join(uses)}{rest}{note}"


# --- trl ------------------------------------------------------------------------------------------------------------


def _as_trl(rows: Sequence[Row]) -> tuple[Files, dict[str, float]]:
    """Returns the lines of each file that the rows need, and how much each side of KTO weighs where that differs.

    Raises:
        UserError: a row says what TRL has no field for.
    """
    lines: dict[str, list[Line]] = defaultdict(list)
    together: dict[tuple[str, str], list[tuple[str, Row]]] = defaultdict(list)
    weights = _side_weights(rows)
    for id, row in zip(row_ids(rows), rows, strict=True):
        if row.pair:
            together["preference", row.pair].append((id, row))
        elif row.group and row.reward is not None:
            together["rollouts", row.group].append((id, row))
        elif row.side in ("desirable", "undesirable"):
            _require(id, _plain(row, scale=weights.get(row.side, 1.0)))
            lines["kto"].append({**_answered(id, row), "label": row.side == "desirable"})
        elif row.side != "kl":  # TRL makes the reference point itself
            _require(id, _plain(row))
            for name, line in _imitated(id, row):
                lines[name].append(line)
    for (name, key), found in together.items():
        if name == "preference":
            lines[name].append(_preference(key, found))
        else:
            rollouts, asked = _rollouts(key, found)
            lines[name].append(rollouts)
            lines["prompts"] += [asked] if asked not in lines["prompts"] else []
    return dict(lines), weights


def _side_weights(rows: Sequence[Row]) -> dict[str, float]:
    """Returns the scale that all rows of a side have, for sides that count more or less than once."""
    scales: dict[str, set[float]] = defaultdict(set)
    for row in rows:
        if row.side in ("desirable", "undesirable"):
            scales[row.side].add(row.scale)
    return {side: min(found) for side, found in sorted(scales.items()) if len(found) == 1 and found != {1.0}}


def _plain(row: Row, *, scale: float = 1.0, label: float | None = 1.0) -> str:
    """Returns what a row says that TRL has no field for; the empty text where there is nothing."""
    counted = {piece.message for piece in row.pieces}
    if any(row.messages[number].role != "assistant" for number in counted):
        return "what counts is not said by the assistant"
    if any(piece.start or piece.end is not None for piece in row.pieces):
        return "parts of a message count"
    if any(piece.weight != 1 for piece in row.pieces) or row.scale != scale:
        return "it is weighed"
    if row.margin or (label is not None and row.label != label):
        return "it has a margin or a label between 0 and 1"
    return "a teacher sees another context" if row.teacher is not None else ""


def _require(id: str, problem: str) -> None:
    if problem:
        raise UserError(f"row {id!r} cannot be said in the format 'trl': {problem}; export it with the format 'rows'")


def _imitated(id: str, row: Row) -> list[tuple[str, Line]]:
    """Returns a line with the whole conversation where all that the assistant says counts, else one for each answer."""
    counted = sorted({piece.message for piece in row.pieces})
    said = [number for number, message in enumerate(row.messages) if message.role == "assistant"]
    if len(counted) > 1 and counted == said and said[-1] == len(row.messages) - 1:
        return [("conversations", _line(id, row, messages=_messages(row.messages)))]
    return [("sft", _line(id, row, **_split(row, number))) for number in counted]


def _split(row: Row, number: int) -> Line:
    return {"prompt": _messages(row.messages[:number]), "completion": _messages(row.messages[number : number + 1])}


def _answered(id: str, row: Row) -> Line:
    """Returns prompt and completion of a row in which the last message counts, and nothing else."""
    last = len(row.messages) - 1
    _require(id, "" if {piece.message for piece in row.pieces} == {last} else "not only its last message counts")
    return _line(id, row, **_split(row, last))


def _preference(pair: str, found: Sequence[tuple[str, Row]]) -> Line:
    sides = {row.side: (id, row) for id, row in found}
    if len(found) != 2 or set(sides) != {"chosen", "rejected"}:
        raise UserError(f"pair {pair!r} has {len(found)} rows; it needs one that is chosen and one that is rejected")
    for id, row in found:
        _require(id, _plain(row))
    chosen, rejected = (_answered(*sides[side]) for side in ("chosen", "rejected"))
    _require(sides["rejected"][0], "" if chosen["prompt"] == rejected["prompt"] else "the sides have different prompts")
    return {
        **{key: chosen[key] for key in ("id", "prompt", "tools") if key in chosen},
        "chosen": chosen["completion"],
        "rejected": rejected["completion"],
    }


def _rollouts(group: str, found: Sequence[tuple[str, Row]]) -> tuple[Line, Line]:
    """Returns a group with its rewards, and its prompt alone; advantages are left to who trains on them."""
    starts = [min(piece.message for piece in row.pieces) for _, row in found]
    prompts = [_messages(row.messages[:start]) for start, (_, row) in zip(starts, found, strict=True)]
    if any(prompt != prompts[0] for prompt in prompts):
        _require(found[0][0], f"the rollouts of group {group!r} have different prompts")
    completions = [_messages(row.messages[start:]) for start, (_, row) in zip(starts, found, strict=True)]
    id, first = found[0]
    asked = _line(id, first, prompt=prompts[0], task_id=first.task_id)
    del asked["id"]
    rewards: list[Json] = [row.reward for _, row in found]
    return _line(id, first, prompt=prompts[0], completions=[*completions], rewards=rewards), asked


def _line(id: str, row: Row, **fields: Json) -> Line:
    """Returns a line with the row's id, by which the card says what it rests on. Tools are text: TRL reads it."""
    tools = {"tools": encode([_tool(tool) for tool in row.tools]).decode()} if row.tools else {}
    return {"id": id, **fields, **tools}


def _tool(tool: ToolSpec) -> Line:
    function: Line = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _messages(messages: Iterable[Message]) -> list[Json]:
    return [_message(message) for message in messages]


def _message(message: Message) -> Line:
    line: Line = {"role": message.role, "content": message.content}
    if message.tool_calls:
        line["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        line["tool_call_id"] = message.tool_call_id
    return line if message.name is None else {**line, "name": message.name}


def _call(call: ToolCall) -> Line:
    """Returns a call as chat templates take it: arguments as an object, or as they are where they are no JSON."""
    try:
        arguments: Json = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        arguments = call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


FORMATS: Mapping[str, Callable[[Sequence[Row]], tuple[Files, dict[str, float]]]] = {
    "trl": _as_trl,
    "rows": lambda rows: ({}, {}),
}
"""What ``export`` writes, by name."""
