"""Which promotion introduced each line of a policy's file, and how two policies differ.

    for promotion, line in blame(history, policy, "prompts/system.md", load):
        print(promotion.id if promotion else "-", line)

Pure functions over promotions and policies; ``PolicyHistory`` reads both from the store.
"""

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher, unified_diff
from itertools import chain

from whet.core import Policy, Promotion

__all__ = ["MOVES", "blame", "unified", "versions"]

MOVES = frozenset({"promoted", "rolled_back", "committed"})
"""The decisions that move the head."""

Load = Callable[[str], Policy]
"""Gives a policy by its digest, without files where it was forgotten."""


def unified(old: Policy, new: Policy, old_name: str, new_name: str) -> str:
    """Returns the difference of two policies as a unified diff, file by file; empty where they are equal."""
    parts = [
        _unified_file(path, old.files.get(path), new.files.get(path), old_name, new_name)
        for path in sorted(old.files.keys() | new.files.keys())
        if old.files.get(path) != new.files.get(path)
    ]
    return "".join(parts)


def _unified_file(path: str, old: bytes | None, new: bytes | None, old_name: str, new_name: str) -> str:
    before, after = _lines(old), _lines(new)
    left = f"{old_name}/{path}" if old is not None else "/dev/null"
    right = f"{new_name}/{path}" if new is not None else "/dev/null"
    if before is None or after is None:
        return f"Binary files {left} and {right} differ\n"
    if not before and not after:  # an empty file came or went: there is no line to show
        return f"--- {left}\n+++ {right}\n"
    lines = unified_diff(before, after, left, right)
    return "".join(chain.from_iterable(_ended(line) for line in lines))


def _ended(line: str) -> Sequence[str]:
    return (line,) if line.endswith("\n") else (line, "\n\\ No newline at end of file\n")


def _lines(data: bytes | None) -> list[str] | None:
    """Returns the lines of a text with their ends, split at ``\\n`` only, or ``None`` for bytes that are no text."""
    try:
        text = (data or b"").decode()
    except UnicodeDecodeError:
        return None
    parts = text.split("\n")
    return [*(part + "\n" for part in parts[:-1]), *([parts[-1]] if parts[-1] else [])]


def versions(history: Sequence[Promotion], policy: str) -> list[tuple[Promotion | None, str]]:
    """Returns the line of descent of a policy, oldest first, as (promotion that brought it in, its digest).

    ``history`` is the log, oldest first. A policy descends from the incumbent of the promotion that first brought it
    in; a rollback brings nothing new, so it takes no credit. The oldest is ``None`` where no promotion brought it in.
    """
    first: dict[str, Promotion] = {}
    for promotion in history:
        if promotion.decision in MOVES:
            first.setdefault(promotion.policy, promotion)
    chain_: list[tuple[Promotion | None, str]] = []
    seen: set[str] = set()
    current = policy
    while current and current not in seen:
        seen.add(current)
        owner = first.get(current)
        chain_.append((owner, current))
        current = owner.incumbent if owner else ""
    return chain_[::-1]


def blame(history: Sequence[Promotion], policy: str, path: str, load: Load) -> list[tuple[Promotion | None, str]]:
    """Returns (promotion, line) for each line of a file, without line ends.

    ``None`` stands for a line that was there before any promotion.
    """
    owners: list[Promotion | None] = []
    before: list[str] = []
    for owner, name in versions(history, policy):
        after = _lines(load(name).files.get(path)) or []
        owners = _carry(owners, before, after, owner)
        before = after
    return [(owner, line.rstrip("\r\n")) for owner, line in zip(owners, before, strict=True)]


def _carry(
    owners: Sequence[Promotion | None], before: Sequence[str], after: Sequence[str], promotion: Promotion | None
) -> list[Promotion | None]:
    found: list[Promotion | None] = [promotion] * len(after)
    matcher = SequenceMatcher(None, [*map(str.rstrip, before)], [*map(str.rstrip, after)], autojunk=False)
    for block in matcher.get_matching_blocks():
        found[block.b : block.b + block.size] = owners[block.a : block.a + block.size]
    return found
