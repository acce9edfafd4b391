"""Hostile programs, under every back end that confines and every owner: nothing gets out, the box goes on working."""

import os
from typing import Any

import pytest

from whet.sandboxes.abuse import PAYLOADS, Payload

LIMITS: dict[str, float] = {
    "memory_bytes": 256 << 20,
    "work_bytes": 64 << 20,
    "tmp_bytes": 16 << 20,
    "output_bytes": 64 << 10,
    "processes": 48,
    "files": 4_000,
}


@pytest.fixture(params=["bubblewrap", "nested", "landlock"])
def confining(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: f"{p.group}-{p.name.replace(' ', '_')}")
def test_payload_is_contained(payload: Payload, confining: str, owner: Any) -> None:
    if payload.private_processes and confining == "landlock":
        pytest.skip("process ids are the host's here")
    if confining == "nested" and owner.name == "ordinary":
        pytest.skip("the same boxes as bubblewrap's, tried with one owner")
    program = payload.program(owner.canaries.about())
    answer = owner.fire(confining, {**LIMITS, **payload.limits}, [program], payload.timeout)
    if "did not start" in answer["lost"]:
        pytest.skip(f"{confining} does not work here: {answer['lost']}")
    assert answer["usable"], answer
    (result,) = answer["results"]
    said = result["stdout"] + result["stderr"]
    assert "LEAK" not in said, said
    assert owner.canaries.token not in said, said
    assert result["status"] in payload.ends, result
    assert owner.canaries.damage() == []
    assert owner.canaries.guests() == []
    if result["status"] == "timeout":
        assert result["seconds"] < max(payload.timeout, payload.limits.get("cpu_seconds", 0) + 1) + 1.0


def test_payloads_would_be_noticed(owner: Any) -> None:
    """The same programs do leak where nothing confines: the suite can fail."""
    if os.geteuid() != 0:
        pytest.skip("without confinement only under the dedicated uid")
    harmless = {
        "host files",
        "environment of the owner",
        "the host's ports",
        "Unix sockets",
        "memory that no process owns",
    }
    noticed = set()
    for payload in PAYLOADS:
        if payload.name in harmless and payload.group in (1, 4, 8):
            answer = owner.fire("unsafe_local", LIMITS, [payload.program(owner.canaries.about())], 60)
            noticed |= {payload.name} if "LEAK" in answer["results"][0]["stdout"] else set()
    owner.canaries.hits.clear()
    assert noticed >= {"host files", "the host's ports", "Unix sockets", "memory that no process owns"}
