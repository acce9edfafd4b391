"""Progressive disclosure: names and descriptions always, a body when the task calls for it, files on demand.

    catalogue(policy)                      # [("verbs", "What zorp and blick do. …")]: always affordable
    disclose(policy, "Write zorp(x).")     # [("verbs", body)]
    disclosure_cost(skill)                 # tokens: always, when activated, when every file is read

The choice is lexical and deterministic, so a run can be replayed: a skill is activated by any of its keywords
(``metadata.keywords``), by its whole name, or by two words of its description.
"""

import re

from whet.core.policy import Policy
from whet.core.records import Record
from whet.skills.library import library
from whet.skills.skill import Skill
from whet.skills.tokens import estimate_tokens

__all__ = ["DisclosureCost", "catalogue", "disclose", "disclosure_cost", "estimate_tokens", "relevance"]

THRESHOLD = 2
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """
        a about all also an and any are as at be by can do does each for from function functions has have how if in into
        is it its list mention mentions more no not of on one or program python return returns should skill so string
        such task tasks that the their them then these this to up use used uses using want was what when where which
        with write you your
        """,
    )
)


class DisclosureCost(Record, frozen=True, kw_only=True):
    """About how many tokens each level takes: ``always`` name and description, ``body`` when activated, ``files``.

    ``files`` is what all text files beside ``SKILL.md`` would take if they were read; most are run, or never opened.
    """

    always: int
    body: int
    files: int


def disclosure_cost(skill: Skill) -> DisclosureCost:
    """Returns what a skill costs in tokens, level by level (estimated)."""
    texts = (data.decode(errors="ignore") for data in skill.files.values())
    return DisclosureCost(
        always=skill.metadata_tokens, body=skill.body_tokens, files=sum(estimate_tokens(text) for text in texts)
    )


def catalogue(policy: Policy) -> list[tuple[str, str]]:
    """Returns (name, description) of every skill of the policy, sorted by name.

    Raises:
        UserError: a skill breaks the format.
    """
    return [(skill.name, skill.description) for skill in library(policy)]


def disclose(policy: Policy, task_text: str, *, max_tokens: int = 5000) -> list[tuple[str, str]]:
    """Returns (name, body) of the skills the task calls for, the most relevant first.

    A body that no longer fits into ``max_tokens`` (estimated, all bodies together) stays closed.

    Raises:
        UserError: a skill breaks the format.
    """
    ranked = sorted(((relevance(skill, task_text), skill) for skill in library(policy)), key=_order)
    opened, left = [], max_tokens
    for score, skill in ranked:
        if score >= THRESHOLD and skill.body_tokens <= left:
            opened.append((skill.name, skill.body))
            left -= skill.body_tokens
    return opened


def relevance(skill: Skill, task_text: str) -> int:
    """Returns how strongly a task calls for a skill; from ``THRESHOLD`` on the skill is activated.

    2 for each keyword in the text, 2 when all words of the name are in it, 1 for each other word of the description
    (common words and words of one or two letters do not count; a plural counts as its singular).
    """
    said = _words(task_text)
    keywords = {_stem(word.lower()) for word in skill.keywords}
    name = {_stem(word) for word in skill.name.split("-")}
    described = _words(skill.description) - keywords
    score = 2 * len(keywords & said) + len({word for word in described & said if len(word) > 2})
    return score + (2 if name <= said and name - keywords else 0)


def _words(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.lower()) if word not in _COMMON}


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _order(ranked: tuple[int, Skill]) -> tuple[int, str]:
    score, skill = ranked
    return -score, skill.name
