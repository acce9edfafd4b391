"""From the fork to the guest: limits on, the keeper's descriptors gone, then a command or a Python program."""

import atexit
import contextlib
import ctypes
import errno
import gc
import linecache
import os
import resource
import signal
import sys
import threading
import traceback
import types
from typing import NoReturn

from whet.sandboxes.guest.frames import Config
from whet.sandboxes.guest.landlock import enter, filter_system_calls

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38


def confine(config: Config) -> None:
    """Limits of the calling process and its descendants. The filter on system calls is inherited from the start."""
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"1000")  # so that the kernel takes the guest and not its keeper
    except OSError:
        pass  # a box without /proc
    limits = config["limits"]
    cpu = max(1, int(limits["cpu_seconds"] + 0.999))
    ceilings = {
        resource.RLIMIT_AS: 4 * limits["memory_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_FSIZE: limits["work_bytes"],
        resource.RLIMIT_NPROC: limits["processes"] + config["other_processes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for which, value in ceilings.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))


def become(config: Config, rules: int | None, stdio: tuple[int, int, int], cwd: int, *, trusted: bool) -> None:
    """Turns the forked zygote into a guest: nothing of the keeper's descriptors or rights is left.

    ``trusted`` is the box's own housekeeping, which the filter on system calls is not for.
    """
    os.setsid()
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    os.fchdir(cwd)
    confine(config)
    if rules is not None:
        enter(rules)
    if config["filter"] and not trusted:
        filter_system_calls(bytes.fromhex(config["filter"]))
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 4096)


def execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Replaces this process; answers as a shell does when it cannot (127: not found, 126: cannot be run)."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
        os._exit(127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126)


def run_source(source: str) -> NoReturn:
    """Runs a program as ``python -I`` would, in this warm interpreter; never returns."""
    gc.enable()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    sys.argv = ["main.py"]
    linecache.cache["main.py"] = (len(source), None, source.splitlines(keepends=True), "main.py")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    os._exit(finish(run_module(main, source)))


def run_module(main: types.ModuleType, source: str) -> int:
    """Returns the exit code of a program; an uncaught exception prints its traceback without our frames."""
    try:
        exec(compile(source, "main.py", "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - it is our purpose
    except SystemExit as exit_:
        return exit_code(exit_)
    except BaseException as error:  # whatever the guest raises is the guest's
        frames = error.__traceback__
        error.__traceback__ = frames.tb_next if frames else None
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(error)
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def exit_code(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return (exit_.code or 0) & 0xFF
    print(exit_.code, file=sys.stderr)
    return 1


def finish(code: int) -> int:
    """Joins threads, runs exit handlers and flushes, as the end of an interpreter does."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:  # the guest's threads and handlers may raise anything
        traceback.print_exc()
        code = code or 1
    with contextlib.suppress(OSError, ValueError):  # closed by the guest
        sys.stderr.flush()
    return code
