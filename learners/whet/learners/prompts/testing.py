"""A colleague who writes: a scripted stand-in for the large model that a prompt learner asks, for tests and benchmarks.

    learner = TextGrad(model=Colleague())

It knows the operations of the embedded model's world, but not which verb means which. It reads the texts (under a
heading ``# Text``) and the examples (``examples`` of ``learner.py``) in what it is asked, keeps an operation that
explains the failing checks, and answers with definitions. From feedback that belongs to other tasks it concludes
nonsense, like anybody would.
"""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from whet.core.models.tiny.world import OPERATIONS, Value, read_definitions
from whet.core.records import Completion, Message, Sampling, ToolSpec, Usage

__all__ = ["Colleague", "Form", "conclude", "conclude_from", "definitions", "in_a_fence"]

_TEXT = re.compile(r"^# Text[^\n]*\n(.*?)(?=^# |\Z)", re.DOTALL | re.MULTILINE)
_EXAMPLE = re.compile(r"^Task:\n(.*?)\nAnswer:\n(.*?)\nFeedback: (.*?)(?=\n\n#|\Z)", re.DOTALL | re.MULTILINE)
_CHAIN = re.compile(r"Write solve\(x\): (.+?)\.")
_CHECK = re.compile(r"solve\((.+?)\) (?:returned|raised) .+?, expected (.+?)\.(?= |$)")

Form: TypeAlias = Callable[[Mapping[str, str], str], str]
"""Makes an answer of what is known (verb to operation) and what was asked."""


def definitions(known: Mapping[str, str]) -> str:
    """Returns a line of Python for each verb."""
    return "\n".join(f"def {verb}(x): return {meaning}" for verb, meaning in sorted(known.items()))


def in_a_fence(known: Mapping[str, str], asked: str) -> str:
    """Answers with all definitions in a fence, as most learners ask for."""
    return f"The verbs were not defined.\n```\n{definitions(known)}\n```"


class Colleague:
    """A model that finds out what verbs mean from failing checks, and says it in the ``form`` that a learner wants."""

    def __init__(self, form: Form = in_a_fence) -> None:
        self._form = form
        self.asked: list[str] = []

    @property
    def name(self) -> str:
        """``colleague``."""
        return "colleague"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns an answer in the learner's form."""
        text = "\n\n".join(message.content for message in messages)
        self.asked.append(text)
        answer = self._form(conclude(text), text)
        usage = Usage(input_tokens=len(text) // 4, output_tokens=len(answer) // 4, calls=1)
        return Completion(text=answer, usage=usage, model=self.name)


def conclude(text: str) -> dict[str, str]:
    """Returns what the verbs in a text mean: as defined in it, or the first operation that explains its checks."""
    known = {verb: meaning for part in _TEXT.findall(text) for verb, meaning in read_definitions(part).items()}
    return conclude_from(known, _EXAMPLE.findall(text))


def conclude_from(known: Mapping[str, str], examples: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Returns what verbs mean by what is known of them and by examples: task, answer and feedback, each a text."""
    known = dict(known)
    read = [(_chain(task), answer, feedback) for task, answer, feedback in examples]
    for chain, answer, feedback in sorted(read, key=lambda example: len(example[0])):
        unknown = [verb for verb in dict.fromkeys(chain) if verb not in known]
        if feedback.startswith("passed"):
            said = read_definitions(answer)
            known |= {verb: said[verb] for verb in unknown if verb in said}
        elif len(unknown) == 1 and (checks := _checks(feedback)):
            fitting = (each for each in OPERATIONS if _explains({**known, unknown[0]: each}, chain, checks))
            if found := next(fitting, ""):
                known[unknown[0]] = found
    return known


def _chain(task: str) -> list[str]:
    match = _CHAIN.search(task)
    return match[1].split(", then ") if match else []


def _checks(feedback: str) -> list[tuple[Value, Value]]:
    return [(ast.literal_eval(given), ast.literal_eval(expected)) for given, expected in _CHECK.findall(feedback)]


def _explains(known: Mapping[str, str], chain: Sequence[str], checks: Sequence[tuple[Value, Value]]) -> bool:
    return all(_applied(known, chain, given) == expected for given, expected in checks)


def _applied(known: Mapping[str, str], chain: Sequence[str], value: Value) -> Value | None:
    """Returns what a chain makes of a value, ``None`` where an operation does not take it."""
    try:
        for verb in chain:
            value = OPERATIONS[known[verb]](value)
    except (TypeError, KeyError):
        return None
    return value
