"""Which back end a sandbox gets: the strongest that works here, or none at all."""

from importlib import import_module

from whet.core.errors import UserError
from whet.sandboxes.sandbox import Sandbox, SandboxBackend, SandboxSpec

__all__ = ["open_sandbox"]

_BACKENDS = {
    "bubblewrap": "whet.sandboxes.backends.bubblewrap:BubblewrapBackend",
}


async def open_sandbox(spec: SandboxSpec | None = None, backend: str = "auto") -> Sandbox:
    """Returns a running sandbox."""
    name = "bubblewrap" if backend == "auto" else backend
    if name not in _BACKENDS:
        raise UserError(f"no sandbox back end {backend!r}: one of {['auto', *_BACKENDS]}")
    module, cls = _BACKENDS[name].split(":")
    made: SandboxBackend = getattr(import_module(module), cls)()
    return await made.create(spec or SandboxSpec())
