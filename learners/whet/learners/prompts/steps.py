"""Rules that a person writes once per environment: what the recorded steps of a run tell of its errors, in words.

    [[rule]]
    name = "loop"
    kind = "tool_result"
    tool = "open"
    repeats = 3
    say = "The same call was made {count} times in a row: {what}"

    rules = load_rules("rules.toml")
    remarks_on(run, steps, rules)           # ["The same call was made 4 times in a row: open({…}): empty"]

A rule in Python is a function of the run and its steps that returns a remark or ``None``; ``package.module:NAME`` names
one, or a list of them.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.loading import is_dotted_path, load_object
from whet.core.records import Execution, ModelCall, Record, Run, Step, ToolResult

__all__ = ["Rule", "StepRule", "load_rules", "remarks_on"]

StepRule: TypeAlias = Callable[[Run, Sequence[Step]], str | None]
"""Returns what the steps of a run show to be wrong, in words, or ``None``."""

_CLIPPED = 300
_KINDS = {"execution": (Execution,), "model_call": (ModelCall,), "tool_result": (ToolResult,)}


class Rule(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as a person writes it. It looks at the steps of a ``kind``, or at the ``answer``.

    ``tool`` and ``node`` narrow them down, ``matches`` is a regular expression that their text has to contain. With
    ``repeats`` the rule speaks when so many in a row are the same; otherwise when there are ``at_least`` (1 unless
    ``at_most`` is given) and ``at_most`` of them. ``say`` may use ``{count}``, and ``{what}`` for the last one's text.
    """

    name: str
    say: str
    kind: Literal["answer", "execution", "model_call", "tool_result"] = "tool_result"
    tool: str = ""
    node: str = ""
    matches: str = ""
    repeats: int | None = None
    at_least: int | None = None
    at_most: int | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.matches)
            self.say.format(count=0, what="")
        except (re.error, KeyError, IndexError, ValueError) as error:
            raise UserError(f"rule {self.name!r}: matches or say cannot be used ({error})") from error
        if self.tool and self.kind != "tool_result":
            raise UserError(f"rule {self.name!r}: tool={self.tool!r} is for kind 'tool_result', not {self.kind!r}")

    def __call__(self, run: Run, steps: Sequence[Step]) -> str | None:
        """Returns the remark on a run, ``None`` where the rule has nothing to say."""
        found = self._texts(run, steps)
        if self.repeats is not None:
            rows = [list(row) for _, row in groupby(found)]
            found = max(rows, key=len, default=[])
            speaks = len(found) >= self.repeats
        else:
            least = self.at_least if self.at_least is not None else int(self.at_most is None)
            speaks = least <= len(found) and (self.at_most is None or len(found) <= self.at_most)
        return self.say.format(count=len(found), what=found[-1][:_CLIPPED] if found else "") if speaks else None

    def _texts(self, run: Run, steps: Sequence[Step]) -> list[str]:
        seen = [_text(step) for step in steps if self._looks_at(step)]
        texts = [run.answer or ""] if self.kind == "answer" else seen
        return [text for text in texts if re.search(self.matches, text)]

    def _looks_at(self, step: Step) -> bool:
        if not isinstance(step.body, _KINDS.get(self.kind, ())) or (self.node and step.node != self.node):
            return False
        return not self.tool or (isinstance(step.body, ToolResult) and step.body.call.name == self.tool)


class _File(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


def load_rules(source: str) -> tuple[StepRule, ...]:
    """Returns the rules of a TOML file, or those that a dotted path names.

    Raises:
        UserError: there is no such file or object, or it holds no rules; the message says which.
    """
    if is_dotted_path(source):
        found = load_object(source, what=f"rules {source!r}")
        rules = tuple(found) if isinstance(found, list | tuple) else (found,)
        if not rules or not all(callable(rule) for rule in rules):
            raise UserError(f"rules {source!r}: a function of a run and its steps is needed, or a list of them")
        return rules
    try:
        return msgspec.convert(tomllib.loads(Path(source).read_text()), _File).rule
    except OSError as error:
        raise UserError(f"rules {source!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UserError(f"rules {source!r}: {error}") from error


def remarks_on(run: Run, steps: Sequence[Step], rules: Sequence[StepRule]) -> list[str]:
    """Returns what the rules have to say on a run."""
    said = [rule(run, steps) for rule in rules]
    return [remark for remark in said if remark]


def _text(step: Step) -> str:
    """Returns a step as rules read it."""
    match step.body:
        case ModelCall(completion=completion, error=error):
            return error or (completion.text if completion else "")
        case ToolResult(call=call, content=content, error=error):
            return f"{call.name}({call.arguments}): {error or content}"
        case Execution(command=command, result=result):
            return f"{command}: {result.status} {result.stdout}{result.stderr}"
    return ""
