"""Verifiers that read the answer as text: exact, regex, numeric with tolerance, JSON Schema. Nothing is executed.

verifier = load_verifier(VerifierSpec(kind="numeric", params={"expected": 3.14, "abs_tol": 0.01}))
"""

import asyncio
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from whet.core.errors import VerifierError
from whet.core.records import Check, Json, Task
from whet.feedback.answers import fenced_blocks
from whet.feedback.verifiers.box.codec import cut, short_repr
from whet.feedback.verifiers.configured import ConfiguredVerifier, Finding, Params

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

__all__ = ["Exact", "ExactParams", "JsonSchema", "JsonSchemaParams", "Numeric", "NumericParams", "Regex", "RegexParams"]


class ExactParams(Params, frozen=True, kw_only=True):
    """``expected``: one right text or several; ``None`` means the task's reference.

    ``strip`` ignores white space at both ends, ``case`` tells upper from lower case, ``spaces`` tells one run of white
    space from another. Text is compared in Unicode NFC.
    """

    expected: str | tuple[str, ...] | None = None
    strip: bool = True
    case: bool = True
    spaces: bool = True


class Exact(ConfiguredVerifier[ExactParams]):
    """The answer is one of the expected texts."""

    kind = "exact"
    params_type = ExactParams

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns pass when the normalised texts are equal; infra_error when there is nothing to compare with."""
        expected = task.reference if self.params.expected is None else self.params.expected
        if expected is None:
            return Finding(outcome="infra_error", detail="no 'expected' and no reference to compare with")
        texts = (expected,) if isinstance(expected, str) else expected
        passed = self._normal(answer) in {self._normal(text) for text in texts}
        shown = " or ".join(short_repr(text) for text in texts)
        return Finding.of(
            (Check(name="exact", passed=passed, call="the answer", expected=shown, got=short_repr(answer)),)
        )

    def _normal(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        text = text if self.params.spaces else re.sub(r"\s+", " ", text)
        text = text.strip() if self.params.strip else text
        return text if self.params.case else text.casefold()


class RegexParams(Params, frozen=True, kw_only=True):
    """``pattern`` as in Python's ``re``; ``full``: it must match the whole answer, stripped; ``seconds`` allowed."""

    pattern: str
    full: bool = False
    ignore_case: bool = False
    multiline: bool = False
    seconds: float = 5.0


# An answer can make an innocent pattern take for ever, and ``re`` cannot be interrupted: it runs in its own process.
_MATCH = "import json,re,sys;p,f,a,t=json.load(sys.stdin);print(bool((re.fullmatch if a else re.search)(p,t,f)))"


class Regex(ConfiguredVerifier[RegexParams]):
    """The answer matches a pattern."""

    kind = "regex"
    params_type = RegexParams

    def check_params(self) -> None:
        """Raises ``VerifierError`` for a pattern that is none."""
        try:
            re.compile(self.params.pattern)
        except re.error as error:
            raise VerifierError(f"regex: {self.params.pattern!r} is no pattern: {error}") from error

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns whether the pattern matches; ``timeout`` when it does not come to an end."""
        params = self.params
        flags = (re.IGNORECASE if params.ignore_case else 0) | (re.MULTILINE if params.multiline else 0)
        text = answer.strip() if params.full else answer
        job = json.dumps([params.pattern, int(flags), params.full, text]).encode()
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _MATCH, stdin=pipe, stdout=pipe
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(job), params.seconds)
        except TimeoutError:
            return Finding(outcome="timeout", detail=f"the pattern did not come to an end in {params.seconds:g} s")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        check = Check(
            name="regex",
            passed=said.strip() == b"True",
            call="the answer",
            expected=f"a match of {params.pattern}",
            got=short_repr(answer),
        )
        return Finding.of((check,))


class NumericParams(Params, frozen=True, kw_only=True):
    """``expected`` within ``rel_tol`` or ``abs_tol`` (as ``math.isclose``).

    ``take``: the ``last`` number of the answer, the ``first``, or the ``only`` one (there is nothing but a number).
    """

    expected: float
    rel_tol: float = 1e-6
    abs_tol: float = 0.0
    take: Literal["last", "first", "only"] = "last"


_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")


class Numeric(ConfiguredVerifier[NumericParams]):
    """A number of the answer is close to the expected one. Understands 1,234.5, 1e-3, 3/4 and 50%."""

    kind = "numeric"
    params_type = NumericParams

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns pass when the number is close enough; an answer without a number fails."""
        params = self.params
        value = parse_number(answer, params.take)
        passed = value is not None and math.isclose(
            value, params.expected, rel_tol=params.rel_tol, abs_tol=params.abs_tol
        )
        got = "no number" if value is None else repr(value)
        return Finding.of(
            (Check(name="numeric", passed=passed, call="the answer", expected=repr(params.expected), got=got),)
        )


def parse_number(text: str, take: str) -> float | None:
    """Returns the first, last or only number of a text as it is meant (50% is 0.5), or ``None`` where there is none."""
    found = [match[0] for match in _NUMBER.finditer(text) if match[0]]
    if not found or (take == "only" and (len(found) != 1 or found[0] != text.strip())):
        return None
    chosen = found[0] if take == "first" else found[-1]
    digits = chosen.rstrip("%").replace(",", "").replace(" ", "")
    try:
        if "/" in digits:
            top, _, bottom = digits.partition("/")
            value = float(Fraction(top) / int(bottom))
        else:
            value = float(digits)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value / 100 if chosen.endswith("%") else value


class JsonSchemaParams(Params, frozen=True, kw_only=True):
    """``schema``: a JSON Schema (its ``$schema`` says which draft; 2020-12 where it says nothing)."""

    schema: dict[str, Json]


class JsonSchema(ConfiguredVerifier[JsonSchemaParams]):
    """The answer, or its last fenced block, is JSON that fits a schema. One failing check per error, with its path."""

    kind = "json_schema"
    params_type = JsonSchemaParams

    def check_params(self) -> None:
        """Raises ``VerifierError`` for a schema that is none."""
        import jsonschema

        kind = jsonschema.validators.validator_for(self.params.schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(self.params.schema)
        except jsonschema.SchemaError as error:
            raise VerifierError(f"json_schema: not a JSON Schema: {error.message}") from error
        self._validator: Validator = kind(self.params.schema)

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns pass when there is no error."""
        blocks = fenced_blocks(answer, ("", "json"))
        text = blocks[-1].code if blocks else answer
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            check = Check(
                name="json", passed=False, call="the answer", expected="JSON", got=f"raised ValueError: {error}"
            )
            return Finding.of((check,))
        checks = tuple(self._errors(value))
        return Finding.of(checks or (Check(name="schema", passed=True, call="the answer"),))

    def _errors(self, value: Json) -> Iterator[Check]:
        for error in sorted(self._validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path))):
            rule = f"{error.validator} {short_repr(error.validator_value)}"
            yield Check(
                name=f"schema {error.json_path}",
                passed=False,
                call=error.json_path,
                expected=cut(rule),
                got=short_repr(error.instance),
                message=cut(error.message),
            )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
