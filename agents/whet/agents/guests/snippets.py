"""Runs a program, then snippets of code in its names: ``{"program", "snippets"}`` on standard input.

The last line of the output is a JSON list: for each snippet what it gave, as text; see ``whet.agents.behaviour``.
"""

import hashlib
import json
import signal
import sys
from types import CodeType

SECONDS = 2  # a snippet
LONGEST = 200  # characters of a value, beyond which its digest stands for the rest


def stop(signum: int, frame: object) -> None:
    """Ends a snippet that takes too long."""
    raise TimeoutError


def run(snippet: str, names: dict[str, object]) -> str:
    """Returns the repr of an expression, ``None`` for a statement that ended, or ``raised`` and the exception."""
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return show(eval(compiled(snippet), dict(names)))  # noqa: S307  # inside the sandbox
    except BaseException as error:  # whatever a stranger's code raises, exits included, is what it does
        return f"raised {type(error).__name__}"
    finally:
        signal.alarm(0)


def compiled(snippet: str) -> CodeType:
    """Returns an expression or statements as a code object."""
    try:
        return compile(snippet, "<snippet>", "eval")
    except SyntaxError:
        return compile(snippet, "<snippet>", "exec")


def show(value: object) -> str:
    """Returns the repr; a set's in the order of its items' reprs, so that equal sets look equal."""
    ordered = isinstance(value, (set, frozenset))
    text = f"{type(value).__name__} of {sorted(map(repr, value))}" if ordered else repr(value)  # type: ignore[call-overload]
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… {hashlib.sha256(text.encode()).hexdigest()}"


def main() -> None:
    """Answers the job on standard input."""
    job = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr
    names: dict[str, object] = {"__name__": "answer"}
    try:
        exec(compile(job["program"], "<answer>", "exec"), names)  # noqa: S102  # inside the sandbox
        found = [run(snippet, names) for snippet in job["snippets"]]
    except BaseException as error:  # the same: a program that cannot be loaded does nothing else
        found = [f"raised {type(error).__name__}"] * len(job["snippets"])
    print("\n" + json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
