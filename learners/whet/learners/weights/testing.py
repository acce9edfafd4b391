"""For tests of methods: experience made by hand, and a kit over any model and judge, without memory or trainer.

run = refined(task, Tried("def solve(x): return x", "solve([2, 1]) returned [2, 1]."), Tried(right, passed=True))
rows = await RFT().build(Experience(episodes=(run,)), BenchKit())
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.prompting import render_retry
from whet.core.records import (
    Completion,
    Critique,
    Feedback,
    Message,
    Run,
    Sampling,
    Task,
    ToolCall,
    ToolSpec,
    Verdict,
)
from whet.learners.weights.experience import Attempt, Episode
from whet.learners.weights.rows import Row

__all__ = ["BenchKit", "Tried", "acted", "imported", "refined", "sampled", "verdict"]

TOOL = ToolSpec(name="shell", description="Runs a command.", parameters={"type": "object"})


@dataclass(frozen=True)
class Tried:
    """An answer, what a critic said of it, whether it passed (``None``: nobody judged it) and with which score.

    ``calls``: what a tool was told before the answer, and what it returned; ``flagged``: which of these calls (from 0)
    a critic found wrong.
    """

    text: str
    said: str = ""
    passed: bool | None = False
    score: float | None = None
    calls: tuple[tuple[str, str], ...] = ()
    flagged: int | None = None


class BenchKit:
    """A kit whose policy is a model, and whose verifiers are a function; without a model nothing can be asked."""

    def __init__(
        self, model: Model | None = None, judge: Callable[[Task, str], tuple[Verdict, ...]] | None = None, seed: int = 0
    ) -> None:
        self.round, self.rng = 0, random.Random(seed)
        self._model, self._judge, self._asked = model, judge, 0

    async def ask(
        self, messages: Sequence[Message], *, n: int = 1, sampling: Sampling = Sampling(temperature=1.0)
    ) -> list[Completion]:
        """Returns ``n`` answers of the model, each under a seed of its own.

        Raises:
            UserError: the kit has no model.
        """
        if self._model is None:
            raise UserError("the learner has no model to ask")
        found = []
        for _ in range(n):
            self._asked += 1
            seeded = Sampling(temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=self._asked)
            found.append(await self._model.complete(messages, sampling=seeded))
        return found

    async def judge(self, task: Task, answer: str) -> tuple[Verdict, ...]:
        """Returns what the judge finds; nothing where there is none."""
        return self._judge(task, answer) if self._judge else ()

    async def logprobs(self, rows: Sequence[Row], *, teacher: bool = False) -> list[list[float]]:
        """Raises UserError: this kit computes none."""
        raise UserError("this kit has no trainer to compute logprobs with")


def verdict(task: Task, tried: Tried, run_id: str = "") -> tuple[Verdict, ...]:
    """Returns the verdict on what was tried, by execution; none where nobody judged it."""
    if tried.passed is None:
        return ()
    score = float(tried.passed) if tried.score is None else tried.score
    outcome = "pass" if tried.passed else "fail"
    return (Verdict(run_id=run_id, task_id=task.id, verifier="tests", outcome=outcome, score=score),)  # type: ignore[arg-type]


def refined(task: Task, *tried: Tried, system: str = "") -> Episode:
    """Returns a run of the pattern ``refine``: attempts in one dialogue, each rejected with what was said of it."""
    run = Run(task_id=task.id, agent="refine", status="done", answer=tried[-1].text)
    messages = _opening(task, system)
    attempts = []
    for one in tried:
        attempts.append(_attempt(task, run, messages, one))
        retry = Message(role="user", content=render_retry([one.said]))
        messages = (*messages, Message(role="assistant", content=one.text), retry)
    return Episode(task=task, run=run, attempts=tuple(attempts), verdicts=attempts[-1].verdicts)


def sampled(task: Task, *tried: Tried, system: str = "", temperature: float | None = None) -> Episode:
    """Returns a run of the pattern ``best_of_n``: answers to one prompt, the best of them is the run's."""
    best = max(tried, key=lambda one: (one.passed is True, one.score or 0.0))
    run = Run(task_id=task.id, agent="best_of_n", status="done", answer=best.text)
    found = [_attempt(task, run, _opening(task, system), one, temperature=temperature) for one in tried]
    return Episode(task=task, run=run, attempts=tuple(found), verdicts=verdict(task, best, run.id))


def acted(task: Task, tried: Tried, system: str = "") -> Episode:
    """Returns a run of the pattern ``react``: calls of a tool, what it returned, and the answer."""
    run = Run(task_id=task.id, agent="react", status="done", answer=tried.text)
    messages, attempts = _opening(task, system), []
    for number, (command, result) in enumerate(tried.calls):
        call = ToolCall(id=f"call-{run.id[-6:]}-{number}", name="shell", arguments=f'{{"command": "{command}"}}')
        flaw = Critique(run_id=run.id, text=tried.said, source="critic")
        attempts.append(
            Attempt(
                messages=messages,
                completion=Completion(text="", tool_calls=(call,)),
                tools=(TOOL,),
                critiques=(flaw,) if number == tried.flagged else (),
                step_id=f"{run.id}/{number}",
            )
        )
        said = Message(role="assistant", content="", tool_calls=(call,))
        messages = (*messages, said, Message(role="tool", content=result, tool_call_id=call.id, name="shell"))
    last = _attempt(task, run, messages, Tried(tried.text, "", tried.passed, tried.score), tools=(TOOL,))
    return Episode(task=task, run=run, attempts=(*attempts, last), verdicts=last.verdicts)


def imported(task: Task, answer: str, *feedback: Feedback, passed: bool | None = None) -> Episode:
    """Returns a run that was imported: nothing but its answer, and what people said of it."""
    run = Run(task_id=task.id, agent="elsewhere", status="done", answer=answer, purpose="import")
    about = tuple(msgspec.structs.replace(item, run_id=run.id) for item in feedback)
    return Episode(task=task, run=run, verdicts=verdict(task, Tried(answer, "", passed), run.id), feedback=about)


def _opening(task: Task, system: str) -> tuple[Message, ...]:
    return (*((Message(role="system", content=system),) if system else ()), *task.messages)


def _attempt(
    task: Task,
    run: Run,
    messages: tuple[Message, ...],
    tried: Tried,
    *,
    temperature: float | None = None,
    tools: tuple[ToolSpec, ...] = (),
) -> Attempt:
    critique = Critique(run_id=run.id, text=tried.said, source="critic")
    return Attempt(
        messages=messages,
        completion=Completion(text=tried.text, token_ids=(1, 2, 3), logprobs=(-0.1, -0.2, -0.3)),
        tools=tools,
        sampling=Sampling(temperature=temperature),
        verdicts=verdict(task, tried, run.id),
        critiques=(critique,) if tried.said else (),
        step_id=f"{run.id}/{len(messages)}/{tried.text}",
    )
