"""Import and export: whole files in, whole files out, nothing lost on the way.

    report = await import_file(memory.store, "ilf", "feedback.jsonl")
    report.tasks, report.runs, report.feedback, report.quarantined
    await export_file(memory.store, "openai", "runs.jsonl")

Formats for runs: ``openai``, ``atif``, ``mini-swe``, ``ilf``; ``store`` is everything a memory holds of its scope.
"""

from whet.memory.exchange.files import FORMATS, export_file, format_named, import_file
from whet.memory.exchange.format import Arrival, Bundle, Format
from whet.memory.exchange.report import ImportReport, Rejected

__all__ = [
    "FORMATS",
    "Arrival",
    "Bundle",
    "Format",
    "ImportReport",
    "Rejected",
    "export_file",
    "format_named",
    "import_file",
]
