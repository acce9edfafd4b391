"""Every registered learner has a page, and a row in the table of docs/learning.md that says what the registry says."""

import re
from pathlib import Path

import pytest

from whet.learners.learner import LEARNERS, Listing

DOCS = Path(__file__).parents[2] / "docs"


def row(name: str, listing: Listing) -> str:
    """Returns a learner's row of the table."""
    may = "if given" in listing.needs or "or a model" in listing.needs
    model = "may" if may else "yes" if "model" in listing.needs else "no"
    paper = re.sub(r"(?:arXiv )?(\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", listing.paper)
    return f"| [`{name}`](methods/{name}.md) | {listing.title} | {model} | {paper} |"


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_has_its_page_and_its_row(name: str) -> None:
    page = (DOCS / "methods" / f"{name}.md").read_text()
    assert page.startswith(f"# `{name}`: ")
    assert row(name, LEARNERS[name]) in (DOCS / "learning.md").read_text().splitlines()
