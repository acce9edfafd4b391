"""A hard budget, checked before the money is spent and shared by everything that runs under it.

budget = Budget(micro_dollars=2_000_000, calls=500)
with budget.reserve(Cost(calls=1, tokens=4_000)) as reservation:
    ...
    reservation.settle(Cost(calls=1, tokens=1_234))
"""

__all__ = ["Budget", "Cost"]

import msgspec


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """An amount in each unit that a budget counts."""

    calls: int = 0
    tokens: int = 0
    micro_dollars: int = 0
    seconds: float = 0.0


class Budget:
    """Placeholder replaced by the core room."""
