"""A rubric as a file of the policy: traits of a good answer, each with behaviours that show it and that miss it.

    text = write_rubric("style", [Trait(name="units", definition="Every number has its unit.", bad=("Says 5.",))])
    policy = policy.edit({rubric_path("style"): text})
    read_rubric(policy.text("rubrics/style.md"))[0].name        # units

The agent is told the rubrics of its policy, and so is who reviews it. Learners write them; a person may write one by
hand: what stands under a ``## heading`` is a trait, its lists under ``Good:`` and ``Bad:`` are behaviours, the rest is
its definition.
"""

import re
from collections.abc import Iterable, Sequence

from whet.core.errors import UserError
from whet.core.records import Record
from whet.feedback.answers import list_items

__all__ = ["Trait", "read_rubric", "rubric_path", "write_rubric"]

_SECTION = re.compile(r"^##[ \t]+(.+)$", re.MULTILINE)
_LIST = re.compile(r"^(Good|Bad):[ \t]*\n((?:[ \t]*(?:[-*•]|\d+[.)])[ \t]+.*(?:\n|\Z))+)", re.MULTILINE)
_MARK = re.compile(r"^(?=#|(?:Good|Bad):[ \t]*$)", re.MULTILINE)


class Trait(Record, frozen=True, kw_only=True):
    """What a good answer has: a ``definition``, ``good`` behaviours that show it and ``bad`` ones that miss it."""

    name: str
    definition: str
    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()


def rubric_path(name: str) -> str:
    """Returns where a policy keeps the rubric of that name.

    Raises:
        UserError: the name is no file name.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"rubric={name!r} is no name for a rubric; use letters, digits, dots and dashes")
    return f"rubrics/{name}.md"


def write_rubric(name: str, traits: Iterable[Trait]) -> str:
    """Returns a rubric as the text of its file; lines that would read as headings are indented."""
    return f"# Rubric: {name}\n" + "".join(f"\n{_section(trait)}" for trait in traits)


def read_rubric(text: str) -> tuple[Trait, ...]:
    """Returns the traits of a rubric's text, none where it has no ``##`` headings."""
    parts = _SECTION.split(text)[1:]
    return tuple(_trait(name, body) for name, body in zip(parts[::2], parts[1::2], strict=True))


def _section(trait: Trait) -> str:
    text = f"## {_one_line(trait.name)}\n{_MARK.sub(' ', trait.definition.strip())}\n"
    for title, behaviours in (("Good", trait.good), ("Bad", trait.bad)):
        if behaviours:
            text += f"\n{title}:\n" + "".join(f"- {_one_line(each)}\n" for each in behaviours)
    return text


def _trait(name: str, body: str) -> Trait:
    found: dict[str, Sequence[str]] = {match[1]: list_items(match[2]) for match in _LIST.finditer(body)}
    good, bad = (tuple(found.get(title, ())) for title in ("Good", "Bad"))
    return Trait(name=name.strip(), definition=_LIST.sub("", body).strip(), good=good, bad=bad)


def _one_line(text: str) -> str:
    return " ".join(text.split())
