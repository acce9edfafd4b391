"""The command line: what it prints where, its exit codes, and that bad input costs one line and nothing else."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Whet = Callable[..., Any]


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("whet: ")


def test_init_makes_a_memory_and_settings_once(whet: Whet, tmp_path: Path) -> None:
    assert "made" in whet("init").err
    assert (tmp_path / ".whet").is_dir()
    settings = (tmp_path / "whet.toml").read_text()
    assert "found" in whet("init").err
    assert (tmp_path / "whet.toml").read_text() == settings


def test_without_a_memory_the_way_out_is_named(whet: Whet) -> None:
    result = whet("run", "list", code=3)
    assert one_line(result.err)
    assert "whet init" in result.err


def test_a_task_set_is_run_recorded_and_judged(ran: Whet) -> None:
    rows = ran("run", "list", "--json").json["items"]
    assert {row["task_id"].rsplit("/", 1)[-1]: row["outcome"] for row in rows} == {"easy": "pass", "hard": "fail"}
    shown = ran("run", "show", rows[0]["id"][:14], "--json").json
    assert shown["run"]["id"] == rows[0]["id"]
    assert shown["verdicts"]
    assert ran("stats", "--json").json["items"][0]["pass_rate"] == 0.5


def test_lists_filter_sort_and_choose_fields(ran: Whet) -> None:
    failed = ran("run", "list", "--where", "outcome=fail", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["score"] for line in failed] == [0.0]
    scores = ran("run", "list", "--sort", "-score", "--fields", "score", "-o", "csv").out.split()
    assert scores == ["score", "1.0", "0.0"]
    assert ran("run", "list", "--jq", ".items | length").out.strip() == "2"
    assert len(ran("run", "list", "-o", "id").out.split()) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "show", "zzz"), 3, "zzz"),
        (("run", "list", "--where", "color=red"), 2, "there are"),
        (("run", "list", "-o", "yaml"), 2, "table"),
        (("run", "list", "--since", "yesterday"), 2, "7d"),
        (("run", "list", "--jq", "..["), 2, "--jq"),
        (("run", "world"), 3, "world:"),
        (("run", "jsonl:missing.jsonl"), 3, "missing.jsonl"),
        (("run", "jsonl:tasks.jsonl", "--model", "nonsense:x"), 2, "nonsense"),
        (("feedback", "add", "zzz", "comment", "hm"), 3, "zzz"),
        (("policy", "show", "zzz"), 3, "zzz"),
        (("policy", "commit", "nowhere", "--reason", "why"), 3, "nowhere"),
        (("memory", "show", "zzz"), 3, "zzz"),
        (("memory", "forget"), 2, "person"),
        (("memory", "forget", "--person", "ana", "--apply"), 2, "reason"),
        (("learn", "magic"), 2, "lessons"),
        (("import", "missing.jsonl", "--format", "openai"), 3, "missing.jsonl"),
        (("import", "tasks.jsonl", "--format", "xml"), 2, "atif"),
        (("query", "delete from runs"), 2, "read"),
        (("skill", "show", "nothing"), 3, "nothing"),
        (("completion", "tcsh"), 2, "fish"),
        (("undo", "99999"), 3, "99999"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_the_right_exit_code(
    unchanged: Whet, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = unchanged("status", "--json").out
    result = unchanged(*arguments, code=code)
    assert one_line(result.err), result.err
    assert says in result.err
    assert result.out == ""
    assert unchanged("status", "--json").out == before


def test_an_unknown_setting_is_refused_with_the_nearest_name(whet: Whet, tmp_path: Path) -> None:
    (tmp_path / "whet.toml").write_text('modle = "tiny"\n')
    assert "model" in whet("status", code=2).err


def test_a_malformed_task_file_is_refused_with_its_line(whet: Whet, tmp_path: Path) -> None:
    whet("init")
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "prompt": "x"}\nnot json\n')
    result = whet("run", "jsonl:bad.jsonl", code=2)
    assert "2" in result.err
    assert one_line(result.err)


def test_feedback_of_every_kind_is_recorded_with_its_source(ran: Whet) -> None:
    first, second = ran("run", "list", "-o", "id").out.split()
    ran("feedback", "add", first, "comment", "too short", "--source", "ana")
    ran("feedback", "add", first, "rating", "--value", "0.25")
    ran("feedback", "add", first, "preference", "--other", second)
    ran("feedback", "add", first, "correction", "-", "--person", "ana", stdin="the right answer")
    for kind in ("followup", "accept", "reject"):
        ran("feedback", "add", first, kind, "said so", "--tainted")
    rows = ran("feedback", "list", "--json").json["items"]
    assert len(rows) == 7
    assert {row["text"] for row in rows if row["kind"] == "correction"} == {"the right answer"}
    assert {row["source"] for row in rows if row["kind"] == "comment"} == {"ana"}
    assert "--value" in ran("feedback", "add", first, "rating", code=2).err


def test_a_policy_is_exported_edited_committed_and_rolled_back(ran: Whet, tmp_path: Path) -> None:
    ran("policy", "export", "mine")
    (tmp_path / "mine" / "prompts").mkdir()
    (tmp_path / "mine" / "prompts" / "system.md").write_text("You know the answer.\n")
    ran("policy", "commit", "mine", "--reason", "a better prompt")
    assert "+You know the answer." in ran("policy", "diff").out
    assert "You know the answer." in ran("policy", "blame", "prompts/system.md").out
    ran("policy", "tag", "good")
    rolled = ran("policy", "rollback", "--reason", "it was not better", "--json").json
    assert rolled["decision"] == "rolled_back"
    assert ran("policy", "show", "--json").json["files"] == {}
    assert "You know" in ran("policy", "show", "good").out
    assert [row["decision"] for row in ran("policy", "log", "--json").json["items"]] == ["rolled_back", "committed"]


def test_a_person_is_forgotten_with_a_proof(ran: Whet, tmp_path: Path) -> None:
    run = ran("run", "list", "-o", "id", "--limit", "1").out.strip()
    secret = "my dog is called Rumpelstiltskin"
    ran("feedback", "add", run, "comment", secret, "--person", "ana")
    plan = ran("memory", "forget", "--person", "ana", "--plan", "--json").json
    assert [item["kind"] for item in plan["items"] if item["action"] == "purge"] == ["feedback"]
    report = ran("memory", "forget", "--person", "ana", "--apply", "--reason", "she asked", "--json").json
    assert report["left"] == []
    for file in (tmp_path / ".whet").rglob("*"):
        if file.is_file():
            assert b"Rumpelstiltskin" not in file.read_bytes()
    assert ran("feedback", "list", "--json").json["items"] == []


def test_a_run_is_replayed_without_its_model_and_forked(ran: Whet) -> None:
    run = ran("run", "list", "-o", "id", "--where", "outcome=pass").out.strip()
    same = ran("run", "replay", run, "--json").json
    assert same["same"]
    forked = ran("run", "fork", run, "--step", "0", "--json").json
    assert forked["parent_id"] == run
    assert "equal" in ran("run", "compare", run, forked["id"]).out


def test_tags_and_invalid_runs(ran: Whet) -> None:
    run = ran("run", "list", "-o", "id", "--where", "outcome=pass").out.strip()
    ran("run", "tag", run, "nice")
    ran("run", "invalidate", run, "--reason", "the task leaked")
    row = ran("run", "list", "--where", f"id={run}", "--json").json["items"][0]
    assert row["tags"] == ["nice", "invalid"]
    assert row["outcome"] == "tampered"


def test_verdicts_are_listed_rerun_and_contradicted(ran: Whet) -> None:
    run = ran("run", "list", "-o", "id", "--where", "outcome=fail").out.strip()
    ran("verdict", "rerun", run, code=4)
    verdict = ran("verdict", "list", "-o", "id", "--limit", "1").out.strip()
    ran("verdict", "disagree", verdict, "--reason", "the expected value is wrong")
    assert ran("verdict", "list", "--json", "--where", "kind=human").json["items"][0]["outcome"] == "pass"


def test_export_and_import_give_the_same_runs(ran: Whet, tmp_path: Path) -> None:
    ran("export", "runs.jsonl", "--format", "openai")
    first = ran("import", "runs.jsonl", "--format", "openai", "--json", WHET_HOME="other").json
    assert (first["rows"], first["runs"], first["quarantined"]) == (2, 2, [])
    again = ran("import", "runs.jsonl", "--format", "openai", "--json", WHET_HOME="other").json
    assert again["runs"] == 0
    assert again["digest"] == first["digest"]


def test_a_change_is_listed_and_undone(ran: Whet) -> None:
    run = ran("run", "list", "-o", "id", "--limit", "1").out.strip()
    ran("run", "tag", run, "oops")
    change = ran("log", "-o", "id", "--limit", "1").out.strip()
    ran("undo", change)
    assert ran("run", "list", "--where", f"id={run}", "--json").json["items"][0]["tags"] == []


def test_learners_are_listed_and_propose_nothing_from_nothing(ran: Whet) -> None:
    names = [row["name"] for row in ran("learn", "--list", "--json").json["items"]]
    assert {"lessons", "skills"} <= set(names)
    assert ran("learn", "lessons", "--dry-run", "--json").json["proposals"] == []


def test_tasks_are_validated_without_a_model(whet: Whet) -> None:
    report = whet("tasks", "validate", "world:7?n=4", "--json", WHET_MODEL="nonsense:x").json
    assert (report["tasks"], report["reference_passes"], report["empty_passes"]) == (4, 4, 0)


def test_the_doctor_boots_the_sandbox(whet: Whet) -> None:
    whet("init")
    checks = {check["name"]: check["ok"] for check in whet("doctor", "--json", WHET_MODEL="tiny").json["checks"]}
    assert checks["sandbox"]
    assert checks["store"]
    assert checks["model"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rnu", "list"), "did you mean 'run'"),
        (("run", "list", "--nope"), "whet run list --help"),
        (("run", "jsonl:tasks.jsonl", "--limit", "x"), "whet run --help"),
        (("memory", "search"), "whet memory search --help"),
        (("policy", "unknown"), "whet policy --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_that_names_the_help(unchanged: Whet, arguments: tuple[str, ...], says: str) -> None:
    result = unchanged(*arguments, code=2)
    assert one_line(result.err)
    assert says in result.err.lower()
    assert result.out == ""


def test_options_come_from_the_environment(unchanged: Whet) -> None:
    assert len(unchanged("run", "list", "-o", "id", WHET_RUN_LIST_LIMIT="1").out.split()) == 1


def test_settings_are_listed_with_where_they_come_from(unchanged: Whet) -> None:
    rows = {row["name"]: row for row in unchanged("config", "--json").json["items"]}
    assert (rows["model"]["value"], rows["model"]["source"]) == ("models:Knows", "WHET_MODEL")
    assert rows["sandbox"]["source"] == "default"


@pytest.mark.parametrize("columns", ["80", "200"])
def test_no_table_breaks_a_line_or_cuts_an_id(unchanged: Whet, columns: str) -> None:
    for arguments in (("run", "list"), ("verdict", "list"), ("log",), ("stats",)):
        names = unchanged(*arguments, "-o", "jsonl").out.splitlines()
        lines = unchanged(*arguments, COLUMNS=columns).out.splitlines()
        assert len(lines) == len(names) + 1
        assert all(len(line) <= int(columns) for line in lines)
        assert all("…" not in line.split()[0] for line in lines)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_of_learners_fits_the_terminal_and_has_everything_as_json(ran: Whet, columns: int) -> None:
    rows = ran("learn", "--list", "--json").json["items"]
    wanted = {"name", "learns", "description", "paper", "needs", "costs", "practises", "extra", "options"}
    assert all(wanted <= set(row) and row["costs"] and row["options"] is not None for row in rows)
    assert next(row for row in rows if row["name"] == "scope")["options"] == ["min_runs", "min_harm"]
    head, *lines = ran("learn", "--list", COLUMNS=str(columns)).out.splitlines()
    assert head.split()[:4] == ["name", "learns", "extra", "needs"]
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert all(len(line) <= columns for line in lines)
    shown = [line[head.index("needs") :].rstrip() for line in lines]
    assert all(len(text) >= 25 or text in row["needs"] for text, row in zip(shown, rows, strict=True))
    assert all(row["learns"] in line and row["extra"] in line for line, row in zip(lines, rows, strict=True))


def test_a_wide_column_gives_way_before_the_others(unchanged: Whet) -> None:
    asked = "SELECT name, sql FROM sqlite_master WHERE name = 'jobs'"
    head, line = unchanged("query", asked, COLUMNS="80").out.splitlines()
    assert (head.split(), line.split()[0]) == (["name", "sql"], "jobs")
    assert "…" in line
    assert len(line) <= 80


def test_everything_is_exported_and_imported(unchanged: Whet, tmp_path: Path) -> None:
    file, home = str(tmp_path / "all.jsonl"), str(tmp_path / "copy")
    unchanged("export", file)
    unchanged("import", file, "--format", "store", WHET_HOME=home)
    mine, theirs = unchanged("status", "--json").json, unchanged("status", "--json", WHET_HOME=home).json
    assert theirs["records"] == mine["records"]
    assert unchanged("run", "list", "-o", "jsonl", WHET_HOME=home).out == unchanged("run", "list", "-o", "jsonl").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(whet: Whet, shell: str) -> None:
    script = whet("completion", shell).out
    assert "_WHET_COMPLETE" in script
    if (program := shutil.which(shell)) is not None:
        assert subprocess.run([program, "-n"], input=script, text=True, check=False).returncode == 0


def test_completion_knows_nouns_and_verbs(whet: Whet) -> None:
    asked = {"_WHET_COMPLETE": "complete_bash", "COMP_WORDS": "whet memory se", "COMP_CWORD": "2"}
    assert whet(**asked).out.split() == ["search"]
