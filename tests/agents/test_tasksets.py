"""Task sets: loading, splits that never move, and a view for learners that holds no held-out task."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.agents.tasksets import TrainView, load_tasks, of_split, split_of
from whet.core import NotFoundError, RefusedError, Task, TaskSet, UserError, encode
from whet.core.records import Split

ROW = {"id": "add", "prompt": "Write add(a, b).", "reference": "def add(a, b): return a + b"}
CHECK = {
    "kind": "python_tests",
    "params": {
        "form": "check",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    },
}


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return f"jsonl:{path}"


def test_jsonl_with_a_header(tmp_path: Path) -> None:
    header = {"task_set": {"name": "mine", "packages": ["numpy"]}}
    own = {
        "id": "b",
        "messages": [{"role": "user", "content": "Hi"}],
        "split": "sealed",
        "tags": ["x"],
        "files": {"a": "b"},
    }
    task_set = load_tasks(write(tmp_path / "t.jsonl", header, {**ROW, "verifiers": [CHECK]}, "", own))
    assert (task_set.name, task_set.packages, [task.id for task in task_set.tasks]) == (
        "mine",
        ("numpy",),
        ["add", "b"],
    )
    add, other = task_set.tasks
    assert (add.prompt, add.split, add.task_set) == ("Write add(a, b).", split_of("add"), "mine")
    assert add.verifiers[0].params["packages"] == ["numpy"]
    assert (other.split, other.tags, other.files, other.prompt) == ("sealed", ("x",), {"a": "b"}, "Hi")


def test_jsonl_without_a_header_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    first = load_tasks(f"jsonl:{path}")
    assert (first.name, len(first.version), first.tasks[0].task_set) == ("sums", 12, "sums")
    assert load_tasks(f"jsonl:{path}") == first
    path.write_bytes(gzip.compress(json.dumps({**ROW, "prompt": "Other"}).encode()))
    assert load_tasks(f"jsonl:{path}").version != first.version


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "malformed"),
        ("[]", "Expected `object`"),
        ({**ROW, "id": 7}, "$.id"),
        ({**ROW, "promt": "x"}, "promt"),
        ({"prompt": "x"}, "no 'id'"),
        ({"id": "x"}, "'prompt' or 'messages'"),
        ({**ROW, "split": "test"}, "test"),
        ({**ROW, "verifiers": [{"kind": "telepathy"}]}, "telepathy"),
        ({**ROW, "verifiers": [{"kind": "exact", "params": {"expect": "x"}}]}, "expect"),
        ({"task_set": {"name": "late"}}, "first line"),
        (ROW, "a second task 'add'"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path: Path, row: object, says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_tasks(write(tmp_path / "t.jsonl", ROW, "", row))
    assert "t.jsonl, line 3" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "jsonl",
        "jsonl:",
        "nothing:x",
        "world:x",
        "world:1?verb=3",
        "world:1?lengths=0-3",
        "world:1?lengths=3-1",
        "world:1?kind=tree",
        "world:1?n=-1",
        "world:1?n",
        "world:1?n=1&n=2",
        "ilf:x?repair=none",
        "humaneval:x?n=3",
        "no.such.module:make",
        "whet.core:Budget",
    ],
)
def test_specs_that_cannot_be_are_refused_in_one_line(spec: str) -> None:
    with pytest.raises(UserError) as caught:
        load_tasks(spec)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no task file"):
        load_tasks(f"jsonl:{tmp_path}/none.jsonl")
    with pytest.raises(UserError, match="no task in it"):
        load_tasks(write(tmp_path / "t.jsonl", ""))
    (tmp_path / "t.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        load_tasks(f"jsonl:{tmp_path}/t.jsonl.gz")


def test_a_world_is_the_same_every_time_and_grows_without_moving() -> None:
    small, large = load_tasks("world:7?n=40"), load_tasks("world:7?n=80")
    assert encode(load_tasks("world:7?n=40")) == encode(small)
    assert encode(small.tasks) == encode(large.tasks[:40])
    assert len({task.id for task in large.tasks}) == 80
    assert load_tasks("world:8?n=40").tasks[0].id != small.tasks[0].id
    assert {task.tags for task in small.tasks} == {("length-1",), ("length-2",), ("length-3",)}
    only = load_tasks("world:7?n=20&lengths=2,4&verbs=12&kind=string&examples=1&checks=6&draw=3")
    assert {task.tags for task in only.tasks} == {("length-2",), ("length-4",)}
    assert all(len(task.verifiers[0].params["cases"]) == 6 for task in only.tasks)  # type: ignore[arg-type]


def test_a_short_length_that_is_used_up_gives_its_turn_away() -> None:
    task_set = load_tasks("world:7?n=200&lengths=1-3&verbs=12")
    ones = sum(task.tags == ("length-1",) for task in task_set.tasks)
    assert (len(task_set.tasks), ones <= 12) == (200, True)


def test_splits_are_fixed() -> None:
    """These answers are part of every result ever reported: they never change."""
    ids = ["humaneval/0", "humaneval/1", "ilf/1", "ilf/659", "add", "\N{SNOWMAN}"]
    assert [split_of(task_id) for task_id in ids] == ["heldout", "train", "sealed", "heldout", "train", "train"]


def test_splits_have_the_documented_shares() -> None:
    counts = dict.fromkeys(("train", "heldout", "sealed"), 0)
    for number in range(10_000):
        counts[split_of(f"task/{number}")] += 1
    assert [round(count / 100) for count in counts.values()] == [60, 30, 10]


splits = st.sampled_from(["train", "heldout", "sealed"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1), splits), unique_by=lambda pair: pair[0]))
def test_a_learners_view_holds_the_training_tasks_and_nothing_else(pairs: list[tuple[str, Split]]) -> None:
    tasks = tuple(
        Task(id=task_id, messages=(), split=split, reference=f"secret of {number}")
        for number, (task_id, split) in enumerate(pairs)
    )
    task_set = TaskSet(name="t", version="1", tasks=tasks)
    view = TrainView(task_set)
    assert tuple(view) == view.tasks == view.split("train") == of_split(task_set, "train")
    assert len(view) == len(view.tasks)
    for task in tasks:
        if task.split == "train":
            assert view.get(task.id) == task
        else:
            with pytest.raises(RefusedError, match=task.split):
                view.get(task.id)
            assert str(task.reference) not in set(_strings(vars(view)))


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _strings(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, Task):
        return [value.id, str(value.reference)]
    return [str(value)]


def test_a_view_refuses_other_splits_and_unknown_tasks() -> None:
    view = TrainView(load_tasks("world:1?n=30"))
    for split in ("heldout", "sealed"):
        with pytest.raises(RefusedError, match="learn from the train split"):
            view.split(split)
    with pytest.raises(NotFoundError):
        view.get("nowhere")


def test_a_set_from_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tasks.py").write_text(
        "from whet.core import Task, TaskSet\n"
        "def make(): return TaskSet(name='own', version='1', tasks=(Task(id='a', messages=()),))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_tasks("own.tasks:make").name == "own"
    with pytest.raises(UserError, match="not a TaskSet"):
        load_tasks("whet.core.ids:new_id")
