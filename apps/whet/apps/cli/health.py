"""What ``whet doctor`` examines: the sandbox (booted and attacked), the store, the model and the extras."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from whet.apps.cli.session import is_there, store_url
from whet.core.errors import WhetError
from whet.core.records import Record

if TYPE_CHECKING:
    from whet.core.config import Settings

__all__ = ["Finding", "examine"]

EXTRAS = {"chroma": "chromadb", "postgres": "asyncpg", "server": "fastapi", "weights": "torch"}


class Finding(Record, frozen=True, kw_only=True):
    """One thing examined; where ``required``, a failure fails the whole examination."""

    name: str
    ok: bool
    detail: str
    required: bool = True


async def examine(settings: "Settings") -> list[Finding]:
    """Returns all findings; takes a few seconds, since the sandbox is really booted."""
    return [*await _sandbox(), await _store(settings), _model(settings), *_extras()]


async def _sandbox() -> list[Finding]:
    from whet.sandboxes import doctor

    reports = await doctor()
    findings = [
        Finding(
            name=f"sandbox: {report.backend}",
            ok=report.usable,
            detail=f"{report.tier}, {len(report.checks)} probes held, memory by {report.memory}"
            if report.usable
            else report.reason,
            required=False,
        )
        for report in reports
    ]
    chosen = next((report.backend for report in reports if report.chosen), None)
    way_out = "install bubblewrap (apt-get install bubblewrap), or see docs/sandboxes.md"
    return [
        *findings,
        Finding(name="sandbox", ok=chosen is not None, detail=f"{chosen} is used" if chosen else way_out),
    ]


async def _store(settings: "Settings") -> Finding:
    from whet.memory import Memory

    url = store_url(settings)
    if not is_there(url):
        return Finding(name="store", ok=False, detail=f"none at {url!r} yet; make one with: whet init", required=False)
    try:
        async with await Memory.open(url, read_only=True) as memory:
            problems = await memory.audit()
    except WhetError as error:
        return Finding(name="store", ok=False, detail=str(error))
    return Finding(name="store", ok=not problems, detail="; ".join(problems) or f"{url}: intact, log chain verified")


def _model(settings: "Settings") -> Finding:
    try:
        model = settings.load_model()
    except WhetError as error:
        return Finding(name="model", ok=False, detail=str(error))
    return Finding(name="model", ok=True, detail=model.name)


def _extras() -> list[Finding]:
    def finding(extra: str, module: str) -> Finding:
        present = find_spec(module) is not None
        detail = "installed" if present else f"not installed: pip install 'whet[{extra}]'"
        return Finding(name=f"extra: {extra}", ok=present, detail=detail, required=False)

    return [finding(extra, module) for extra, module in EXTRAS.items()]
