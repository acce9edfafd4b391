"""A skill's scripts, in a real sandbox."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from whet.core.errors import NotFoundError, RefusedError
from whet.sandboxes import Sandbox, open_sandbox
from whet.skills import Skill, run_script


@pytest_asyncio.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with await open_sandbox() as box:
        yield box


@pytest.mark.asyncio
async def test_a_script_runs_in_the_skills_folder(box: Sandbox, verbs: Skill) -> None:
    result = await run_script(box, verbs, "scripts/verbs.py", ["abc"])
    assert (result.status, result.stdout) == ("ok", "cba\n")
    result = await run_script(box, verbs, "scripts/main.sh", ["done"], stdin=b"in ")
    assert result.stdout == "in done\n"
    assert "skills/verbs/SKILL.md" in await box.list()


@pytest.mark.asyncio
async def test_a_failing_script_is_a_result(box: Sandbox, verbs: Skill) -> None:
    result = await run_script(box, verbs, "scripts/verbs.py")
    assert result.status == "nonzero"
    assert "IndexError" in result.stderr


@pytest.mark.asyncio
async def test_what_is_no_script_is_refused(box: Sandbox, verbs: Skill) -> None:
    with pytest.raises(NotFoundError, match="it has"):
        await run_script(box, verbs, "scripts/other.py")
    with pytest.raises(NotFoundError, match="no script"):
        await run_script(box, verbs, "references/origin.md")
    with pytest.raises(RefusedError, match=r"neither \.py nor \.sh"):
        await run_script(box, verbs, "scripts/data.bin")
