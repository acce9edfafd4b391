"""Errors, named by the boundary that was crossed. Each knows the exit code the command line answers with.

A message says what is wrong, where (``repr``), what is allowed, and the way out, on one line.
"""

from typing import Literal, TypeAlias

__all__ = [
    "BudgetError",
    "ConflictError",
    "ModelError",
    "ModelFailure",
    "NotFoundError",
    "RefusedError",
    "SandboxError",
    "StoreError",
    "UserError",
    "VerifierError",
    "WhetError",
]


class WhetError(Exception):
    """Base of every error that Whet raises on purpose."""

    exit_code = 1


class UserError(WhetError):
    """The caller asked for something that cannot be: a wrong value, file or combination."""

    exit_code = 2


class NotFoundError(UserError):
    """No record of that id, prefix or name; or a prefix that names several."""

    exit_code = 3


class ConflictError(WhetError):
    """Somebody else holds the lock, or the record changed meanwhile."""

    exit_code = 5


class RefusedError(WhetError):
    """Whet will not do this: unsafe, not permitted or not supported. The message names the way out."""

    exit_code = 6


class BudgetError(WhetError):
    """A reservation would exceed the budget; nothing was spent. ``asked`` more of ``unit`` did not fit."""

    def __init__(self, message: str, *, unit: str = "", limit: float = 0, spent: float = 0, asked: float = 0) -> None:
        super().__init__(message)
        self.unit = unit
        self.limit = limit
        self.spent = spent
        self.asked = asked


ModelFailure: TypeAlias = Literal["rate_limit", "unavailable", "timeout", "malformed", "invalid", "auth", "other"]


class ModelError(WhetError):
    """A model could not be reached, or answered what cannot be used.

    ``failure`` says why; ``retry_after`` is the number of seconds the provider asks to wait, where it says so.
    """

    def __init__(self, message: str, *, failure: ModelFailure = "other", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.failure in ("rate_limit", "unavailable", "timeout", "malformed")

    @property
    def billed(self) -> bool:
        """Whether the provider may have charged for the failed call: it worked on it, or nobody knows."""
        return self.failure in ("timeout", "malformed", "other")


class SandboxError(WhetError):
    """The host side of a sandbox failed (lost, could not start). Never raised for what the guest did."""


class StoreError(WhetError):
    """The store could not be read or written."""


class VerifierError(WhetError):
    """A verifier is misconfigured."""
