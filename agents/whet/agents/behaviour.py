"""What programs do: candidate programs run on calls and asserts, in a sandbox that is thrown away.

    calls = public_calls(task)                                        # ["solve([2, 1])", …]
    (row,) = await behaviours(context, ["def solve(x): return x[::-1]"], ["solve([2, 1])", "assert solve([]) == []"])
    row                                                               # ("[1, 2]", "None")

Nothing here is a verdict: a program can say of itself what it likes. It serves to compare programs that an agent wrote.
"""

import ast
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from whet.agents.runtime import AgentContext
from whet.core import Execution, Json, Task, VerifierSpec
from whet.feedback.answers import python_program
from whet.sandboxes import Sandbox

__all__ = ["behaviours", "code_spec", "failed", "program_of", "public_calls"]

_SECONDS = 2  # a snippet
_GUESTS = Path(__file__).parent / "guests"
_NOTHING = "raised nothing: no report"


async def behaviours(context: AgentContext, programs: Sequence[str], snippets: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns, for each program, what each snippet gave: a repr, ``None`` of a statement, or ``raised ValueError``.

    Equal programs run once. They run in a fork of the run's sandbox, each in a process of its own; what they write is
    gone afterwards.

    Raises:
        SandboxError: the sandbox failed.
        UserError: the agent has no sandbox.
    """
    if not snippets:
        return [()] * len(programs)
    found: dict[str, tuple[str, ...]] = {}
    async with await (await context.sandbox()).fork() as box:
        for program in dict.fromkeys(programs):
            job = {"program": program, "snippets": list(snippets), "seconds": _SECONDS}
            said = await run_guest(context, box, "snippets", job, seconds=_SECONDS * (len(snippets) + 1))
            row = tuple(map(str, said)) if isinstance(said, list) else ()
            found[program] = row if len(row) == len(snippets) else (_NOTHING,) * len(snippets)
    return [found[program] for program in programs]


async def run_guest(context: AgentContext, box: Sandbox, name: str, job: dict[str, object], *, seconds: float) -> Json:
    """Returns what a program of ``guests/`` answers to a job in a sandbox, recorded.

    ``None`` where it gave no answer: it was killed, or what it ran wrote over it.
    """
    code = (_GUESTS / f"{name}.py").read_text()
    result = await box.run_python(code, stdin=json.dumps(job).encode(), timeout=seconds)
    context.record(Execution(command=f"{name} of\n{job['program']}", result=result))
    try:
        found: Json = json.loads(result.stdout.rstrip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        return None
    return found


def failed(behaviour: str) -> bool:
    """Returns whether a snippet raised."""
    return behaviour.startswith("raised ")


def code_spec(task: Task) -> VerifierSpec | None:
    """Returns the verifier that says what the task's program has to define, ``None`` where the answer is no program.

    Of a verifier that is not public only the name of the entry point and the head of the program may be used: the
    prompt says them as well.
    """
    specs = [spec for spec in task.verifiers if spec.kind == "python_tests"]
    return next((spec for spec in specs if spec.public), specs[0] if specs else None)


def program_of(task: Task, answer: str) -> str:
    """Returns the program of an answer, under the head that the task gives."""
    spec = code_spec(task)
    params = {} if spec is None else spec.params
    return python_program(
        answer, prompt=str(params.get("prompt", "")), entry_point=str(params.get("entry_point", ""))
    ).source


def public_calls(task: Task) -> list[str]:
    """Returns the calls in the task's public tests, as expressions, each once."""
    found = [call for spec in task.verifiers if spec.public and spec.kind == "python_tests" for call in _calls(spec)]
    return list(dict.fromkeys(found))


def _calls(spec: VerifierSpec) -> Iterator[str]:
    entry, cases = str(spec.params.get("entry_point", "")), spec.params.get("cases")
    for case in cases if isinstance(cases, list) else ():
        if isinstance(case, list) and case:
            yield f"{entry}({case[0]})"
    for node in ast.walk(_parsed(str(spec.params.get("test", "")))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("candidate", entry):
            call = ast.unparse(ast.Call(ast.Name(entry), node.args, node.keywords))
            # A name in an argument means something in the test alone.
            if not any(isinstance(part, ast.Name) for each in [*node.args, *node.keywords] for part in ast.walk(each)):
                yield call


def _parsed(source: str) -> ast.Module:
    """Returns a test's source as a tree; an empty one where it does not parse, which its verifier tells."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])
