"""The policy: everything that is learned, as an immutable, content-addressed tree of files.

    policy = Policy.of({"prompts/system.md": "You write Python."})
    better = policy.edit({"skills/verbs/SKILL.md": text})
    better.digest                     # names exactly this tree

Layout: ``prompts/*.md``, ``principles.md``, ``skills/<name>/SKILL.md`` (+ scripts, references), ``rubrics/*.md``,
``adapter`` (digest of LoRA weights in the blob store), ``settings.toml`` (learnable knobs).
"""

import json
import re
import tomllib
from collections.abc import Mapping

import msgspec

from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.records import Json, Record

__all__ = ["Policy"]

_ALLOWED = re.compile(
    r"prompts/[\w.-]+\.md|principles\.md|skills/[a-z0-9-]+/[\w./-]+|rubrics/[\w.-]+\.md|adapter|settings\.toml"
)


class Policy(Record, frozen=True, kw_only=True):
    """A tree of files: path to bytes. Equal trees have equal digests."""

    files: dict[str, bytes] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, files: Mapping[str, str | bytes]) -> "Policy":
        """Returns the policy with these files; text is stored as UTF-8.

        Raises:
            UserError: a path that is no part of a policy, or settings that are no TOML.
        """
        tree = {path: data.encode() if isinstance(data, str) else data for path, data in sorted(files.items())}
        for path in tree:
            if not _ALLOWED.fullmatch(path) or ".." in path.split("/"):
                raise UserError(
                    f"{path!r} is no part of a policy; allowed are prompts/*.md, principles.md, skills/<name>/…, "
                    "rubrics/*.md, adapter and settings.toml"
                )
        policy = cls(files=tree)
        policy.settings()
        return policy

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted (path, content digest) pairs, as hexadecimal text."""
        return digest("".join(f"{path}\0{digest(data)}\n" for path, data in sorted(self.files.items())))

    def text(self, path: str, default: str = "") -> str:
        """Returns a file as text, or ``default`` where there is none."""
        data = self.files.get(path)
        return default if data is None else data.decode()

    @property
    def adapter(self) -> str:
        """The digest of the LoRA weights, empty where the policy has none."""
        return self.text("adapter").strip()

    def edit(self, changes: Mapping[str, str | bytes | None]) -> "Policy":
        """Returns the policy with files replaced or added, or removed where the value is ``None``."""
        merged: dict[str, str | bytes | None] = {**self.files, **changes}
        return Policy.of({path: data for path, data in merged.items() if data is not None})

    def settings(self) -> dict[str, Json]:
        """Returns the learnable knobs of ``settings.toml`` (empty where there is none).

        Raises:
            UserError: the file is no TOML.
        """
        try:
            return tomllib.loads(self.text("settings.toml"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"settings.toml is not valid TOML: {error}") from error

    def with_settings(self, **knobs: bool | int | float | str) -> "Policy":
        """Returns the policy with these knobs of ``settings.toml`` set and the others as they are."""
        merged = {**self.settings(), **knobs}
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in sorted(merged.items())]
        return self.edit({"settings.toml": "".join(lines)})

    def rubrics(self) -> list[str]:
        """Returns the texts of the rubrics, in order of their names."""
        return [self.text(path) for path in sorted(self.files) if path.startswith("rubrics/")]

    def skill_names(self) -> list[str]:
        """Returns the names of the skills in the tree, sorted."""
        return sorted({path.split("/")[1] for path in self.files if path.startswith("skills/")})

    def skill(self, name: str) -> dict[str, bytes]:
        """Returns a skill's files by their path inside the skill's folder (``SKILL.md``, ``scripts/…``)."""
        prefix = f"skills/{name}/"
        return {path.removeprefix(prefix): data for path, data in self.files.items() if path.startswith(prefix)}
