"""Duplicates, held-back texts and budgets: what goes, what stays, and that templates are told apart."""

import os
import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from whet.agents.tasksets import load_tasks
from whet.core.errors import UserError
from whet.core.records import Message, Task, ToolCall
from whet.core.wire import encode
from whet.learners.view import TrainMemory
from whet.learners.weights.heldback import HeldBack, look
from whet.learners.weights.hygiene import budget, count_words, decontaminate, deduplicate
from whet.learners.weights.rows import Row, answer_row
from whet.memory import Memory

DATA = Path(os.environ.get("WHET_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the data files are not at {DATA}; set WHET_DATA")
LETTERS = random.Random(7)
WORDS = ["".join(LETTERS.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(500)]


def asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def prose(seed: int, length: int = 120) -> str:
    """Returns words that no other seed gives in this order."""
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def held(*prompts: str, **fields: object) -> list[Task]:
    return [
        Task(id=f"h{number}", messages=asked(prompt), split="heldout", **fields)  # type: ignore[arg-type]
        for number, prompt in enumerate(prompts)
    ]


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_what_differs_in_white_space_is_one_row_that_rests_on_both() -> None:
    first = answer_row(asked("Sort x."), "return  sorted(x)\n", sources=("r1", "v1"))
    again = answer_row(asked("Sort  x."), "return sorted(x)", sources=("r2", "v1"))
    other = answer_row(asked("Sort x."), "return sorted( x )", sources=("r3",))
    rows, dropped = deduplicate([first, again, other])
    assert rows == (msgspec.structs.replace(first, sources=("r1", "v1", "r2")), other)
    assert dropped == {"duplicate": 1}


def test_equal_texts_that_count_in_different_ways_are_different_rows() -> None:
    base = answer_row(asked("Sort x."), "sorted(x)")
    different = [
        base,
        answer_row(asked("Sort x."), "sorted(x)", weight=-0.5),
        msgspec.structs.replace(base, side="undesirable"),
        msgspec.structs.replace(base, term="critique"),
        msgspec.structs.replace(base, teacher=asked("Sort x. It was wrong.")),
    ]
    assert deduplicate(different).rows == tuple(different)


def test_a_pair_goes_as_a_whole_and_only_where_both_sides_are_known() -> None:
    def pair(id: str, chosen: str, rejected: str, source: str) -> list[Row]:
        return [
            answer_row(asked("Sort x."), chosen, pair=id, side="chosen", sources=(source,)),
            answer_row(asked("Sort x."), rejected, pair=id, side="rejected", sources=(source,)),
        ]

    rows, dropped = deduplicate([*pair("p", "a", "b", "1"), *pair("q", "a", "c", "2"), *pair("r", "a", "b", "3")])
    assert [(row.pair, row.side, row.sources) for row in rows] == [
        ("p", "chosen", ("1", "3")),
        ("p", "rejected", ("1", "3")),
        ("q", "chosen", ("2",)),
        ("q", "rejected", ("2",)),
    ]
    assert dropped == {"duplicate": 2}


def test_samples_of_a_group_may_be_alike() -> None:
    group = [answer_row(asked("Sort x."), "sorted(x)", group="g", reward=1.0) for _ in range(4)]
    assert deduplicate(group).rows == tuple(group)


def test_long_rows_that_say_the_same_are_found_whatever_stands_before_them() -> None:
    system = Message(role="system", content=prose(0, 400))
    texts = [prose(seed, 300) for seed in range(1, 30)]
    changed = texts[4].split()
    changed[100] = "another"
    rows = [answer_row((system, *asked(text)), "done", task_id=f"t{n}") for n, text in enumerate(texts)]
    near = answer_row((system, *asked(" ".join(changed))), "done", task_id="copy")
    kept, dropped = deduplicate([*rows, near])
    assert kept == tuple(rows)
    assert dropped == {"near-duplicate": 1}


def test_rows_are_not_alike_because_of_a_long_system_message_or_preamble() -> None:
    system, preamble = Message(role="system", content=prose(0, 2000)), prose(1, 2000)
    told = [answer_row((system, *asked(prose(seed, 60))), "done") for seed in range(2, 8)]
    framed = [answer_row(asked(f"{preamble} {prose(seed, 60)}"), "done") for seed in range(8, 24)]
    assert deduplicate([*told, *framed]).rows == (*told, *framed)


def test_near_duplicates_are_those_that_the_definition_names() -> None:
    """Against the definition itself, all pairs compared, on texts of 400 words with up to 40 changed or added."""
    rng = random.Random(3)
    texts = []
    for seed in range(12):
        words = prose(seed, 400).split()
        texts.append(" ".join(words))
        for _ in range(3):
            changed = list(words)
            start, count = rng.randrange(300), rng.choice([1, 10, 20, 40])
            changed[start : start + count] = [f"new{rng.random()}" for _ in range(count)]
            texts.append(" ".join(changed))
        for added in (20, 42, 44):
            texts.append(f"{texts[-4]} {prose(1000 * seed + added, added)}")
    rows = [answer_row(asked(text), "", task_id=text) for text in texts]
    grams = [set(look(text).short.tolist()) for text in texts]
    expected: list[int] = []
    for number, mine in enumerate(grams):
        if not any(len(mine & grams[other]) / len(mine | grams[other]) >= 0.9 for other in expected):
            expected.append(number)
    assert 12 < len(expected) < len(texts)
    assert deduplicate(rows).rows == tuple(rows[number] for number in expected)


def test_short_rows_are_duplicates_only_when_they_are_equal() -> None:
    tasks = load_tasks("world:7?verbs=8").tasks
    rows = [answer_row(task.messages, task.reference or "", task_id=task.id) for task in tasks]
    rows += [answer_row(asked(f"{prose(1, 30)} {verb}"), "") for verb in ("up", "down")]
    assert deduplicate(rows).rows == tuple(rows)


# --- held-back texts --------------------------------------------------------------------------------------------------


def test_no_text_is_in_the_index() -> None:
    secret = Task(
        id="secret-task",
        messages=asked("Confidential: " + prose(1, 80)),
        reference="def solution(): " + prose(2, 80),
        files={"hidden.txt": prose(3, 80)},
        meta={"note": "confidential"},
        split="sealed",
    )
    index = HeldBack.of([secret])
    shown = repr(index).encode() + pickle.dumps(index) + repr(vars(index)).encode()
    told = " ".join([secret.id, secret.prompt, secret.reference or "", *secret.files, *secret.files.values()])
    assert index.match(look(secret.prompt))
    for word in {*told.lower().split(), "confidential"}:
        assert word.encode() not in shown.lower(), word


@pytest.mark.asyncio
async def test_a_view_gives_the_index_of_what_is_stored_and_of_what_it_was_told(memory: Memory) -> None:
    stored, told = held("What is stored?")[0], Task(id="told", messages=asked("What was told?"), split="sealed")
    train = Task(id="t", messages=asked("What may be learned?"))
    await memory.put(stored, train)
    index = await TrainMemory(memory, held_back=[told]).held_back()
    assert index.tasks == 2
    assert [bool(index.match(look(task.prompt))) for task in (stored, told, train)] == [True, True, False]


@pytest.mark.parametrize("where", ["prompt", "answer", "system", "call", "teacher"])
def test_a_held_back_text_is_found_wherever_it_stands(where: str) -> None:
    secret = "Which of the seven dwarfs kept the key to the mine?"
    texts = dict.fromkeys(("prompt", "answer", "system", "call", "teacher"), "Nothing.") | {where: f"He said: {secret}"}
    call = ToolCall(id="c", name="f", arguments=texts["call"])
    row = Row(
        messages=(
            Message(role="system", content=texts["system"]),
            Message(role="user", content=texts["prompt"]),
            Message(role="assistant", content=texts["answer"], tool_calls=(call,)),
        ),
        pieces=(),
        teacher=asked(texts["teacher"]),
    )
    clean = answer_row(asked("Nothing."), "Nothing.")
    rows, dropped = decontaminate([row, clean], HeldBack.of(held(secret)))
    assert rows == (clean,)
    assert dropped == {"holds a held-back text": 1}


def test_what_stands_together_goes_together() -> None:
    secret = "Which of the seven dwarfs kept the key to the mine?"
    pair = [
        answer_row(asked("x"), text, pair="p", side=side) for text, side in ((secret, "chosen"), ("no", "rejected"))
    ]
    group = [answer_row(asked("y"), text, group="g", reward=0.0) for text in ("a", "b", secret)]
    rows, dropped = decontaminate([*pair, *group], HeldBack.of(held(secret)))
    assert (rows, dropped) == ((), {"holds a held-back text": 5})


def test_a_copy_with_changes_is_found_by_its_parts_and_in_another_order_by_its_words() -> None:
    texts = [prose(seed, 150) for seed in range(20)]
    index = HeldBack.of(held(*texts))
    words = texts[3].split()
    changed = " ".join([*words[:50], "unlike", *words[51:140]])
    turned = " ".join(words[75:] + words[:75])
    shuffled = " ".join(random.Random(0).sample(words, len(words)))
    assert index.match(look(changed)) == index.match(look(turned)) == "shares most of a held-back text"
    assert index.match(look(shuffled)) == "resembles a held-back text"
    assert index.match(look(prose(99, 150))) == ""
    assert index.match(look(" ".join(words[:40] + prose(98, 110).split()))) == ""


def test_a_reference_or_file_is_found_where_it_is_long_enough_to_be_anybodys_own() -> None:
    program = "def solve(x):\n    total = 0\n    for value in x:\n        total += value * value\n    return total"
    index = HeldBack.of(held("Add up squares.", reference=program, files={"a.txt": prose(1, 60), "b.txt": "42"}))
    assert index.match(look(f"Sure:\n{program}\n"))
    assert index.match(look(prose(1, 60)))
    assert not index.match(look("42"))
    assert not HeldBack.of(held("How do people feel?", reference="positive")).match(look("positive"))


@pytest.mark.parametrize("spec", ["world:7", "world:7?verbs=8", "world:5?lengths=1-6&n=300&verbs=12"])
def test_short_tasks_of_one_template_are_told_apart(spec: str) -> None:
    tasks = load_tasks(spec).tasks
    back = [task for task in tasks if task.split != "train"]
    train = [task for task in tasks if task.split == "train"]
    rows = [answer_row(task.messages, task.reference or "", task_id=task.id) for task in train]
    leaked = [answer_row(task.messages, "I do not know.", task_id="leak") for task in back]
    kept, dropped = decontaminate([*rows, *leaked], HeldBack.of(back))
    assert kept == tuple(rows)
    assert sum(dropped.values()) == len(leaked)


def test_long_tasks_of_one_template_are_told_apart() -> None:
    frame = "You get a list of numbers. " + prose(1, 150) + " Now apply {} and then {} to the list, and return it."
    rng = random.Random(0)
    chains = [(a, b) for a in WORDS[:15] for b in WORDS[:15] if a != b]
    rng.shuffle(chains)
    back, train = chains[:30], chains[30:120]
    index = HeldBack.of(held(*(frame.format(*chain) for chain in back)))
    rows = [answer_row(asked(frame.format(*chain)), "…", task_id=f"{chain}") for chain in train]
    leaked = [answer_row(asked(frame.format(*chain)), "…", task_id=f"{chain}") for chain in back]
    assert decontaminate(rows, index).rows == tuple(rows)
    assert decontaminate([*rows, *leaked], index).rows == tuple(rows)


def test_phrasing_that_many_training_tasks_share_gives_no_held_back_task_away() -> None:
    """One held-back task alone cannot show what is template in it; the training tasks can."""
    frame = prose(1, 80) + " {} " + prose(2, 80)
    index = HeldBack.of(held(frame.format("zorp")))
    rows = [answer_row(asked(frame.format(word)), "…", task_id=word) for word in WORDS[:20]]
    few, many = decontaminate(rows[:2], index), decontaminate(rows, index)
    assert few.dropped == {"shares most of a held-back text": 2}
    assert "shares most of a held-back text" not in many.dropped


@needs_data
@pytest.mark.parametrize("spec", ["humaneval:HumanEval.jsonl.gz", "ilf:ilf_mbpp_feedback.jsonl"])
def test_real_tasks_are_clean_and_their_copies_are_found(spec: str) -> None:
    name, _, file = spec.partition(":")
    tasks = load_tasks(f"{name}:{DATA / file}").tasks
    back = [task for task in tasks if task.split != "train"]
    rows = [answer_row(task.messages, task.reference or "", task_id=task.id) for task in tasks if task.split == "train"]
    index = HeldBack.of(back)
    assert decontaminate(rows, index).rows == tuple(rows)
    rng = random.Random(0)
    found = Counter[bool]()
    for task in back:
        words = task.prompt.split(" ")
        for _ in range(max(1, len(words) // 25)):
            words[rng.randrange(len(words))] = "foo"
        found[bool(index.match(look(" ".join(words))))] += 1
        assert index.match(look(task.prompt))
        assert index.match(look(f"Earlier:\n{task.reference}"))
    assert found[True] >= 0.9 * len(back), found


# --- budget -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def uneven() -> list[Row]:
    """Twenty rows of one task and four of each of three others, all of the same length."""
    return [
        answer_row(asked("a b c"), "d", task_id=id, sources=(f"{id}{number}",))
        for id, count in (("much", 20), ("x", 4), ("y", 4), ("z", 4))
        for number in range(count)
    ]


def test_a_budget_keeps_as_much_of_each_task(uneven: list[Row]) -> None:
    rows, dropped = budget(uneven, 50)
    assert sum(map(count_words, rows)) == 48
    assert Counter(row.task_id for row in rows) == {"much": 3, "x": 3, "y": 3, "z": 3}
    assert dropped == {"over the budget of 50 tokens": 20}
    positions = [uneven.index(row) for row in rows]
    assert positions == sorted(positions)


def test_a_budget_is_drawn_by_its_seed(uneven: list[Row]) -> None:
    drawn = {encode(list(budget(uneven, 50, seed=seed).rows)) for seed in (0, 0, 1, 2)}
    assert len(drawn) == 3


def test_what_a_short_task_leaves_goes_to_the_others(uneven: list[Row]) -> None:
    rows, _ = budget(uneven, 100)
    assert Counter(row.task_id for row in rows) == {"much": 13, "x": 4, "y": 4, "z": 4}
    assert budget(uneven, 10_000) == (tuple(uneven), {})


def test_a_budget_breaks_no_pair_and_counts_as_it_is_told() -> None:
    rows = [
        answer_row(asked("q"), "a", task_id=f"t{number}", pair=f"p{number}", side=side)
        for number in range(6)
        for side in ("chosen", "rejected")
    ]
    count: Callable[[Row], int] = lambda row: 10  # noqa: E731
    kept, dropped = budget(rows, 75, count=count)
    assert len(kept) == 6
    assert set(Counter(row.pair for row in kept).values()) == {2}
    assert dropped == {"over the budget of 75 tokens": 6}


def test_a_budget_of_nothing_is_refused(uneven: list[Row]) -> None:
    with pytest.raises(UserError, match="keeps nothing; give more than 0"):
        budget(uneven, 0)
