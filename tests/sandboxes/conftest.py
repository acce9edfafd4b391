"""Which back ends this machine can run; those it cannot are skipped with the reason."""

import asyncio
from functools import cache

import pytest

from whet.sandboxes import ladder


@cache
def why_not(name: str) -> str:
    return asyncio.run(ladder.why_not(name))


@pytest.fixture(params=["bubblewrap", "nested", "landlock", "unsafe_local"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := why_not(name):
        pytest.skip(f"{name} does not work here: {reason}")
    return name
