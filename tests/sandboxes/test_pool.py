"""Fresh boxes: each used once, ready before they are asked for, bounded, and gone at the end."""

import asyncio
import subprocess
import sys

import pytest

from whet.core.errors import RefusedError, UserError
from whet.sandboxes import Limits, SandboxPool, SandboxSpec

SPEC = SandboxSpec(isolation="fresh", limits=Limits(work_bytes=8 << 20, tmp_bytes=8 << 20))


@pytest.mark.asyncio
async def test_each_box_is_used_once() -> None:
    async with SandboxPool(2) as pool:
        for _ in range(5):
            async with pool.fresh(SPEC) as box:
                assert await box.list() == []
                assert (await box.exec("ls -A /tmp")).stdout == ""
                await box.exec("touch mine /tmp/mine")


@pytest.mark.asyncio
async def test_prepared_boxes_are_taken_and_replaced() -> None:
    async with SandboxPool(2) as pool:
        await pool.prepare(SPEC)
        assert pool.ready(SPEC) == 2
        async with pool.fresh(SPEC):
            assert pool.ready(SPEC) == 1
            await pool.prepare(SPEC)
            assert pool.ready(SPEC) == 2


@pytest.mark.asyncio
async def test_no_more_in_use_than_the_limit() -> None:
    most = now = 0

    async def use(pool: SandboxPool) -> None:
        nonlocal most, now
        async with pool.fresh(SPEC) as box:
            now += 1
            most = max(most, now)
            assert (await box.exec("sleep 0.3")).ok
            now -= 1

    async with SandboxPool(0, limit=3) as pool:
        await asyncio.gather(*(use(pool) for _ in range(10)))
    assert most == 3


def test_pool_serves_several_event_loops() -> None:
    pool = SandboxPool(1)

    async def once() -> str:
        async with pool.fresh(SPEC) as box:
            return (await box.run_python("print('ok')")).stdout

    assert [asyncio.run(once()) for _ in range(3)] == ["ok\n"] * 3
    asyncio.run(pool.close())
    assert pool.ready(SPEC) == 0


@pytest.mark.asyncio
async def test_cancelled_user_gives_the_box_back() -> None:
    async with SandboxPool(1, limit=1) as pool:

        async def hang() -> None:
            async with pool.fresh(SPEC) as box:
                await box.exec("sleep 60")

        task = asyncio.create_task(hang())
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(20), pool.fresh(SPEC) as box:
            assert (await box.run_python("print(1)")).ok


def test_interpreter_exits_with_a_pool_open() -> None:
    program = (
        "import asyncio\nfrom whet.sandboxes import SandboxPool\npool = SandboxPool(2)\n"
        "async def main():\n    async with pool.fresh() as box:\n"
        "        print((await box.run_python('print(7)')).stdout)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "7\n\n"), done.stderr


@pytest.mark.asyncio
async def test_errors_reach_the_one_who_asks() -> None:
    async with SandboxPool(2) as pool:
        with pytest.raises(RefusedError, match="network"):
            async with pool.fresh(SandboxSpec(network=(("example.com", 443),))):
                pass
    with pytest.raises(UserError, match="limit"):
        SandboxPool(2, limit=0)
