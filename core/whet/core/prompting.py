"""How learned text reaches a model: the one place where system prompts and retry messages are worded.

The agent runtime, the critics and the training data of the embedded model all use these functions, so a model that
was trained on one wording never meets another.
"""

from collections.abc import Sequence

__all__ = ["describe_failure", "render_retry", "render_system"]


def render_system(
    prompt: str = "",
    principles: str = "",
    skills: Sequence[tuple[str, str]] = (),
    lessons: Sequence[str] = (),
    rubrics: Sequence[str] = (),
) -> str:
    """Returns the system message: prompt, principles, rubrics, activated skills as (name, body), recalled lessons.

    Empty parts are left out; with nothing to say the result is the empty string (and no system message is sent).
    """
    parts = [prompt.strip(), principles.strip(), *(rubric.strip() for rubric in rubrics)]
    parts += [f"# Skill: {name}\n{body.strip()}" for name, body in skills]
    if lessons:
        parts.append("# Lessons\n" + "\n".join(lesson.strip() for lesson in lessons))
    return "\n\n".join(part for part in parts if part)


def describe_failure(call: str, got: str, expected: str) -> str:
    """Returns one line on one failing check, e.g. ``solve([2, 1]) returned [2, 1], expected [1, 2].``

    ``got`` is a repr, or ``raised ValueError: …`` for an exception.
    """
    outcome = got if got.startswith("raised ") else f"returned {got}"
    return f"{call} {outcome}, expected {expected}."


def render_retry(critiques: Sequence[str], forbidden: Sequence[str] = ()) -> str:
    """Returns the user message that asks for a corrected answer after a rejected attempt.

    ``forbidden`` are answers that it tells not to give again.
    """
    lines = ["Rejected.", *(text.strip() for text in critiques)]
    if forbidden:
        lines += ["Give none of these answers again:", *dict.fromkeys(text.strip() for text in forbidden)]
    return "\n".join([*lines, "Write a corrected answer."])
