"""Rows as files for other trainers: their shapes, nothing lost, written whole or not at all, with a card."""

import importlib.util
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from whet.agents.tasksets import load_tasks
from whet.core.errors import StoreError, UserError
from whet.core.models.tiny.model import WEIGHTS
from whet.core.records import Feedback, Message, Run, Task, ToolCall, ToolSpec, Verdict
from whet.learners.view import TrainMemory
from whet.learners.weights.card import Card, Stage, fingerprint, make_card, render, row_ids
from whet.learners.weights.collect import collect
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.export import export, read_rows
from whet.learners.weights.rows import Piece, Row, answer_row
from whet.learners.weights.where import parse_where
from whet.memory import Memory
from whet.memory.exchange import import_file

ILF = Path(os.environ.get("WHET_DATA", Path(__file__).parents[4] / "shared" / "data")) / "ilf_mbpp_feedback.jsonl"
needs_ilf = pytest.mark.skipif(not ILF.exists(), reason=f"the data files are not at {ILF.parent}; set WHET_DATA")
has_trl = all(importlib.util.find_spec(name) for name in ("trl", "datasets"))
needs_trl = pytest.mark.skipif(
    not has_trl, reason="trl is not installed; pip install trl to train on the exported files"
)

WRONG = "def solve(x): return x"
SHELL = ToolSpec(name="sh", description="Runs a command.", parameters={"type": "object"})
TASKS = load_tasks("world:7?n=8&lengths=1-2&verbs=8").tasks


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def card(rows: Sequence[Row]) -> Card:
    return make_card("test", rows, Experience())


def said(role: str, content: str, **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)  # type: ignore[arg-type]


def sft() -> list[Row]:
    return [answer_row(task.messages, task.reference or "", task_id=task.id) for task in TASKS]


def conversations() -> list[Row]:
    """Two answers that count, with a tool and a person in between; arguments of two kinds."""
    found = []
    for number, task in enumerate(TASKS):
        arguments = '{"cmd": "ls"}' if number % 2 else '{"deep": {"a": [1, "b"]}}'
        calls = (ToolCall(id="c1", name="sh", arguments=arguments),)
        result = said("tool", "a.txt", tool_call_id="c1", name="sh")
        answers = (said("assistant", "", tool_calls=calls), result, said("assistant", task.reference or ""))
        pieces = (Piece(message=len(task.messages)), Piece(message=len(task.messages) + 2))
        found.append(Row(messages=(*task.messages, *answers), pieces=pieces, tools=(SHELL,), task_id=task.id))
    return found


def preference() -> list[Row]:
    return [
        answer_row(task.messages, answer or "", pair=task.id, side=side, task_id=task.id)
        for task in TASKS
        for answer, side in ((task.reference, "chosen"), (WRONG, "rejected"))
    ]


def kto() -> list[Row]:
    """Three good answers to one bad, weighed so that both kinds count the same, and rows for the reference point."""
    found = []
    for number, task in enumerate(TASKS):
        good = number % 4 > 0
        side, scale = ("desirable", 2 / 3) if good else ("undesirable", 2.0)
        found.append(answer_row(task.messages, task.reference or "" if good else WRONG, side=side, scale=scale))
        found.append(answer_row(task.messages, "def solve(x): return x+x", side="kl"))
    return found


def rollouts() -> list[Row]:
    return [
        answer_row(task.messages, answer or "", group=task.id, reward=reward, weight=reward - 0.5, task_id=task.id)
        for task in TASKS
        for answer, reward in ((task.reference, 1.0), (WRONG, 0.0))
    ]


def test_one_answer_becomes_a_prompt_and_a_completion(tmp_path: Path) -> None:
    rows = sft()
    assert export(rows, tmp_path / "out", card(rows)) == {"sft.jsonl": 8, "rows.jsonl": 8}
    for line, task, id in zip(lines(tmp_path / "out/sft.jsonl"), TASKS, row_ids(rows), strict=True):
        assert line == {
            "id": id,
            "prompt": [{"role": "user", "content": task.prompt}],
            "completion": [{"role": "assistant", "content": task.reference}],
        }
    assert read_rows(tmp_path / "out") == rows


def test_a_conversation_keeps_its_tools_and_calls(tmp_path: Path) -> None:
    rows = conversations()
    assert export(rows, tmp_path / "out", card(rows))["conversations.jsonl"] == 8
    first, second, *_ = lines(tmp_path / "out/conversations.jsonl")
    assert [message["role"] for message in first["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert first["messages"][1]["tool_calls"][0]["function"] == {"name": "sh", "arguments": {"deep": {"a": [1, "b"]}}}
    assert second["messages"][1]["tool_calls"][0]["function"] == {"name": "sh", "arguments": {"cmd": "ls"}}
    assert first["messages"][2] == {"role": "tool", "content": "a.txt", "tool_call_id": "c1", "name": "sh"}
    assert json.loads(first["tools"])[0]["function"]["name"] == "sh"
    assert read_rows(tmp_path / "out") == rows


def test_where_only_some_answers_count_each_becomes_a_line(tmp_path: Path) -> None:
    texts = ("q", "bad", "no", "good", "more", "better")
    messages = tuple(said("assistant" if n % 2 else "user", text) for n, text in enumerate(texts))
    row = Row(messages=messages, pieces=(Piece(message=3), Piece(message=5)))
    assert export([row], tmp_path / "out", card([row])) == {"sft.jsonl": 2, "rows.jsonl": 1}
    for line, end in zip(lines(tmp_path / "out/sft.jsonl"), (3, 5), strict=True):
        assert [message["content"] for message in line["prompt"]] == list(texts[:end])
        assert [message["content"] for message in line["completion"]] == [texts[end]]


def test_pairs_unpaired_answers_and_groups_have_the_shapes_that_trl_names(tmp_path: Path) -> None:
    rows = [*preference(), *kto(), *rollouts()]
    written = export(rows, tmp_path / "out", card(rows))
    assert written == {"kto.jsonl": 8, "preference.jsonl": 8, "rollouts.jsonl": 8, "prompts.jsonl": 8, "rows.jsonl": 48}
    pair, unpaired = lines(tmp_path / "out/preference.jsonl")[0], lines(tmp_path / "out/kto.jsonl")[0]
    group, asked = lines(tmp_path / "out/rollouts.jsonl")[0], lines(tmp_path / "out/prompts.jsonl")[0]
    prompt = [{"role": "user", "content": TASKS[0].prompt}]
    right, wrong = ([{"role": "assistant", "content": text}] for text in (TASKS[0].reference, WRONG))
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (prompt, right, wrong)
    assert (unpaired["prompt"], unpaired["completion"], unpaired["label"]) == (prompt, wrong, False)
    assert (group["prompt"], group["completions"], group["rewards"]) == (prompt, [right, wrong], [1.0, 0.0])
    assert asked == {"prompt": prompt, "task_id": TASKS[0].id}
    readme = (tmp_path / "out/README.md").read_text()
    assert "desirable_weight=0.666667, undesirable_weight=2" in readme
    assert "- config_name: preference\n  data_files: preference.jsonl\n" in readme
    assert read_rows(tmp_path / "out") == rows


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": 0.5}, "it is weighed"),
        ({"pieces": (Piece(message=1, weight=-1.0),)}, "it is weighed"),
        ({"pieces": (Piece(message=1, start=3),)}, "parts of a message count"),
        ({"pieces": (Piece(message=0),)}, "not said by the assistant"),
        ({"label": 0.7}, "a label between 0 and 1"),
        ({"teacher": (said("user", "hint"),)}, "a teacher sees another context"),
    ],
)
def test_what_trl_has_no_field_for_is_refused_and_kept_by_the_other_format(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    rows = [*sft(), msgspec.structs.replace(sft()[0], **changes)]
    with pytest.raises(UserError, match=f"cannot be said in the format 'trl': .*{says}.*the format 'rows'"):
        export(rows, tmp_path / "out", card(rows))
    assert list(tmp_path.iterdir()) == []
    assert export(rows, tmp_path / "out", card(rows), format="rows") == {"rows.jsonl": 9}
    assert read_rows(tmp_path / "out") == rows


def test_pairs_and_groups_that_are_none_are_refused(tmp_path: Path) -> None:
    twice = msgspec.structs.replace(preference()[1], side="chosen")
    for none in (preference()[:1], [preference()[0], twice]):
        with pytest.raises(UserError, match="it needs one that is chosen and one that is rejected"):
            export(none, tmp_path / "out", card(none))
    moved = [preference()[0], msgspec.structs.replace(preference()[1], messages=preference()[3].messages)]
    with pytest.raises(UserError, match="different prompts"):
        export(moved, tmp_path / "out", card(moved))
    mixed = [msgspec.structs.replace(row, group="g") for row in rollouts()]
    with pytest.raises(UserError, match="the rollouts of group 'g' have different prompts"):
        export(mixed, tmp_path / "out", card(mixed))


def test_a_folder_is_replaced_only_when_asked_and_only_if_it_is_an_export(tmp_path: Path) -> None:
    rows, out = sft(), tmp_path / "out"
    out.mkdir()
    export(rows, out, card(rows))
    with pytest.raises(UserError, match="exists; name another folder"):
        export(rows[:1], out, card(rows[:1]))
    assert len(read_rows(out)) == 8
    export(rows[:1], out, card(rows[:1]), overwrite=True)
    assert len(read_rows(out)) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("ten years of work")
    with pytest.raises(UserError, match="holds no exported data set, so it is not overwritten"):
        export(rows, tmp_path / "mine", card(rows), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    with pytest.raises(UserError, match="is no exported data set"):
        read_rows(tmp_path / "mine")
    with pytest.raises(UserError, match=r"no format 'tlr' \(did you mean 'trl'\?\); there are trl, rows"):
        export(rows, tmp_path / "new", card(rows), format="tlr")
    with pytest.raises(UserError, match="there are no rows"):
        export([], tmp_path / "new", card(rows))


def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path) -> None:
    rows = sft()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        export(rows, tmp_path / "file" / "out", card(rows))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- the card ---------------------------------------------------------------------------------------------------------


def lived() -> tuple[Experience, list[Row]]:
    """A run whose answer passed, and one that a person corrected; a row of each."""
    task = Task(id="t", messages=(said("user", "q"),), meta={"licence": "MIT"})
    passed = Run(id="r1", task_id="t", agent="a", model="tiny", policy="p1", answer="good", started_at=86_400_000)
    wrong = Run(id="r2", task_id="t", agent="a", model="tiny", policy="p2", answer="bad", started_at=2 * 86_400_000)
    verdict = Verdict(id="v1", run_id="r1", task_id="t", verifier="v", outcome="pass")
    correction = Feedback(id="f1", kind="correction", source="ana", run_id="r2", text="better")
    episodes = (
        Episode(task=task, run=passed, verdicts=(verdict,)),
        Episode(task=task, run=wrong, feedback=(correction,)),
    )
    experience = Experience(episodes=episodes, tasks=(task,), left_out={"tainted": 2})
    rows = [
        answer_row(task.messages, "good", task_id="t", sources=("r1", "v1")),
        answer_row(task.messages, "better", task_id="t", sources=("r2", "f1"), off_policy=True),
    ]
    return experience, rows


def test_a_card_says_what_the_rows_rest_on_and_who_wrote_them() -> None:
    experience, rows = lived()
    stages = [Stage(name="deduplicated", rows=2, dropped={"duplicate": 3})]
    where = parse_where("agent=a")
    made = make_card(
        "ilf", rows, experience, options={"per_task": 2}, where=where, stages=stages, tokens=17, remarks=["Mine."]
    )
    assert made.sources == dict(zip(row_ids(rows), (("r1", "v1"), ("r2", "f1")), strict=True))
    assert made.kinds == {"r1": "run", "v1": "verdict", "r2": "run", "f1": "feedback"}
    assert made.models == {"tiny": 1, "somebody else": 1}
    assert made.policies == {"p1": 1}
    assert (made.tasks, made.off_policy, made.since, made.until) == ({"t": 2}, 1, 86_400_000, 2 * 86_400_000)
    assert made.digest == fingerprint(rows)
    page = render(made)
    for part in ("# Data for ilf", "per_task=2", "`agent=a`", "tainted: 2", "duplicate: 3", "2 run, 1 verdict", "17"):
        assert part in page
    for part in ("Licences of the tasks: MIT.", "Feedback of 1 sources", "- Mine.", "1 of them not by the policy"):
        assert part in page
    assert "ana" not in page


def test_the_fingerprint_names_exactly_the_rows_in_their_order() -> None:
    _, rows = lived()
    names = {fingerprint(each) for each in (rows, rows[::-1], rows[:1], [rows[0], rows[0]])}
    assert len(names) == 4
    assert fingerprint(list(rows)) == fingerprint(rows)
    assert len(set(row_ids([rows[0], rows[0], rows[1]]))) == 3


def test_a_long_table_is_cut_on_the_page_and_whole_in_the_record(tmp_path: Path) -> None:
    rows = [answer_row((said("user", f"q{n}"),), "a", task_id=f"t{n}", sources=(f"r{n}",)) for n in range(50)]
    export(rows, tmp_path / "out", card(rows))
    assert "… and 30 more in card.json" in (tmp_path / "out/README.md").read_text()
    assert len(msgspec.json.decode((tmp_path / "out/card.json").read_bytes(), type=Card).sources) == 50


# --- people's feedback ------------------------------------------------------------------------------------------------


def of_people(episode: Episode) -> tuple[str, str, str]:
    """Returns the wrong program, what the person said of it, and the person's own."""
    texts = {item.kind: item.text for item in episode.feedback}
    return episode.answer, texts["comment"], texts["correction"]


@needs_ilf
@pytest.mark.asyncio
async def test_all_human_feedback_comes_through_as_imitation_preference_and_correction(
    memory: Memory, tmp_path: Path
) -> None:
    """All 124 tasks are put in as training tasks first, so that the import keeps them as such."""
    tasks = [msgspec.structs.replace(task, split="train") for task in load_tasks(f"ilf:{ILF}").tasks]
    await memory.put(*tasks)
    await import_file(memory.store, "ilf", ILF)
    experience = await collect(TrainMemory(memory))
    assert len(experience.episodes) == 124
    rows: list[Row] = []
    for episode in experience.episodes:
        wrong, comment, repair = of_people(episode)
        shared = {"task_id": episode.task.id, "sources": (*episode.sources, *(item.id for item in episode.feedback))}
        asked = (*episode.prompt, said("assistant", wrong), said("user", comment))
        rows.append(answer_row(episode.prompt, repair, off_policy=True, **shared))
        rows.append(answer_row(asked, repair, off_policy=True, term="correction", **shared))
        rows.append(answer_row(episode.prompt, repair, pair=episode.run.id, side="chosen", **shared))
        rows.append(answer_row(episode.prompt, wrong, pair=episode.run.id, side="rejected", **shared))
    written = export(rows, tmp_path / "out", make_card("ilf", rows, experience))
    assert written == {"sft.jsonl": 248, "preference.jsonl": 124, "rows.jsonl": 496}
    assert read_rows(tmp_path / "out") == rows
    originals = {row["original_model_completion"]: row for row in lines(ILF)}
    imitated = lines(tmp_path / "out/sft.jsonl")
    plain, corrections = imitated[::2], imitated[1::2]
    for pair, alone, correction in zip(lines(tmp_path / "out/preference.jsonl"), plain, corrections, strict=True):
        row = originals[pair["rejected"][0]["content"]]
        repaired = [{"role": "assistant", "content": row["unedited_annotator_completion"]}]
        assert pair["chosen"] == alone["completion"] == correction["completion"] == repaired
        assert row["prompt"].rstrip() in pair["prompt"][-1]["content"]
        assert alone["prompt"] == pair["prompt"] == correction["prompt"][:-2]
        assert [message["content"] for message in correction["prompt"][-2:]] == [
            row["original_model_completion"],
            row["Feedback"],
        ]
    found = msgspec.json.decode((tmp_path / "out/card.json").read_bytes(), type=Card)
    assert (found.runs, found.tasks["ilf/1"]) == (124, 4)
    assert sorted(set(found.kinds.values())) == ["feedback", "run"]


# --- the trainers themselves ------------------------------------------------------------------------------------------


@needs_trl
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", ["sft", "conversations", "preference", "kto", "prompts"])
def test_trl_trains_on_the_exported_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = {"sft": sft, "conversations": conversations, "preference": preference, "kto": kto, "prompts": rollouts}
    config, trainer, more = {
        "sft": (trl.SFTConfig, trl.SFTTrainer, {}),
        "conversations": (trl.SFTConfig, trl.SFTTrainer, {"assistant_only_loss": True}),
        "preference": (trl.DPOConfig, trl.DPOTrainer, {}),
        "kto": (trl.KTOConfig, trl.KTOTrainer, {"desirable_weight": 2 / 3, "undesirable_weight": 2.0}),
        "prompts": (trl.GRPOConfig, trl.GRPOTrainer, {"num_generations": 4, "max_completion_length": 8}),
    }[shape]
    rows = made[shape]()
    random.Random(0).shuffle(rows)
    export(rows, tmp_path / "out", card(rows))
    data = load_dataset(str(tmp_path / "out"), shape, split="train", cache_dir=str(tmp_path / "cache"))
    assert [{key: value for key, value in line.items() if value is not None} for line in data] == lines(
        tmp_path / f"out/{shape}.jsonl"
    )
    arguments = config(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=4, report_to=[], use_cpu=True, **more
    )
    rewards = {"reward_funcs": lambda completions, **_: [float(len(c[0]["content"])) for c in completions]}
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    teacher = trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(WEIGHTS),
        **(rewards if shape == "prompts" else {}),
    )
    assert teacher.train().global_step == 1
