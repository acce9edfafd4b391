"""What a skill could do, seen without running it: a report for the person who decides whether to trust it.

    report = inspect_skill(skill)
    for finding in report.findings:
        print(finding.kind, f"{finding.path}:{finding.line}", finding.text)

It looks for words and forms, so it proves nothing: what is not reported may still be there, and what is may be
harmless. The sandbox is what holds; this says where to read first.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from whet.core.records import Record
from whet.skills.skill import MAIN, Skill

__all__ = ["Finding", "FindingKind", "SafetyReport", "inspect_skill"]

FindingKind: TypeAlias = Literal["network", "commands", "secrets", "instructions", "hidden", "binary", "tools"]

LARGE = 1 << 20
_TEXT = 120
_PROGRAMS = (".py", ".sh", ".bash", ".js", ".ts", ".rb", ".pl", ".ps1")
_WORDS: dict[FindingKind, re.Pattern[str]] = {
    "network": re.compile(
        r"\b(https?|ftp|wss?)://|\b(curl|wget|netcat|nc|ssh|scp|socket|requests|urllib|httpx|aiohttp|fetch)\b(?=[\s.(:])"
    ),
    "commands": re.compile(
        r"\b(subprocess|os\.(system|popen|exec\w*)|eval|exec|compile|__import__|pickle|ctypes|sudo|chmod|rm\s+-\w*[rf])\b"
    ),
    "secrets": re.compile(
        r"os\.environ|\bgetenv\b|\$\{?\w*(KEY|TOKEN|SECRET|PASSWORD)|\b\w*(API_KEY|ACCESS_TOKEN|PASSWORD)\b"
        r"|\.(ssh|aws|netrc|npmrc|env)\b"
    ),
    "instructions": re.compile(
        r"(?i)\b(ignore|disregard|forget)\b.{0,30}\b(instructions?|rules?|prompts?)\b|\bsystem prompt\b"
        r"|\b(do not|don't|never)\b.{0,20}\b(tell|inform|mention|show)\b.{0,20}\b(user|person|human)\b"
    ),
    "hidden": re.compile(
        "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]|[A-Za-z0-9+/]{200,}|<!--"
    ),
}


class Finding(Record, frozen=True, kw_only=True):
    """One place to read: ``line`` counts from 1 and is 0 where the finding is about the file as a whole."""

    kind: FindingKind
    path: str
    line: int = 0
    text: str = ""


class SafetyReport(Record, frozen=True, kw_only=True):
    """What a skill holds (files, bytes, programs by path) and what in it deserves a look."""

    files: int
    bytes: int
    programs: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        programs = ", ".join(self.programs) or "none"
        head = f"{self.files} files, {self.bytes} bytes; programs: {programs}; {len(self.findings)} places to look at"
        places = (f"{each.path}:{each.line}" if each.line else each.path for each in self.findings)
        return [
            head,
            *(f"{each.kind:<12} {place}  {each.text}" for each, place in zip(self.findings, places, strict=True)),
        ]


def inspect_skill(skill: Skill) -> SafetyReport:
    """Returns what can be said of a skill without running it: the first place of each kind in each file.

    Raises:
        UserError: the values break the format.
    """
    files = skill.render()
    findings = [Finding(kind="tools", path=MAIN, text=f"asks for {tool}") for tool in skill.allowed_tools]
    for path, data in files.items():
        findings += _findings(path, data)
    programs = (path for path, data in files.items() if data.startswith(b"#!") or _suffix(path) in _PROGRAMS)
    return SafetyReport(
        files=len(files),
        bytes=sum(map(len, files.values())),
        programs=tuple(programs),
        findings=tuple(findings),
    )


def _findings(path: str, data: bytes) -> Iterator[Finding]:
    if len(data) > LARGE:
        yield Finding(kind="hidden", path=path, text=f"{len(data) >> 20} MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        yield Finding(kind="binary", path=path, text="no text; what it holds was not looked at")
        return
    lines = text.splitlines()
    for kind, pattern in _WORDS.items():
        found = [(number, line) for number, line in enumerate(lines, 1) if pattern.search(line)]
        if found:
            number, line = found[0]
            more = f" (and {len(found) - 1} more lines)" if len(found) > 1 else ""
            yield Finding(kind=kind, path=path, line=number, text=f"{line.strip()[:_TEXT]!r}{more}")


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
