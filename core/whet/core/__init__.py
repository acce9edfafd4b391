"""The vocabulary of Whet as plain typed records, its errors, budgets, configuration and models.

    from whet.core import Message, Task, UserError, new_id

    task = Task(id=new_id(), messages=(Message(role="user", content="Say hello."),))

Importing this package loads no model library; each model back end is loaded when it is first asked for.
"""

from whet.core.budget import Budget, Cost
from whet.core.errors import (
    BudgetError,
    ConflictError,
    ModelError,
    NotFoundError,
    RefusedError,
    SandboxError,
    StoreError,
    UserError,
    VerifierError,
    WhetError,
)
from whet.core.ids import digest, new_id, now_ms
from whet.core.policy import Policy
from whet.core.records import *  # noqa: F403
from whet.core.records import __all__ as _records
from whet.core.wire import decode, encode

__all__ = [
    "Budget",
    "BudgetError",
    "ConflictError",
    "Cost",
    "ModelError",
    "NotFoundError",
    "Policy",
    "RefusedError",
    "SandboxError",
    "StoreError",
    "UserError",
    "VerifierError",
    "WhetError",
    "decode",
    "digest",
    "encode",
    "new_id",
    "now_ms",
    *_records,
]
