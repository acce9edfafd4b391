"""Which back end a sandbox gets: the strongest that works here, or none at all."""

import logging
from importlib import import_module

from whet.core.errors import RefusedError, SandboxError, UserError
from whet.sandboxes.sandbox import Sandbox, SandboxBackend, SandboxSpec

__all__ = ["BACKENDS", "LADDER", "load_backend", "open_sandbox", "why_not"]

BACKENDS = {
    "bubblewrap": "whet.sandboxes.backends.bubblewrap:BubblewrapBackend",
    "nested": "whet.sandboxes.backends.bubblewrap:NestedBubblewrapBackend",
    "landlock": "whet.sandboxes.backends.local:LandlockBackend",
    "unsafe_local": "whet.sandboxes.backends.local:UnsafeLocalBackend",
}
LADDER = ("bubblewrap", "nested", "landlock")

_log = logging.getLogger(__name__)
_chosen: dict[str, str] = {}


def load_backend(name: str) -> SandboxBackend:
    """Returns a back end by its short name, or by a dotted path ``package.module:Class``.

    Raises:
        UserError: there is none.
    """
    module, _, cls = BACKENDS.get(name, name).partition(":")
    try:
        kind = vars(import_module(module))[cls] if cls else None
    except (ImportError, KeyError) as error:
        raise UserError(f"sandbox back end {name!r} cannot be loaded: {error}") from error
    backend = kind() if isinstance(kind, type) else None
    if not isinstance(backend, SandboxBackend):
        raise UserError(f"no sandbox back end {name!r}: one of {['auto', *BACKENDS]}, or 'package.module:Class'")
    return backend


async def open_sandbox(spec: SandboxSpec | None = None, backend: str = "auto") -> Sandbox:
    """Returns a running sandbox; ``auto`` is the strongest back end that works here, never ``unsafe_local``.

    Raises:
        SandboxError: it could not be started.
        RefusedError: no back end works here, or the spec asks for what it cannot keep; the message names the way out.
        UserError: no back end of that name.
    """
    name = await _strongest() if backend == "auto" else backend
    return await load_backend(name).create(spec or SandboxSpec())


async def _strongest() -> str:
    """Returns the first back end of the ladder that really boots; found once per process."""
    if "auto" in _chosen:
        return _chosen["auto"]
    reasons: list[str] = []
    for name in LADDER:
        reason = await why_not(name)
        if not reason:
            if reasons:
                _log.warning("sandboxes fall back to %s: %s", name, "; ".join(reasons))
            return _chosen.setdefault("auto", name)
        reasons.append(f"{name}: {reason}")
    raise RefusedError(
        f"no sandbox works here ({'; '.join(reasons)}). Install bubblewrap and allow user namespaces (an AppArmor "
        "profile for bwrap, or sysctl kernel.apparmor_restrict_unprivileged_userns=0; in a container, --security-opt "
        "seccomp=unconfined), or ask for backend='unsafe_local' where the code is trusted"
    )


async def why_not(name: str) -> str:
    """Returns why a back end does not work here, or the empty string."""
    try:
        async with await load_backend(name).create(SandboxSpec()) as box:
            result = await box.run_python("print('whet')")
    except (SandboxError, RefusedError) as error:
        return str(error)
    return "" if result.stdout == "whet\n" else f"a probe ended with {result.status}: {result.stderr.strip()[-200:]!r}"
