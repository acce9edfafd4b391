"""The embedded model's tokenizer: words, digits and the world's expressions as tokens, bytes for the rest.

Any text round-trips exactly: a byte-level alphabet covers whatever is not a listed word. There are no merges; a piece
found by the splitting pattern is one token when the vocabulary has it and single bytes otherwise (``ignore_merges``,
as in Llama 3). A space belongs to the word before it, so that a made-up verb is the same token everywhere.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Pipeline

from whet.core.models.tiny.vocabulary import BODIES, PHRASES, PREFIXED, ROLES, SPECIAL, WORDS
from whet.core.models.tiny.world import VERBS

__all__ = ["CHAT_TEMPLATE", "ChatTokenizer", "build_tokenizer", "save_tokenizer"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """Returns the tokenizer, built from the vocabulary alone (no training, no file)."""
    tokens = _vocabulary()
    model = BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[], ignore_merges=True)
    tokenizer = Tokenizer(model)
    split = Split(Regex(_pattern()), behavior="isolated")
    tokenizer.pre_tokenizer = Pipeline([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _vocabulary() -> list[str]:
    pieces = [*BODIES, *PREFIXED, *PHRASES, "def ", "\ndef ", "(x", *VERBS]
    pieces += WORDS
    pieces += [f"{digit}, " for digit in range(10)] + [")" * n for n in range(1, 9)] + ["  ", "    ", "        "]
    mapper = ByteLevel(add_prefix_space=False, use_regex=False)
    mapped = [mapper.pre_tokenize_str(piece)[0][0] for piece in pieces]
    return list(dict.fromkeys([*SPECIAL, *sorted(ByteLevel.alphabet()), *mapped]))


def _pattern() -> str:
    """Returns the splitting pattern; alternatives are tried in order at each position."""
    literal = "|".join(re.escape(piece) for piece in (*BODIES, *PREFIXED, *PHRASES))
    verbs = "|".join(sorted(VERBS, key=len, reverse=True))
    rest = r"\d(?:, )?|[A-Za-z_]+ ?|\)+| {2,}|[^\sA-Za-z0-9_]|\s"
    return rf"{literal}|\n?def |\(x(?=\))|(?:{verbs})(?![A-Za-z0-9_])|{rest}"


def save_tokenizer(folder: Path, context: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<|pad|>", "eos_token": "<|end|>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


class ChatTokenizer:
    """Chat messages to token ids, the same ids as the chat template gives.

    A special token spelled out in a message's text stays text: nobody can close a turn from inside it.

    Raises:
        KeyError: a role that the model does not know.
    """

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer or build_tokenizer()
        self._tokenizer.encode_special_tokens = True
        self._roles = {role: self._id(f"<|{role}|>") for role in ROLES}
        self.end, self.pad = self._id("<|end|>"), self._id("<|pad|>")

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a plain text."""
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; special tokens are left out."""
        return self._tokenizer.decode(list(ids))

    def turn(self, role: str, content: str) -> list[int]:
        """Returns one closed turn: role token, content, end token."""
        return [self._roles[role], *self.encode(content), self.end]

    def prompt(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        """Returns the ids of a conversation of (role, content), opened for the assistant's next answer."""
        ids = [token for role, content in turns for token in self.turn(role, content)]
        return [*ids, self._roles["assistant"]]

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return found
