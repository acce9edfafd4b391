"""Splits: fixed by a hash of the task's id.

split_of("humaneval/0")     # always the same: 60 % train, 30 % held-out, 10 % sealed
"""

from whet.core.ids import digest
from whet.core.records import Split

__all__ = ["HELDOUT", "TRAIN", "split_of"]

TRAIN, HELDOUT = 60, 30
"""Percent of the tasks; the rest is sealed."""


def split_of(task_id: str) -> Split:
    """Returns the split of a task by the SHA-256 of its id, whatever set, order or machine it is loaded on."""
    bucket = int(digest(task_id)[:8], 16) % 100
    if bucket < TRAIN:
        return "train"
    return "heldout" if bucket < TRAIN + HELDOUT else "sealed"
