"""The answer's process: loads the program and serves calls on it. Standard library only.

Everything here is at the answer's mercy. It holds neither tests nor expected values, and only returns data.
"""

import builtins
import itertools
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import NoReturn

from whet.feedback.verifiers.box.codec import Data, cut, decode, encode, short_repr
from whet.feedback.verifiers.box.frames import receive, send

ANSWER = "<answer>"
MAX_ITEMS = 1_000_000


class AnswerProcess:
    """Loads the answer and serves calls on it. Everything here is at the answer's mercy, and only returns data."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._module = types.ModuleType("answer")
        self._objects: list[object] = [self._module]
        self._serving: Data = None

    def serve(self) -> NoReturn:
        """Answers requests until the stream ends; never returns."""
        while True:
            self._answer(self._next())

    def _next(self) -> dict[str, Data]:
        body = receive(self._source, float("inf"))
        if body is None:
            os._exit(0)
        frame: dict[str, Data] = json.loads(body)
        return frame

    def _answer(self, frame: dict[str, Data]) -> None:
        before, self._serving = self._serving, frame["id"]
        try:
            reply = self._reply(frame)
        except BaseException as error:
            reply = {"raised": describe_exception(error)}
        if not send(self._sink, {**reply, "id": frame["id"]}):
            too_large = {"type": "OverflowError", "base": "OverflowError", "message": "the result is too large"}
            send(self._sink, {"raised": too_large, "id": frame["id"]})
        self._serving = before

    def _reply(self, frame: dict[str, Data]) -> dict[str, Data]:
        if frame["op"] == "load":
            sys.modules["answer"] = self._module
            # Running the answer is what this process, in its sandbox, is for.
            exec(compile(str(frame["source"]), ANSWER, "exec", dont_inherit=True), self._module.__dict__)  # noqa: S102
            return {"value": None}
        before = frame["args"]
        args, kwargs = decode(before, self._resolve), decode(frame["kwargs"], self._resolve)
        value = _OPERATIONS[str(frame["op"])](self._objects[int(str(frame["on"]))], args, kwargs)
        reply: dict[str, Data] = {"value": self._encode(value)}
        # A function that sorts its argument in place must be seen to: what changed is sent back.
        if frame["op"] == "call" and (after := self._encode(args)) != before:
            reply["args"] = after
        return reply

    def _resolve(self, index: int, text: str) -> object:
        """Returns an object of this process, or for a negative index a function of the tests (or a built-in's name)."""
        if index >= 0:
            return self._objects[index]
        return builtins.__dict__[text] if text else self._function(index)

    def _function(self, index: int) -> Callable[..., object]:
        def function(*args: object, **kwargs: object) -> object:
            call = {"function": index, "args": self._encode(args), "kwargs": self._encode(kwargs)}
            send(self._sink, {**call, "id": self._serving})
            while "op" in (frame := self._next()):
                self._answer(frame)  # the tests' function asks something of the answer
            raised = frame.get("raised")
            if isinstance(raised, dict):
                raise rebuild_exception(raised)
            return decode(frame["value"], self._resolve)

        return function

    def _encode(self, value: object) -> Data:
        try:
            return encode(value, self._refer)
        except RecursionError:
            return self._refer(value)

    def _refer(self, value: object) -> Data:
        self._objects.append(value)
        return ["ref", len(self._objects) - 1, short_repr(value)]


# What may be asked of an object in the answer's process. Equality is not among it: an answer never judges itself.
_OPERATIONS: dict[str, Callable[[object, object, object], object]] = {
    "call": lambda on, args, kwargs: on(*args, **kwargs),  # type: ignore[operator,misc,arg-type]
    "attr": lambda on, args, _: getattr(on, args[0]),  # type: ignore[index]
    "items": lambda on, _, __: list(itertools.islice(on, MAX_ITEMS)),  # type: ignore[call-overload]
    "next": lambda on, _, __: next(on),  # type: ignore[call-overload]
    "len": lambda on, _, __: len(on),  # type: ignore[arg-type]
    "item": lambda on, args, _: on[args[0]],  # type: ignore[index]
    "contains": lambda on, args, _: args[0] in on,  # type: ignore[index,operator]
    "bool": lambda on, _, __: bool(on),
    "str": lambda on, _, __: str(on),
}


def describe_exception(error: BaseException) -> dict[str, Data]:
    """Returns what is known of an exception: type, built-in base, message and the answer's last line in it."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:
        message = ""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == ANSWER else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == ANSWER:
            line = trace.tb_lineno
        trace = trace.tb_next
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return {"type": type(error).__name__, "base": kinds[0], "message": cut(message), "line": line, "missing": missing}


class RemoteError(Exception):
    """The other process raised what has no built-in base class; the message says what."""


def rebuild_exception(raised: Mapping[str, Data]) -> Exception:
    """Returns the other process's exception as its nearest built-in class, so that it can be caught here."""
    kind, message = getattr(builtins, str(raised.get("base")), None), str(raised.get("message"))
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RemoteError(f"{raised.get('type')}: {message}")
    try:
        error = kind(message)
    except Exception:
        return RemoteError(f"{raised.get('type')}: {message}")
    return error if isinstance(error, Exception) else RemoteError(message)
