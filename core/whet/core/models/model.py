"""The ``Model`` contract: messages in, a completion out. Everything else (limits, budget, cache) wraps it.

completion = await model.complete([Message(role="user", content="Hello")], sampling=Sampling(temperature=0))
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from whet.core.records import Completion, Message, Sampling, ToolSpec

__all__ = ["Model"]


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
