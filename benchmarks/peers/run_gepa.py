"""GEPA as its library runs it (``gepa.optimize`` with its default adapter)."""

from collections.abc import Callable, Sequence
from typing import Any

import gepa
from gepa.adapters.default_adapter.default_adapter import EvaluationResult
from line import Host, begin, prompted


def learn(host: Host) -> Callable[[str], str]:
    """Returns the best candidate by the library."""

    def examples(tasks: dict[str, str]) -> list[dict[str, Any]]:
        return [{"input": prompt, "answer": "", "additional_context": {}} for prompt in tasks.values()]

    def evaluate(data: dict[str, Any], response: str) -> EvaluationResult:
        score, feedback = host.judge(data["input"], response)
        return EvaluationResult(score=score, feedback=feedback)

    def task_lm(messages: Sequence[dict[str, str]]) -> str:
        return host.complete(messages)

    result = gepa.optimize(
        seed_candidate={"system_prompt": host.start or "Answer."},
        trainset=examples(host.train),
        valset=examples(host.validation),
        task_lm=task_lm,
        evaluator=evaluate,
        reflection_lm=host.write,
        max_metric_calls=host.budget,
        seed=host.seed,
    )
    return prompted(host, result.best_candidate["system_prompt"])


begin(learn)
