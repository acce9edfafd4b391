"""Slots: a line at the head of the system message that says what kind of answer is asked for.

    prompt = with_slot(prompt, "Feedback on the answer", "solve([2, 1]) returned [2, 1], expected [1, 2].")
    policy.edit(serving_slot(policy, "Feedback on the answer", "all checks passed"))

In training the line says what is true of the answer; at serving time the policy's prompt says what is wanted. Both put
it first, so that the model reads the same text.
"""

import msgspec

from whet.core.policy import Policy
from whet.core.records import Message

__all__ = ["serving_slot", "with_slot"]

_PROMPT = "prompts/system.md"


def with_slot(prompt: tuple[Message, ...], name: str, text: str) -> tuple[Message, ...]:
    """Returns the messages with the line in place of an earlier one of that name."""
    first = prompt[0] if prompt and prompt[0].role == "system" else None
    content = _headed(first.content if first else "", name, text)
    rest = prompt[1:] if first else prompt
    head = msgspec.structs.replace(first, content=content) if first else Message(role="system", content=content)
    return (head, *rest)


def serving_slot(policy: Policy, name: str, text: str) -> dict[str, str]:
    """Returns the edit that puts the line at the head of the policy's prompt."""
    return {_PROMPT: _headed(policy.text(_PROMPT).strip(), name, text)}


def _headed(content: str, name: str, text: str) -> str:
    if content.startswith(f"{name}: "):
        content = content.partition("\n\n")[2]
    # An empty line ends the slot, so that there is none within it.
    line = f"{name}: " + "\n".join(part for part in text.strip().splitlines() if part.strip())
    return f"{line}\n\n{content}" if content else line
