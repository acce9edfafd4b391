"""Records, policies, ids and the wire: properties that the rest of Whet stands on."""

import string
import threading
import typing
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import whet.core.records as records
from whet.core import (
    Completion,
    Lesson,
    Message,
    Policy,
    Record,
    Run,
    Step,
    Task,
    Usage,
    UserError,
    Verdict,
    decode,
    digest,
    encode,
    new_id,
    now_ms,
)

# --- any record, made from its type annotations ---------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
LEAVES: Mapping[object, st.SearchStrategy[object]] = {
    str: st.text(),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(),
    type(None): st.none(),
    typing.Any: json_values,  # Json
}


def values(kind: object) -> st.SearchStrategy[object]:
    """Returns what a field of that type may hold."""
    if kind in LEAVES:
        return LEAVES[kind]
    if isinstance(kind, type) and issubclass(kind, Record):
        return records_of(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(), values(args[1]), max_size=3)
    assert args, f"no strategy for {kind!r}"
    return st.one_of([values(arg) for arg in args])


def records_of(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Returns records of that type with anything in their fields."""
    hints = typing.get_type_hints(kind)
    return st.deferred(
        lambda: st.builds(kind, **{field.name: values(hints[field.name]) for field in msgspec.structs.fields(kind)})
    )


KINDS = [
    kind
    for kind in vars(records).values()
    if isinstance(kind, type) and issubclass(kind, Record) and kind not in (Record, records.Body)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_record_survives_the_wire(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(records_of(kind))
    wire = encode(record)
    again = decode(wire, kind)
    assert again == record
    assert encode(again) == wire


@given(records_of(Step))
def test_the_body_of_a_step_keeps_its_kind(step: Record) -> None:
    assert isinstance(step, Step)
    assert type(decode(encode(step), Step).body) is type(step.body)


@given(st.dictionaries(st.text(), st.integers(), min_size=2, max_size=5))
def test_equal_values_give_equal_bytes(value: dict[str, int]) -> None:
    assert encode(dict(reversed(value.items()))) == encode(value)


@given(records_of(Verdict))
def test_unknown_fields_are_ignored_when_read(verdict: Record) -> None:
    wire = msgspec.json.decode(encode(verdict))
    assert decode(encode({**wire, "from_a_later_version": 1}), Verdict) == verdict


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_what_cannot_be_read_is_a_users_error_on_one_line(data: bytes | str) -> None:
    try:
        decode(data, Run)
    except UserError as error:
        assert "not a valid Run" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("data", [b'{"a":' * 100_000, b"[" * 100_000])
def test_what_is_nested_too_deep_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match="not a valid object"):
        decode(data, object)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_record_cannot_be_changed(kind: type[Record]) -> None:
    assert kind.__struct_config__.frozen


def test_every_stored_record_has_a_table_of_its_own_a_key_and_a_scope() -> None:
    stored = [kind for kind in KINDS if "table" in vars(kind)]
    tables = [vars(kind)["table"] for kind in stored]
    assert len(set(tables)) == len(tables) == 13
    for kind in stored:
        assert "id" in kind.__struct_fields__
        assert kind is Step or "scope" in kind.__struct_fields__  # a step has its run's


def test_all_records_are_listed() -> None:
    assert {kind.__name__ for kind in KINDS} <= set(records.__all__)


usages = records_of(Usage).filter(lambda usage: isinstance(usage, Usage) and abs(usage.seconds) < 1e9)


@given(st.tuples(usages, usages))
def test_usage_adds_up(pair: tuple[Usage, Usage]) -> None:
    one, other = pair
    both = one + other
    assert both.input_tokens == one.input_tokens + other.input_tokens
    assert both.micro_dollars == one.micro_dollars + other.micro_dollars
    assert one + Usage() == one


def test_the_prompt_of_a_task_is_its_last_user_message() -> None:
    messages = [
        Message(role="user", content="a"),
        Message(role="user", content="b"),
        Message(role="assistant", content="c"),
    ]
    assert Task(id="t", messages=tuple(messages)).prompt == "b"
    assert Task(id="t", messages=()).prompt == ""


def test_only_pass_and_fail_judge() -> None:
    outcomes = typing.get_args(records.Outcome)
    judged = [o for o in outcomes if Verdict(run_id="r", task_id="t", verifier="v", outcome=o).judged]
    assert judged == ["pass", "fail"]


def test_defaults_are_fresh() -> None:
    first, second = Lesson(text="x"), Lesson(text="x")
    assert first.id != second.id
    assert Completion(text="x") == Completion(text="x")


# --- ids ------------------------------------------------------------------------------------------------------------


def test_ids_are_version_7_and_carry_the_time() -> None:
    before, id, after = now_ms(), new_id(), now_ms()
    assert len(id) == 32
    assert set(id) <= set(string.hexdigits.lower())
    assert id[12] == "7"
    assert id[16] in "89ab"
    # The fraction counts up when ids come faster than the clock ticks, and may run into the next millisecond.
    assert before <= int(id[:12], 16) <= after + 1


def test_ids_rise_in_every_thread_and_never_repeat() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(ids: list[str]) -> None:
        ids.extend(new_id() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(ids,)) for ids in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == sorted(ids) for ids in made)
    everything = [id for ids in made for id in ids]
    assert len(set(everything)) == len(everything)
    # The part before the random bits is what orders them, so it alone has to be unique.
    assert len({id[:16] for id in everything}) == len(everything)


@given(st.text())
def test_text_and_its_bytes_have_the_same_digest(text: str) -> None:
    assert digest(text) == digest(text.encode())
    assert len(digest(text)) == 64


# --- policies -------------------------------------------------------------------------------------------------------

slugs = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=8)
paths = st.one_of(
    slugs.map(lambda name: f"prompts/{name}.md"),
    slugs.map(lambda name: f"skills/{name}/SKILL.md"),
    slugs.map(lambda name: f"skills/{name}/scripts/run.py"),
    slugs.map(lambda name: f"rubrics/{name}.md"),
    st.just("principles.md"),
    st.just("adapter"),
)
trees = st.dictionaries(paths, st.binary(max_size=20), max_size=5)


@given(trees)
def test_the_digest_of_a_policy_names_its_tree(tree: dict[str, bytes]) -> None:
    policy = Policy.of(tree)
    assert policy.digest == Policy.of(dict(reversed(tree.items()))).digest
    assert decode(encode(policy), Policy) == policy
    assert decode(encode(policy), Policy).digest == policy.digest


@given(trees, trees)
def test_different_trees_have_different_digests(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (Policy.of(one).digest == Policy.of(other).digest) == (one == other)


@given(trees, paths, st.binary(max_size=20))
def test_an_edit_changes_one_file_and_can_be_undone(tree: dict[str, bytes], path: str, data: bytes) -> None:
    policy = Policy.of(tree)
    edited = policy.edit({path: data})
    assert edited.files == {**tree, path: data}
    assert policy.files == tree
    assert edited.edit({path: tree.get(path)}) == policy


@pytest.mark.parametrize(
    "path", ["../etc/passwd", "skills/a/../../b", "/prompts/a.md", "prompts/a/b.md", "code.py", "", "skills/A/SKILL.md"]
)
def test_a_path_that_is_no_part_of_a_policy_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="is no part of a policy; allowed are"):
        Policy.of({path: "x"})


def test_a_policy_knows_its_skills_and_settings() -> None:
    files = {
        "skills/b/SKILL.md": "B",
        "skills/a/SKILL.md": "A",
        "skills/a/scripts/run.py": "x",
        "settings.toml": "k = 3",
    }
    policy = Policy.of(files)
    assert policy.skill_names() == ["a", "b"]
    assert policy.skill("a") == {"SKILL.md": b"A", "scripts/run.py": b"x"}
    assert policy.settings() == {"k": 3}
    assert policy.text("principles.md", "none") == "none"
    with pytest.raises(UserError, match=r"settings\.toml is not valid TOML"):
        policy.edit({"settings.toml": "k = "})
