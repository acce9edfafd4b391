"""How much of a context window a text takes, where no tokenizer is at hand."""

import re

__all__ = ["estimate_tokens"]

# Byte-pair vocabularies keep frequent words whole and cut the rest into pieces of about six characters.
_PIECE = re.compile(r"[A-Za-z]{1,6}|\d{1,3}|[^\sA-Za-z\d]")


def estimate_tokens(text: str) -> int:
    """Returns about how many tokens a large model's tokenizer makes of the text (0 for the empty text).

    An estimate without a tokenizer: pieces of up to six letters or three digits, and every other visible character.
    It errs on the high side, which is the safe side of a limit.
    """
    return len(_PIECE.findall(text))
