"""The tests' side of the channel: proxies that ask the answer's process and believe only that data came back.

Standard library only.
"""

import builtins
import ctypes
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from whet.feedback.verifiers.box.answer import AnswerProcess, describe_exception, rebuild_exception
from whet.feedback.verifiers.box.codec import Data, NotDataError, cut, decode, encode, short_repr
from whet.feedback.verifiers.box.frames import Ended, receive, send


def set_dumpable(dumpable: bool) -> None:
    """Opens or closes this process's memory and descriptors to other processes of the same user.

    Raises:
        RuntimeError: the system cannot do that.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(4, int(dumpable), 0, 0, 0)  # PR_SET_DUMPABLE
    if prctl(3, 0, 0, 0, 0) != dumpable:  # PR_GET_DUMPABLE
        raise RuntimeError(f"PR_SET_DUMPABLE {dumpable} failed: the tests' process cannot be protected")


def fork_answer() -> "AnswerChannel":
    """Returns the channel to a new process for the answer, which holds nothing that this one reads later."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(down_read)
        os.close(up_write)
        return AnswerChannel(pid, up_read, down_write)
    try:
        os.setsid()
        set_dumpable(True)  # an undumpable process has no use of its own /proc/self, and its memory is counted roughly
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for fd in (null, up_read, down_write):
            os.close(fd)
        AnswerProcess(down_read, up_write).serve()
    finally:
        os._exit(70)


class AnswerChannel:
    """Asks the answer's process, within a deadline, and believes nothing but that data came back."""

    def __init__(self, pid: int, source: int, sink: int) -> None:
        self._pid, self._source, self._sink = pid, source, sink
        self._next = 0
        self._functions: list[Callable[..., object]] = []  # of the tests, which the answer may call
        self.seconds = float("inf")  # that the answer may still take
        self.calls: list[tuple[str, str]] = []  # (call, repr of the result), in order
        self._error: BaseException | None = None
        self._raised: dict[str, Data] = {}

    def origin(self, error: BaseException) -> dict[str, Data] | None:
        """Returns what the answer's process said of an exception, or ``None`` when it is the tests' own."""
        return self._raised if error is self._error else None

    def load(self, source: str) -> dict[str, Data] | None:
        """Loads the program; returns what it raised, or ``None``."""
        return _cleaned(self._ask({"op": "load", "source": source}).get("raised"))

    def ask(self, op: str, on: int, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Returns the result of an operation on an object of the answer's process; raises what it raised."""
        sent = {"args": encode(tuple(args), self._refer), "kwargs": encode(dict(kwargs), self._refer)}
        reply = self._ask({"op": op, "on": on, **sent})
        try:
            raised, value = _cleaned(reply.get("raised")), decode(reply.get("value"), self._resolve)
            changed = decode(reply["args"], self._resolve) if "args" in reply else ()
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError) as error:
            raise Ended("tampered", f"the answer's process sent no data: {error}") from None
        if isinstance(changed, tuple):
            _change_in_place(args, changed)
        if raised is not None:
            self._error, self._raised = rebuild_exception(raised), raised
            raise self._error
        return value

    def _resolve(self, index: int, text: str) -> "Remote":
        return Remote(self, index, cut(text))

    def _refer(self, value: object) -> Data:
        """Returns a reference to an object of the answer, a built-in, or a function of the tests."""
        if isinstance(value, Remote):
            return ["ref", Remote.index_of(value), ""]
        if not callable(value):
            raise NotDataError(
                f"a test passes a {type(value).__name__} to the answer; only data and functions can cross"
            )
        name = next((name for name, item in vars(builtins).items() if item is value), "")
        self._functions.append(value)
        return ["ref", -len(self._functions), name]

    def _ask(self, frame: dict[str, Data]) -> dict[str, Data]:
        self._next += 1
        number = self._next
        reply = self._exchange({**frame, "id": number}, number)
        while "function" in reply:
            reply = self._exchange(self._called(reply), number)
        return reply

    def _called(self, frame: dict[str, Data]) -> dict[str, Data]:
        """Returns what a function of the tests gives for the answer's arguments."""
        try:
            function = self._functions[-1 - int(str(frame["function"]))]
            args, kwargs = decode(frame["args"], self._resolve), decode(frame["kwargs"], self._resolve)
            return {"value": encode(function(*args, **kwargs), self._refer)}  # type: ignore[misc,arg-type]
        except Exception as error:  # the function is the tests' and its arguments the answer's: it may raise anything
            return {"raised": describe_exception(error)}

    def _exchange(self, frame: dict[str, Data], number: int) -> dict[str, Data]:
        started = time.monotonic()
        try:
            if not send(self._sink, frame):
                raise NotDataError("a test passes more data to the answer than one frame holds")
            body = receive(self._source, started + self.seconds)
        except BrokenPipeError:
            body = None
        self.seconds -= time.monotonic() - started
        if body is None:
            raise self._post_mortem()
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or reply.get("id") != number:
            raise Ended("tampered", "the answer's process wrote on the test channel")
        return reply

    def _post_mortem(self) -> Ended:
        for _ in range(50):
            pid, waited = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.01)
        else:
            self.kill()
            return Ended("tampered", "the answer closed the test channel")
        status = os.waitstatus_to_exitcode(waited)
        if status == -signal.SIGXCPU:
            return Ended("timeout", "the answer used up its CPU time")
        if status < 0:
            return Ended("died", f"the answer's process was ended by signal {-status}")
        return Ended("tampered", f"the answer ended its process with exit code {status}")

    def kill(self) -> None:
        """Ends the answer's process and what it started in its session."""
        for target in (os.killpg, os.kill):
            try:
                target(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def _cleaned(raised: Data) -> dict[str, Data] | None:
    """Returns what the answer's process says of an exception with fields of the right types, or ``None``."""
    if not isinstance(raised, dict):
        return None
    line, missing = raised.get("line"), raised.get("missing")
    return {
        "type": cut(str(raised.get("type"))),
        "base": str(raised.get("base")),
        "message": cut(str(raised.get("message"))),
        "line": line if isinstance(line, int) and not isinstance(line, bool) else None,
        "missing": cut(str(missing)) if missing else None,
    }


def _change_in_place(args: Sequence[object], changed: Sequence[object]) -> None:
    for old, new in zip(args, changed, strict=False):
        if type(old) is not type(new) or old == new:
            continue
        if isinstance(old, list) and isinstance(new, list):
            old[:] = new
        elif isinstance(old, (dict, set)) and isinstance(new, (dict, set)):
            old.clear()
            old.update(new)


class Remote:
    """Stands in the tests for a function or object of the answer; equal to nothing but itself."""

    def __init__(self, channel: AnswerChannel, index: int, text: str) -> None:
        self.__channel, self.__index, self.__text = channel, index, text

    @staticmethod
    def index_of(remote: "Remote") -> int:
        """Returns the number of the object in the answer's process."""
        return remote.__index

    def __ask(self, op: str, *args: object) -> object:
        return self.__channel.ask(op, self.__index, args, {})

    def __call__(self, *args: object, **kwargs: object) -> object:
        shown = [short_repr(arg) for arg in args] + [f"{key}={short_repr(arg)}" for key, arg in kwargs.items()]
        call = f"{self.__text}({', '.join(shown)})"
        self.__channel.calls.append((cut(call), ""))
        value = self.__channel.ask("call", self.__index, args, kwargs)
        self.__channel.calls[-1] = (cut(call), short_repr(value))
        return value

    def __getattr__(self, name: str) -> object:
        if name.startswith(("__", "_Remote__")) and name not in ("__name__", "__doc__"):
            raise AttributeError(name)  # protocols such as copying are not the answer's business
        value = self.__ask("attr", name)
        if isinstance(value, Remote):
            value.__text = f"{self.__text}.{name}".removeprefix(".")
        return value

    def __iter__(self) -> Iterator[object]:
        items = self.__ask("items")
        if not isinstance(items, list):
            raise Ended("tampered", "the answer's process sent no list of items")
        return iter(items)

    def __next__(self) -> object:
        return self.__ask("next")

    def __len__(self) -> int:
        return _number(self.__ask("len"))

    def __getitem__(self, key: object) -> object:
        return self.__ask("item", key)

    def __contains__(self, item: object) -> bool:
        return self.__ask("contains", item) is True

    def __bool__(self) -> bool:
        return self.__ask("bool") is True

    def __str__(self) -> str:
        return str(self.__ask("str"))

    def __repr__(self) -> str:
        return self.__text


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise Ended("tampered", "the answer's process sent no number")
    return value


def show_exception(error: BaseException, raised: Mapping[str, Data] | None) -> str:
    """Returns ``raised ValueError: …``; ``raised`` is what the answer's process said, where it was the answer."""
    name, message = (raised.get("type"), raised.get("message")) if raised else (type(error).__name__, str(error))
    return cut(f"raised {name}: {message}" if message else f"raised {name}")
