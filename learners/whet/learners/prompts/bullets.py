"""A playbook: bullets with counters, and the four operations on them.

    [p1] helpful=3 harmful=0 :: Say the unit of every number.

    head, bullets = read_bullets(text)
    bullets, refused = operate(bullets, [Operation(op="merge", ids=("p1", "p4"), text="…")])
    text = show_bullets(head, bullets)

A bullet's text may have several lines; it ends where the next one begins. The same operations give the same playbook.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from whet.core.calibration import wilson
from whet.core.records import Record
from whet.memory.embedders import Embedder
from whet.memory.similar import resemblance

__all__ = ["Bullet", "Operation", "count", "fit", "operate", "read_bullets", "show_bullets", "without_doubles"]

_BULLET = re.compile(r"^\[(p\d+)\] helpful=(\d+) harmful=(\d+) ::[ \n](.*?)(?=^\[p\d+\] helpful=|\Z)", re.M | re.S)
_OTHER_WORDS = 0.5
_BYTES_A_TOKEN = 4


class Bullet(Record, frozen=True, kw_only=True):
    """One line of a playbook with how often it helped and did harm."""

    id: str
    text: str
    helpful: int = 0
    harmful: int = 0

    @property
    def low(self) -> float:
        """The lower 95 % bound of its worth, helpful less harmful as a share of both, -1 to 1; -1 without any."""
        n = self.helpful + self.harmful
        return 2 * wilson(self.helpful / n, n) - 1 if n else -1.0

    @property
    def does_harm(self) -> bool:
        """Whether it is shown that it harms more often than it helps."""
        n = self.helpful + self.harmful
        return n > 0 and wilson(self.harmful / n, n) > 0.5


class Operation(Record, frozen=True, kw_only=True):
    """A change: ``add`` a text, ``update`` the one of ``ids``, ``merge`` several into one text, or ``retire`` some."""

    op: Literal["add", "update", "merge", "retire"]
    ids: tuple[str, ...] = ()
    text: str = ""

    def fault(self, known: Iterable[str]) -> str:
        """Returns what is wrong with it for a playbook of these ids, empty for nothing."""
        least = {"add": 0, "update": 1, "merge": 2, "retire": 1}[self.op]
        if missing := sorted(set(self.ids) - set(known)):
            return f"{self.op}: there is no bullet {missing[0]!r}"
        if len(set(self.ids)) < least or (self.op in ("add", "update") and len(self.ids) > least):
            return f"{self.op}: {len(self.ids)} ids"
        return "" if self.op == "retire" or self.text.strip() else f"{self.op}: no text"


def read_bullets(text: str) -> tuple[str, list[Bullet]]:
    """Returns what stands before the first bullet, and the bullets."""
    found = list(_BULLET.finditer(text))
    head = text[: found[0].start()] if found else text
    bullets = [
        Bullet(id=match[1], helpful=int(match[2]), harmful=int(match[3]), text=match[4].strip()) for match in found
    ]
    return head.strip(), bullets


def show_bullets(head: str, bullets: Sequence[Bullet]) -> str:
    """Returns the text of a playbook; what has several lines begins on a line of its own."""
    lines = [
        f"[{each.id}] helpful={each.helpful} harmful={each.harmful} ::"
        + ("\n" if "\n" in each.text else " ")
        + each.text
        for each in bullets
    ]
    return "\n".join([head, "", *lines] if head else lines)


def operate(bullets: Sequence[Bullet], operations: Sequence[Operation]) -> tuple[list[Bullet], list[str]]:
    """Returns the playbook after the operations, in their order, and what was wrong with those that were refused."""
    found = {each.id: each for each in bullets}
    last = max((int(id[1:]) for id in found), default=0)
    refused = []
    for each in operations:
        if fault := each.fault(found):
            refused.append(fault)
        elif each.op == "add":
            last += 1
            found[f"p{last}"] = Bullet(id=f"p{last}", text=each.text.strip())
        elif each.op == "retire":
            found = {id: bullet for id, bullet in found.items() if id not in each.ids}
        else:
            found = _joined(found, each)
    return list(found.values()), refused


def _joined(found: dict[str, Bullet], operation: Operation) -> dict[str, Bullet]:
    """Returns the bullets with those of an operation made one, at the place of the first, their counters summed."""
    old = [found[id] for id in operation.ids]
    new = Bullet(
        id=old[0].id,
        text=operation.text.strip(),
        helpful=sum(each.helpful for each in old),
        harmful=sum(each.harmful for each in old),
    )
    return {id: new if id == new.id else each for id, each in found.items() if id == new.id or id not in operation.ids}


def count(bullets: Sequence[Bullet], helped: Sequence[str], harmed: Sequence[str]) -> list[Bullet]:
    """Returns the bullets with each mention of an id counted."""
    return [
        msgspec.structs.replace(
            each, helpful=each.helpful + helped.count(each.id), harmful=each.harmful + harmed.count(each.id)
        )
        for each in bullets
    ]


async def without_doubles(bullets: Sequence[Bullet], embedder: Embedder, alike: float) -> list[Bullet]:
    """Returns the bullets with each that says what an earlier one says merged into it.

    Their vectors have a cosine of ``alike`` or more, and they hold no different code, which vectors do not tell apart.

    Raises:
        ModelError: the embedder could not be reached.
    """
    vectors = await embedder.embed([each.text for each in bullets])
    found: dict[int, Bullet] = {}
    for number, bullet in enumerate(bullets):
        near = (i for i in found if float(vectors[i] @ vectors[number]) >= alike)
        double = next((i for i in near if resemblance(found[i].text, bullet.text) > _OTHER_WORDS), None)
        if double is None:
            found[number] = bullet
        else:
            old = found[double]
            helpful, harmful = old.helpful + bullet.helpful, old.harmful + bullet.harmful
            found[double] = msgspec.structs.replace(old, helpful=helpful, harmful=harmful)
    return list(found.values())


def fit(bullets: Sequence[Bullet], tokens: int) -> list[Bullet]:
    """Returns the bullets that fit into so many tokens (estimated), those of the lowest bound left out first."""
    kept = list(bullets)
    while kept and sum(len(each.text.encode()) for each in kept) > tokens * _BYTES_A_TOKEN:
        kept.remove(min(reversed(kept), key=lambda each: each.low))
    return kept
