"""Replay: do functions reproduce what verifiers recorded? Run in a sandbox, many trials in one go.

    trial = Trial(sources=("def zorp(x): return x[::-1]", "def solve(x): return zorp(x)"),
                  checks=(("solve([1, 2])", "[2, 1]"),))
    await replay(sandboxes, [trial])       # [1.0]: the share of the checks that hold

The functions come from models and people, so they run in a fresh sandbox and only numbers come back. A program in
there could lie about the others of its batch; what is learned from a replay is therefore a proposal, and the gate,
whose verifiers run every answer in a sandbox of its own, decides.
"""

import ast
import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from whet.core.errors import SandboxError, UserError
from whet.core.records import Check, ExecResult, Record
from whet.core.wire import decode
from whet.feedback import FreshSandboxes
from whet.sandboxes.sandbox import Limits, SandboxSpec

__all__ = ["Trial", "lent_or_own", "recorded_checks", "replay"]

BATCH = 2000
SECONDS = 60.0

_GUEST = """
import contextlib, io, json, signal, sys

class Late(BaseException):
    pass

def late(*args):
    raise Late

def share(sources, checks):
    space = {}
    try:
        for source in sources:
            exec(source, space)
    except BaseException:
        return 0.0
    held = 0
    for call, expected in checks:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            held += bool(eval(call, space) == eval(expected, {}))
        except BaseException:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return held / len(checks)

signal.signal(signal.SIGALRM, late)
trials = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    shares = [share(*trial) for trial in trials]
print(json.dumps(shares))
"""


class Trial(Record, frozen=True, kw_only=True):
    """Functions in the order they are defined, and checks (call, expected value), all as Python source."""

    sources: tuple[str, ...]
    checks: tuple[tuple[str, str], ...]


def recorded_checks(checks: Sequence[Check]) -> tuple[tuple[str, str], ...]:
    """Returns the checks that can be replayed: a call and an expected value, both literal Python."""
    return tuple(
        (check.call, check.expected) for check in checks if _is_call(check.call) and _is_literal(check.expected)
    )


def lent_or_own(sandboxes: FreshSandboxes | None) -> "AbstractAsyncContextManager[FreshSandboxes]":
    """Returns a context that gives the sandboxes a learner was lent, or else a small pool of its own."""
    if sandboxes is not None:
        return nullcontext(sandboxes)
    from whet.sandboxes import SandboxPool

    return SandboxPool(size=1)


async def replay(sandboxes: FreshSandboxes, trials: Sequence[Trial]) -> list[float]:
    """Returns, for each trial, the share of its checks that hold, in [0, 1]; 0 where its functions fail to load.

    Raises:
        SandboxError: no sandbox could be had, or it was lost.
    """
    shares: list[float] = []
    for start in range(0, len(trials), BATCH):
        shares += await _batch(sandboxes, trials[start : start + BATCH])
    return shares


async def _batch(sandboxes: FreshSandboxes, trials: Sequence[Trial]) -> list[float]:
    """Replays trials in one sandbox; where that ends early, the half that is to blame is found by halving."""
    if not all(trial.checks for trial in trials):
        raise UserError("a trial without checks says nothing; leave it out")
    limits = Limits(wall_seconds=SECONDS, cpu_seconds=SECONDS)
    async with sandboxes.fresh(SandboxSpec(limits=limits, isolation="fresh")) as box:
        stdin = json.dumps([[trial.sources, trial.checks] for trial in trials]).encode()
        result = await box.run_python(_GUEST, stdin=stdin, timeout=SECONDS)
    if (shares := _read(result, len(trials))) is not None:
        return shares
    if len(trials) == 1:
        return [0.0]
    middle = len(trials) // 2
    return await _batch(sandboxes, trials[:middle]) + await _batch(sandboxes, trials[middle:])


def _read(result: ExecResult, expected: int) -> list[float] | None:
    if not result.ok:
        if result.status == "nonzero" and "ModuleNotFoundError" in result.stderr:
            raise SandboxError(f"the sandbox's Python lacks a standard module: {result.stderr.strip()[-200:]}")
        return None
    try:
        shares = decode(result.stdout, list[float])
    except UserError:
        return None
    return [min(max(share, 0.0), 1.0) for share in shares] if len(shares) == expected else None


def _is_call(source: str) -> bool:
    try:
        node = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _is_literal(source: str) -> bool:
    try:
        ast.literal_eval(source)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True
