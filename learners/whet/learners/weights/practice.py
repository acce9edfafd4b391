"""Practice without a server: the model under training answers tasks itself, many at once, and a function judges.

    practice = Practice(trainer, template, judge=judge, criticise=criticise, retries=1)
    reports = await practice.learn(GRPO(), tasks, Rollouts(rounds=20))

For tasks whose verifier is a function of the answer (a game, a format, a simulation). Agents with tools and sandboxes
practise through ``WeightLearner``; both go through ``learn_in_rounds``. ``Practice`` is a ``Kit``.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.prompting import render_retry
from whet.core.records import Completion, Critique, Message, Run, Sampling, Task, Usage, Verdict
from whet.learners.weights.datum import Datum
from whet.learners.weights.experience import Attempt, Episode, Experience
from whet.learners.weights.method import Method, Rollouts
from whet.learners.weights.rounds import Probe, RoundReport, learn_in_rounds
from whet.learners.weights.rows import Row
from whet.learners.weights.sampling import sample
from whet.learners.weights.templates import ChatTemplate, encode_row, encode_rows
from whet.learners.weights.trainer import Trainer

__all__ = ["Criticise", "Judge", "Practice"]

Judge: TypeAlias = Callable[[Task, str], tuple[Verdict, ...]]
Criticise: TypeAlias = Callable[[Task, str, tuple[Verdict, ...]], tuple[Critique, ...]]


class Practice:
    """The model under training as its own rollout engine, and the kit of a builder.

    ``retries``: how often a rejected answer is tried again, with the critiques in view. ``temperature`` is that of
    rollouts; at 1 the recorded logprobs are those of the sampling distribution. ``asked`` counts answers so far.
    """

    def __init__(
        self,
        trainer: Trainer,
        template: ChatTemplate,
        judge: Judge,
        criticise: Criticise | None = None,
        *,
        retries: int = 0,
        max_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.trainer, self.template = trainer, template
        self.round, self.rng = 0, random.Random(seed)
        self.asked = 0
        self._asking: dict[tuple[float, int], tuple[list[tuple[Message, ...]], asyncio.Task[list[Completion]]]] = {}
        self._judge, self._criticise = judge, criticise
        self._retries, self._max_tokens, self._temperature, self._seed = retries, max_tokens, temperature, seed

    # --- as a kit ---------------------------------------------------------------------------------------------------

    async def ask(
        self, messages: Sequence[Message], *, n: int = 1, sampling: Sampling = Sampling(temperature=1.0)
    ) -> list[Completion]:
        """Returns ``n`` answers of the model under training; what is asked side by side is answered in one batch.

        Raises:
            UserError: the sampling asks for what is not done here.
        """
        if sampling.top_p is not None or sampling.stop:
            raise UserError("practice samples by temperature only; leave top_p and stop out")
        temperature = self._temperature if sampling.temperature is None else sampling.temperature
        how = (temperature, sampling.max_tokens or self._max_tokens)
        if how not in self._asking:
            self._asking[how] = ([], asyncio.ensure_future(self._answer_soon(how)))
        questions, answering = self._asking[how]
        place = len(questions)
        questions += [tuple(messages)] * n
        return (await asyncio.shield(answering))[place : place + n]

    async def _answer_soon(self, how: tuple[float, int]) -> list[Completion]:
        await asyncio.sleep(0)  # whoever asks in the meantime is answered too
        questions, _ = self._asking.pop(how)
        return self._answers(questions, *how)

    async def judge(self, task: Task, answer: str) -> tuple[Verdict, ...]:
        """Returns the verdicts of the function that judges."""
        return self._judge(task, answer)

    async def logprobs(self, rows: Sequence[Row], *, teacher: bool = False) -> list[list[float]]:
        """Returns the logprobs of what counts in each row, under the model as it stands."""
        data = [encode_row(row, self.template) for row in rows]
        return [logp_n.tolist() for logp_n in self.trainer.score(data, teacher=teacher)]

    # --- rollouts ---------------------------------------------------------------------------------------------------

    def rollout(self, tasks: Sequence[Task], samples: int) -> Experience:
        """Returns ``samples`` episodes of each task, judged, with the retries."""
        going = [_Going(task, Run(task_id=task.id, agent="practice", seed=i)) for task in tasks for i in range(samples)]
        left = going
        for attempt in range(self._retries + 1):
            answers = self._answers([each.messages for each in left], self._temperature, self._max_tokens)
            for each, completion in zip(left, answers, strict=True):
                self._take(each, completion)
            left = [each for each in left if not each.passed]
            if not left or attempt == self._retries:
                break
        return Experience(episodes=tuple(each.episode() for each in going), tasks=tuple(tasks))

    async def learn(
        self,
        method: Method,
        tasks: Sequence[Task],
        plan: Rollouts,
        *,
        probe: Probe | None = None,
        on_round: Callable[[RoundReport], None] | None = None,
    ) -> tuple[RoundReport, ...]:
        """Returns the reports of rounds in which the model practises, learns, and practises again.

        Raises:
            UserError: the plan wants practice to run ahead, which one model cannot do.
        """
        if plan.staleness:
            raise UserError("the model that trains is the one that practises here; set staleness=0")

        async def rollout(number: int) -> Experience:
            drawn = random.Random(f"{self._seed}/{number}").sample(list(tasks), min(plan.tasks, len(tasks)))
            return self.rollout(drawn, plan.samples)

        async def prepare(number: int, experience: Experience) -> Sequence[Datum]:
            self.round = number
            return encode_rows(await method.build(experience, self), self.template, split=True).data

        return await learn_in_rounds(self.trainer, rollout, prepare, plan, probe=probe, on_round=on_round)

    def _take(self, going: "_Going", completion: Completion) -> None:
        verdicts = self._judge(going.task, completion.text)
        named = tuple(msgspec.structs.replace(verdict, run_id=going.run.id) for verdict in verdicts)
        passed = all(verdict.outcome == "pass" for verdict in named)
        critiques = () if passed or self._criticise is None else self._criticise(going.task, completion.text, named)
        going.take(completion, named, critiques, self._temperature)

    def _answers(
        self, conversations: Sequence[tuple[Message, ...]], temperature: float, max_tokens: int
    ) -> list[Completion]:
        prompts = [self.template.prompt_ids(messages) for messages in conversations]
        self.asked += len(prompts)
        found = sample(
            self.trainer.tuned,
            prompts,
            ends=self.template.ends,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=hash((self._seed, self.asked)) % 2**31,
        )
        return [
            Completion(
                text=self.template.decode(answer.ids),
                usage=Usage(input_tokens=len(prompt), output_tokens=len(answer.ids), calls=1),
                finish_reason="stop" if answer.finished else "length",
                prompt_token_ids=tuple(prompt),
                token_ids=answer.ids,
                logprobs=answer.logprobs,
            )
            for prompt, answer in zip(prompts, found, strict=True)
        ]


class _Going:
    """An episode under way."""

    def __init__(self, task: Task, run: Run) -> None:
        self.task, self.run = task, run
        self.messages: tuple[Message, ...] = task.messages
        self.attempts: list[Attempt] = []

    @property
    def passed(self) -> bool:
        """Whether the last attempt passed."""
        return bool(self.attempts) and self.attempts[-1].passed is True

    def take(
        self,
        completion: Completion,
        verdicts: tuple[Verdict, ...],
        critiques: tuple[Critique, ...],
        temperature: float,
    ) -> None:
        """Adds an attempt, and asks for another one in view of what was wrong with it."""
        attempt = Attempt(
            messages=self.messages,
            completion=completion,
            verdicts=verdicts,
            critiques=tuple(msgspec.structs.replace(critique, run_id=self.run.id) for critique in critiques),
            step_id=f"{self.run.id}/{len(self.attempts)}",
            sampling=Sampling(temperature=temperature),
        )
        self.attempts.append(attempt)
        said = Message(role="assistant", content=completion.text)
        again = Message(role="user", content=render_retry([critique.text for critique in critiques]))
        self.messages = (*self.messages, said, again)

    def episode(self) -> Episode:
        """Returns the episode with its last attempt as the answer."""
        last = self.attempts[-1]
        run = msgspec.structs.replace(self.run, status="done", answer=last.text)
        return Episode(
            task=self.task,
            run=run,
            attempts=tuple(self.attempts),
            verdicts=last.verdicts,
            critiques=last.critiques,
        )
