"""DSPy's optimisers on one predictor: ``run_dspy.py gepa`` or ``run_dspy.py mipro``."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dspy
from line import Host, begin


class Line(dspy.BaseLM):  # type: ignore[misc]
    """A model of the benchmark. The one that does the tasks answers without marks, so they are put around it."""

    forward_contract = "legacy"

    def __init__(self, host: Host, role: str) -> None:
        super().__init__(model=role)
        self.host, self.role = host, role

    def forward(self, prompt: str | None = None, messages: list[dict[str, Any]] | None = None, **kwargs: Any) -> Any:
        """Returns an answer in the shape of OpenAI's."""
        said = messages or [{"role": "user", "content": prompt or ""}]
        text = self.host.complete(said, role=self.role)
        if self.role == "task":
            text = f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        message = SimpleNamespace(content=text, tool_calls=None)
        choice = SimpleNamespace(message=message, finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=usage, model=self.role)


def learn(host: Host) -> Callable[[str], str]:
    """Returns the program that the optimiser compiles."""
    task, writer = Line(host, "task"), Line(host, "writer")
    dspy.configure(lm=task, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False))
    program = dspy.Predict(dspy.Signature("task -> answer", host.start or "Answer."))
    train, validation = (
        [dspy.Example(task=prompt).with_inputs("task") for prompt in tasks.values()]
        for tasks in (host.train, host.validation)
    )

    def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        score, feedback = host.judge(gold.task, pred.answer or "")
        return dspy.Prediction(score=score, feedback=feedback)

    def number(gold: Any, pred: Any, trace: Any = None) -> float | bool:
        score = float(metric(gold, pred).score)
        return score == 1.0 if trace is not None else score

    if sys.argv[1] == "gepa":
        optimiser = dspy.GEPA(
            metric=metric, max_metric_calls=host.budget, reflection_lm=writer, num_threads=1, seed=host.seed
        )
        better = optimiser.compile(program, trainset=train, valset=validation)
    else:
        trials = max(1, (host.budget - 2 * len(train)) // len(validation) - 1)
        optimiser = dspy.MIPROv2(
            metric=number,
            auto=None,
            num_candidates=6,
            prompt_model=writer,
            task_model=task,
            num_threads=1,
            seed=host.seed,
            max_errors=1000,
        )
        better = optimiser.compile(program, trainset=train, valset=validation, num_trials=trials, minibatch=False)
    return lambda prompt: str(better(task=prompt).answer or "")


begin(learn)
