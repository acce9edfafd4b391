"""Entry point of ``whet``: collects the commands and turns errors into one line and an exit code."""

import os
import sys
from typing import Annotated

import typer

from whet.apps.cli.commands import demo, feedback, gate, index, learn, memory, policy, run, skill, store, tasks, verdict
from whet.core.errors import WhetError

__all__ = ["main"]

app = typer.Typer(
    name="whet",
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
    ("memory", memory, "Lessons: search, explain, correct, forget."),
    ("policy", policy, "The history of what was learned: log, diff, blame, rollback."),
    ("skill", skill, "Skills: look at them, test, install, export."),
    ("gate", gate, "Decisions of the gate and their evidence."),
    ("index", index, "The derived search index."),
):
    app.add_typer(module.app, name=name, help=text, no_args_is_help=True)
app.command("search")(memory.search)
learn.register(app)
demo.register(app)


def _arguments(argv: list[str]) -> list[str]:
    """Returns the arguments with ``whet run TASK`` spelled out as ``whet run start TASK``."""
    if "run" in argv:
        place = argv.index("run") + 1
        following = argv[place : place + 1]
        if following and following[0] not in run.VERBS and following[0] not in ("-h", "--help"):
            return [*argv[:place], "start", *argv[place:]]
    return argv


def main() -> None:
    """Runs the command line; exits with the code of the error that ended it."""
    try:
        app(args=_arguments(sys.argv[1:]), prog_name="whet")
    except WhetError as error:
        print(f"whet: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("whet: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
