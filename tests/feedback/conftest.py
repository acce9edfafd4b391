"""Real sandboxes for the tests of verifiers, and short ways to a verdict."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from whet.core import Json, RefusedError, Run, Task, Verdict, VerifierSpec
from whet.feedback import load_verifier
from whet.sandboxes import SandboxPool

Judge = Callable[..., Awaitable[Verdict]]


@pytest.fixture(scope="session")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(size=1)
    try:
        asyncio.run(pool.prepare())
    except RefusedError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def judge(pool: SandboxPool) -> Judge:
    """Returns ``await judge(kind, answer, **params)``: the verdict of a verifier in real sandboxes."""

    async def verdict(kind: str, answer: str | None, /, **params: Json) -> Verdict:
        spec = VerifierSpec(kind=kind, params=params)
        task = Task(id="task", messages=(), verifiers=(spec,), reference="the reference", files={"given.txt": "given"})
        run = Run(task_id="task", agent="test", status="done", answer=answer)
        return await load_verifier(spec, pool).verify(task, run)

    return verdict
