"""The chat template of a transformers folder: messages to text and to the token ids a model is asked with. No torch.

    template = load_template("./model")
    template.prompt_ids(messages)                       # exactly what HFModel and a vLLM server put before an answer
    template.render(messages, answering=False)          # the conversation as text

The tokenizer is the one in ``tokenizer.json``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, TypeAlias, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer

from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.models.chat import chat_tools
from whet.core.records import Json, Message, ToolSpec
from whet.core.wire import decode

__all__ = ["ChatTemplate", "Spelled", "Tokens", "load_template", "template_message"]

Spelled: TypeAlias = Literal["token", "text"]

_GUARD = "\ufdd0"  # no character: Unicode keeps it for internal use


def template_message(message: Message) -> dict[str, Json]:
    """Returns the message as chat templates want it: arguments of tool calls as an object, not as text.

    Raises:
        UserError: the arguments of a tool call are no JSON object.
    """
    wire: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": decode(call.arguments, dict)}}
            for call in message.tool_calls
        ]
    if message.name is not None:
        wire["name"] = message.name
    return wire


class Tokens(NamedTuple):
    """Token ids of a text, and for each the characters (start, end) of the text that it stands for."""

    ids: list[int]
    spans: list[tuple[int, int]]


class ChatTemplate:
    """A chat template with its tokenizer. ``load_template`` reads one from a folder.

    ``name`` is the folder, ``ends`` the tokens that end a turn, ``context`` the most tokens the model reads (``None``
    where the folder does not say). A special token spelled out in a message becomes what the serving side makes of it:
    ``spelled="token"`` is how ``HFModel`` and vLLM serve, where a message can forge a turn; ``"text"`` is how
    the embedded model serves, where it cannot.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        sources: Mapping[str, str],
        *,
        special: Mapping[str, str],
        ends: frozenset[int],
        context: int | None,
        spelled: Spelled = "token",
    ) -> None:
        self.name, self.ends, self.context, self.spelled = name, ends, context, spelled
        self._tokenizer, self._special = tokenizer, dict(special)
        self._sources, environment = dict(sources), _environment()
        try:
            self._templates = {kind: environment.from_string(source) for kind, source in sources.items()}
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template of {name!r} cannot be read: {_one_line(error)}") from error
        self._specials = _pattern(tokenizer)
        self._plain = Tokenizer.from_str(tokenizer.to_str()) if spelled == "text" else tokenizer
        if spelled == "text":
            self._plain.encode_special_tokens = True

    @property
    def size(self) -> int:
        """The number of tokens of the tokenizer."""
        return self._tokenizer.get_vocab_size()

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, answering: bool) -> str:
        """Returns the conversation as text; ``answering`` opens the assistant's next answer.

        Special tokens spelled out in messages are guarded where they are to stay text.

        Raises:
            RefusedError: there are tools and the chat template has no place for them.
            ModelError: the chat template refuses the messages.
            UserError: the arguments of a tool call are no JSON object.
        """
        kind = "tool_use" if tools and "tool_use" in self._templates else "default"
        if tools and "tools" not in self._sources[kind]:
            raise RefusedError(
                f"the chat template of {self.name!r} knows no tools; use a model that was trained on them"
            )
        context = {
            "messages": [self._guarded(template_message(message)) for message in messages],
            "tools": [self._guarded(tool) for tool in chat_tools(tools)] or None,
            "documents": None,
        }
        try:
            return self._templates[kind].render(self._special | context, add_generation_prompt=answering)
        except (ValueError, TypeError, KeyError, jinja2.TemplateError) as error:
            message = f"the chat template of {self.name!r} failed: {_one_line(error)}"
            raise ModelError(message, failure="invalid") from error

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Returns the token ids that stand before the answer to these messages; raises as ``render`` does."""
        return self.tokens(self.render(messages, tools, answering=True)).ids

    def tokens(self, text: str) -> Tokens:
        """Returns the tokens of a rendered text; guarded stretches give no special token."""
        if self.spelled == "token" or _GUARD not in text:
            return _tokens(self._tokenizer, text)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        at = 0
        for number, part in enumerate(self._specials.split(text)):
            found = self._unguarded(part) if number % 2 == 0 else _tokens(self._tokenizer, part)
            ids += found.ids
            spans += [(at + start, at + end) for start, end in found.spans]
            at += len(part)
        return Tokens(ids, spans)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Returns the text of ids, with the special tokens or without."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def guard(self, text: str) -> str:
        """Returns a message's text as it stands in a rendered conversation."""
        if self.spelled == "token":
            return text
        text = text.replace(_GUARD, "\ufffd")  # or a message could bring a guard of its own
        while self._specials.search(text):
            text = self._specials.sub(lambda found: found[0][0] + _GUARD + found[0][1:], text)
        return text

    def is_guard(self, character: str) -> bool:
        """Returns whether ``guard`` put this character in."""
        return self.spelled == "text" and character == _GUARD

    def spells(self, text: str) -> str | None:
        """Returns a special token that the text spells out and that becomes that token, if there is one."""
        found = self._specials.search(text) if self.spelled == "token" else None
        return found[0] if found else None

    def _guarded(self, value: Json) -> Json:
        if isinstance(value, str):
            return self.guard(value)
        if isinstance(value, list):
            return [self._guarded(item) for item in value]
        return {key: self._guarded(item) for key, item in value.items()} if isinstance(value, dict) else value

    def _unguarded(self, part: str) -> Tokens:
        """Returns the tokens of a stretch without special tokens; spans count the guards in it."""
        kept = [at for at, character in enumerate(part) if character != _GUARD] + [len(part)]
        found = _tokens(self._plain, part.replace(_GUARD, ""))
        return Tokens(found.ids, [(kept[start], kept[end]) for start, end in found.spans])


def _tokens(tokenizer: Tokenizer, text: str) -> Tokens:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return Tokens(encoding.ids, encoding.offsets)


def load_template(folder: str | Path, *, spelled: Spelled = "token") -> ChatTemplate:
    """Returns the chat template of a transformers folder; of the model it needs no weights.

    Raises:
        UserError: the folder has no ``tokenizer.json`` or no chat template, or one of its files cannot be read.
    """
    root, name = Path(folder), repr(str(folder))
    if not (root / "tokenizer.json").is_file():
        raise UserError(
            f"no tokenizer.json in {name}; write one with AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    config = _settings(root / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _settings(root / "special_tokens_map.json")
    if "default" not in (sources := _sources(root, config)):
        raise UserError(
            f"the tokenizer of {name} has no chat template; add chat_template.jinja to the folder,"
            " or take the model's instruct version"
        )
    special = {key: text for key, value in config.items() if key.endswith("_token") and (text := _content(value))}
    tokenizer = _tokenizer(root / "tokenizer.json", config, list(special.values()))
    model = _settings(root / "config.json")
    end = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return ChatTemplate(
        str(folder),
        tokenizer,
        sources,
        special=special,
        ends=_ends(end, _settings(root / "generation_config.json"), model),
        context=_context(model),
        spelled=spelled,
    )


def _settings(path: Path) -> dict[str, Json]:
    if not path.is_file():
        return {}
    try:
        return decode(path.read_bytes(), dict)
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from error


def _sources(root: Path, config: Mapping[str, Json]) -> dict[str, str]:
    """Returns the templates by name: files win over what the configuration says."""
    files = {path.stem: path for path in sorted((root / "additional_chat_templates").glob("*.jinja"))}
    if (root / "chat_template.jinja").is_file():
        files["default"] = root / "chat_template.jinja"
    if files:
        return {name: path.read_text() for name, path in files.items()}
    found = config.get("chat_template")
    if isinstance(found, list):
        return {str(item["name"]): str(item["template"]) for item in found if isinstance(item, dict)}
    return {"default": found} if isinstance(found, str) else {}


def _content(token: Json) -> str:
    """Returns the text of a special token, which a configuration gives as text or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _tokenizer(path: Path, config: Mapping[str, Json], special: Sequence[str]) -> Tokenizer:
    """Returns the tokenizer, with the tokens that only the configuration names added as transformers adds them."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{str(path)!r} is no tokenizer: {_one_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    wanted = {
        token.content: token for token in (*_added(config), *(AddedToken(text, special=True) for text in special))
    }
    tokenizer.add_tokens([token for text, token in wanted.items() if text not in known])
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    return tokenizer


def _added(config: Mapping[str, Json]) -> list[AddedToken]:
    """Returns the added tokens that a configuration lists, by id."""
    listed = cast(dict[str, dict[str, Json]], config.get("added_tokens_decoder") or {})
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        AddedToken(str(token["content"]), **{flag: bool(token[flag]) for flag in flags if flag in token})
        for _, token in sorted(listed.items(), key=lambda item: int(item[0]))
    ]


def _ends(end: int | None, generation: Mapping[str, Json], model: Mapping[str, Json]) -> frozenset[int]:
    """Returns what ends an answer, for transformers and for vLLM alike: the tokenizer's end and the model's."""
    found = generation.get("eos_token_id", model.get("eos_token_id"))
    return frozenset(
        token for token in (end, *(found if isinstance(found, list) else [found])) if isinstance(token, int)
    )


def _context(model: Mapping[str, Json]) -> int | None:
    text = model.get("text_config")
    found = {**model, **(text if isinstance(text, dict) else {})}.get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _pattern(tokenizer: Tokenizer) -> "re.Pattern[str]":
    """Returns what finds the tokenizer's special tokens, the longest first; a token of one character is no turn's."""
    added = tokenizer.get_added_tokens_decoder().values()
    texts = sorted((token.content for token in added if token.special and len(token.content) > 1), key=len)
    return re.compile(f"({'|'.join(re.escape(text) for text in reversed(texts)) or '(?!)'})")


class _Generation(Extension):
    """``{% generation %}``: the tag by which templates mark what the assistant writes. It changes no text."""

    tags = {"generation"}  # noqa: RUF012  # as jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """Returns the environment that chat templates are written for."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return made


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Returns JSON as it is, without the escapes that jinja's own filter makes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
