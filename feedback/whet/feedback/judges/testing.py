"""A judge's model with errors and biases that are known, so that a report can be held to them; no language model.

    model = PlantedModel(right=lambda answer: answer.startswith("42"), error=0.1, first=0.3)
    judge = Checklist({"items": ["The answer is right."]}, model=model)

Each chance is drawn from a hash of what it is shown, so the same question always has the same answer.
"""

import json
import random
import re
from collections.abc import Callable, Sequence

from whet.core.records import Completion, Message, Sampling, ToolSpec, Usage
from whet.feedback.probes import REMARK

__all__ = ["PlantedModel"]

_PART = re.compile(r"^# ([^\n]+)\n(`{3,})\n(.*?)\n\2$", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^\d+\. ", re.MULTILINE)


class PlantedModel:
    """Knows which answers are right, and errs as it is told to.

    Args:
        right: whether an answer is right.
        error: chance of the wrong verdict on an answer (or on a pair, where one of two is right).
        first: chance that of two answers the one shown first wins, whatever they are.
        longer: chance that of two answers the longer one wins, and that a single answer of ``long`` characters passes.
        distracted: chance that a right answer with a distractor (``marks``) fails, and a wrong one with it passes; and
            that of two answers the one with it wins.
        own: chance that an answer its own family wrote (``signed``) passes, whatever it is.
        yields: chance that it fails an answer to which the last remark of a reviewer objects.
        long: how many characters are long.
    """

    def __init__(
        self,
        right: Callable[[str], bool],
        *,
        error: float = 0.0,
        first: float = 0.0,
        longer: float = 0.0,
        distracted: float = 0.0,
        own: float = 0.0,
        yields: float = 0.0,
        marks: Sequence[str] = (),
        signed: str = "",
        long: int = 400,
        name: str = "planted",
        seed: int = 0,
    ) -> None:
        self._right, self._name, self._seed, self._long = right, name, seed, long
        self._marks, self._signed = tuple(marks), signed
        self._chances = {
            "error": error,
            "first": first,
            "longer": longer,
            "distracted": distracted,
            "own": own,
            "yields": yields,
        }
        self.calls = 0

    @property
    def name(self) -> str:
        """``planted`` unless given."""
        return self._name

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns a reply in the form that the question asks for."""
        self.calls += 1
        system = "\n".join(message.content for message in messages if message.role == "system")
        parts = {match[1]: match[3] for match in _PART.finditer(messages[-1].content)}
        said = self._compared(parts) if "Answer A" in parts else self._judged(parts, system)
        return Completion(text=json.dumps(said), usage=Usage(calls=1), model=self._name)

    def _compared(self, parts: dict[str, str]) -> dict[str, object]:
        one, other = parts["Answer A"], parts["Answer B"]
        pair = "\0".join(sorted((one, other)))
        if self._happens("first", pair):
            return {"critique": "The first one.", "better": "A"}
        if len(one) != len(other) and self._happens("longer", pair):
            return {"critique": "More is said.", "better": "A" if len(one) > len(other) else "B"}
        baited = [any(mark in answer for mark in self._marks) for answer in (one, other)]
        if baited[0] != baited[1] and self._happens("distracted", pair):
            return {"critique": "It is sure.", "better": "A" if baited[0] else "B"}
        good, bad = self._right(one), self._right(other)
        if good == bad:
            return {"critique": "Both alike.", "better": "tie"}
        return {"critique": "One is right.", "better": "A" if good != self._happens("error", pair) else "B"}

    def _judged(self, parts: dict[str, str], system: str) -> dict[str, object]:
        passes = self._passes(parts)
        if "# Checklist" in system:
            count = len(_ITEM.findall(system.split("# Checklist", 1)[1]))
            return {"items": [{"item": n, "why": "So I find.", "holds": passes} for n in range(1, count + 1)]}
        return {"critique": "So I find.", "rating": 5 if passes else 1}

    def _passes(self, parts: dict[str, str]) -> bool:
        answer = parts.get("Answer", "")
        answer, *remarks = answer.split(REMARK)
        right = self._right(answer)
        if remarks and "keep it" not in remarks[-1] and self._happens("yields", answer + "".join(remarks)):
            return False
        if self._signed and self._signed in answer and self._happens("own", answer):
            return True
        if len(answer) >= self._long and self._happens("longer", answer):
            return True
        if any(mark in answer for mark in self._marks) and self._happens("distracted", answer):
            return not right
        return right != self._happens("error", answer)

    def _happens(self, what: str, about: str) -> bool:
        return random.Random(f"{self._seed}/{self._name}/{what}/{about!r}").random() < self._chances[what]
