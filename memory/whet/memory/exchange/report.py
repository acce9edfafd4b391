"""What became of the rows of an imported file."""

from collections.abc import Sequence
from operator import attrgetter

from whet.core import Record, digest

__all__ = ["ImportReport", "Rejected", "combined"]


class Rejected(Record, frozen=True, kw_only=True):
    """A row that could not be read, and why. The row itself is kept in the table ``quarantine``."""

    row: int
    reason: str


class ImportReport(Record, frozen=True, kw_only=True):
    """What an import did. ``rows`` = read rows + quarantined ones; the other counts are records that are new.

    ``known``: rows whose run was there already. ``digest`` names the accepted documents, whatever their order of keys:
    a file that was exported and imported again has the digest it had.
    """

    format: str
    source: str
    rows: int
    tasks: int
    runs: int
    feedback: int
    verdicts: int = 0
    lessons: int = 0
    steps: int = 0
    known: int = 0
    digest: str = ""
    quarantined: tuple[Rejected, ...] = ()


def combined(reports: Sequence[ImportReport], source: str) -> ImportReport:
    """Returns one report on several files; of one file, its own."""
    if len(reports) == 1:
        return reports[0]

    def total(name: str) -> int:
        return sum(attrgetter(name)(report) for report in reports)

    return ImportReport(
        format=reports[0].format,
        source=source,
        rows=total("rows"),
        tasks=total("tasks"),
        runs=total("runs"),
        feedback=total("feedback"),
        verdicts=total("verdicts"),
        lessons=total("lessons"),
        steps=total("steps"),
        known=total("known"),
        digest=digest("\n".join(sorted(report.digest for report in reports))),
        quarantined=tuple(
            Rejected(row=bad.row, reason=f"{report.source}: {bad.reason}")
            for report in reports
            for bad in report.quarantined
        ),
    )
