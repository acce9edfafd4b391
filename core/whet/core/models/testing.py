"""A real OpenAI-compatible HTTP server in a thread, for tests that should cross the wire, and adapters to serve.

    with OpenAIServer(["Hello."]) as server:
        model = load_model("openai:test", base_url=server.url)

Each POST to ``/v1/chat/completions`` takes the next reply: a text, a ``dict`` (a whole response body), a ``Failure``,
or a function of the request that returns one of these. ``requests`` keeps what was received. Leaving the block fails
when a reply was never asked for. ``random_adapter`` makes a LoRA adapter that changes what a model says.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from whet.core.errors import ModelError
from whet.core.records import Json, Record
from whet.core.wire import decode, encode

__all__ = ["Failure", "OpenAIServer", "answer_body", "random_adapter", "tool_body"]

Body: TypeAlias = dict[str, Json]


class Failure(Record, frozen=True, kw_only=True):
    """An answer that is none: a status, a body as it is, further headers, after ``delay`` seconds."""

    status: int = 500
    body: bytes = b'{"error": {"message": "as the test asked"}}'
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    delay: float = 0.0


Reply: TypeAlias = str | Body | Failure


def answer_body(text: str, *, input_tokens: int = 7, **choice: Json) -> Body:
    """Returns a response body with one choice; an output token is a word; further fields go to the choice."""
    output_tokens = len(text.split())
    message: Json = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "test",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None, **choice}],
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
    }


def tool_body(name: str, arguments: str, *, id: str = "call_1") -> Body:
    """Returns a response body that calls one tool; ``arguments`` is JSON text."""
    call: Json = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    message: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
    return answer_body("", message=message, finish_reason="tool_calls")


class OpenAIServer:
    """Serves replies in order on a free port of 127.0.0.1; a request beyond the last one gets status 418.

    With ``repeat`` the last reply serves all further requests.
    """

    def __init__(
        self, replies: Iterable[Reply | Callable[[Body], Reply]], *, owned_by: str = "test", repeat: bool = False
    ) -> None:
        self._replies = list(replies)
        self._repeat = repeat
        self._models: Body = {"object": "list", "data": [{"id": "test", "object": "model", "owned_by": owned_by}]}
        self._lock = threading.Lock()
        self._at_once = 0
        self.most_at_once = 0
        self.requests: list[Body] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, to be given as ``base_url``."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def list_models(self) -> Failure:
        """Returns the answer to ``GET /v1/models``."""
        return Failure(status=200, body=encode(self._models))

    def answer(self, request: Body) -> Failure:
        """Returns the answer to a POST, as status, body and headers."""
        with self._lock:
            position = len(self.requests)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self._reply(position)
            answer = reply(request) if callable(reply) else reply
            if isinstance(answer, Failure):
                time.sleep(answer.delay)
                return answer
            return Failure(status=200, body=encode(answer_body(answer) if isinstance(answer, str) else answer))
        finally:
            with self._lock:
                self._at_once -= 1

    def _reply(self, position: int) -> Reply | Callable[[Body], Reply]:
        if position < len(self._replies):
            return self._replies[position]
        return self._replies[-1] if self._repeat else Failure(status=418)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if error is None and len(self.requests) < len(self._replies):
            asked, there = len(self.requests), len(self._replies)
            raise ModelError(
                f"{there - asked} of {there} replies of the server were never asked for; ask or remove them"
            )


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5  # ends the thread of a connection that a client keeps open

        def do_GET(self) -> None:
            self._send(server.list_models())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._send(server.answer(decode(body, dict[str, Json])))

        def _send(self, answer: Failure) -> None:
            try:
                self.send_response(answer.status)
                headers: Mapping[str, str] = {"content-type": "application/json", **answer.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
            except OSError:  # the client gave up waiting
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Keeps stderr for the tests."""

    return Handler


def random_adapter(
    base: str | Path, folder: str | Path, *, seed: int = 0, rank: int = 4, scale: float = 0.2, layers: int | None = None
) -> Path:
    """Writes a peft LoRA adapter with random factors on every linear layer of a base, and returns its folder.

    ``scale`` is the spread of the factors: at 0.2 the embedded model answers otherwise. ``layers`` adapts only the
    first so many. No torch is needed.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    random, folder = np.random.default_rng(seed), Path(folder)
    factors = {}
    for name, weight in sorted(load_file(Path(base) / "model.safetensors").items()):
        match = _LINEAR.fullmatch(name)
        if match is None or (layers is not None and int(match[1]) >= layers):
            continue
        module = f"base_model.model.{name.removesuffix('.weight')}"
        for side, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
            factors[f"{module}.lora_{side}.weight"] = random.normal(0, scale, shape).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    targets = sorted({name.split(".")[-3] for name in factors})
    config: Body = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list[Json](targets)}
    config |= {"task_type": "CAUSAL_LM", "bias": "none", "inference_mode": True, "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_bytes(encode(config))
    return folder


_LINEAR = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.\w+_proj\.weight")
