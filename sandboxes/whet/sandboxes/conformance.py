"""What any back end must do. A third party runs it against its own:

import pytest
from whet.sandboxes import SandboxSpec, conformance

@pytest.mark.asyncio
@pytest.mark.parametrize("check", conformance.CHECKS, ids=conformance.name)
async def test_conforms(check):
    async with await MyBackend().create(SandboxSpec(limits=conformance.LIMITS)) as box:
        await check(box)

``FILE_CHECKS`` are the part that needs no programs to run. A check raises AssertionError. What must *not* happen is the
business of the abuse suite in ``tests/sandboxes``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from whet.core.errors import SandboxError, UserError
from whet.sandboxes.sandbox import Limits, Sandbox, Snapshot

__all__ = ["CHECKS", "FILE_CHECKS", "LIMITS", "Check", "name"]

Check: TypeAlias = Callable[[Sandbox], Awaitable[None]]

LIMITS = Limits(
    wall_seconds=20.0, output_bytes=64 << 10, memory_bytes=512 << 20, work_bytes=64 << 20, tmp_bytes=16 << 20
)


def name(check: Check) -> str:
    """Returns what a check is called."""
    return getattr(check, "__name__", repr(check))


async def _refused(waiting: Awaitable[object]) -> None:
    try:
        got = await waiting
    except UserError:
        return
    raise AssertionError(f"should have been refused with UserError, gave {got!r:.100}")


# --- commands -------------------------------------------------------------------------------------------------------


async def list_runs_as_it_is(box: Sandbox) -> None:
    result = await box.exec(["echo", "$HOME; a  b"])
    assert (result.status, result.exit_code, result.stdout) == ("ok", 0, "$HOME; a  b\n"), result


async def string_runs_in_a_shell(box: Sandbox) -> None:
    result = await box.exec("x=4; echo $((x + 2)) | cat; echo no >&2")
    assert (result.stdout, result.stderr) == ("6\n", "no\n"), result


async def exit_code_is_reported(box: Sandbox) -> None:
    result = await box.exec("exit 7")
    assert (result.status, result.exit_code, result.signal, result.ok) == ("nonzero", 7, None, False), result


async def signal_is_reported(box: Sandbox) -> None:
    result = await box.exec("kill -SEGV $$")
    assert (result.status, result.exit_code, result.signal) == ("signal", None, 11), result


async def unknown_command_is_127(box: Sandbox) -> None:
    result = await box.exec(["no-such-program-here"])
    assert (result.status, result.exit_code) == ("nonzero", 127), result
    assert "no-such-program-here" in result.stderr, result


async def file_without_permission_is_126(box: Sandbox) -> None:
    await box.write("script.sh", "#!/bin/sh\necho hi\n")
    result = await box.exec(["./script.sh"])
    assert (result.status, result.exit_code) == ("nonzero", 126), result


async def stdin_arrives_whole(box: Sandbox) -> None:
    data = bytes(range(256)) * (8 << 12)
    result = await box.exec(["sha256sum"], stdin=data)
    import hashlib

    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest(), result


async def unread_stdin_does_not_hang(box: Sandbox) -> None:
    result = await box.exec(["true"], stdin=b"x" * (4 << 20), timeout=10)
    assert result.ok, result


async def no_stdin_is_an_empty_one(box: Sandbox) -> None:
    result = await box.exec(["cat"], timeout=5)
    assert (result.status, result.stdout) == ("ok", ""), result


async def env_is_added(box: Sandbox) -> None:
    result = await box.exec("echo $FRUIT $LANG", env={"FRUIT": "pear"})
    assert result.stdout == "pear C.UTF-8\n", result


async def cwd_is_a_folder_of_the_workspace(box: Sandbox) -> None:
    await box.write("deep/down/x.txt", "here")
    for cwd in ("/work/deep/down", "deep/down"):
        result = await box.exec(["cat", "x.txt"], cwd=cwd)
        assert result.stdout == "here", result
    await _refused(box.exec(["true"], cwd="nowhere"))


async def unicode_passes_both_ways(box: Sandbox) -> None:
    text = "naïve — 日本語 🦆"
    result = await box.exec(["cat"], stdin=text.encode())
    assert result.stdout == text, result
    result = await box.exec(["printf", "%s", text])
    assert result.stdout == text, result


async def invalid_utf8_is_replaced(box: Sandbox) -> None:
    result = await box.exec(r"printf 'a\377\376b\000c'")
    assert result.stdout == "a\ufffd\ufffdb\0c", result


async def long_argument_arrives(box: Sandbox) -> None:
    result = await box.exec(["sh", "-c", "echo ${#1}", "sh", "x" * 100_000])
    assert result.stdout == "100000\n", result


async def argument_beyond_the_kernel_is_a_result(box: Sandbox) -> None:
    result = await box.exec(["echo", "x" * (1 << 20)])
    assert (result.status, result.exit_code) == ("nonzero", 126), result


async def long_output_keeps_head_and_tail(box: Sandbox) -> None:
    result = await box.exec("echo first; seq 1 40000; echo last")
    assert result.truncated, result.status
    assert result.stdout.startswith("first\n1\n"), result.stdout[:80]
    assert result.stdout.endswith("40000\nlast\n"), result.stdout[-80:]
    assert len(result.stdout) < LIMITS.output_bytes + 100


async def flood_is_stopped(box: Sandbox) -> None:
    result = await box.exec(["yes"])
    assert (result.status, result.truncated) == ("output_limit", True), result.status


async def nonsense_is_refused(box: Sandbox) -> None:
    for waiting in (
        box.exec([]),
        box.exec(["a\0b"]),
        box.exec(["true"], timeout=0),
        box.exec(["true"], timeout=float("nan")),
    ):
        await _refused(waiting)


# --- time and processes ---------------------------------------------------------------------------------------------


async def timeout_keeps_what_was_said(box: Sandbox) -> None:
    started = time.monotonic()
    result = await box.exec("echo before; sleep 60", timeout=0.5)
    assert (result.status, result.stdout) == ("timeout", "before\n"), result
    assert time.monotonic() - started < 5, "the deadline was kept late"


async def timeout_kills_the_children(box: Sandbox) -> None:
    await box.exec("(sleep 1; touch survived) & setsid sh -c 'sleep 1; touch survived' & sleep 60", timeout=0.3)
    await asyncio.sleep(1.2)
    assert await box.list() == []


async def background_child_ends_with_the_command(box: Sandbox) -> None:
    started = time.monotonic()
    result = await box.exec("nohup sh -c 'sleep 1; touch survived' & echo done")
    assert result.stdout == "done\n", result
    assert time.monotonic() - started < 0.9, "it waited for the child"
    await asyncio.sleep(1.2)
    assert await box.list() == []


async def processor_time_is_bounded(box: Sandbox) -> None:
    result = await box.run_python("while True: pass", timeout=0.4)
    assert result.status == "timeout", result


async def cancelling_kills_and_leaves_it_usable(box: Sandbox) -> None:
    task = asyncio.create_task(box.exec("sleep 1; touch survived"))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (await box.exec(["echo", "still here"])).stdout == "still here\n"
    await asyncio.sleep(1)
    assert await box.list() == []


async def calls_at_once_take_turns(box: Sandbox) -> None:
    results = await asyncio.gather(*(box.exec(["echo", str(n)]) for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]


# --- Python ---------------------------------------------------------------------------------------------------------


async def python_runs_as_main(box: Sandbox) -> None:
    result = await box.run_python("print(__name__, sorted(n for n in globals() if not n.startswith('__')))")
    assert result.stdout == "__main__ []\n", result


async def python_forgets_between_runs(box: Sandbox) -> None:
    await box.run_python("import builtins, json; builtins.len = json.dumps = lambda *a: 'forged'; leaked = 1")
    result = await box.run_python("import json; print(len([1]), json.dumps(1), 'leaked' in globals())")
    assert result.stdout == "1 1 False\n", result


async def python_traceback_names_the_line(box: Sandbox) -> None:
    result = await box.run_python("def f():\n    return 1 / 0\n\nf()\n")
    assert (result.status, result.exit_code) == ("nonzero", 1), result
    assert 'File "main.py", line 2, in f' in result.stderr, result.stderr
    assert result.stderr.count("File ") == 2, result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n"), result.stderr


async def python_syntax_error_is_nonzero(box: Sandbox) -> None:
    result = await box.run_python("def f(:\n  pass\n")
    assert (result.status, result.exit_code) == ("nonzero", 1), result
    assert "SyntaxError" in result.stderr, result.stderr


async def python_exits_as_it_says(box: Sandbox) -> None:
    for code, expected in (
        ("raise SystemExit(3)", 3),
        ("exit(4)", 4),
        ("import sys; sys.exit()", 0),
        ("quit('why')", 1),
    ):
        result = await box.run_python(code)
        assert result.exit_code == expected, (code, result)
    assert result.stderr == "why\n", result


async def python_finishes_like_an_interpreter(box: Sandbox) -> None:
    code = (
        "import atexit, threading, time\natexit.register(lambda: print('exit'))\n"
        "threading.Thread(target=lambda: (time.sleep(.1), print('thread'))).start()\nprint('main', end='\\n')\n"
    )
    result = await box.run_python(code)
    assert result.stdout == "main\nthread\nexit\n", result


async def python_reads_stdin(box: Sandbox) -> None:
    result = await box.run_python("print(input()[::-1], input())", stdin=b"abc\ndef\n")
    assert result.stdout == "cba def\n", result


async def python_imports_nothing_from_the_workspace(box: Sandbox) -> None:
    await box.write("json.py", "raise RuntimeError('shadowed')")
    await box.write("sitecustomize.py", "raise RuntimeError('shadowed')")
    result = await box.run_python("import json, string; print(json.dumps([1]))")
    assert result.stdout == "[1]\n", result


async def python_may_use_processes(box: Sandbox) -> None:
    code = (
        "import os, subprocess, sys\nif os.fork() == 0:\n    print('child', flush=True)\n    os._exit(0)\nos.wait()\n"
        "print(subprocess.run([sys.executable, '-c', 'print(1 + 1)'], capture_output=True, text=True).stdout)"
    )
    result = await box.run_python(code)
    assert result.stdout == "child\n2\n\n", result


async def abnormal_ends_leave_it_usable(box: Sandbox) -> None:
    for code in ("import os; os.abort()", "import ctypes; ctypes.string_at(0)", "import os; os.kill(os.getpid(), 19)"):
        await box.run_python(code, timeout=1)
        result = await box.run_python("print('fine')")
        assert result.stdout == "fine\n", (code, result)


# --- files ----------------------------------------------------------------------------------------------------------


async def files_come_back_as_written(box: Sandbox) -> None:
    data = bytes(range(256)) * 4096
    await box.write("a/b/data.bin", data)
    assert await box.read("a/b/data.bin") == data
    assert await box.read("/work/a/b/data.bin") == data
    await box.write("a/b/data.bin", "naïve")
    assert await box.read("a/b/data.bin") == "naïve".encode()
    await box.write("empty", b"")
    assert await box.read("empty") == b""


async def files_are_listed_sorted(box: Sandbox) -> None:
    for path in ("z", "a/2", "a/1", "b/c/d", "strange name\n.txt"):
        await box.write(path, path)
    assert await box.list() == ["a/1", "a/2", "b/c/d", "strange name\n.txt", "z"]
    assert await box.list("/work/a") == ["1", "2"]


async def missing_files_are_refused(box: Sandbox) -> None:
    await _refused(box.read("nothing.txt"))
    await box.write("here", "x")
    await _refused(box.read("here/below"))


async def paths_outside_are_refused(box: Sandbox) -> None:
    for path in ("/etc/passwd", "../x", "a/../../x", "/work/../etc/passwd", "/workother"):
        await _refused(box.read(path))
        await _refused(box.write(path, "x"))


async def large_files_are_refused_unless_asked_for(box: Sandbox) -> None:
    await box.write("big", bytes(2000))
    await _refused(box.read("big", max_bytes=1999))
    assert len(await box.read("big", max_bytes=2000)) == 2000


async def snapshot_brings_everything_back(box: Sandbox) -> None:
    await box.write("keep/a.txt", "one")
    before = await box.snapshot()
    await box.write("keep/a.txt", "two")
    await box.write("more/b.txt", "three")
    after = await box.snapshot()
    assert after.digest != before.digest
    await box.restore(before)
    assert (await box.list(), await box.read("keep/a.txt")) == (["keep/a.txt"], b"one")
    assert (await box.snapshot()).digest == before.digest
    await box.restore(after)
    assert await box.read("more/b.txt") == b"three"


async def damaged_snapshot_is_refused(box: Sandbox) -> None:
    await box.write("keep", "x")
    good = await box.snapshot()
    await _refused(box.restore(Snapshot(digest=good.digest, archive=good.archive + b"x")))
    assert await box.list() == ["keep"]


async def fork_is_a_copy(box: Sandbox) -> None:
    await box.write("shared", "x")
    copy = await box.fork()
    try:
        assert await copy.list() == ["shared"]
        await copy.write("only here", "y")
        assert await box.list() == ["shared"]
    finally:
        await copy.close()
    assert await box.read("shared") == b"x"


async def programs_and_files_meet(box: Sandbox) -> None:
    await box.write("in.txt", "4")
    result = await box.run_python("open('out.txt', 'w').write(open('in.txt').read() * 2)")
    assert result.ok, result
    assert await box.read("out.txt") == b"44"


async def snapshot_keeps_modes_and_links(box: Sandbox) -> None:
    made = await box.run_python(
        "import os\nos.mkdir('d', 0o700)\nwith open(os.open('d/run', os.O_WRONLY | os.O_CREAT, 0o755), 'w') as file:\n"
        "    file.write('#!/bin/sh\\necho ran\\n')\nos.symlink('d/run', 'link')\nos.symlink('/usr/bin/env', 'far')"
    )
    assert made.ok, made
    before = await box.snapshot()
    await box.exec("rm link far; mkdir -m 000 shut; mkdir -p $(printf 'x/%.0s' $(seq 200))")
    await box.restore(before)
    result = await box.exec("./link; readlink far; stat -c %a d; ls")
    assert result.stdout == "ran\n/usr/bin/env\n700\nd\nfar\nlink\n", result


async def closed_is_closed(box: Sandbox) -> None:
    await box.close()
    await box.close()
    try:
        await box.read("x")
    except SandboxError:
        return
    raise AssertionError("a closed sandbox answered")


FILE_CHECKS: tuple[Check, ...] = (
    files_come_back_as_written,
    files_are_listed_sorted,
    missing_files_are_refused,
    paths_outside_are_refused,
    large_files_are_refused_unless_asked_for,
    snapshot_brings_everything_back,
    damaged_snapshot_is_refused,
    fork_is_a_copy,
    closed_is_closed,
)
CHECKS: tuple[Check, ...] = (
    list_runs_as_it_is,
    string_runs_in_a_shell,
    exit_code_is_reported,
    signal_is_reported,
    unknown_command_is_127,
    file_without_permission_is_126,
    stdin_arrives_whole,
    unread_stdin_does_not_hang,
    no_stdin_is_an_empty_one,
    env_is_added,
    cwd_is_a_folder_of_the_workspace,
    unicode_passes_both_ways,
    invalid_utf8_is_replaced,
    long_argument_arrives,
    argument_beyond_the_kernel_is_a_result,
    long_output_keeps_head_and_tail,
    flood_is_stopped,
    nonsense_is_refused,
    timeout_keeps_what_was_said,
    timeout_kills_the_children,
    background_child_ends_with_the_command,
    processor_time_is_bounded,
    cancelling_kills_and_leaves_it_usable,
    calls_at_once_take_turns,
    python_runs_as_main,
    python_forgets_between_runs,
    python_traceback_names_the_line,
    python_syntax_error_is_nonzero,
    python_exits_as_it_says,
    python_finishes_like_an_interpreter,
    python_reads_stdin,
    python_imports_nothing_from_the_workspace,
    python_may_use_processes,
    abnormal_ends_leave_it_usable,
    programs_and_files_meet,
    snapshot_keeps_modes_and_links,
    *FILE_CHECKS,
)
