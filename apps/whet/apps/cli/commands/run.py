"""``whet run``: run tasks; then list, show, tail, steps, messages, compare, replay, fork, export, tag, invalidate."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from whet.apps.cli.commands.rows import as_row, first_line, run_rows
from whet.apps.cli.output import AsJson, Row, View, console, emit_json, listing, note
from whet.apps.cli.session import load_settings, same_command, with_memory
from whet.core import Critique, Feedback, Record, Run, Step, Task, Use, UserError, Verdict

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["register"]

app = typer.Typer()
RunId = Annotated[str, typer.Argument(help="Run id or prefix.")]
Graph = Annotated[str, typer.Option(help="Where the run's graph is, when it is a file: path/file.py:graph.")]


@app.command()
def start(
    task: Annotated[
        str, typer.Argument(help="A task set (world:7, jsonl:FILE …), a task id in the memory, or a prompt.")
    ],
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Annotated[
        str, typer.Option(help="A pattern (refine, react, reviewed …), or path/file.py:graph.")
    ] = "refine",
    models: Annotated[
        list[str] | None, typer.Option(help="A further model that the graph asks: reviewer=NAME.")
    ] = None,
    tools: Annotated[
        list[str] | None, typer.Option(help="A tool: shell, python, ask_person, simulated_person.")
    ] = None,
    split: Annotated[str, typer.Option(help="Only tasks of this split: train, heldout.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many tasks; 0 for all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    policy: Annotated[str, typer.Option(help="Policy to run under.")] = "head",
    concurrency: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 4,
    calls: Annotated[int | None, typer.Option(help="Budget: model calls.")] = None,
    dollars: Annotated[float | None, typer.Option(help="Budget: dollars.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget: seconds.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out the tasks that are done already.")] = False,
    json: AsJson = False,
) -> None:
    """Run an agent on a task, a task set or a prompt, and record everything; Ctrl-C stops, --resume goes on."""
    from whet.apps.cli.workshop import Plan, run_plan

    micro_dollars = None if dollars is None else round(dollars * 1e6)
    budget = load_settings().new_budget(calls=calls, micro_dollars=micro_dollars, seconds=seconds)
    plan = Plan(
        task=task,
        model=model,
        graph=graph,
        models=tuple(models or ()),
        tools=tuple(tools or ()),
        split=split,
        limit=limit,
        seed=seed,
        policy=policy,
        concurrency=concurrency,
        resume=resume,
    )

    async def work(memory: "Memory") -> list[Row]:
        try:
            return await run_plan(memory, plan, budget)
        except asyncio.CancelledError:
            note(f"what was recorded stays; go on with: {same_command('--resume')}")
            raise

    rows = with_memory(work)
    emit_json({"runs": rows}) if json else _print_runs(rows)
    _end(rows)


def _print_runs(rows: Sequence[Row]) -> None:
    View(limit=None).show(rows, ("id", "task_id", "status", "outcome", "score", "tokens", "error"))
    if len(rows) == 1:
        print(rows[0]["answer"] or "")
    for row in rows:
        _tell_questions(str(row["id"]), row["interrupts"])
    judged = [row for row in rows if row["outcome"] in ("pass", "fail")]
    passed = sum(row["outcome"] == "pass" for row in judged)
    note(f"{passed} of {len(judged)} judged runs pass" if judged else f"{len(rows)} runs, none judged by a verifier")


def _tell_questions(id: str, questions: object) -> None:
    for question in questions if isinstance(questions, Sequence) else ():
        said = question.get("question", question) if isinstance(question, dict) else question
        note(f"run {id[:16]} asks: {said}\nanswer it with: whet run resume {id[:16]} ANSWER")


def _end(rows: Sequence[Row]) -> None:
    """Ends with code 1 when a run failed, 4 when a verifier could not judge; a wrong answer is no error."""
    failed = [row for row in rows if row["status"] in ("failed", "cancelled")]
    unjudged = [row for row in rows if row["outcome"] == "infra_error"]
    if failed:
        note(
            f"whet: {len(failed)} of {len(rows)} runs {failed[0]['status']}: {first_line(str(failed[0]['error']), 300)}"
        )
    elif unjudged:
        note(f"whet: {len(unjudged)} of {len(rows)} runs could not be judged: {unjudged[0]['detail']}")
    if failed or unjudged:
        raise typer.Exit(1 if failed else 4)


@app.command("list")
@listing
def list_runs(view: View) -> None:
    """List runs, newest first."""

    async def work(memory: "Memory") -> list[Row]:
        limit = None if view.where or view.sort else view.limit
        return await run_rows(memory, await memory.find(Run, since=view.since, limit=limit, newest_first=True))

    view.show(
        with_memory(work, read_only=True),
        ("id", "started_at", "task_id", "agent", "model", "policy", "status", "outcome", "score"),
        ("purpose", "seed", "tokens", "tags", "error"),
        empty="no run yet; start one with: whet run world:7 --limit 5",
    )


class Story(Record, frozen=True, kw_only=True):
    """All that is known of a run."""

    run: Run
    prompt: str | None
    verdicts: tuple[Verdict, ...]
    critiques: tuple[Critique, ...]
    feedback: tuple[Feedback, ...]
    uses: tuple[Use, ...]


async def _story(memory: "Memory", id: str) -> Story:
    run = await memory.get(Run, id)
    about = {"run_id": run.id}
    tasks = await memory.find(Task, where={"id": run.task_id})
    return Story(
        run=run,
        prompt=tasks[0].prompt if tasks else None,
        verdicts=tuple(await memory.find(Verdict, where=about)),
        critiques=tuple(await memory.find(Critique, where=about)),
        feedback=tuple(await memory.find(Feedback, where=about)),
        uses=tuple(await memory.find(Use, where=about)),
    )


@app.command()
def show(id: RunId, json: AsJson = False) -> None:
    """Show a run: its answer, verdicts, critiques and feedback."""
    story = with_memory(lambda memory: _story(memory, id), read_only=True)
    emit_json(story) if json else _print_story(story)


def _print_story(story: Story) -> None:
    from rich.panel import Panel
    from rich.text import Text

    run, terminal = story.run, console()
    policy = run.policy[:12] or "-"

    def cut(line: str) -> str:
        return line if len(line) <= terminal.width else line[: terminal.width - 1] + "…"

    print(f"run {run.id}  {run.status}  {run.agent} on {run.model or '-'}  policy {policy}  {run.purpose}")
    for title, text in (("task", story.prompt), ("answer", run.answer), ("error", run.error)):
        if text:
            terminal.print(Panel(Text(text), title=title, title_align="left", border_style="dim"))
    for verdict in story.verdicts:
        attempt = f"attempt {verdict.repetition}" if verdict.repetition else "final answer"
        judged = f"{verdict.outcome} {verdict.score:.2f}  {verdict.verifier}  {first_line(verdict.detail)}".rstrip()
        print(f"verdict   {attempt:<13} {judged}")
        for check in [check for check in verdict.checks if not check.passed][:3]:
            print(cut(f"          ✗ {check.call or check.name}: got {check.got}, expected {check.expected}"))
    for critique in story.critiques:
        print(cut(f"critique  {critique.source}: {first_line(critique.text)}"))
    for item in story.feedback:
        said = first_line(item.text) if item.value is None else f"{item.value:.2f} {first_line(item.text)}"
        print(cut(f"feedback  {item.kind} by {item.source}: {said}"))
    for kind in ("shown", "withheld", "adopted"):
        if items := [use.item[:24] for use in story.uses if use.kind == kind]:
            print(f"{kind:<9} {' '.join(items)}")


def _step_row(step: Step, began: int, said: dict[str, str]) -> Row:
    body = as_row(step.body)
    kind = str(body.pop("kind"))
    completion = body.get("completion")
    about = body.get("verdict_id") or body.get("critique_id")
    told = completion["text"] if isinstance(completion, dict) else said.get(str(about)) or body.get("content")
    text = first_line(str(told or body.get("command") or body.get("error") or ""))
    return {**as_row(step), "kind": kind, "seconds": (step.at - began) / 1000, "text": text}


async def _said(memory: "Memory", run: Run) -> dict[str, str]:
    """Returns what the verdicts and critiques of a run say, by their ids."""
    verdicts = await memory.find(Verdict, where={"run_id": run.id})
    critiques = await memory.find(Critique, where={"run_id": run.id})
    said = {item.id: f"{item.outcome} {item.score:.2f} {item.verifier} {item.detail}".rstrip() for item in verdicts}
    return said | {item.id: item.text for item in critiques}


async def _steps(memory: "Memory", id: str) -> tuple[Run, list[Step]]:
    run = await memory.get(Run, id)
    return run, sorted(await memory.find(Step, where={"run_id": run.id}), key=lambda step: step.seq)


@app.command()
@listing
def steps(view: View, id: RunId) -> None:
    """List a run's steps in order."""

    async def work(memory: "Memory") -> list[Row]:
        run, found = await _steps(memory, id)
        said = await _said(memory, run)
        return [_step_row(step, found[0].at, said) for step in found]

    view.show(
        with_memory(work, read_only=True),
        ("seq", "seconds", "node", "kind", "text"),
        ("id", "parent_id"),
        empty="the run has no steps",
    )


@app.command()
def messages(id: RunId, json: AsJson = False) -> None:
    """Show the conversation of a run as the model saw it."""
    from whet.core import Message, ModelCall

    _, found = with_memory(lambda memory: _steps(memory, id), read_only=True)
    calls = [step.body for step in found if isinstance(step.body, ModelCall)]
    spoken: list[Message] = []
    for call in calls:
        spoken += [message for message in call.messages if message not in spoken]
        if call.completion:
            spoken.append(
                Message(role="assistant", content=call.completion.text, tool_calls=call.completion.tool_calls)
            )
    if json:
        emit_json({"messages": spoken})
        return
    for message in spoken:
        console().print(f"── {message.role}", style="bold", markup=False)
        print(message.content)


@app.command()
def tail(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep waiting for new runs.")] = False,
    number: Annotated[int, typer.Option("-n", help="How many to begin with.")] = 10,
) -> None:
    """Print runs as they end."""

    async def work(memory: "Memory") -> None:
        seen: set[str] = set()
        while True:
            newest = await memory.find(Run, newest_first=True, limit=number if not seen else 100)
            ended = [run for run in reversed(newest) if run.status != "running" and run.id not in seen]
            for row in await run_rows(memory, ended):
                print(
                    f"{str(row['id'])[:16]}  {row['status']:<11} {row['outcome'] or '-':<6} {row['task_id']}",
                    flush=True,
                )
            seen.update(run.id for run in ended)
            if not follow:
                return
            await asyncio.sleep(0.5)

    with_memory(work, read_only=True)


@app.command()
def compare(a: RunId, b: RunId) -> None:
    """Show two runs' answers side by side as a diff, with their outcomes."""
    import difflib

    async def work(memory: "Memory") -> list[Row]:
        return await run_rows(memory, [await memory.get(Run, a), await memory.get(Run, b)])

    first, second = with_memory(work, read_only=True)
    before, after = (str(row["answer"] or "").splitlines() for row in (first, second))
    titles = [f"{str(row['id'])[:16]} {row['outcome'] or row['status']}" for row in (first, second)]
    lines = difflib.unified_diff(before, after, titles[0], titles[1], lineterm="", n=100)
    print("\n".join(lines) or "the answers are equal")


@app.command()
def replay(id: RunId, graph: Graph = "", json: AsJson = False) -> None:
    """Run a recorded run again from its record, without a model; exit code 4 when the answer differs."""
    from whet.apps.cli.workshop import replay_run

    before, after = with_memory(lambda memory: replay_run(memory, id, graph))
    if json:
        emit_json({"run": before.id, "replay": after.id, "same": before.answer == after.answer, "answer": after.answer})
    else:
        note(
            f"replayed {before.id[:16]} as {after.id[:16]}: "
            f"the answer is {'the same' if before.answer == after.answer else 'another'}"
        )
    if before.answer != after.answer:
        raise typer.Exit(4)


@app.command()
def fork(
    id: RunId,
    step: Annotated[int, typer.Option(help="Number of the step (seq) from which to go on.")],
    policy: Annotated[str, typer.Option(help="Policy to go on under.")] = "head",
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Graph = "",
    json: AsJson = False,
) -> None:
    """Go on from a step of a recorded run under another policy."""
    from whet.apps.cli.workshop import fork_run

    run = with_memory(lambda memory: fork_run(memory, id, step, policy, model, graph))
    emit_json(as_row(run)) if json else print(f"{run.id}\n{run.answer or run.error or ''}")


@app.command()
def resume(
    id: RunId,
    answer: Annotated[str, typer.Argument(help="What a person answers to the question of an interrupted run.")] = "",
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Graph = "",
    json: AsJson = False,
) -> None:
    """Go on with a run that waits for a person's answer, from its checkpoint."""
    from whet.apps.cli.workshop import resume_run

    result = with_memory(lambda memory: resume_run(memory, id, answer or None, model, graph))
    run = result.run
    if json:
        emit_json({**as_row(run), "interrupts": list(result.interrupts)})
        return
    print(f"{run.id}\n{run.answer or run.error or ''}")
    _tell_questions(run.id, result.interrupts)


@app.command()
def export(
    id: RunId,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    format: Annotated[str, typer.Option(help="openai, atif or mini-swe.")] = "openai",
) -> None:
    """Write one run in a format other tools read."""
    from whet.apps.cli.commands import store

    store.export(file, format=format, run=[id])


async def _replace(memory: "Memory", id: str, reason: str, **changes: object) -> Run:
    run = msgspec.structs.replace(await memory.get(Run, id), **changes)
    await memory.put(run, actor="cli", reason=reason)
    return run


@app.command()
def tag(id: RunId, name: Annotated[str, typer.Argument(help="Tag to add.")]) -> None:
    """Give a run a tag."""

    async def work(memory: "Memory") -> Run:
        run = await memory.get(Run, id)
        return await _replace(memory, run.id, f"tagged {name}", tags=tuple(dict.fromkeys((*run.tags, name))))

    note(f"tags: {', '.join(with_memory(work).tags)}")


@app.command()
def invalidate(id: RunId, reason: Annotated[str, typer.Option(help="Why; kept with the change.")] = "") -> None:
    """Keep a run from counting as evidence: its verdicts are set aside as tampered."""
    if not reason:
        raise UserError("invalidating a run needs a reason: --reason TEXT")

    async def work(memory: "Memory") -> None:
        run = await memory.get(Run, id)
        verdict = Verdict(
            run_id=run.id,
            task_id=run.task_id,
            verifier="person",
            outcome="tampered",
            kind="human",
            detail=reason,
            actor="cli",
        )
        await memory.put(verdict, actor="cli", reason=reason)
        await _replace(memory, run.id, reason, tags=tuple(dict.fromkeys((*run.tags, "invalid"))), trust="tainted")

    with_memory(work)
    note(f"run {id} no longer counts as evidence")


class StartByDefault(TyperGroup):
    """``whet run TASK`` is ``whet run start TASK``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Returns the arguments left, with ``start`` before what is no verb."""
        named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if named else ["start", *args])


def register(root: typer.Typer) -> None:
    """Adds ``whet run`` to the root."""
    text = "Run tasks (whet run TASK); look at, replay and fork what was run."
    root.add_typer(app, name="run", cls=StartByDefault, help=text, no_args_is_help=True)
