"""TextGrad as its prompt optimisation script runs it: batches of 3, reverted where validation falls."""

import random
from collections.abc import Callable
from typing import Any

import textgrad as tg
from line import Host, begin, prompted
from textgrad.autograd import StringBasedFunction
from textgrad.engine import EngineLM


class Line(EngineLM):  # type: ignore[misc]
    """A model of the benchmark."""

    model_string = "line"

    def __init__(self, host: Host, role: str) -> None:
        self.host, self.role = host, role

    def generate(self, prompt: str, system_prompt: str | None = None, **kwargs: Any) -> str:
        """Returns an answer."""
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return self.host.complete([*system, {"role": "user", "content": str(prompt)}], role=self.role)

    def __call__(self, prompt: str, system_prompt: str | None = None, **kwargs: Any) -> str:
        """Returns an answer."""
        return self.generate(prompt, system_prompt)


def learn(host: Host) -> Callable[[str], str]:
    """Returns the prompt of the best validation score, within the budget."""
    writer = Line(host, "writer")
    tg.set_backward_engine(writer, override=True)
    system = tg.Variable(host.start or "Answer.", requires_grad=True, role_description="system prompt of the task")
    model = tg.BlackboxLLM(Line(host, "task"), system)
    optimiser = tg.TGD(engine=writer, parameters=[system])
    rng, tasks = random.Random(host.seed), list(host.train.values())

    def score_on_validation() -> float:
        answer = prompted(host, system.value)
        return sum(host.judge(prompt, answer(prompt))[0] for prompt in host.validation.values())

    best, kept = score_on_validation(), system.value
    while host.left >= 3 + len(host.validation) and best < len(host.validation):
        losses = []
        for prompt in rng.sample(tasks, 3):
            asked = tg.Variable(prompt, requires_grad=False, role_description="task")

            def check(question: Any, prediction: Any) -> str:
                return host.judge(question.value, prediction.value)[1]

            loss = StringBasedFunction(check, function_purpose="Runs the checks of the task and says which fail.")
            losses.append(loss(inputs={"question": asked, "prediction": model(asked)}))
        optimiser.zero_grad()
        tg.sum(losses).backward()
        optimiser.step()
        score = score_on_validation()
        if score >= best:
            best, kept = score, system.value
        else:
            system.set_value(kept)
    return prompted(host, kept)


begin(learn)
