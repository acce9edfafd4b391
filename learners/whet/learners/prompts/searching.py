"""Optuna, quiet and only where it is installed.

optuna = import_optuna("tune")          # UserError names the extra
"""

from typing import TYPE_CHECKING

from whet.core.loading import load_object

if TYPE_CHECKING:
    import types

__all__ = ["import_optuna"]


def import_optuna(learner: str) -> "types.ModuleType":
    """Returns the library, set to say nothing of its own trials.

    Raises:
        UserError: it is not installed.
    """
    load_object("optuna:create_study", what=f"learner {learner!r}")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
