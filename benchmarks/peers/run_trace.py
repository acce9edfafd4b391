"""Trace: OptoPrime on one trainable prompt, a batch of 3 a step; the best by validation is kept."""

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from line import Host, begin, prompted
from opto.optimizers import OptoPrime
from opto.trace import bundle, node


def learn(host: Host) -> Callable[[str], str]:
    """Returns the prompt of the best validation score, within the budget."""
    prompt = node(host.start or "Answer.", name="system_prompt", trainable=True)

    @bundle(description="[answer] Answers a task under a system prompt.")
    def answer(system_prompt: str, task: str) -> str:
        return prompted(host, system_prompt)(task)

    @bundle(description="[gather] Puts answers together.")
    def gather(*answers: str) -> str:
        return "\n\n".join(answers)

    def llm(messages: Sequence[dict[str, str]], **kwargs: Any) -> Any:
        text = host.write(messages)
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])

    optimiser = OptoPrime([prompt], llm=llm, memory_size=2)
    rng, tasks = random.Random(host.seed), list(host.train.values())

    def score_on_validation() -> float:
        said = prompted(host, prompt.data)
        return sum(host.judge(task, said(task))[0] for task in host.validation.values())

    best, kept = score_on_validation(), str(prompt.data)
    while host.left >= 3 + len(host.validation) and best < len(host.validation):
        batch = rng.sample(tasks, 3)
        outputs = [answer(prompt, task) for task in batch]
        found = [host.judge(task, output.data) for task, output in zip(batch, outputs, strict=True)]
        if all(score == 1.0 for score, _ in found):
            continue
        feedback = "\n\n".join(
            f"{task}\n{output.data}\n{said}" for task, output, (_, said) in zip(batch, outputs, found, strict=True)
        )
        optimiser.zero_feedback()
        optimiser.backward(gather(*outputs), feedback)
        optimiser.step()
        score = score_on_validation()
        if score >= best:
            best, kept = score, str(prompt.data)
        else:
            prompt._data = kept
    return prompted(host, kept)


begin(learn)
