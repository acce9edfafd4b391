"""Optuna, quiet and only where it is installed.

optuna = import_optuna("tune")          # UserError names the extra
"""

from importlib import import_module
from typing import TYPE_CHECKING

from whet.core.errors import UserError

if TYPE_CHECKING:
    import types

__all__ = ["import_optuna"]


def import_optuna(learner: str) -> "types.ModuleType":
    """Returns the library, set to say nothing of its own trials.

    Raises:
        UserError: it is not installed.
    """
    try:
        optuna = import_module("optuna")
    except ImportError as error:
        raise UserError(f"learner {learner!r} needs Optuna: pip install 'whet[prompts]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
