"""Record what a model answers, and answer from the record without the model.

    model = Recording(load_model("openai/gpt-4o-mini"), Tape("calls.jsonl"))       # asks, and keeps
    model = RecordedModel(Tape("calls.jsonl"), name="openai/gpt-4o-mini")          # never asks
    model = RecordedModel.of_run(run, steps)                                       # replays a run of the memory

A request is found by its content: the digest of the model's name, messages, tools and sampling. A request that was
made several times is answered in the order of the record, once each. What was never recorded is refused.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from whet.core.errors import ModelError, ModelFailure, UserError
from whet.core.ids import digest
from whet.core.models.pricing import Estimate, bound_tokens
from whet.core.records import Completion, Message, ModelCall, Record, Run, Sampling, Step, ToolSpec, Usage
from whet.core.wire import decode, encode

__all__ = ["Exchange", "RecordedModel", "Tape", "request_key"]


def request_key(name: str, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> str:
    """Returns the digest that names a request: equal requests to the same model have equal keys."""
    return digest(encode([name, tuple(messages), tuple(tools), sampling]))


def _found_by(name: str, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> str:
    """Returns the key of a request on a record; logprobs are asked for in addition and change no answer."""
    return request_key(name, messages, tools, msgspec.structs.replace(sampling, logprobs=False))


class Exchange(Record, frozen=True, kw_only=True):
    """One request and what became of it: a completion, or an error with its kind of failure."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    completion: Completion | None = None
    error: str | None = None
    failure: ModelFailure = "other"

    @property
    def key(self) -> str:
        """The digest of the request."""
        return _found_by(self.model, self.messages, self.tools, self.sampling)

    def replay(self) -> Completion:
        """Returns the completion, with a usage of zero: a replay costs nothing.

        Raises:
            ModelError: the recorded call failed.
        """
        if self.completion is None:
            raise ModelError(self.error or "the recorded call has no answer", failure=self.failure)
        return msgspec.structs.replace(self.completion, usage=Usage(), kept=True)


class Tape:
    """Exchanges in order; with a path, a file of a JSON line each, written as they come.

    A line that a crash cut off at the end of the file is dropped.

    Raises:
        UserError: the file holds something else.
    """

    def __init__(self, path: str | Path | None = None, exchanges: Iterable[Exchange] = ()) -> None:
        self.path = None if path is None else Path(path)
        self.exchanges: list[Exchange] = []
        if self.path is not None and self.path.exists():
            self.exchanges = _read(self.path)
        for exchange in exchanges:
            self.add(exchange)

    def add(self, exchange: Exchange) -> None:
        """Appends an exchange, to the file as well."""
        self.exchanges.append(exchange)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(encode(exchange) + b"\n")


def _read(path: Path) -> list[Exchange]:
    data = path.read_bytes()
    whole, newline, torn = data.rpartition(b"\n")
    if torn:
        path.write_bytes(whole + newline)
    exchanges = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            exchanges.append(decode(line, Exchange))
        except UserError as error:
            raise UserError(f"line {number} of {str(path)!r} is no recorded call: {error}; remove it") from error
    return exchanges


class RecordedModel:
    """Answers from a tape, in the order of the record. Nothing is ever sent anywhere."""

    def __init__(self, tape: Tape, *, name: str | None = None) -> None:
        names = sorted({exchange.model for exchange in tape.exchanges})
        if name is None and len(names) != 1:
            raise UserError(
                f"the record holds calls of {len(names)} models ({', '.join(names)}); give name= one of them"
            )
        self._name = names[0] if name is None else name
        self._answers: dict[str, list[Exchange]] = defaultdict(list)
        for exchange in tape.exchanges:
            self._answers[exchange.key].append(exchange)
        self._used: dict[str, int] = defaultdict(int)

    @classmethod
    def of_run(cls, run: Run, steps: Iterable[Step]) -> Self:
        """Returns a model that answers as the run's model did; ``steps`` are the run's steps.

        Raises:
            UserError: the steps hold no model call.
        """
        calls = [step.body for step in sorted(steps, key=lambda step: step.seq) if isinstance(step.body, ModelCall)]
        if not calls:
            raise UserError(f"run {run.id!r} holds no model call to replay; choose a run that asked a model")
        exchanges = [
            Exchange(
                model=run.model,
                messages=call.messages,
                tools=call.tools,
                sampling=call.sampling,
                completion=call.completion,
                error=call.error,
            )
            for call in calls
        ]
        return cls(Tape(exchanges=exchanges), name=run.model)

    @property
    def name(self) -> str:
        """The name of the model that was recorded."""
        return self._name

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns a bound by bytes, free of charge."""
        output_tokens = sampling.max_tokens or 0
        return Estimate(input_tokens=bound_tokens(messages, tools), output_tokens=output_tokens, micro_dollars=0)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the recorded answer to this request that was not given yet.

        Raises:
            ModelError: no such request was recorded, or fewer times than it is made; or the recorded call failed.
        """
        key = _found_by(self.name, messages, tools, sampling)
        position, recorded = self._used[key], self._answers.get(key, [])
        if position >= len(recorded):
            raise ModelError(self._miss(key, messages, len(recorded)), failure="invalid")
        self._used[key] += 1
        return recorded[position].replay()

    def _miss(self, key: str, messages: Sequence[Message], times: int) -> str:
        last = messages[-1].content if messages else ""
        known = sum(len(exchanges) for exchanges in self._answers.values())
        recorded = f"was recorded {times} times and is made once more" if times else "was never recorded"
        return (
            f"request {key[:12]} of {self.name!r} {recorded} ({known} calls are on the record), its last message is "
            f"{last[:200]!r}; something before it changed, or record it with Recording(model, tape)"
        )


def load_recorded(path: str, *, name: str | None = None) -> RecordedModel:
    """Returns a model that answers from the file of exchanges at ``path``.

    Raises:
        UserError: there is no such file, or it is no record of calls.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no record of calls at {path!r}; make one with Recording(model, Tape(path))")
    return RecordedModel(Tape(path), name=name)
