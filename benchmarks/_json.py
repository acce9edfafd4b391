"""What all benchmarks do with ``--json``: write the figures to a file, or print them in the place of the table."""

import argparse
import json
from pathlib import Path

__all__ = ["add_json", "printed"]

_PRINT = Path("-")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json [FILE]``."""
    text = "write the figures as JSON to this file too; without a file, print them in the place of the table"
    parser.add_argument("--json", type=Path, metavar="FILE", nargs="?", const=_PRINT, help=text)


def printed(option: Path | None, figures: object) -> bool:
    """Writes the figures where ``--json`` says; returns whether they were printed, so that no table should be."""
    if option is None:
        return False
    text = json.dumps(figures, indent=1)
    if option == _PRINT:
        print(text)
        return True
    option.write_text(text + "\n")
    return False
