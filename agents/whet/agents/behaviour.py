"""What programs do: candidate programs run on calls and asserts, each in a sandbox of its own.

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
from whet.agents.tools import tool
from whet.core import Json, SandboxError, Task, ToolCall, VerifierSpec, encode
from whet.feedback.answers import python_program
from whet.sandboxes import SandboxSpec

__all__ = ["behaviours", "code_spec", "failed", "program_of", "public_calls", "run_guest"]

_SECONDS = 30  # a program, with all its snippets
_GUESTS = Path(__file__).parent / "guests"
_NOTHING = "raised nothing: no report"


async def behaviours(context: AgentContext, programs: Sequence[str], snippets: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns, for each program, what each snippet gave: a repr, ``None`` of a statement, or ``raised ValueError``.

    Equal programs run once. Each has a fresh sandbox, with the packages of the task's tests.

    Raises:
        SandboxError: a sandbox failed.
    """
    found: dict[str, tuple[str, ...]] = {}
    for program in dict.fromkeys(programs) if snippets else ():
        said = await run_guest(context, "snippets", {"program": program, "snippets": list(snippets)})
        row = tuple(map(str, said)) if isinstance(said, list) else ()
        found[program] = row if len(row) == len(snippets) else (_NOTHING,) * len(snippets)
    return [found.get(program, ()) for program in programs]


async def run_guest(context: AgentContext, name: str, job: dict[str, Json]) -> Json:
    """Returns what a program of ``guests/`` answers to a job in a fresh sandbox; in a replay what it answered then.

    ``None`` where it gave no answer: it was killed, or what it ran wrote over it.

    Raises:
        SandboxError: the sandbox failed.
    """
    arguments = encode({"name": name, "job": json.dumps(job)}).decode()
    result = await context.use(run_in_guest, ToolCall(id=name, name="run_in_guest", arguments=arguments))
    try:
        found: Json = json.loads(result.content.rstrip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        return None
    return found


@tool
async def run_in_guest(name: str, job: str, context: AgentContext) -> str:
    """Run a program that the agent wrote on a job in a fresh sandbox."""
    spec = code_spec(context.task)
    packages = spec.params.get("packages") if spec else None
    made_of = SandboxSpec(packages=tuple(map(str, packages)) if isinstance(packages, list) else ())
    if context.sandboxes is None:
        raise SandboxError("there are no sandboxes to run programs in; run the graph with an Agent, which lends them")
    async with context.sandboxes.fresh(made_of) as box:
        result = await box.run_python((_GUESTS / f"{name}.py").read_text(), stdin=job.encode(), timeout=_SECONDS)
    return result.stdout


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
