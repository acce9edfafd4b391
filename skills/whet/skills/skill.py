"""A skill as a value: what its ``SKILL.md`` says and the files beside it."""

from collections import Counter
from collections.abc import Mapping

import msgspec
import yaml

from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.records import Record
from whet.skills import rules
from whet.skills.tokens import estimate_tokens

__all__ = ["Skill"]

MAIN = "SKILL.md"
MAX_HEAD = 1 << 16
"""Characters of a front matter: it is read into every prompt, and a reader must not hang on a stranger's."""


class Skill(Record, frozen=True, kw_only=True):
    """One Agent Skill. ``files`` are the files beside ``SKILL.md``, by their path inside the skill's folder."""

    name: str
    description: str
    body: str
    license: str = ""
    compatibility: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    allowed_tools: tuple[str, ...] = ()
    files: dict[str, bytes] = msgspec.field(default_factory=dict)

    @classmethod
    def parse(cls, files: Mapping[str, bytes], *, folder: str | None = None) -> "Skill":
        """Returns the skill in these files (``SKILL.md``, ``scripts/…``).

        ``folder`` is the name of the skill's folder, where there is one: the format wants it equal to the name.

        Raises:
            UserError: the files break the format; the one message lists every violation.
        """
        head, body, found = _split(files.get(MAIN))
        others = {path: data for path, data in sorted(files.items()) if path != MAIN}
        found += rules.path_violations(others)
        if head is not None:
            found += rules.violations(head, folder)
        if head is None or found:
            raise UserError(f"skill {_label(head, folder)} breaks the Agent Skills format: {'; '.join(found)}")
        return msgspec.convert(_fields(head) | {"body": body, "files": others}, cls)

    def render(self) -> dict[str, bytes]:
        """Returns the files of the skill's folder, ``SKILL.md`` first; ``parse`` reads them back to an equal skill.

        Raises:
            UserError: the values break the format.
        """
        head: dict[str, object] = {"name": self.name, "description": self.description}
        optional = {
            "license": self.license,
            "compatibility": self.compatibility,
            "metadata": self.metadata,
            "allowed-tools": " ".join(self.allowed_tools),
        }
        head.update({key: value for key, value in optional.items() if value})
        text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1 << 20)
        files = {MAIN: f"---\n{text}---\n\n{self.body.strip()}\n".encode(), **self.files}
        Skill.parse(files)
        return files

    def advice(self) -> list[str]:
        """Returns where the skill goes beyond what the format recommends (size of the body, files it names)."""
        return rules.advice(self.body, self.body_tokens, self.files)

    @property
    def keywords(self) -> tuple[str, ...]:
        """The words of ``metadata.keywords`` (separated by spaces or commas): each alone calls for the skill."""
        return tuple(self.metadata.get("keywords", "").replace(",", " ").split())

    @property
    def metadata_tokens(self) -> int:
        """About how many tokens name and description take: what the skill costs while it is not activated."""
        return estimate_tokens(f"{self.name}: {self.description}")

    @property
    def body_tokens(self) -> int:
        """About how many tokens the body takes: what the skill costs once it is activated."""
        return estimate_tokens(self.body)

    @property
    def scripts(self) -> list[str]:
        """The paths of the files under ``scripts/``, sorted."""
        return sorted(path for path in self.files if path.startswith("scripts/"))

    @property
    def digest(self) -> str:
        """SHA-256 over the rendered files: the skill's version."""
        return digest("".join(f"{path}\0{digest(data)}\n" for path, data in sorted(self.render().items())))


def _split(data: bytes | None) -> tuple[dict[str, object] | None, str, list[str]]:
    """Returns the front matter (``None`` where there is none), the body and what is wrong with their form."""
    if data is None:
        return None, "", [f"there is no {MAIN}"]
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return None, "", [f"{MAIN} is not UTF-8 (byte {error.start})"]
    opening, _, rest = text.partition("\n")
    yaml_text, closing, body = ("\n" + rest).partition("\n---\n")
    if not closing and yaml_text.endswith("\n---"):
        yaml_text, closing = yaml_text.removesuffix("\n---"), "---"
    if opening.rstrip() != "---" or not closing:
        return None, "", [f"{MAIN} does not begin with a front matter between two lines '---'"]
    if len(yaml_text) > MAX_HEAD:
        return None, "", [f"the front matter has {len(yaml_text)} characters ({MAX_HEAD} at most)"]
    try:
        # Every scalar stays text, so a name of `on` or a version of `1.10` is what its author wrote.
        head = yaml.load(yaml_text, Loader=yaml.BaseLoader)
        node = yaml.compose(yaml_text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        return None, "", [f"the front matter is not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(head, dict) or not isinstance(node, yaml.MappingNode):
        return None, "", ["the front matter is no map of keys"]
    # Of a key given twice readers take different ones, so what one shows a person another might not obey.
    keys = Counter(str(key.value) for key, _ in node.value)
    return head, body.strip(), [f"key {key!r} is given {n} times" for key, n in keys.items() if n > 1]


def _fields(head: Mapping[str, object]) -> dict[str, object]:
    tools = head.get("allowed-tools", "")
    assert isinstance(tools, str | list), "checked by the rules"
    fields = {key: value.strip() for key, value in head.items() if isinstance(value, str) and key != "allowed-tools"}
    return fields | {"metadata": head.get("metadata", {}), "allowed_tools": rules.tool_names(tools)}


def _label(head: Mapping[str, object] | None, folder: str | None) -> str:
    return repr(folder or (head or {}).get("name") or "without a name")
