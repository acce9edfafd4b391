"""What the errors of the OpenAI SDK and of LiteLLM (which derive from them) mean, in one place.

with model_errors("openai/gpt-4o-mini"):
    response = await client.chat.completions.create(...)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai

from whet.core.errors import ModelError, ModelFailure

__all__ = ["model_errors"]

_STATUSES: dict[int, ModelFailure] = {
    401: "auth",
    403: "auth",
    408: "timeout",
    409: "unavailable",
    425: "unavailable",
    429: "rate_limit",
}

_WAYS_OUT: dict[ModelFailure, str] = {
    "auth": "check the API key of that provider (its environment variable, or api_key=)",
    "invalid": "the provider refused the request as it is",
    "malformed": "the answer is not what the OpenAI protocol says",
    "other": "the provider gave no reason that Whet knows",
    "rate_limit": "wait, or limit the concurrency",
    "timeout": "raise timeout=, or ask for fewer tokens",
    "unavailable": "check that the server runs and can be reached",
}


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Turns errors of the SDK and the network into a ``ModelError`` with its kind of failure."""
    try:
        yield
    except openai.OpenAIError as error:
        raise _explain(name, error, _failure(error), _retry_after(error)) from error
    except httpx.HTTPError as error:
        raise _explain(name, error, "unavailable", None) from error


def _explain(name: str, error: Exception, failure: ModelFailure, retry_after: float | None) -> ModelError:
    text = " ".join(str(error).split())[:500]
    return ModelError(
        f"{name!r} failed ({failure}): {text}; {_WAYS_OUT[failure]}", failure=failure, retry_after=retry_after
    )


def _failure(error: openai.OpenAIError) -> ModelFailure:
    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    if isinstance(error, openai.APIConnectionError):
        return "unavailable"
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return _STATUSES.get(status, "unavailable" if status >= 500 else "invalid")
    return "malformed" if isinstance(error, openai.APIError) else "auth"


def _retry_after(error: openai.OpenAIError) -> float | None:
    if not isinstance(error, openai.APIStatusError):
        return None
    try:
        return float(error.response.headers.get("retry-after", ""))
    except ValueError:  # absent, or a date: the caller's own back-off serves
        return None
