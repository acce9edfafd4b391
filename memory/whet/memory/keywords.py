"""Keyword search over lessons: BM25 of SQLite's FTS5, or PostgreSQL's full text, by the same call.

    hits = Keywords().rows(connection, scope, "sort a list in place", limit=50, statuses=("active",))
    [(row, score), …]                 # row of the table lessons, higher scores are better

Common words find nothing worth finding and cost the most, so the rarest words of a query are asked for, any of them;
PostgreSQL, where counting is dear, is asked for the longest.
"""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Connection, TextClause, bindparam, text

from whet.memory.embedders import is_common, words

__all__ = ["Keywords"]

TERMS = 16
"""Words of a query that are looked for."""
POSTINGS = 2000
"""Entries of the index that a query may touch; its rarest words are taken until they have that many."""

_SQLITE = """
    SELECT f.row, f.score FROM (
        SELECT rowid AS row, -bm25(lessons_fts, 1.0, 1.5, 1.0) AS score
        FROM lessons_fts WHERE lessons_fts MATCH :query ORDER BY score DESC LIMIT :wide
    ) AS f JOIN lessons AS l ON l.row = f.row
    WHERE l.scope = :scope AND l.valid_to IS NULL AND l.status IN :statuses{kinds}
    ORDER BY f.score DESC LIMIT :limit
"""
_POSTGRESQL = """
    SELECT l.row AS row, ts_rank_cd(to_tsvector('english', l.text || ' ' || l.applies_when || ' ' || l.task_text), q, 1)
        AS score
    FROM lessons AS l, to_tsquery('english', :query) AS q
    WHERE to_tsvector('english', l.text || ' ' || l.applies_when || ' ' || l.task_text) @@ q
        AND l.scope = :scope AND l.valid_to IS NULL AND l.status IN :statuses{kinds}
    ORDER BY score DESC LIMIT :limit
"""
_COUNT = f"(SELECT count(*) FROM (SELECT 1 FROM lessons_fts WHERE lessons_fts MATCH :t{{}} LIMIT {POSTINGS + 1}))"
_REMEMBERED = 20_000
_MOST_COUNTED = 64
_WIDER = 8


@cache
def _statement(sqlite: bool, kinds: bool) -> TextClause:
    """Returns the search; made once, for making it costs as much as a small search."""
    template = text((_SQLITE if sqlite else _POSTGRESQL).format(kinds=" AND l.kind IN :kinds" if kinds else ""))
    names = ("statuses", "kinds") if kinds else ("statuses",)
    return template.bindparams(*(bindparam(name, expanding=True) for name in names))


class Keywords:
    """Keyword search; remembers how common words are, which may lag a little behind the store."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def rows(
        self,
        connection: Connection,
        scope: str,
        query: str,
        *,
        limit: int,
        statuses: Sequence[str],
        kinds: Sequence[str] | None = None,
    ) -> list[tuple[int, float]]:
        """Returns (row, score) of the lessons in force that have a word of the query, best first."""
        sqlite = connection.dialect.name == "sqlite"
        terms = self._terms(connection, query) if sqlite else sorted(_candidates(query), key=len)[-TERMS:]
        if not terms:
            return []
        asked = " OR ".join(f'"{term}"' for term in terms) if sqlite else " | ".join(f"'{term}'" for term in terms)
        values: dict[str, object] = {"query": asked, "scope": scope, "limit": limit, "statuses": list(statuses)}
        if kinds is not None:
            values["kinds"] = list(kinds)
        # Looking up a lesson costs more than scoring it, so first the best are looked up whoever they belong to. Where
        # too few of them are wanted ones, all are.
        for wide in (_WIDER * limit, -1) if sqlite else (-1,):
            found = connection.execute(_statement(sqlite, kinds is not None), {**values, "wide": wide}).all()
            if len(found) >= limit:
                break
        return [(row, float(score)) for row, score in found]

    def _terms(self, connection: Connection, query: str) -> list[str]:
        """Returns the rarest words of the query, at least one."""
        candidates = _candidates(query)[:_MOST_COUNTED]
        counts = self._count(connection, candidates)
        chosen: list[str] = []
        postings = 0
        for term in sorted(candidates, key=lambda term: counts[term]):
            postings += counts[term]
            if chosen and (postings > POSTINGS or len(chosen) == TERMS):
                break
            chosen.append(term)
        return chosen

    def _count(self, connection: Connection, terms: Sequence[str]) -> dict[str, int]:
        """Returns in how many versions of lessons each word occurs, counted up to the number that matters.

        What is remembered is shared by threads, each of which may forget what another has just counted.
        """
        known = self._counts
        new = [term for term in terms if term not in known]
        if new:
            columns = ", ".join(_COUNT.format(i) for i in range(len(new)))
            line = connection.execute(text(f"SELECT {columns}"), {f"t{i}": f'"{term}"' for i, term in enumerate(new)})
            if len(known) > _REMEMBERED:
                known = {term: n for term, n in known.items() if n > POSTINGS or term in terms}
            known = known | dict(zip(new, line.one(), strict=True))
            self._counts = known
        return known


def _candidates(query: str) -> list[str]:
    """Returns the distinct words worth asking for, in order; all of them where none is."""
    found = list(dict.fromkeys(words(query)))
    return [word for word in found if not is_common(word)] or found
