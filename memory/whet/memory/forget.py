"""Forgetting: first a plan of everything that holds or rests on the data, then its removal, proved on the disk.

    plan = await memory.forget_plan(person="ada")
    for item in plan.items: print(item.action, item.kind, item.id, item.why)
    report = await memory.forget(plan, reason="ada asked for it")
    report.proved, report.searched, report.left

What goes: the records themselves, what is said about the runs among them, and every copy of the text. What was learned
from them goes too or is derived again: a lesson that has other sources keeps its text and loses these, and returns to
``proposed``; one that has none is purged. Lines of the policy that a promotion brought in from them leave the head, as
a promotion of its own, and the trees that held them are deleted. An adapter that was trained on them leaves the head in
the same way, and its weights are deleted. The change log keeps that something was there (kind, id, digest), not what it
said.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, func, or_, select

from whet.core import (
    Candidate,
    Completion,
    Critique,
    Execution,
    Feedback,
    HumanEdit,
    ModelCall,
    NotFoundError,
    Policy,
    Promotion,
    Record,
    Run,
    Step,
    ToolResult,
    UserError,
)
from whet.core.records import StepBody
from whet.memory import policies, schema
from whet.memory.adapters import resting_on, weights_of
from whet.memory.blame import MOVES, blame, unified, versions
from whet.memory.evidence import chunks
from whet.memory.kinds import kind_of
from whet.memory.lessons import newest
from whet.memory.lineage import read
from whet.memory.proof import blobs_holding, holding, marks_of, whole
from whet.memory.query import get_row
from whet.memory.rederive import without

__all__ = ["ForgetPlan", "Item", "PolicyChange", "clean_head", "make_plan"]

Action = Literal["purge", "rederive", "look"]
_COMMON = 20
"""A piece of text that more records share than this is nobody's own."""
_ABOUT_RUNS = (
    schema.steps,
    schema.verdicts,
    schema.critiques,
    schema.feedback,
    schema.failure_labels,
    schema.uses,
)


class Item(Record, frozen=True, kw_only=True):
    """A record that a plan touches. ``purge``: it goes. ``rederive``: a lesson that loses some of its evidence.

    ``look``: it shares words with what goes, without being linked to it; a person should look, nothing is done to it.
    """

    action: Action
    kind: str
    id: str
    why: str


class PolicyChange(Record, frozen=True, kw_only=True):
    """What becomes of the policy: ``promotions`` rest on the data, ``policies`` (digests) lose their trees.

    ``head_after`` is the head without those lines (the head of now where it has none), ``diff`` what that changes.
    """

    promotions: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    head: str = ""
    head_after: str = ""
    diff: str = ""


class ForgetPlan(Record, frozen=True, kw_only=True):
    """What forgetting would do. ``vectors`` of lessons go with them; ``marks`` are looked for on the disk after it.

    ``weights`` are pieces of adapters that go, which are looked for as well.
    """

    person: str | None = None
    run_ids: tuple[str, ...] = ()
    feedback_ids: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    vectors: int = 0
    policy: PolicyChange = PolicyChange()
    texts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    weights: tuple[bytes, ...] = ()

    def counts(self) -> dict[str, int]:
        """Returns how many records of each kind go."""
        return dict(Counter(item.kind for item in self.items if item.action == "purge"))

    def ids(self, action: Action, kind: str) -> list[str]:
        """Returns the ids of the items of one action and kind."""
        return [item.id for item in self.items if item.action == action and item.kind == kind]


def make_plan(
    connection: Connection,
    scope: str,
    *,
    person: str | None = None,
    run_ids: Sequence[str] = (),
    feedback_ids: Sequence[str] = (),
) -> ForgetPlan:
    """Returns the plan; it says nothing of other scopes but what shares words there.

    Raises:
        UserError: nothing is asked for.
        NotFoundError: a run or feedback is not stored, or nothing is of that person.
    """
    if person is None and not run_ids and not feedback_ids:
        raise UserError("say what to forget: a person, runs, or feedback")
    planner = _Planner(connection, scope)
    planner.ask(person, run_ids, feedback_ids)
    planner.spread()
    policy = planner.policy()
    return ForgetPlan(
        person=person,
        run_ids=tuple(run_ids),
        feedback_ids=tuple(feedback_ids),
        policy=policy,
        vectors=planner.vectors(),
        texts=tuple(planner.texts),
        marks=planner.marks(policy),
        weights=planner.weights(),
        items=tuple(planner.items.values()),
    )


@dataclass
class _Planner:
    """Collects what goes. ``texts`` are the words that were said, by whoever is forgotten or in their runs."""

    connection: Connection
    scope: str
    items: dict[tuple[str, str], Item] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)
    _own: dict[str, None] = field(default_factory=dict)

    def add(self, action: Action, kind: str, id: str, why: str) -> bool:
        """Notes an item once; returns whether it is new."""
        if (kind, id) in self.items:
            return False
        self.items[kind, id] = Item(action=action, kind=kind, id=id, why=why)
        return True

    def ask(self, person: str | None, run_ids: Sequence[str], feedback_ids: Sequence[str]) -> None:
        """Notes what was asked for."""
        for id in run_ids:
            body = get_row(self.connection, kind_of(Run), self.scope, id)
            self.add("purge", "runs", msgspec.json.decode(body, type=Run).id, "asked for")
        for id in feedback_ids:
            body = get_row(self.connection, kind_of(Feedback), self.scope, id)
            self.add("purge", "feedback", msgspec.json.decode(body, type=Feedback).id, "asked for")
        if person is not None:
            self._of_person(person)
            if not self.items:
                raise NotFoundError(f"nothing of person {person!r} in scope {self.scope!r}")

    def _of_person(self, person: str) -> None:
        for table, columns in _PEOPLE.items():
            said = or_(*(table.c[name] == person for name in columns))
            for id in self._ids(table, said):
                self.add("purge", str(table.name), id, f"by {person}")

    def spread(self) -> None:
        """Follows runs to what belongs to them, words to their copies, and data to what was learned from it."""
        before: dict[tuple[str, str], Item] | None = None
        while before != self.items:
            before = dict(self.items)
            self._belongings()
            self._tasks()
            self._read_texts()
            self._copies()
            self._lessons()
            self._candidates()

    def _ids(self, table: Table, where: ColumnElement[bool]) -> list[str]:
        return list(self.connection.scalars(select(table.c.id).where(table.c.scope == self.scope, where)))

    def _gone(self, kind: str) -> list[str]:
        return [id for (each, id), item in self.items.items() if each == kind and item.action == "purge"]

    def _belongings(self) -> None:
        for part in chunks(self._gone("runs")):
            for table in _ABOUT_RUNS:
                for id in self._ids(table, table.c.run_id.in_(part)):
                    self.add("purge", str(table.name), id, "belongs to a run that goes")
            for id in self._ids(schema.runs, schema.runs.c.parent_id.in_(part)):
                self.add("purge", "runs", id, "continues a run that goes")

    def _tasks(self) -> None:
        """A task that came with a run, from a user or a file, and that no other run works on goes with it."""
        gone = self._gone("runs")
        came = [run for run in read(self.connection, Run, self.scope, "id", gone) if run.purpose in ("import", "live")]
        for task_id in dict.fromkeys(run.task_id for run in came):
            if set(self._ids(schema.runs, schema.runs.c.task_id == task_id)) <= set(gone):
                for id in self._ids(schema.tasks, schema.tasks.c.id == task_id):
                    self.add("purge", "tasks", id, "only runs that go work on it")

    def _read_texts(self) -> None:
        said = [each.text for each in read(self.connection, Feedback, self.scope, "id", self._gone("feedback"))]
        said += [each.text for each in read(self.connection, Critique, self.scope, "id", self._gone("critiques"))]
        self._own |= dict.fromkeys(text for text in said if len(text.strip()) >= _WORTH_A_SEARCH)
        runs = read(self.connection, Run, self.scope, "id", self._gone("runs"))
        steps = read(self.connection, Step, self.scope, "id", self._gone("steps"))
        told = [run.answer or "" for run in runs] + [text for step in steps for text in spoken(step.body)]
        self.texts |= dict.fromkeys(text for text in [*said, *told] if text.strip())

    def _copies(self) -> None:
        """Records that hold a whole text that somebody said about a run, wherever they are in this scope."""
        for places in holding(self.connection, [whole(text) for text in self._own]).values():
            for kind, scope, id in places:
                if scope == self.scope and kind != "lessons":
                    self.add("purge", kind, id, "holds the text")

    def _lessons(self) -> None:
        gone = {id for (_, id), item in self.items.items() if item.action == "purge"}
        resting = {id for kind, id in self._edges(gone) if kind == "lessons"}
        copies = {
            id
            for places in holding(self.connection, [whole(text) for text in self._own]).values()
            for kind, scope, id in places
            if kind == "lessons" and scope == self.scope
        }
        for id in sorted(copies | resting):
            sources = newest(self.connection, self.scope, id).derived_from
            if id in copies:
                self._purge_lesson(id, "holds the text")
            elif sources and not set(sources) - gone:
                self._purge_lesson(id, "derived from nothing else")
            else:
                self.add("rederive", "lessons", id, "loses some of its evidence")

    def _purge_lesson(self, id: str, why: str) -> None:
        if self.items.get(("lessons", id), _NOTHING).action != "purge":
            self.items.pop(("lessons", id), None)
            self.add("purge", "lessons", id, why)

    def _candidates(self) -> None:
        gone = {id for (_, id), item in self.items.items() if item.action == "purge"}
        for kind, id in self._edges(gone):
            if kind == "candidates":
                self.add("purge", kind, id, "made from what goes")

    def _edges(self, ids: Iterable[str]) -> list[tuple[str, str]]:
        table = schema.lineage
        found: dict[tuple[str, str], None] = {}
        for part in chunks(sorted(ids)):
            query = select(table.c.kind, table.c.source).where(table.c.scope == self.scope, table.c.target.in_(part))
            found |= dict.fromkeys(self.connection.execute(query))
        return list(found)

    def vectors(self) -> int:
        """Returns how many vectors belong to lessons that go."""
        table, found = schema.vectors, 0
        for part in chunks(self._gone("lessons")):
            where = (table.c.scope == self.scope, table.c.lesson_id.in_(part))
            found += self.connection.scalar(select(func.count()).select_from(table).where(*where)) or 0
        return found

    def policy(self) -> PolicyChange:
        """Returns which promotions rest on what goes, and the head without what they brought in."""
        history = policies.history(self.connection, self.scope)
        moves = [promotion for promotion in history if promotion.decision in MOVES]
        candidates = read(self.connection, Candidate, self.scope, "id", self._gone("candidates"))
        held = self._trees_holding(list(self._own)) | self._adapters(candidates)
        made = {candidate.policy for candidate in candidates}
        flagged = {
            promotion.id
            for promotion in moves
            if promotion.policy in made
            or promotion.candidate_id in self._gone("candidates")
            or (promotion.policy in held and promotion.incumbent not in held)
        }
        head = policies.head(self.connection, self.scope)
        if not flagged:
            return PolicyChange(policies=tuple(sorted((held | made) - {head})), head=head, head_after=head)
        names = {promotion.policy for promotion in moves} | {promotion.incumbent for promotion in moves}
        gone = {name for name in names if any(o is not None and o.id in flagged for o, _ in versions(history, name))}
        clean = without(history, head, flagged, self._tree)
        return PolicyChange(
            promotions=tuple(promotion.id for promotion in moves if promotion.id in flagged),
            policies=tuple(sorted((gone | held | made) - {clean.digest})),
            lines=tuple(self._lines(history, head, flagged)),
            head=head,
            head_after=clean.digest,
            diff=unified(self._tree(head), clean, "head", "after"),
        )

    def _adapters(self, candidates: Sequence[Candidate]) -> set[str]:
        """Notes the adapters that rest on what goes; returns the policies of this scope that name one."""
        pairs = [
            (self._tree(candidate.policy).adapter, self._tree(candidate.parent).adapter) for candidate in candidates
        ]
        brought = {adapter for adapter, before in pairs if adapter and adapter != before}
        gone = {id for (_, id), item in self.items.items() if item.action == "purge"}
        named, mine = policies.adapters_of(self.connection), set[str]()
        for adapter, why in resting_on(self.connection, gone, brought).items():
            elsewhere = policies.of_others(self.connection, self.scope, named.get(adapter, set()))
            mine |= named.get(adapter, set()) - elsewhere
            self.add("look" if elsewhere else "purge", "adapters", adapter, _OTHERS if elsewhere else why)
        return mine

    def weights(self) -> tuple[bytes, ...]:
        """Returns pieces of the adapters that go."""
        return weights_of(self.connection, self._gone("adapters"))

    def _tree(self, name: str) -> Policy:
        return policies.read_tree(self.connection, name)

    def _lines(self, history: Sequence[Promotion], head: str, flagged: set[str]) -> list[tuple[str, str]]:
        return [
            (path, line)
            for path in self._tree(head).files
            for owner, line in blame(history, head, path, self._tree)
            if owner is not None and owner.id in flagged
        ]

    def _trees_holding(self, pieces: Sequence[str]) -> set[str]:
        trees, found = schema.policy_trees, set[str]()
        for part in chunks(blobs_holding(self.connection, pieces) if pieces else ()):
            found |= set(self.connection.scalars(select(trees.c.policy).where(trees.c.blob.in_(part))))
        return found

    def marks(self, policy: PolicyChange) -> tuple[str, ...]:
        """Returns the pieces of text that only what goes has; notes what shares the others."""
        marks = marks_of(self.texts)
        shared: dict[str, list[tuple[str, str, str]]] = {mark: [] for mark in marks}
        for mark, places in holding(self.connection, marks).items():
            shared[mark] += [
                (kind, scope, id)
                for kind, scope, id in places
                if scope != self.scope or self.items.get((kind, id), _NOTHING).action != "purge"
            ]
        for name, has in blobs_holding(self.connection, marks).items():
            kept = self._kept_trees(name, policy)
            for mark in has:
                shared[mark] += [("policies", self.scope, tree) for tree in kept]
        for mark, places in shared.items():
            for kind, scope, id in places if len(places) <= _COMMON else ():
                other = f" (in scope {scope!r})" if scope != self.scope else ""
                self.add("look", kind, id, f"shares words{other}: {mark[:24]!r}…")
        return tuple(mark for mark in marks if not shared[mark])

    def _kept_trees(self, blob: str, policy: PolicyChange) -> list[str]:
        trees = schema.policy_trees
        found = self.connection.scalars(select(trees.c.policy).where(trees.c.blob == blob).distinct())
        return [name for name in found if name not in policy.policies]


_OTHERS = "rests on what goes, and another scope has it in its history"
_NOTHING = Item(action="look", kind="", id="", why="")
_WORTH_A_SEARCH = 12
"""Characters from which a whole text is looked for in other records."""
_PEOPLE: dict[Table, tuple[str, ...]] = {
    schema.feedback: ("person", "source"),
    schema.runs: ("actor",),
    schema.verdicts: ("actor",),
    schema.critiques: ("source",),
    schema.failure_labels: ("source",),
    schema.actors: ("id",),
}


def clean_head(connection: Connection, scope: str, change: PolicyChange) -> Policy:
    """Returns the head as it will be."""
    history = policies.history(connection, scope)
    return without(history, change.head, set(change.promotions), lambda name: policies.read_tree(connection, name))


def spoken(body: StepBody) -> list[str]:
    """Returns what was said or produced in a step, not what it was asked."""
    match body:
        case ModelCall(completion=Completion(text=text)):
            return [text]
        case ToolResult(content=content):
            return [content]
        case Execution(command=command, result=result):
            return [command, result.stdout, result.stderr]
        case HumanEdit(before=before, after=after):
            return [before, after]
    return []
