"""PrefPO: of two prompts a model says which answers better and why; the one that loses is rewritten.

learner = PrefPO(model="openai/gpt-4o-mini", criteria="Answers are correct and short.", runs=400)
learner = PrefPO(model=…, criteria=…, labels=False)      # nothing but the criteria says what is good
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from whet.core.records import Message, Task
from whet.learners.asking import read_json
from whet.learners.prompts.archive import Archive, Evidence, Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, example, examples, fenced

__all__ = ["PrefPO"]

_COMPARE = """\
Two prompts were tried on the same tasks. Which answers keep better to the criteria? Then say how the worse prompt has
to change: clearly, for all tasks of this kind, without a word on single answers.
Answer with JSON and nothing else: {{"preferred": 1 or 2, "feedback": "…"}}

# Criteria
{criteria}

# Answers of prompt 1
{first}

# Answers of prompt 2
{second}"""

_REWRITE = """\
This is the worse prompt (its part {part!r}). Rewrite it by your feedback.{limits} Answer with the whole new text
between lines of three back-ticks.

# Text ({part})
{text}"""

_VARY = """\
Below are a part of a prompt, the criteria for answers, and what it led to. Write another version that could keep to the
criteria better. Answer with the whole text between lines of three back-ticks.

# Text ({part})
{text}

# Criteria
{criteria}

# Answers
{answers}"""

_MINIMAL = " Make the smallest change that does it; leave the rest word for word."


@dataclass(kw_only=True)
class PrefPO(PromptLearner):
    """Preference-based prompt optimisation (arXiv 2603.19311).

    ``criteria``: what good answers are, in words. ``labels``: whether verifiers are heard; without, the model sees the
    answers only, and the prompt that won most is proposed. ``minimal``: rewrites are small. ``minibatch`` tasks are
    compared on. ``steps``: rewrites.
    """

    name: ClassVar[str] = "prefpo"
    criteria: str = "The answer is correct and complete."
    labels: bool = True
    minimal: bool = False
    minibatch: int = 6
    steps: int = 15
    _won: dict[int, list[bool]] = field(default_factory=dict, init=False)

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns two of the pool, each with the same chance; the seed alone as long as there is nothing else."""
        if self.labels and lab.archive.mean(lab.archive.best()) == 1.0:
            return ()
        return lab.rng.sample(lab.archive.nodes, min(2, len(lab.archive.nodes)))

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the rewritten loser; a variant of the seed where it stands alone; none where nobody was preferred."""
        tasks = lab.minibatch(self.minibatch)
        shown = [await self._run(parent, tasks, lab) for parent in parents]
        part = sorted(parents[0].parts)[len(lab.archive.nodes) % len(parents[0].parts)]
        if len(parents) == 1:
            ask = _VARY.format(part=part, text=parents[0].parts[part], criteria=self.criteria, answers=shown[0].text)
            return [shown[0].draft(parents, {part: fenced(await lab.ask(ask))}, "a variant")]
        asked = _COMPARE.format(criteria=self.criteria, first=shown[0].text, second=shown[1].text)
        answer = await lab.ask(asked)
        said = read_json(answer)
        if not isinstance(said, dict) or said.get("preferred") not in (1, 2):
            return []
        first_lost = said["preferred"] == 2
        loser, winner = parents if first_lost else (parents[1], parents[0])
        for node, won in ((winner, True), (loser, False)):
            self._won.setdefault(node.number, []).append(won)
        limits = _MINIMAL if self.minimal else ""
        heard = [Message(role="user", content=asked), Message(role="assistant", content=answer)]
        text = await lab.ask(_REWRITE.format(part=part, text=loser.parts[part], limits=limits), after=heard)
        return [shown[not first_lost].draft((loser,), {part: fenced(text)}, str(said.get("feedback", "")))]

    async def _run(self, node: Node, tasks: Sequence[Task], lab: Lab) -> "_Shown":
        if self.labels:
            on = tuple(await lab.run(node.policy, tasks))
            return _Shown(examples(on), on=on)
        runs = await lab.answers(node.policy, tasks)
        pairs = enumerate(zip(tasks, runs, strict=True), 1)
        text = "\n\n".join(example(n, task.prompt, run.answer or "", "none") for n, (task, run) in pairs)
        return _Shown(text, ids=tuple(run.id for run in runs), tainted=any(run.trust == "tainted" for run in runs))

    async def admit(self, node: Node, draft: Draft, lab: Lab) -> bool:
        """Lets everything into the pool."""
        return True

    async def assess(self, node: Node, lab: Lab) -> None:
        """Scores a candidate on the validation tasks, where verifiers are heard."""
        if self.labels:
            await lab.assess(node)

    def choose(self, archive: Archive) -> Node:
        """Returns the candidate of the highest score; without labels the one that won most, the newer of equals."""
        if self.labels:
            return archive.best()
        return max(archive.nodes, key=lambda node: (self._share(node), node.number))

    def better(self, chosen: Node, seed: Node, archive: Archive) -> bool:
        """Whether the chosen candidate scores higher than the seed, or won more of its comparisons."""
        return super().better(chosen, seed, archive) if self.labels else self._share(chosen) > self._share(seed)

    def _share(self, node: Node) -> float:
        """Returns the share of comparisons that were won, drawn to a half where there are few."""
        won = self._won.get(node.number, [])
        return (sum(won) + 1) / (len(won) + 2)


@dataclass(frozen=True)
class _Shown:
    """Answers of a prompt as the model is shown them, and the records that they are."""

    text: str
    on: tuple[Evidence, ...] = ()
    ids: tuple[str, ...] = ()
    tainted: bool = False

    def draft(self, parents: Sequence[Node], parts: dict[str, str], note: str) -> Draft:
        """Returns a change that rests on these answers."""
        return Draft(
            parts=parts, parents=tuple(parents), note=note, on=self.on, evidence=self.ids, tainted=self.tainted
        )
