"""Settings of a project: the file ``whet.toml``, and environment variables ``WHET_…``, which win over it.

# whet.toml
model = "openai:llama"
budget = "dollars=2,hours=8"
[model_options]
base_url = "http://localhost:8000/v1"

settings = Settings.load()                # of the current folder
model = settings.load_model()
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Self

import msgspec
from pydantic import Field, JsonValue, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from whet.core.budget import Budget, parse_grant
from whet.core.errors import UserError
from whet.core.loading import nearest
from whet.core.models import Model, load_model
from whet.core.records import Record

__all__ = ["FILE_NAME", "Setting", "Settings"]

FILE_NAME = "whet.toml"
_PREFIX = "WHET_"
_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@]*):[^@/]+@")


class Setting(Record, frozen=True, kw_only=True):
    """A setting as it is in force: its value as text, secrets hidden, and where that comes from."""

    name: str
    value: str
    source: str


class Settings(BaseSettings):
    """What a project chose; made by ``Settings.load``."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, protected_namespaces=(), validate_default=True
    )

    home: Path = Field(Path(".whet"), description="Folder of the memory.")
    store: str | None = Field(None, description="SQLAlchemy URL of the memory, in place of the folder.")
    scope: str = Field("default", min_length=1, description="Scope of what is written and read.")
    model: str = Field("tiny", min_length=1, description="Model, as load_model names it.")
    model_options: dict[str, JsonValue] = Field({}, description="Options of the model, e.g. base_url.")
    models: dict[str, str] = Field({}, description="Further models by role, for graphs that ask them: reviewer.")
    sandbox: str = Field("auto", min_length=1, description="Back end of the sandboxes.")
    budget: str = Field("", description="Limits of a command, e.g. calls=500,dollars=2,hours=8; empty is none.")

    @field_validator("budget")
    @classmethod
    def _budget_can_be_read(cls, value: str) -> str:
        try:
            parse_grant(value)
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then what ``load`` read from the file."""
        return env_settings, init_settings

    @classmethod
    def load(cls, folder: str | Path = ".") -> Self:
        """Returns the settings of the project in ``folder``; without a file there, the defaults and the environment.

        Raises:
            UserError: a key that does not exist (the nearest one is named), or a value that cannot be.
        """
        path = Path(folder) / FILE_NAME
        written = _read(path)
        for name in written:
            _refuse_unknown(name, f"setting {name!r} in {str(path)!r}")
        for variable in _misspelled():
            _refuse_unknown(variable.removeprefix(_PREFIX).lower(), f"environment variable {variable!r}")
        try:
            return cls(**written)  # type: ignore[arg-type]  # checked by pydantic
        except ValidationError as error:
            raise UserError(_explain(error, path)) from error

    def load_model(self, name: str = "") -> Model:
        """Returns the model of the settings; or that of ``name``, and the options then serve only the same model.

        Raises:
            UserError: there is no such model or option.
        """
        if name and name != self.model:
            return load_model(name)
        return load_model(self.model, **self.model_options)

    def new_budget(
        self,
        *,
        micro_dollars: int | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        seconds: float | None = None,
    ) -> Budget:
        """Returns a fresh budget; a limit that is given replaces that of the settings."""
        given = {"micro_dollars": micro_dollars, "tokens": tokens, "calls": calls, "seconds": seconds}
        chosen = {unit: limit for unit, limit in given.items() if limit is not None}
        return Budget.of(msgspec.structs.replace(parse_grant(self.budget), **chosen))

    def describe(self, folder: str | Path = ".") -> list[Setting]:
        """Returns every setting with its value, secrets hidden, and whether environment, file or default gave it."""
        written = _read(Path(folder) / FILE_NAME)
        return [
            Setting(name=name, value=_shown(name, getattr(self, name)), source=_source(name, written))
            for name in type(self).model_fields
        ]


def _read(path: Path) -> dict[str, JsonValue]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} is no valid TOML: {error}") from error
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def _refuse_unknown(name: str, what: str) -> None:
    known = list(Settings.model_fields)
    if name not in known:
        raise UserError(f"{what} is not known{nearest(name, known)}; settings are {', '.join(known)}")


def _misspelled() -> list[str]:
    """Returns the variables that are nearly a setting. Others with the prefix belong to commands and to tests."""
    names = [name.removeprefix(_PREFIX).lower() for name in os.environ if name.startswith(_PREFIX)]
    known = list(Settings.model_fields)
    return [_PREFIX + name.upper() for name in names if name not in known and nearest(name, known, cutoff=0.8)]


def _explain(error: ValidationError, path: Path) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "?"
    variable = _PREFIX + name.upper()
    where = f"environment variable {variable!r}" if variable in os.environ else f"setting {name!r} in {str(path)!r}"
    return f"{where} cannot be {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"


def _source(name: str, written: dict[str, JsonValue]) -> str:
    variable = _PREFIX + name.upper()
    if variable in os.environ:
        return variable
    return FILE_NAME if name in written else "default"


def _shown(name: str, value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{key} = {'***' if _SECRET.search(key) else repr(item)}" for key, item in sorted(value.items()))
        return "{" + ", ".join(pairs) + "}"
    return _URL_PASSWORD.sub(r"\1:***@", "" if value is None else str(value))
