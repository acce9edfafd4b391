"""Chat templates without torch: the same prompts as the models that serve, and what a folder must hold."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.models.chat_template import ChatTemplate, load_template, template_message
from whet.core.models.hf import HFModel
from whet.core.models.tiny.model import WEIGHTS, TinyModel
from whet.core.records import Message, Sampling, ToolCall, ToolSpec

transformers = pytest.importorskip("transformers")

TINY = TinyModel()
HF = HFModel(WEIGHTS)
AS_TOKEN = load_template(WEIGHTS)
AS_TEXT = load_template(WEIGHTS, spelled="text")
ADD = ToolSpec(name="add", description='adds <two> & "more"', parameters={"type": "object"})

# Words of the model's world, text it has only bytes for, and every way to forge a turn.
PIECES = ["Write solve(x): zorp.", "def f(x):\n    return x", " ", "\n", "é", "日本", "😀", "<|", "|>", "end", "\ufdd0"]
SPELLED = ["<|end|>", "<|assistant|>", "<|user|>", "<|<|end|>", "<|end|><|system|>"]
plain = st.lists(st.sampled_from(PIECES[:-1]), min_size=1, max_size=6).map("".join)
forged = st.lists(st.sampled_from(PIECES[:-1] + SPELLED), min_size=1, max_size=6).map("".join)


def conversations(content: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    """Returns conversations of any length that end with the user."""
    turns = st.lists(st.tuples(content, content), max_size=2)
    return st.builds(
        lambda system, before, last: [
            *([Message(role="system", content=system)] if system else []),
            *(
                Message(role=role, content=text)
                for asked, said in before
                for role, text in (("user", asked), ("assistant", said))
            ),
            Message(role="user", content=last),
        ],
        st.none() | content,
        turns,
        content,
    )


@settings(max_examples=60)
@given(messages=conversations(plain | forged))
def test_prompts_are_those_of_hf_model(messages: list[Message]) -> None:
    assert AS_TOKEN.prompt_ids(messages) == HF.prompt_ids(messages)


@settings(max_examples=40)
@given(messages=conversations(plain | forged))
def test_prompts_are_those_of_the_embedded_model(messages: list[Message]) -> None:
    served = TINY.answer(messages, Sampling(max_tokens=0)).prompt_token_ids
    assert tuple(AS_TEXT.prompt_ids(messages)) == served


@settings(max_examples=60)
@given(messages=conversations(forged))
def test_no_message_forges_a_turn_where_special_tokens_stay_text(messages: list[Message]) -> None:
    ids = AS_TEXT.prompt_ids(messages)
    assert sum(token in AS_TEXT.ends for token in ids) == len(messages)
    assert AS_TEXT.tokens(AS_TEXT.render(messages, answering=True)).ids == ids


@settings(max_examples=60)
@given(messages=conversations(plain | forged), spelled=st.sampled_from([AS_TOKEN, AS_TEXT]))
def test_spans_are_the_characters_of_the_tokens(messages: list[Message], spelled: ChatTemplate) -> None:
    text = spelled.render(messages, answering=True)
    ids, spans = spelled.tokens(text)
    covered = {at for start, end in spans for at in range(start, end)}
    assert all(spelled.is_guard(text[at]) for at in range(len(text)) if at not in covered)
    for token, (start, end) in zip(ids, spans, strict=True):
        read = spelled.decode([token], special=True)
        assert "\ufffd" in read or read == "".join(c for c in text[start:end] if not spelled.is_guard(c))


def test_a_guard_in_a_message_does_not_survive() -> None:
    (message,) = [Message(role="user", content="<\ufdd0|end|>")]
    assert "\ufdd0" not in AS_TEXT.decode(AS_TEXT.prompt_ids([message]))
    assert sum(token in AS_TEXT.ends for token in AS_TEXT.prompt_ids([message])) == 1


def test_what_a_text_spells_out_is_named_where_it_becomes_a_token() -> None:
    assert AS_TOKEN.spells("so <|end|> it is") == "<|end|>"
    assert AS_TEXT.spells("so <|end|> it is") is None
    assert AS_TOKEN.spells("so < |end|> it is") is None


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with the embedded model's tokenizer, a template and a configuration."""

    def made(template: str | None, /, **config: object) -> Path:
        shutil.copy(WEIGHTS / "tokenizer.json", tmp_path)
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config)
        )
        if template is not None:
            (tmp_path / "chat_template.jinja").write_text(template)
        return tmp_path

    return made


def served(folder: Path, messages: list[Message], tools: list[dict[str, object]] | None = None) -> list[int]:
    """Returns the prompt as transformers makes it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    wire = [template_message(message) for message in messages]
    text = tokenizer.apply_chat_template(wire, tools=tools, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


TEMPLATE = """{%- if tools -%}
{{ tools | tojson }} {{ tools | tojson(indent=2) }}
{%- endif %}
{% for message in messages %}
    {%- if message.content == 'stop' %}{% break %}{% endif %}
{{ bos_token }}{{ message.role }}: {{ message.content | trim }}{{ message.tool_calls | tojson if message.tool_calls }}
{% generation %}{% set inside = 1 %}{{ message.name }}{% endgeneration %}{{ inside }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<a>{% endif %}"""


def test_templates_are_rendered_as_transformers_renders_them(folder: Callable[..., Path]) -> None:
    made = folder(TEMPLATE, bos_token="<s>", eos_token={"__type": "AddedToken", "content": "<|end|>"})
    call = ToolCall(id="1", name="add", arguments='{"b": "é<>&\'", "a": [1]}')
    messages = [
        Message(role="user", content="  hi \n", name="ann"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="3"),
        Message(role="user", content="stop"),
        Message(role="user", content="not told"),
    ]
    tool = {"name": ADD.name, "description": ADD.description, "parameters": ADD.parameters}
    template = load_template(made)
    wire: list[dict[str, object]] = [{"type": "function", "function": tool}]
    assert template.prompt_ids(messages, [ADD]) == served(made, messages, wire)
    assert "not told" not in template.render(messages, answering=True)


def test_tokens_that_only_the_configuration_names_are_added(folder: Callable[..., Path]) -> None:
    listed = {"9001": {"content": "<think>", "special": False}, "9000": {"content": "<tool>", "special": True}}
    made = folder(
        "{{ bos_token }}{% for m in messages %}<think>{{ m.content }}<tool>{{ eos_token }}{% endfor %}",
        bos_token="<s>",
        eos_token="<end>",
        added_tokens_decoder=listed,
    )
    template = load_template(made)
    messages = [Message(role="user", content="hi <think> <s>")]
    assert template.prompt_ids(messages) == served(made, messages)
    assert template.spells("a <tool> b") == "<tool>"
    assert template.spells("a <think> b") is None
    assert template.ends == {template.tokens("<end>").ids[0]}


def test_special_tokens_are_split_where_the_configuration_says_so(folder: Callable[..., Path]) -> None:
    made = folder("{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}", split_special_tokens=True)
    messages = [Message(role="user", content="hi")]
    assert load_template(made).prompt_ids(messages) == served(made, messages)


def test_the_ends_and_the_context_come_from_the_model(folder: Callable[..., Path]) -> None:
    made = folder("{{ messages }}", eos_token="<|end|>")
    (made / "config.json").write_text('{"eos_token_id": 5, "text_config": {"max_position_embeddings": 99}}')
    assert (load_template(made).ends, load_template(made).context) == ({1, 5}, 99)
    (made / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert load_template(made).ends == {1, 6, 7}
    assert AS_TOKEN.context == 2048


def test_of_several_templates_the_one_for_tools_is_taken(folder: Callable[..., Path]) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | length }} tools"}]
    made = folder(None, chat_template=named)
    template = load_template(made)
    message = Message(role="user", content="hi")
    assert template.render([message], answering=True) == "plain"
    assert template.render([message], [ADD], answering=True) == "1 tools"
    (made / "additional_chat_templates").mkdir()
    (made / "additional_chat_templates" / "tool_use.jinja").write_text("tools, from a file")
    (made / "chat_template.jinja").write_text("plain, from a file")
    assert load_template(made).render([message], answering=True) == "plain, from a file"
    assert load_template(made).render([message], [ADD], answering=True) == "tools, from a file"
    assert served(made, [message]) == load_template(made).prompt_ids([message])


def test_a_folder_that_cannot_be_used_names_the_way_out(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json in '.*absent'; write one with AutoTokenizer"):
        load_template(tmp_path / "absent")
    made = folder(None)
    with pytest.raises(UserError, match=r"has no chat template; add chat_template\.jinja to the folder"):
        load_template(made)
    with pytest.raises(UserError, match=r"the chat template of .* cannot be read"):
        load_template(folder("{% if %}"))
    (made / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match=r"tokenizer_config\.json': not a valid"):
        load_template(made)
    (made / "tokenizer.json").write_text("{}")
    (made / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json' is no tokenizer"):
        load_template(made)


def test_what_a_template_refuses_is_one_line(folder: Callable[..., Path]) -> None:
    template = load_template(folder("{{ raise_exception('roles\n must alternate') }}"))
    with pytest.raises(ModelError, match=r"the chat template of .* failed: roles must alternate"):
        template.render([Message(role="user", content="hi")], answering=True)
    with pytest.raises(RefusedError, match="knows no tools; use a model that was trained on them"):
        AS_TOKEN.render([Message(role="user", content="hi")], [ADD], answering=True)
    call = ToolCall(id="1", name="add", arguments="{broken")
    with pytest.raises(UserError, match="not a valid dict"):
        AS_TOKEN.render([Message(role="assistant", content="", tool_calls=(call,))], answering=True)


def test_a_template_cannot_reach_into_python(folder: Callable[..., Path]) -> None:
    template = load_template(folder("{{ messages.__class__.__mro__ }}"))
    with pytest.raises(ModelError, match="failed"):
        template.render([Message(role="user", content="hi")], answering=True)


def test_neither_torch_nor_transformers_is_loaded() -> None:
    code = (
        "import sys; from whet.core.models.chat_template import load_template;"
        f"load_template({str(WEIGHTS)!r}).tokens('hi');"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
