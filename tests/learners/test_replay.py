"""Replay in a real sandbox: what holds, what does not, and what tries to get out of it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from whet.core.errors import UserError
from whet.core.records import Check
from whet.learners.replay import Trial, recorded_checks, replay
from whet.sandboxes import SandboxPool

SOLVE = "def solve(x): return zorp(x)"
CHECKS = (("solve([1, 2])", "[2, 1]"), ("solve('ab')", "'ba'"))


def trial(zorp: str) -> Trial:
    return Trial(sources=(zorp, SOLVE), checks=CHECKS)


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    async with SandboxPool(size=1) as pool:
        yield pool


@pytest.mark.asyncio
async def test_the_share_of_checks_that_hold_comes_back_in_order(pool: SandboxPool) -> None:
    trials = [
        trial("def zorp(x): return x[::-1]"),
        trial("def zorp(x): return x if isinstance(x, str) else x[::-1]"),
        trial("def zorp(x): return x"),
        trial("def zorp(x) return x"),
        trial("def zorp(x):\n    while True: pass"),
        trial("def zorp(x): raise SystemExit(x)"),
        trial("def zorp(x): print(x); return x[::-1]"),
    ]
    assert await replay(pool, trials) == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.asyncio
async def test_a_trial_that_kills_the_process_does_not_take_the_others_with_it(pool: SandboxPool) -> None:
    killer = trial("import os\ndef zorp(x): os._exit(0)")
    good = trial("def zorp(x): return x[::-1]")
    assert await replay(pool, [good, killer, good]) == [1.0, 0.0, 1.0]


@pytest.mark.asyncio
async def test_a_trial_without_checks_is_refused(pool: SandboxPool) -> None:
    with pytest.raises(UserError, match="without checks"):
        await replay(pool, [Trial(sources=(), checks=())])


def test_only_calls_with_literal_results_can_be_replayed() -> None:
    checks = [
        Check(name="1", passed=False, call="solve([1])", expected="[2]"),
        Check(name="2", passed=True, call="", expected="3"),
        Check(name="3", passed=True, call="solve(1)", expected="about 3"),
        Check(name="4", passed=True, call="solve(1) < 3", expected="True"),
        Check(name="5", passed=True, call="a.b(1)", expected="True"),
    ]
    assert recorded_checks(checks) == (("solve([1])", "[2]"),)
