"""PromptAgent: a tree of prompts, searched like a game: follow what promises most, rewrite by errors, look ahead.

learner = PromptAgent(model="openai/gpt-4o-mini", width=3, iterations=12, runs=1000)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from whet.learners.prompts.archive import Archive, Evidence, Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, examples, fenced
from whet.learners.prompts.methods.textgrad import CRITICISE

__all__ = ["PromptAgent"]

_TRIES = 3

_REWRITE = """\
Write a better version of this part of a prompt. You see how it came about, what it still gets wrong, and why. Do not go
back to an earlier version. Answer with the whole new text between lines of three back-ticks.

# Earlier versions, the oldest first
{earlier}

# Text ({part})
{text}

# Criticism
{criticism}

# Errors
{examples}"""


@dataclass(kw_only=True)
class PromptAgent(PromptLearner):
    """Monte Carlo tree search over prompts (Wang et al. 2023, arXiv 2310.16427, algorithm 1).

    ``width`` children of a node, ``depth`` limit of a path, ``iterations`` paths, ``exploration`` is the weight w of
    Q + w √(ln(N + 1) / n), ``min_depth`` is how deep a path goes at least before it may end early.

    Raises:
        UserError: an option has an impossible value.
    """

    name: ClassVar[str] = "promptagent"
    counts: ClassVar[tuple[str, ...]] = ("width", "depth", "iterations")
    width: int = 3
    depth: int = 8
    min_depth: int = 2
    iterations: int = 12
    exploration: float = 2.5
    minibatch: int = 5
    _path: list[Node] = field(default_factory=list, init=False)
    _paths: list[list[Node]] = field(default_factory=list, init=False)
    _returns: dict[int, list[float]] = field(default_factory=dict, init=False)
    _expanded: set[int] = field(default_factory=set, init=False)
    _records: set[int] = field(default_factory=set, init=False)

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the node to expand: the end of the path under way, or of a new one that the tree policy descends."""
        archive = lab.archive
        while len(self._paths) < self.iterations and archive.mean(archive.best()) != 1.0:
            self._path = self._path or self._descend(archive)
            node = self._path[-1]
            children = _children(node, archive)
            if self._ends(node, archive) or (node.number in self._expanded and not children):
                self._back(archive)
            elif not children:
                self._expanded.add(node.number)
                return (node,)
            else:
                self._path.append(max(children, key=lambda child: (_reward(child, archive), -child.number)))
        return ()

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns up to ``width`` rewrites, each by the errors of a minibatch of its own."""
        node, drafts = parents[0], list[Draft]()
        parts = sorted(node.parts)
        for number in range(self.width):
            if not (wrong := await self._errors(node, lab)):
                break
            part = parts[(len(lab.archive.nodes) + number) % len(parts)]
            text, shown = node.parts[part], examples(wrong)
            earlier = "\n\n".join(each.parts[part] for each in lab.archive.lineage(node)[:-1]) or "none"
            criticism = await lab.ask(CRITICISE.format(part=part, text=text, examples=shown))
            asked = _REWRITE.format(part=part, text=text, criticism=criticism, examples=shown, earlier=earlier)
            drafts.append(
                Draft(parts={part: fenced(await lab.ask(asked))}, parents=(node,), note=criticism, on=tuple(wrong))
            )
        return drafts

    async def _errors(self, node: Node, lab: Lab) -> list[Evidence]:
        """Returns what went wrong on a minibatch; another is drawn, a few times, where nothing did."""
        for _ in range(_TRIES):
            tried = await lab.run(node.policy, lab.minibatch(self.minibatch))
            if wrong := [each for each in tried if each.score < 1.0]:
                return wrong
        return []

    async def admit(self, node: Node, draft: Draft, lab: Lab) -> bool:
        """Assesses every child: its score is its reward."""
        return True

    async def assess(self, node: Node, lab: Lab) -> None:
        """Scores a child, and notes whether it is the best so far."""
        best = lab.archive.mean(lab.archive.best()) or 0.0
        if await lab.assess(node) > best:
            self._records.add(node.number)

    def choose(self, archive: Archive) -> Node:
        """Returns the best node of the path with the highest mean reward; the best of all if no path was finished."""
        if not self._paths:
            return archive.best()
        rewards = [[_reward(node, archive) for node in path] for path in self._paths]
        best = max(range(len(rewards)), key=lambda index: sum(rewards[index]) / len(rewards[index]))
        return max(self._paths[best], key=lambda node: (_reward(node, archive), -node.number))

    # --- the tree ---------------------------------------------------------------------------------------------------

    def _descend(self, archive: Archive) -> list[Node]:
        """Returns the path from the root by the tree policy, to a node that has no children or ends a path."""
        path = [archive.nodes[0]]
        while not self._ends(path[-1], archive) and (children := _children(path[-1], archive)):
            visits = len(self._returns.get(path[-1].number, ()))
            path.append(max(children, key=lambda child: (self._bound(child, visits, archive), -child.number)))
        return path

    def _bound(self, node: Node, visits: int, archive: Archive) -> float:
        """Returns Q + w √(ln(N + 1) / max(1, n)); Q is the node's reward before it was visited."""
        returns = self._returns.get(node.number, [])
        q = sum(returns) / len(returns) if returns else _reward(node, archive)
        return q + self.exploration * math.sqrt(math.log(visits + 1) / max(1, len(returns)))

    def _ends(self, node: Node, archive: Archive) -> bool:
        """Whether a path ends here: at the depth limit, on a poor node, or on the best so far, if it is deep enough."""
        line = archive.lineage(node)
        depth = len(line) - 1
        if depth <= self.min_depth:
            return depth >= self.depth
        poor = _reward(node, archive) < (_reward(line[0], archive) + _reward(line[-2], archive)) / 2
        return depth >= self.depth or poor or node.number in self._records

    def _back(self, archive: Archive) -> None:
        """Gives each node of the finished path the sum of the rewards from it to the end."""
        total = 0.0
        for node in reversed(self._path):
            total += _reward(node, archive)
            self._returns.setdefault(node.number, []).append(total)
        self._paths.append(self._path)
        self._path = []


def _children(node: Node, archive: Archive) -> list[Node]:
    return [child for child in archive.children(node) if archive.scores(child)]


def _reward(node: Node, archive: Archive) -> float:
    return archive.mean(node) or 0.0
