"""Task sets by spec: ``KIND:TARGET?option=value&…``, or a dotted path to a function that returns one.

load_tasks("humaneval:HumanEval.jsonl.gz")
load_tasks("world:7?n=200&lengths=1-3&verbs=12")
load_tasks("my_package.tasks:make")
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeAlias
from urllib.parse import parse_qsl

from whet.core.errors import UserError
from whet.core.records import TaskSet

__all__ = ["KINDS", "Loader", "load_tasks"]

Loader: TypeAlias = Callable[[str, Mapping[str, str]], TaskSet]

KINDS = {
    "asking": "whet.agents.tasksets.asking:load",
    "humaneval": "whet.agents.tasksets.humaneval:load",
    "ilf": "whet.agents.tasksets.ilf:load",
    "jsonl": "whet.agents.tasksets.jsonl:load",
    "world": "whet.agents.tasksets.world:load",
}


def load_tasks(spec: str) -> TaskSet:
    """Returns the task set that a spec names.

    Args:
        spec: ``humaneval:FILE``, ``ilf:FILE``, ``jsonl:FILE``, ``world:SEED`` or ``asking:SEED``, each with options
            after ``?``; or ``package.module:function``, called without arguments.

    Raises:
        UserError: no such kind or option, no such file, or a malformed row (the message names its line).
    """
    kind, colon, rest = spec.partition(":")
    if colon and kind not in KINDS and "." in kind:
        return _from_function(kind, rest)
    if not colon or not rest or kind not in KINDS:
        raise UserError(
            f"no task set {spec!r}; write {', '.join(f'{name}:…' for name in sorted(KINDS))} or package.module:function"
        )
    target, _, query = rest.partition("?")
    options = _options(query, spec) if query else {}
    module, _, name = KINDS[kind].partition(":")
    loader: Loader = getattr(import_module(module), name)
    return loader(target, options)


def _options(query: str, spec: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise UserError(f"{spec!r}: options are written as name=value&name=value") from None
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"{spec!r}: an option is given twice")
    return dict(pairs)


def _from_function(module: str, name: str) -> TaskSet:
    try:
        made = getattr(import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UserError(f"the task set {module}:{name} cannot be imported: {error}") from error
    if not isinstance(made, TaskSet):
        raise UserError(f"{module}:{name} returned a {type(made).__name__}, not a TaskSet")
    return made
