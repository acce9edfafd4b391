"""The examples, run as a user would run them: the web app over HTTP, the task file against a server of models."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import httpx
import pytest

from whet.core import Budget, Feedback, Run, Use
from whet.core.models.testing import OpenAIServer
from whet.learners import TrainMemory, incumbent_arm, load_learner, take_in
from whet.memory import Memory

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = "Write solve(x): glorp."
RIGHT = "def glorp(x): return x[::-1]"


@asynccontextmanager
async def web_app() -> AsyncIterator[httpx.AsyncClient]:
    """A browser, as it were, and the app behind it, with the small model and the memory of the environment."""
    spec = spec_from_file_location("web_app", EXAMPLES / "web_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["web_app"] = module
    spec.loader.exec_module(module)
    transport = httpx.ASGITransport(app=module.app)
    async with (
        module.app.router.lifespan_context(module.app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client
    del sys.modules["web_app"]


@pytest.mark.asyncio
async def test_the_web_app_answers_hears_opinions_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the web app needs whet[server]")
    home = tmp_path / "memory"
    monkeypatch.setenv("WHET_HOME", str(home))
    async with web_app() as client:
        assert "textarea" in (await client.get("/")).text
        answer = (await client.post("/ask", json={"text": QUESTION})).json()
        assert answer["error"] is None
        assert "def solve" in answer["answer"]
        thumb = await client.post("/feedback", json={"run_id": answer["run_id"], "kind": "accept"})
        assert thumb.status_code == 200
        said = {"run_id": answer["run_id"], "kind": "correction", "text": RIGHT}
        assert (await client.post("/feedback", json=said)).status_code == 200
        assert (await client.post("/feedback", json={**said, "text": ""})).status_code == 422
        assert (await client.post("/feedback", json={**said, "kind": "shrug"})).status_code == 422
        lost = await client.post("/feedback", json={**said, "run_id": "ffff"})
        assert lost.status_code == 404
        assert "ffff" in lost.json()["detail"]
    async with await Memory.open(home) as memory:
        assert [item.kind for item in await memory.find(Feedback)] == ["accept", "correction"]
        assert (await memory.get(Run, answer["run_id"])).answer == answer["answer"]
        learner, incumbent = load_learner("lessons"), await incumbent_arm(memory)
        proposals = [item async for item in learner.propose(TrainMemory(memory), incumbent, Budget())]
        (lesson,) = [lesson for proposal in proposals for lesson in proposal.lessons]
        assert (lesson.kind, lesson.text, lesson.task_text) == ("case", RIGHT, QUESTION)
        for proposal in proposals:
            await take_in(memory, proposal)
        await memory.lessons.approve(lesson.id, reason="it is right", actor="ana")
    async with web_app() as client:
        again = (await client.post("/ask", json={"text": QUESTION})).json()
    async with await Memory.open(home) as memory:
        assert [use.item for use in await memory.find(Use, where={"run_id": again["run_id"]})] == [lesson.id]


def own_tasks(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "own_tasks.py"), *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.asyncio
async def test_a_task_file_of_ones_own_with_any_model_of_litellm(tmp_path: Path) -> None:
    tasks = [
        {
            "id": f"sum-{n}",
            "prompt": f"What is 40 + {n}?",
            "verifiers": [{"kind": "exact", "params": {"expected": str(40 + n)}}],
        }
        for n in (2, 3)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    with OpenAIServer(["42"], repeat=True) as server:
        here = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.url, "OPENAI_API_BASE": server.url}
        done = own_tasks(tmp_path, "tasks.jsonl", "litellm:openai/test", **here)
        priced = own_tasks(tmp_path, "tasks.jsonl", "litellm:openai/test", "--dollars", "1", **here)
        assert done.returncode == 0, done.stderr
    assert "1 of 2 pass" in done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["pass", "fail"]
    assert "the price of 'openai/test' is not known" in priced.stdout
    async with await Memory.open(tmp_path / ".whet", read_only=True) as memory:
        assert [run.answer for run in await memory.find(Run)] == ["42", "42", None, None]


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    missing = own_tasks(tmp_path, "missing.jsonl", "tiny")
    assert missing.returncode == 1
    assert "missing.jsonl" in missing.stderr
    assert missing.stderr.count("\n") == 1
