"""What may be put around any model: budget, concurrency limit, cache, retries, recording. Each is a ``Model`` itself.

    model = Retrying(Budgeted(Limited(load_model("openai/gpt-4o-mini"), 8), budget))

The order matters: with ``Retrying`` outside each attempt is checked against the budget and charged; with ``Cached``
outside of both a hit needs no budget. A wrapper takes adapters as what it wraps does; ``adaptable`` says whether.
"""

import asyncio
import copy
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgspec

from whet.core.budget import Budget, Cost
from whet.core.errors import BudgetError, ModelError, ModelFailure, UserError
from whet.core.models.backoff import Backoff
from whet.core.models.model import Adaptable, Model, Scoring
from whet.core.models.pricing import Estimate, Price, estimate_call
from whet.core.models.recorded import Exchange, Tape, request_key
from whet.core.records import Completion, Message, Sampling, ToolSpec, Usage

__all__ = [
    "Budgeted",
    "Cached",
    "Limited",
    "Recording",
    "Retrying",
    "Wrapper",
    "adaptable",
    "need_adaptable",
    "need_scoring",
    "unwrapped",
]


class Wrapper:
    """A model that asks another one. ``complete`` passes the request on; subclasses add to it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def name(self) -> str:
        """The name of the wrapped model."""
        return self.model.name

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns what the wrapped model may cost at most."""
        return estimate_call(self.model, messages, tools, sampling)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the wrapped model's answer."""
        return await self.model.complete(messages, tools=tools, sampling=sampling)

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Returns the wrapped model's logprobs of an answer; raises as ``need_scoring``."""
        return await need_scoring(self.model).logprobs(messages, answer)

    @property
    def base(self) -> str:
        """The folder of the wrapped model's base weights; raises as ``need_adaptable``."""
        return need_adaptable(self.model).base

    async def adapted(self, adapter: Path) -> Self:
        """Returns the wrapped model under an adapter, with the same budget, limit, cache or tape around it.

        Raises:
            UserError: the adapter does not fit, or the wrapped model takes none.
        """
        other = copy.copy(self)
        other.model = await need_adaptable(self.model).adapted(adapter)
        return other


def adaptable(model: Model) -> Adaptable | None:
    """Returns the model as one that takes adapters, ``None`` where it, or what it wraps, takes none."""
    return model if isinstance(unwrapped(model), Adaptable) and isinstance(model, Adaptable) else None


def unwrapped(model: Model) -> Model:
    """Returns the model inside of all wrappers."""
    while isinstance(model, Wrapper):
        model = model.model
    return model


def need_adaptable(model: Model) -> Adaptable:
    """Returns the model as one that takes adapters.

    Raises:
        UserError: it takes none.
    """
    found = adaptable(model)
    if found is None:
        raise UserError(
            f"model {model.name!r} takes no adapters; load its weights as hf:FOLDER, or from a vLLM server as "
            "vllm:FOLDER (base_url= names one that runs)"
        )
    return found


def need_scoring(model: Model) -> Scoring:
    """Returns the model as one that tells how likely it finds an answer.

    Raises:
        UserError: it does not.
    """
    if not isinstance(unwrapped(model), Scoring) or not isinstance(model, Scoring):
        raise UserError(
            f"model {model.name!r} does not tell how likely a given text is; load its weights as hf:FOLDER, or use tiny"
        )
    return model


class Budgeted(Wrapper):
    """Reserves what a call may cost at most before it is made, and settles what it did cost.

    Where the budget counts tokens or money, a request that leaves ``max_tokens`` open is sent with ``max_tokens``:
    without a bound on the answer nothing could be checked in advance. The deadline of a budget of seconds is checked
    before the call and ends a call that runs into it. A failed call costs a call; where the provider may have charged
    for it (a timeout, an answer that is cut off), it costs all that was reserved.
    ``price`` overrides what the model knows of its own price.
    """

    def __init__(self, model: Model, budget: Budget, *, price: Price | None = None, max_tokens: int = 4096) -> None:
        super().__init__(model)
        self.budget = budget
        self._price = price
        self._max_tokens = max_tokens

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the wrapped model's answer.

        Raises:
            BudgetError: the budget does not allow the call (before it is made), or its deadline passed meanwhile.
            ModelError: the call failed.
        """
        left = self.budget.remaining
        if sampling.max_tokens is None and (left.tokens is not None or left.micro_dollars is not None):
            sampling = msgspec.structs.replace(sampling, max_tokens=self._max_tokens)
        worst = self._worst(messages, tools, sampling)
        with self.budget.reserve(worst) as reservation:
            try:
                async with asyncio.timeout(left.seconds) as deadline:
                    answered = await self.model.complete(messages, tools=tools, sampling=sampling)
                completion = answered.counted()
            except ModelError as error:
                reservation.settle(worst if error.billed else Cost(calls=1))
                raise
            except (TimeoutError, asyncio.CancelledError) as error:
                reservation.settle(worst)
                if not deadline.expired():
                    raise
                raise BudgetError(f"the deadline passed while {self.name!r} was answering", unit="seconds") from error
            reservation.settle(Cost.of(completion.usage))
        return completion

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Returns the wrapped model's logprobs of an answer; the call costs what it reads.

        Raises:
            BudgetError: the budget does not allow the call (before it is made).
        """
        read = [*messages, Message(role="assistant", content=answer)]
        cost = self._worst(read, (), Sampling(max_tokens=0))
        with self.budget.reserve(cost) as reservation:
            found = await super().logprobs(messages, answer)
            reservation.settle(cost)
        return found

    def _worst(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> Cost:
        estimate = estimate_call(self.model, messages, tools, sampling, self._price)
        if estimate.micro_dollars is None and self.budget.remaining.micro_dollars is not None:
            raise BudgetError(
                f"the price of {self.name!r} is not known, so a budget of money cannot be kept; "
                "give price=Price(input=…, output=…) in micro-dollars per million tokens (Price() if it is free)"
            )
        tokens = estimate.input_tokens + estimate.output_tokens
        return Cost(calls=1, tokens=tokens, micro_dollars=estimate.micro_dollars or 0)


class Limited(Wrapper):
    """Lets at most ``concurrency`` calls run at once; the others wait in order. Each event loop has its own limit."""

    def __init__(self, model: Model, concurrency: int) -> None:
        super().__init__(model)
        if concurrency < 1:
            raise UserError(f"a concurrency of {concurrency!r} lets no call through; give 1 or more")
        self.concurrency = concurrency
        # A semaphore belongs to the loop that first waits on it, and a notebook starts a loop per call.
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the wrapped model's answer once it is this call's turn."""
        async with self._gate():
            return await self.model.complete(messages, tools=tools, sampling=sampling)

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Returns the wrapped model's logprobs once it is this call's turn."""
        async with self._gate():
            return await super().logprobs(messages, answer)

    def _gate(self) -> asyncio.Semaphore:
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.concurrency))


class Retrying(Wrapper):
    """Tries again after a failure that may pass: rate limit, unavailable, timeout, malformed answer.

    Put it outside of ``Budgeted``, so that each attempt is checked and charged.
    """

    def __init__(self, model: Model, *, attempts: int = 4, first_delay: float = 0.5, max_delay: float = 60.0) -> None:
        super().__init__(model)
        self.backoff = Backoff(attempts=attempts, first_delay=first_delay, max_delay=max_delay)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the first answer that comes.

        Raises:
            ModelError: the failure will not pass, or it did not within the attempts.
        """

        def call() -> Awaitable[Completion]:
            return self.model.complete(messages, tools=tools, sampling=sampling)

        return await self.backoff.run(call, again=lambda error: error.transient)


class Cached(Wrapper):
    """Answers a repeated request from memory, at no cost; equal requests at the same time are asked once.

    Only repeatable requests are kept: temperature 0, or a seed. Any other asks for a new sample, and gets one.
    The ``entries`` used last are kept.
    """

    def __init__(self, model: Model, *, entries: int = 10_000) -> None:
        super().__init__(model)
        self._entries = entries
        self._answers: OrderedDict[str, Completion] = OrderedDict()
        # A lock lives as long as some call waits for its key.
        self._locks: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = WeakValueDictionary()

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the kept answer with a usage of zero, or the wrapped model's answer."""
        if sampling.temperature != 0 and sampling.seed is None:
            return await self.model.complete(messages, tools=tools, sampling=sampling)
        key = request_key(self.name, messages, tools, sampling)
        lock = self._locks.setdefault((asyncio.get_running_loop(), key), asyncio.Lock())
        async with lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return msgspec.structs.replace(self._answers[key], usage=Usage(), kept=True)
            completion = await self.model.complete(messages, tools=tools, sampling=sampling)
            self._answers[key] = completion
            if len(self._answers) > self._entries:
                self._answers.popitem(last=False)
        return completion


class Recording(Wrapper):
    """Asks the wrapped model and keeps every exchange on a tape, failures as well."""

    def __init__(self, model: Model, tape: Tape) -> None:
        super().__init__(model)
        self.tape = tape

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the wrapped model's answer."""

        def exchange(completion: Completion | None, error: str | None, failure: ModelFailure) -> Exchange:
            return Exchange(
                model=self.name,
                messages=tuple(messages),
                tools=tuple(tools),
                sampling=sampling,
                completion=completion,
                error=error,
                failure=failure,
            )

        try:
            completion = await self.model.complete(messages, tools=tools, sampling=sampling)
        except ModelError as error:
            self.tape.add(exchange(None, str(error), error.failure))
            raise
        self.tape.add(exchange(completion, None, "other"))
        return completion

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Raises UserError: a tape keeps exchanges, and what is not kept could not be played again."""
        raise UserError("a recording keeps no logprobs of given texts; score them with the model that it wraps")
