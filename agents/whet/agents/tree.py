"""A search tree as it stands in a graph's state: a log of nodes and a log of rewards, both only added to.

    tree = Tree(state["nodes"], state["rewards"])
    leaf = tree.descend(lambda node: tree.uct(node["id"], 1.0), is_open)     # None when everything is searched

Of several versions of a node (one rewritten in place) the last in the log counts. A reward is that of the node it names
and of all nodes above. Nothing is kept outside the state, so a search that was cut off goes on where it was.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Generic, TypedDict, TypeVar

from whet.agents.runtime import AgentContext
from whet.core import Json, NodeFinished

__all__ = ["Node", "Tree", "note"]


class Node(TypedDict):
    """What every node of a search has: number, parent (the root has none), value, and its recorded step."""

    id: int
    parent: int | None
    value: float
    step: str


N = TypeVar("N", bound=Node)


class Tree(Generic[N]):
    """A view of the two logs."""

    def __init__(self, log: Iterable[N], rewards: Iterable[tuple[int, float]] = ()) -> None:
        self.nodes: dict[int, N] = {node["id"]: node for node in log}
        self.visits: dict[int, int] = defaultdict(int)
        self._total: dict[int, float] = defaultdict(float)
        self._children: dict[int | None, list[N]] = defaultdict(list)
        for node in self.nodes.values():
            self._children[node["parent"]].append(node)
        for id, reward in rewards:
            for node in self.path(id):
                self.visits[node["id"]] += 1
                self._total[node["id"]] += reward

    def path(self, id: int) -> list[N]:
        """Returns the nodes from the root to this one."""
        node = self.nodes[id]
        return [node] if node["parent"] is None else [*self.path(node["parent"]), node]

    def depth(self, id: int) -> int:
        """Returns how many nodes are above this one."""
        return len(self.path(id)) - 1

    def children(self, id: int) -> list[N]:
        """Returns the node's children in the order they came."""
        return self._children[id]

    def mean(self, id: int) -> float:
        """Returns the mean reward of the node and all below; 0 without one."""
        return self._total[id] / max(1, self.visits[id])

    def uct(self, id: int, exploration: float) -> float:
        """Returns mean + c·√(ln N / n), n visits here and N at the parent; infinite for a node never visited.

        Kocsis and Szepesvári 2006, "Bandit based Monte-Carlo Planning".
        """
        if self.visits[id] == 0:
            return math.inf
        parent = self.nodes[id]["parent"]
        around = self.visits[id] if parent is None else self.visits[parent]
        return self.mean(id) + exploration * math.sqrt(math.log(max(1, around)) / self.visits[id])

    def descend(self, score: Callable[[N], float], is_open: Callable[[N], bool]) -> N | None:
        """Returns the first open node on the way down from the root along the highest scores, the first of equals.

        Branches without an open node are left out; ``None`` where there is none at all.
        """
        node = self._children[None][0]
        if not self._has_open(node, is_open):
            return None
        while not is_open(node):
            node = max((child for child in self.children(node["id"]) if self._has_open(child, is_open)), key=score)
        return node

    def _has_open(self, node: N, is_open: Callable[[N], bool]) -> bool:
        return is_open(node) or any(self._has_open(child, is_open) for child in self.children(node["id"]))


def note(context: AgentContext, parent_step: str | None, about: dict[str, Json]) -> str:
    """Records a node of a search tree as a step under its parent's, and returns the step's id.

    So the recorded steps form the tree that was searched. ``about`` says what the node is and what it is worth.
    """
    place = context.here()
    body = NodeFinished(output=about)
    step = context.recorder.trace.record(body, node=f"{place.node}/tree", parent_id=parent_step or place.step_id)
    return step.id
