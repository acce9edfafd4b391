"""What the Agent Skills format demands (``violations``) and what it recommends (``advice``).

Demands and numbers are those of the specification at agentskills.io; the two that only its reference validator makes
(no unknown keys, no angle brackets in the description) are demanded as well: an ignored key is an option that does
nothing, and angle brackets would open a tag in a prompt.
"""

import re
from collections.abc import Iterable, Mapping

__all__ = ["KEYS", "MAX_BODY_LINES", "MAX_BODY_TOKENS", "advice", "path_violations", "tool_names", "violations"]

KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
MAX_NAME, MAX_DESCRIPTION, MAX_COMPATIBILITY = 64, 1024, 500
MAX_BODY_LINES, MAX_BODY_TOKENS = 500, 5000

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PATH = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_MENTIONED = re.compile(r"(?<![\w./-])(?:scripts|references|assets)/[\w./-]*\w")
_TOOL = re.compile(r"(?:[^\s,(]|\([^)]*\)?)+")


def violations(head: Mapping[str, object], folder: str | None) -> list[str]:
    """Returns what is wrong with a front matter; ``folder`` is the skill's folder name, where it is known."""
    found = [f"unknown key {key!r} (allowed are {', '.join(KEYS)})" for key in head if key not in KEYS]
    found += _name_violations(head.get("name"), folder)
    found += _text_violations("description", head.get("description", ""), 1, MAX_DESCRIPTION)
    if isinstance(text := head.get("description"), str) and re.search("[<>]", text):
        found.append("description contains '<' or '>'")
    if not isinstance(head.get("license", ""), str):
        found.append("license is no text")
    if "compatibility" in head:
        found += _text_violations("compatibility", head["compatibility"], 1, MAX_COMPATIBILITY)
    if "license" in head:
        found += _text_violations("license", head["license"], 1, MAX_DESCRIPTION)
    metadata = head.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for kv in metadata.items() for v in kv):
        found.append("metadata is no map of text to text")
    tools = head.get("allowed-tools", "")
    if not isinstance(tools, str) and not (isinstance(tools, list) and all(isinstance(tool, str) for tool in tools)):
        found.append("allowed-tools is neither text nor a list of text")
    return found


def path_violations(paths: Iterable[str]) -> list[str]:
    """Returns which paths could not be files of a skill's folder."""
    return [
        f"file name {path!r} (letters, digits, '.', '_', '-' and '/' below the folder are allowed)"
        for path in sorted(paths)
        if not _PATH.fullmatch(path) or set(path.split("/")) & {".", ".."}
    ]


def tool_names(tools: str | list[str]) -> tuple[str, ...]:
    """Returns the tools of ``allowed-tools``: a list, or a text in which spaces or commas stand between them.

    What stands in brackets belongs to its tool: ``Bash(git add:*), Read`` are two.
    """
    return tuple(_TOOL.findall(tools) if isinstance(tools, str) else tools)


def advice(body: str, tokens: int, files: Mapping[str, bytes]) -> list[str]:
    """Returns in what a skill goes beyond the format's recommendations; a learner's proposal must heed them.

    ``files`` are those beside ``SKILL.md``. One level deep means both: a file lies at most one folder down, and the
    body names it itself, rather than a file that the body names.
    """
    found = []
    if (lines := body.count("\n") + 1) > MAX_BODY_LINES:
        found.append(
            f"the body has {lines} lines; {MAX_BODY_LINES} are recommended at most: move detail to references/"
        )
    if tokens > MAX_BODY_TOKENS:
        found.append(f"the body has about {tokens} tokens; {MAX_BODY_TOKENS} are recommended at most")
    found += [f"{path!r} is nested; one level is recommended" for path in sorted(files) if path.count("/") > 1]
    named = set(_MENTIONED.findall(body))
    found += [f"the body names {path!r}, which is not there" for path in sorted(named) if not _is_there(path, files)]
    for path, data in sorted(files.items()):
        if path.endswith(".md"):
            beyond = set(_MENTIONED.findall(data.decode(errors="replace"))) - named - {path}
            found += [f"{path!r} names {each!r}, which the body does not" for each in sorted(beyond) if each in files]
    return found


def _is_there(path: str, files: Mapping[str, bytes]) -> bool:
    return any(each == path or each.startswith(f"{path}/") for each in files)


def _name_violations(name: object, folder: str | None) -> list[str]:
    found = _text_violations("name", name if name is not None else "", 1, MAX_NAME)
    if isinstance(name, str) and name and not _NAME.fullmatch(name):
        found.append(f"name {name!r} (lower-case letters and digits, single '-' between them)")
    if folder is not None and isinstance(name, str) and name != folder:
        found.append(f"name {name!r} is not the folder's name {folder!r}")
    return found


def _text_violations(key: str, value: object, shortest: int, longest: int) -> list[str]:
    if not isinstance(value, str):
        return [f"{key} is no text"]
    length = len(value.strip())
    if shortest <= length <= longest:
        return []
    return [f"{key} has {length} characters ({shortest} to {longest} are allowed)"]
