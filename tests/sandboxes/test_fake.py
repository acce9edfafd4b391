"""The fake answers from its script, and fails on what is left over or missing."""

import pytest

from whet.core.errors import SandboxError
from whet.core.records import ExecResult
from whet.sandboxes import FakeSandbox, Sandbox

OK = ExecResult(status="ok", exit_code=0, stdout="42\n")


@pytest.mark.asyncio
async def test_answers_in_order_and_remembers_the_calls() -> None:
    async with FakeSandbox([OK, lambda call: ExecResult(status="nonzero", exit_code=1, stderr=str(call))]) as box:
        assert isinstance(box, Sandbox)
        assert await box.exec(["run", "it"]) == OK
        assert (await box.run_python("print(1)")).stderr == "print(1)"
        assert box.calls == [("run", "it"), "print(1)"]


@pytest.mark.asyncio
async def test_leftovers_and_shortage_fail() -> None:
    with pytest.raises(AssertionError, match="1 scripted answers were never asked for"):
        async with FakeSandbox([OK]):
            pass
    box = FakeSandbox()
    with pytest.raises(AssertionError, match="no answer left for 'ls'"):
        await box.exec("ls")


@pytest.mark.asyncio
async def test_infrastructure_errors_are_raised_and_the_first_error_wins() -> None:
    with pytest.raises(SandboxError, match="gone"):
        async with FakeSandbox([SandboxError("gone"), OK]) as box:
            await box.exec("ls")
