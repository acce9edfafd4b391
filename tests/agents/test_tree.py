"""The tree of a search: paths, rewards, UCT, the way down, versions of a node."""

import math

import pytest

from whet.agents.tree import Node, Tree


def node(id: int, parent: int | None, value: float = 0.0) -> Node:
    return Node(id=id, parent=parent, value=value, step="")


LOG = [node(0, None), node(1, 0), node(2, 0), node(3, 1)]


def test_a_reward_counts_for_the_node_and_all_above() -> None:
    tree = Tree(LOG, [(3, 1.0), (2, 0.5)])
    assert [tree.visits[id] for id in range(4)] == [2, 1, 1, 1]
    assert [tree.mean(id) for id in range(4)] == [0.75, 1.0, 0.5, 1.0]
    assert [each["id"] for each in tree.path(3)] == [0, 1, 3]
    assert [tree.depth(id) for id in range(4)] == [0, 1, 1, 2]


def test_uct_is_mean_and_exploration() -> None:
    tree = Tree(LOG, [(3, 1.0), (2, 0.5), (2, 0.7)])
    assert tree.uct(2, 2.0) == pytest.approx(0.6 + 2.0 * math.sqrt(math.log(3) / 2))
    assert tree.uct(1, 0.0) == 1.0
    assert Tree(LOG).uct(1, 1.0) == math.inf


def test_the_way_down_follows_scores_to_an_open_node() -> None:
    tree = Tree(LOG, [(3, 0.1), (2, 0.9)])

    def down(*opened: int) -> int | None:
        found = tree.descend(lambda each: tree.uct(each["id"], 0.0), lambda each: each["id"] in opened)
        return None if found is None else found["id"]

    assert down(2, 3) == 2
    assert down(3) == 3, "a branch without an open node is left out"
    assert down(0, 2) == 0
    assert down() is None


def test_the_last_version_of_a_node_counts() -> None:
    tree = Tree([*LOG, node(1, 0, value=0.4)])
    assert tree.nodes[1]["value"] == 0.4
    assert [child["id"] for child in tree.children(0)] == [1, 2]
