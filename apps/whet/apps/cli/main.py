"""Entry point of ``whet``: collects the commands and turns errors into one line and an exit code."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from whet.apps.cli.commands import (
    demo,
    feedback,
    gate,
    improve,
    index,
    judge,
    learn,
    memory,
    policy,
    run,
    skill,
    store,
    tasks,
    verdict,
)
from whet.core.errors import WhetError

__all__ = ["main"]

INTERRUPTED = 130


class Quiet(TyperGroup):
    """The root: a broken pipe is no error here, whatever typer makes of it."""

    def invoke(self, ctx: Any) -> Any:
        """Returns what the command returns; flushes, so that a reader who has gone is noticed here."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered has to go somewhere, or Python complains at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result


app = typer.Typer(
    name="whet",
    cls=Quiet,
    help="Agents that get measurably better from feedback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "WHET"},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("whet"))
        raise typer.Exit


@app.callback()
def _root(
    home: Annotated[str | None, typer.Option(help="Folder of the memory (default .whet).", envvar="WHET_HOME")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if home:
        os.environ["WHET_HOME"] = home


store.register(app)
run.register(app)
for name, module, text in (
    ("tasks", tasks, "Task sets: look at them, check them before a token is spent."),
    ("feedback", feedback, "What people and programs said about runs."),
    ("verdict", verdict, "What verifiers found."),
    ("judge", judge, "Judges: measure them, and see what they are worth."),
    ("memory", memory, "Lessons: search, explain, correct, forget."),
    ("policy", policy, "The history of what was learned: log, diff, blame, rollback."),
    ("skill", skill, "Skills: look at them, test, install, export."),
    ("gate", gate, "Decisions of the gate and their evidence."),
    ("index", index, "The derived search index."),
):
    app.add_typer(module.app, name=name, help=text, no_args_is_help=True)
app.command("search")(memory.search)
learn.register(app)
improve.register(app)
demo.register(app)


def main() -> None:
    """Runs the command line; exits with the code of the error that ended it."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    """Returns the exit code. What the caller or the machine did wrong is one line on stderr; a defect raises."""
    try:
        code = app(args=arguments, prog_name="whet", standalone_mode=False) or 0
    except WhetError as error:
        return _say(str(error), error.exit_code)
    except TyperException as error:
        # Without a message the help was printed, for want of arguments.
        message = error.format_message().rstrip(".")
        return _say(f"{message}; see: {_path(arguments)} --help", 2) if message else 2
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:
        place = f" {error.filename!r}" if error.filename else ""
        return _say(f"the system refused{place}: {error.strerror or error}", 1)
    return _say("interrupted", code) if code == INTERRUPTED else int(code)


def _say(message: str, code: int) -> int:
    print(f"whet: {' '.join(message.split())}", file=sys.stderr)
    return code


def _path(arguments: list[str]) -> str:
    """Returns the command that the arguments name, as far as it exists."""
    command, path = get_command(app), ["whet"]
    for word in arguments:
        if isinstance(command, TyperGroup) and word in command.commands:
            command = command.commands[word]
            path.append(word)
    return " ".join(path)


if __name__ == "__main__":
    main()
