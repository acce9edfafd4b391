"""What a search has tried: candidates with their parents and their scores, task by task.

seed = archive.add(policy, parts)
child = archive.add(better, parts, parents=(seed.number,), note="names the verbs")
archive.record(child, evidence)
archive.mean(child), archive.best(), archive.front()
"""

from collections.abc import Iterable, Mapping, Sequence

from whet.core.policy import Policy
from whet.core.prompting import describe_failure
from whet.core.records import Record, Run, Task, Verdict

__all__ = ["Archive", "Evidence", "Node"]

_CHECKS = 3


class Evidence(Record, frozen=True, kw_only=True):
    """One run of a candidate on a training task: its ``score`` in [0, 1] and the verdicts behind it."""

    task: Task
    run: Run
    verdicts: tuple[Verdict, ...]
    score: float

    @property
    def ids(self) -> tuple[str, ...]:
        """The stored records that show it."""
        return (self.run.id, *(verdict.id for verdict in self.verdicts))

    @property
    def feedback(self) -> str:
        """What the verifiers found, in words: ``passed``, or the checks that failed."""
        if self.score >= 1.0:
            return "passed"
        failing = [check for verdict in self.verdicts for check in verdict.checks if not check.passed]
        found = [describe_failure(check.call, check.got, check.expected) for check in failing if check.call]
        details = [verdict.detail for verdict in self.verdicts if verdict.outcome != "pass" and verdict.detail]
        return " ".join(["failed.", *(found or details)[:_CHECKS]])


class Node(Record, frozen=True, kw_only=True):
    """A candidate: its ``parts`` (name to text) in a policy, and where it comes from.

    ``note`` says what was changed; ``evidence`` are ids of the records that the change rests on.
    """

    number: int
    policy: Policy
    parts: dict[str, str]
    parents: tuple[int, ...] = ()
    note: str = ""
    evidence: tuple[str, ...] = ()
    tainted: bool = False


class Archive:
    """Candidates in the order in which they came; the first is where the search begins."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._scores: dict[int, dict[str, float]] = {}

    def add(
        self,
        policy: Policy,
        parts: Mapping[str, str],
        *,
        parents: Sequence[int] = (),
        note: str = "",
        evidence: Sequence[str] = (),
        tainted: bool = False,
    ) -> Node:
        """Returns the new candidate."""
        node = Node(
            number=len(self.nodes),
            policy=policy,
            parts=dict(parts),
            parents=tuple(parents),
            note=note,
            evidence=tuple(dict.fromkeys(evidence)),
            tainted=tainted or any(self.nodes[number].tainted for number in parents),
        )
        self.nodes.append(node)
        return node

    def of(self, policy: Policy) -> Node | None:
        """Returns the candidate with this policy, ``None`` where there is none."""
        return next((node for node in self.nodes if node.policy == policy), None)

    def record(self, node: Node, evidence: Iterable[Evidence]) -> None:
        """Adds a candidate's scores; a task scored before keeps the newer score."""
        self._scores.setdefault(node.number, {}).update({each.task.id: each.score for each in evidence})

    def scores(self, node: Node) -> Mapping[str, float]:
        """Returns a candidate's score on each task that it was assessed on."""
        return self._scores.get(node.number, {})

    def mean(self, node: Node) -> float | None:
        """Returns a candidate's mean score, ``None`` where it was never assessed."""
        scores = self.scores(node)
        return sum(scores.values()) / len(scores) if scores else None

    def assessed(self) -> list[Node]:
        """Returns the candidates that have scores."""
        return [node for node in self.nodes if self.scores(node)]

    def best(self) -> Node:
        """Returns the candidate of the highest mean score, the older of equals."""
        return max(self.assessed() or self.nodes[:1], key=lambda node: (self.mean(node) or 0.0, -node.number))

    def front(self) -> dict[str, set[int]]:
        """Returns, for each task, the numbers of the candidates that lead on it (GEPA, arXiv 2507.19457, alg. 2)."""
        leaders: dict[str, set[int]] = {}
        tasks = {task for node in self.nodes for task in self.scores(node)}
        for task in sorted(tasks):
            scores = {node.number: self.scores(node).get(task, -1.0) for node in self.assessed()}
            leaders[task] = {number for number, score in scores.items() if score == max(scores.values())}
        return leaders

    def lineage(self, node: Node) -> list[Node]:
        """Returns the candidate's ancestors by first parents, the oldest first, and itself."""
        line = [node]
        while line[0].parents:
            line.insert(0, self.nodes[line[0].parents[0]])
        return line

    def children(self, node: Node) -> list[Node]:
        """Returns the candidates made from this one."""
        return [each for each in self.nodes if node.number in each.parents]
