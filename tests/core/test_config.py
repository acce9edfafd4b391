"""Settings: file, environment, defaults; what is not known is refused."""

from pathlib import Path

import pytest

from whet.core import Cost, Grant, UserError
from whet.core.config import Settings
from whet.core.models import RecordedModel


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WHET_{name.upper()}", raising=False)


def write(folder: Path, text: str) -> Path:
    (folder / "whet.toml").write_text(text)
    return folder


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    assert (settings.home, settings.store, settings.model, settings.sandbox) == (Path(".whet"), None, "tiny", "auto")
    assert settings.new_budget().grant == Grant()
    assert {setting.source for setting in settings.describe(tmp_path)} == {"default"}


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'model = "openai:a"\nscope = "team"\n[model_options]\nbase_url = "http://x"\napi_key = "sk-1"\n')
    monkeypatch.setenv("WHET_MODEL", "openai:b")
    monkeypatch.setenv("WHET_STORE", "postgresql+asyncpg://me:secret@host/db")
    settings = Settings.load(tmp_path)
    assert (settings.model, settings.scope) == ("openai:b", "team")
    assert settings.model_options == {"base_url": "http://x", "api_key": "sk-1"}
    shown = {setting.name: (setting.value, setting.source) for setting in settings.describe(tmp_path)}
    assert shown["model"] == ("openai:b", "WHET_MODEL")
    assert shown["scope"] == ("team", "whet.toml")
    assert shown["store"] == ("postgresql+asyncpg://me:***@host/db", "WHET_STORE")
    assert shown["model_options"] == ("{api_key = ***, base_url = 'http://x'}", "whet.toml")
    assert shown["sandbox"] == ("auto", "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'modle = "tiny"',
            r"setting 'modle' in .*whet.toml' is not known \(did you mean 'model'\?\); settings are home",
        ),
        ("[tool.other]\nx = 1", "setting 'tool' .* is not known; settings are"),
        ("model = 3", "setting 'model' in .* cannot be 3"),
        ('model = ""', "cannot be ''"),
        ('budget = "call=3"', "cannot be 'call=3': unknown unit 'call'"),
        ("model = ]\n", r"no valid TOML: Invalid value \(at line 1"),
    ],
)
def test_what_cannot_be_is_refused_on_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Settings.load(write(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_bad_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_BUDGET", "lots")
    with pytest.raises(UserError, match="environment variable 'WHET_BUDGET' cannot be 'lots'"):
        Settings.load(tmp_path)


def test_a_misspelled_variable_is_refused_and_a_foreign_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHET_SOMETHING_ELSE", "1")
    Settings.load(tmp_path)
    monkeypatch.setenv("WHET_MODLE", "tiny")
    with pytest.raises(UserError, match=r"variable 'WHET_MODLE' is not known .did you mean 'model'"):
        Settings.load(tmp_path)


def test_the_budget_of_the_settings_is_fresh_each_time(tmp_path: Path) -> None:
    settings = Settings.load(write(tmp_path, 'budget = "calls=3,dollars=0.5,minutes=2"'))
    assert settings.new_budget().grant == Grant(calls=3, micro_dollars=500_000, seconds=120)
    assert settings.new_budget(calls=9).grant == Grant(calls=9, micro_dollars=500_000, seconds=120)
    settings.new_budget().reserve(Cost(calls=3)).settle(Cost(calls=3))
    assert settings.new_budget().spent.calls == 0


def test_the_model_of_the_settings_gets_its_options(tmp_path: Path) -> None:
    tape = tmp_path / "calls.jsonl"
    tape.write_text("")
    write(tmp_path, f'model = "recorded:{tape}"\nmodel_options = {{ name = "m" }}')
    settings = Settings.load(tmp_path)
    model = settings.load_model()
    assert isinstance(model, RecordedModel)
    assert model.name == "m"
    other = tmp_path / "other.jsonl"
    other.write_text("")
    with pytest.raises(UserError, match="give name="):  # the options belong to the model of the settings
        settings.load_model(f"recorded:{other}")
