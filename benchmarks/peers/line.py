"""What a peer speaks with the benchmark: JSON lines over stdin and stdout. Standard library only.

    begin(learn)        # learn(host) returns a function from a task's prompt to an answer

Two methods: ``complete`` asks the model that does the tasks (``role`` task) or the one that writes (``role`` writer);
``judge`` is the metric, and counts as a metric call. After ``learn`` the held-out tasks come one by one.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence


class Host:
    """The benchmark as a peer sees it: tasks (id to prompt), a budget of metric calls, models and the metric."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # What a library prints must not get between the lines.
        sys.stdout = sys.stderr
        hello = json.loads(sys.stdin.readline())
        self.train: dict[str, str] = hello["train"]
        self.validation: dict[str, str] = hello["validation"]
        self.budget: int = hello["budget"]
        self.seed: int = hello["seed"]
        self.start: str = hello["start"]
        self.calls = 0

    def complete(self, messages: "Sequence[dict[str, str]] | str", role: str = "task") -> str:
        """Returns what a model answers."""
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return str(self._ask({"method": "complete", "role": role, "messages": said})["text"])

    def write(self, messages: "Sequence[dict[str, str]] | str") -> str:
        """Returns what the model that writes answers."""
        return self.complete(messages, role="writer")

    def judge(self, prompt: str, answer: str) -> tuple[float, str]:
        """Returns the score of an answer, and feedback in words; a metric call."""
        self.calls += 1
        found = self._ask({"method": "judge", "prompt": prompt, "answer": answer})
        return float(found["score"]), str(found["feedback"])

    @property
    def left(self) -> int:
        """How many metric calls the budget still allows."""
        return self.budget - self.calls

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        print(json.dumps(request), file=self._out, flush=True)
        return dict(json.loads(sys.stdin.readline()))

    def answer_held_out(self, predict: Callable[[str], str]) -> None:
        """Answers the held-out tasks, until none is left."""
        reply = self._ask({"method": "done"})
        while "prompt" in reply:
            reply = self._ask({"method": "answer", "answer": predict(str(reply["prompt"]))})


def begin(learn: Callable[[Host], Callable[[str], str]]) -> None:
    """Lets a peer learn, and then answer."""
    host = Host()
    host.answer_held_out(learn(host))


def prompted(host: Host, system: str) -> Callable[[str], str]:
    """Returns what answers a task under a system prompt."""
    return lambda prompt: host.complete(
        [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
    )
