"""Every back end, and the fake as far as it goes, passes the suite that third parties are given."""

import pytest

from whet.sandboxes import FakeSandbox, SandboxSpec, conformance
from whet.sandboxes.conformance import Check
from whet.sandboxes.ladder import load_backend

SPEC = SandboxSpec(limits=conformance.LIMITS)


@pytest.mark.asyncio
@pytest.mark.parametrize("check", conformance.CHECKS, ids=conformance.name)
async def test_backend_conforms(backend: str, check: Check) -> None:
    async with await load_backend(backend).create(SPEC) as box:
        await check(box)


@pytest.mark.asyncio
@pytest.mark.parametrize("check", conformance.FILE_CHECKS, ids=conformance.name)
async def test_fake_conforms(check: Check) -> None:
    async with FakeSandbox() as box:
        await check(box)


def test_every_check_is_listed() -> None:
    own = {
        f for f in vars(conformance).values() if callable(f) and getattr(f, "__module__", "") == conformance.__name__
    }
    checks = {f for f in own if f.__name__[0] != "_" and f is not conformance.name}
    assert checks == set(conformance.CHECKS)
