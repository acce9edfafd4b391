"""Which models are kin: of one maker's line, or one trained from the other. Kin share their mistakes.

families("bedrock/anthropic.claude-haiku-4-5")      # {"claude"}
families("hf:./DeepSeek-R1-Distill-Qwen-7B")        # {"deepseek", "qwen"}
are_kin("openai/gpt-4o-mini", "litellm:azure/o3")   # True
"""

import re

__all__ = ["are_kin", "families"]

_SIGNS = {
    "claude": r"claude",
    "command": r"command-[ar]|cohere",
    "deepseek": r"deepseek",
    "gemini": r"gemini|gemma",
    "glm": r"glm-",
    "gpt": r"gpt|\bo[134]\b|davinci",
    "granite": r"granite",
    "grok": r"grok",
    "kimi": r"kimi|moonshot",
    "llama": r"llama|vicuna|tulu",
    "mistral": r"mi[sx]tral|ministral|codestral|magistral|devstral",
    "nova": r"amazon\.nova|nova-(?:micro|lite|pro)",
    "phi": r"\bphi-?\d",
    "qwen": r"qwen|qwq",
}


def families(name: str) -> frozenset[str]:
    """Returns the families that a model's name speaks of; where it names none, the first word of its last part.

    A name without a word says nothing.
    """
    text = name.lower()
    if found := frozenset(family for family, sign in _SIGNS.items() if re.search(sign, text)):
        return found
    word = re.search(r"[a-z]+", re.split(r"[/:]", text.rstrip("/"))[-1])
    return frozenset({word[0]} if word else ())


def are_kin(one: str, other: str) -> bool:
    """Returns whether two models are the same by name, or their names speak of a common family."""
    return one == other or bool(families(one) & families(other))
