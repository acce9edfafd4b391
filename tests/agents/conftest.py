"""What the tests of agents share: a memory in a fresh folder, and judges that need no sandbox."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from whet.agents.runtime import Criticise, Verify
from whet.core import Critique, Run, Task, Verdict
from whet.memory import Memory


@pytest_asyncio.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with await Memory.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def wants_good() -> Verify:
    """Passes the answer ``good``; another one scores by how many of its letters are in ``good``."""

    async def verify(task: Task, run: Run) -> Sequence[Verdict]:
        answer = run.answer or ""
        score = 1.0 if answer == "good" else sum(letter in "good" for letter in answer) / (len(answer) + 1)
        outcome = "pass" if score == 1.0 else "fail"
        return [Verdict(run_id=run.id, task_id=task.id, verifier="wants_good", outcome=outcome, score=score)]

    return verify


@pytest.fixture
def says_why() -> Criticise:
    """A synchronous critic: says that the answer is wrong."""

    def criticise(task: Task, run: Run, verdicts: Sequence[Verdict]) -> Sequence[Critique]:
        ids = tuple(verdict.id for verdict in verdicts)
        return [Critique(run_id=run.id, text=f"{run.answer!r} is wrong.", source="test", verdict_ids=ids)]

    return criticise
