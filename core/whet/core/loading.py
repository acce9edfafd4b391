"""Short names to objects, imported when they are first asked for.

make = load_object("whet.core.models.hf:HFModel", what="model 'hf:…'")     # UserError: pip install 'whet[weights]'
model = call_factory(make, "folder", {"adapter": "lora"}, what="model 'hf:folder'")
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from whet.core.errors import UserError

__all__ = ["call_factory", "is_dotted_path", "load_object", "nearest"]

T = TypeVar("T")

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

# Which extra of Whet brings a package.
_EXTRAS = {
    "asyncpg": "postgres",
    "chromadb": "chroma",
    "fastapi": "server",
    "gepa": "prompts",
    "optuna": "prompts",
    "peft": "weights",
    "pyseccomp": "sandbox",
    "torch": "weights",
    "transformers": "weights",
    "uvicorn": "server",
    "vllm": "vllm",
}


def is_dotted_path(text: str) -> bool:
    """Returns whether the text has the form ``package.module:Name``."""
    return _DOTTED.fullmatch(text) is not None


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns `` (did you mean 'X'?)`` for the known name that is spelled most alike, or the empty text."""
    close = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def load_object(path: str, *, what: str) -> object:
    """Returns what ``package.module:Name`` names; ``what`` is how messages call it.

    Raises:
        UserError: there is no such module or name, or a package is missing; the message has the install line.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(_missing(what, module_name, (error.name or "").partition(".")[0])) from error
    try:
        found: object = getattr(module, name)
    except AttributeError as error:
        hint = nearest(name, list(vars(module)))
        raise UserError(f"{what} is not there: {module_name!r} has no {name!r}{hint}") from error
    return found


def _missing(what: str, module_name: str, package: str) -> str:
    if package in _EXTRAS:
        return f"{what} needs {package!r}, which is not installed; run: pip install 'whet[{_EXTRAS[package]}]'"
    if package == module_name.partition(".")[0]:
        return f"{what} is not there: no module {module_name!r} can be imported"
    return f"{what} needs {package!r}, which is not installed; run: pip install {package}"


def call_factory(factory: Callable[..., T], *args: object, options: Mapping[str, object], what: str) -> T:
    """Returns ``factory(*args, **options)``.

    Raises:
        UserError: an option that the factory does not have, or one that it needs is missing.
    """
    signature = inspect.signature(factory)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        named = list(signature.parameters)[len(args) :]
        raise UserError(f"{what}: {error}; options are {', '.join(named) or 'none'}") from error
    return factory(*args, **options)
