"""The ``Model`` contract: messages in, a completion out. Everything else (limits, budget, cache) wraps it.

completion = await model.complete([Message(role="user", content="Hello")], sampling=Sampling(temperature=0))

A model whose weights are here is ``Adaptable`` as well: ``await model.adapted(folder)`` is the same model under a LoRA
adapter.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from whet.core.records import Completion, Message, Sampling, ToolSpec

__all__ = ["Adaptable", "Model", "Scoring", "Sleeping"]


@runtime_checkable
class Model(Protocol):
    """Anything that answers chat messages."""

    @property
    def name(self) -> str:
        """The name recorded with every run, e.g. ``tiny`` or ``openai/gpt-4o-mini``."""
        ...

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the model's answer.

        Raises:
            ModelError: the model could not be reached or gave no usable answer.
            BudgetError: the budget does not allow the call (raised before anything is spent).
        """
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A model that can answer under LoRA adapters; beside ``Model``. What wraps a model is asked with ``adaptable``."""

    @property
    def base(self) -> str:
        """The folder of the base weights, for a trainer."""
        ...

    async def adapted(self, adapter: Path) -> Model:
        """Returns the same model under a peft adapter folder, in place of any other; both can be used at once.

        Its ``name``, which is the ``model`` of its completions, ends with ``+`` and the first 12 digits of the
        adapter's version. Asking again for the same adapter is cheap.

        Raises:
            UserError: the adapter does not fit the base.
        """
        ...


@runtime_checkable
class Scoring(Protocol):
    """A model that says how likely it finds an answer that it did not write; beside ``Model``, with weights at hand."""

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Returns the natural logprob of each token of an answer to the messages, its end token included, at
        temperature 1.

        Raises:
            ModelError: the conversation does not fit the context.
        """
        ...


@runtime_checkable
class Sleeping(Protocol):
    """A model whose server can hand its GPU over for a while; beside ``Model``."""

    async def sleep(self) -> None:
        """Waits for the requests under way, then frees the GPU's memory."""
        ...

    async def wake(self) -> None:
        """Takes the memory back; until then nothing is answered."""
        ...
