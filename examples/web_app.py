"""An agent embedded in a small web app that collects thumbs and corrections, and learns from them.

    pip install 'whet[server]'
    python examples/web_app.py          # then open http://127.0.0.1:8000

Every answer is a recorded run; its id comes back with the answer, and feedback names it. `whet learn lessons` makes
lessons of the corrections, `whet memory review` lists them; the next answers recall what `whet memory accept` lets in.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from whet.agents import Agent
from whet.core import NotFoundError, Run, UserError
from whet.feedback import feedback
from whet.memory import Memory


class Question(BaseModel):
    text: str


class Opinion(BaseModel):
    run_id: str
    kind: Literal["accept", "reject", "correction"]
    text: str = ""


class State:
    agent: Agent
    memory: Memory


state = State()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with (
        await Memory.open(os.environ.get("WHET_HOME", ".whet")) as state.memory,
        Agent("refine", os.environ.get("WHET_MODEL", "tiny"), memory=state.memory) as state.agent,
    ):
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Question) -> dict[str, str | None]:
    result = await state.agent.arun(question.text)
    return {"run_id": result.run.id, "answer": result.answer, "error": result.run.error}


@app.post("/feedback")
async def give(opinion: Opinion) -> dict[str, str]:
    make = {"accept": feedback.accept, "reject": feedback.reject, "correction": feedback.correction}[opinion.kind]
    try:
        run = await state.memory.get(Run, opinion.run_id)
        said = make("web", run_id=run.id, task_id=run.task_id, text=opinion.text)
    except (NotFoundError, UserError) as error:
        raise HTTPException(404 if isinstance(error, NotFoundError) else 422, str(error)) from None
    await state.memory.put(said, actor="web")
    return {"feedback_id": said.id}


PAGE = """<!doctype html><meta charset="utf-8"><title>Whet</title>
<style>body{font:16px/1.5 system-ui;max-width:44rem;margin:3rem auto;padding:0 1rem}
textarea{width:100%;font:inherit}pre{background:#f4f4f4;padding:1rem;border-radius:6px;white-space:pre-wrap}</style>
<h1>Ask</h1><textarea id="q" rows="3">Write solve(x): reverse the list.</textarea>
<p><button onclick="ask()">Ask</button> <span id="status"></span></p><pre id="a" hidden></pre>
<p id="opinion" hidden><button onclick="give('accept')">👍</button> <button onclick="give('reject')">👎</button>
<textarea id="c" rows="4" placeholder="How it should have been"></textarea>
<button onclick="give('correction', c.value)">Correct it</button></p>
<script>
let run; const post = (path, body) => fetch(path, {method: "POST", headers: {"content-type": "application/json"},
  body: JSON.stringify(body)}).then(r => r.json());
async function ask() { status_("thinking…"); const r = await post("/ask", {text: q.value}); run = r.run_id;
  a.textContent = r.answer ?? r.error; a.hidden = opinion.hidden = false; status_("run " + run.slice(0, 12)); }
async function give(kind, text = "") { const r = await post("/feedback", {run_id: run, kind, text});
  status_(r.feedback_id ? "thank you" : r.detail); }
const status_ = text => document.getElementById("status").textContent = text;
</script>"""


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000)
