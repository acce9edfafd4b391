"""Programs run beside each other in real sandboxes: values, exceptions, endless loops, noise, and traces by blocks."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from whet.agents import behaviour
from whet.sandboxes import Sandbox, SandboxPool, SandboxSpec

GUESTS = Path(behaviour.__file__).parent / "guests"


@pytest_asyncio.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with SandboxPool(size=1) as pool, pool.fresh(SandboxSpec()) as fresh:
        yield fresh


async def guest(box: Sandbox, name: str, **job: object) -> list[str]:
    code = (GUESTS / f"{name}.py").read_text()
    result = await box.run_python(code, stdin=json.dumps(job).encode(), timeout=20)
    found: list[str] = json.loads(result.stdout.rstrip().rpartition("\n")[2])
    return found


@pytest.mark.asyncio
async def test_snippets_tell_values_and_exceptions_whatever_the_program_does(box: Sandbox) -> None:
    program = (
        "import sys\nprint('[1]', flush=True)\n"
        "def solve(x):\n    print('noise')\n    if x == 0: sys.exit(0)\n    while x == 1: pass\n"
        "    return {2: {'b', 'a', 'c'}, 3: 'x' * 999}.get(x, x)"
    )
    calls = ["solve(0)", "solve(1)", "solve(2)", "solve(3)", "solve(4)", "assert solve(4) == 4", "assert solve(4) == 5"]
    found = await guest(box, "snippets", program=program, snippets=calls)
    assert found[:3] == ["raised SystemExit", "raised TimeoutError", "set of [\"'a'\", \"'b'\", \"'c'\"]"]
    assert len(found[3]) < 300
    assert found[4:] == ["4", "None", "raised AssertionError"]
    assert await guest(box, "snippets", program="def solve(x: return", snippets=["solve(1)"]) == ["raised SyntaxError"]


@pytest.mark.asyncio
async def test_a_snippet_changes_nothing_for_the_next(box: Sandbox) -> None:
    found = await guest(box, "snippets", program="n = 1", snippets=["n = 2", "n"])
    assert found == ["None", "1"]


@pytest.mark.asyncio
async def test_blocks_are_told_with_their_values_up_to_the_exception(box: Sandbox) -> None:
    program = "def solve(x):\n    y = x[::-1]\n    z = len(y)\n    if z > 1:\n        return helper(y)\n    return z\n"
    program += "def helper(y):\n    return y[9]"
    told = await guest(box, "blocks", program=program, call="solve([1, 2])")
    assert told[0] == "    y = x[::-1]\n    z = len(y)\n    if z > 1:\n# x=[1, 2], y=[2, 1], z=2"
    assert any("y[9]" in block and "IndexError" in block for block in told)
    assert told[-1].startswith("raised IndexError")


@pytest.mark.asyncio
async def test_an_endless_call_ends_with_the_blocks_so_far(box: Sandbox) -> None:
    told = await guest(box, "blocks", program="def solve(x):\n    while True:\n        x += 1", call="solve(0)")
    assert 0 < len(told) <= 11
    assert "x=1" in told[1]
