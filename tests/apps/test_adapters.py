"""Adapters from the command line: what is said of one, how it is carried to another store, what cannot be served."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whet.core import Candidate, Run, Usage
from whet.core.adapters import AdapterCard, adapter_version, base_digest, pack
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS, TinyModel
from whet.core.records import Message, Sampling
from whet.memory import Memory

Whet = Callable[..., Any]


def _card(runs: list[str]) -> AdapterCard:
    return AdapterCard(
        method="rft",
        base="tiny",
        base_digest=base_digest(WEIGHTS),
        parent="e" * 64,
        sources=(*runs, "forgotten"),
        data_digest="d" * 64,
        rows=2,
        tokens=31,
        steps=4,
        usage=Usage(calls=12, micro_dollars=25_000),
        seconds=1.25,
    )


@pytest.fixture
def trained(ran: Whet, tmp_path: Path) -> str:
    """The digest of an adapter that is in force, brought by a candidate and learned from the two runs."""

    async def learn() -> str:
        async with await Memory.open(tmp_path / ".whet") as memory:
            runs = [run.id for run in await memory.find(Run)]
            data = pack(random_adapter(WEIGHTS, tmp_path / "lora"), _card(runs))
            base = await memory.policies.head()
            policy = base.edit({"adapter": await memory.put_blob(data), "settings.toml": "temperature = 0\n"})
            candidate = Candidate(policy=policy.digest, parent=base.digest, learner="weights", evidence=tuple(runs))
            await memory.put(candidate)
            await memory.policies.commit(policy, reason="learned", actor="gate")
            return policy.adapter

    return asyncio.run(learn())


def test_it_says_where_an_adapter_comes_from(ran: Whet, trained: str) -> None:
    said = ran("policy", "show").out
    for line in (
        trained,
        "method     rft",
        f"base       tiny  {base_digest(WEIGHTS)[:12]}",
        "size       rank 4, 34,816 parameters",
        "trained on 2 runs, 1 gone: 2 rows, 31 tokens, 4 steps, data dddddddddddd",
        "cost       12 calls, $0.0250, 1.2 s of training",
        "from       adapter eeeeeeeeeeee",
        "of weights",
    ):
        assert line in said
    found = ran("policy", "show", "--json").json["adapter"]
    assert found["digest"] == trained
    assert (found["rank"], found["parameters"], found["targets"][:2]) == (4, 34816, ["down_proj", "gate_proj"])
    assert found["card"]["sources"] == {"runs": 2, "gone": 1}
    assert (found["card"]["method"], found["card"]["data_digest"]) == ("rft", "d" * 64)
    assert found["candidate"]["learner"] == "weights"
    assert "adapter" not in ran("policy", "show", "head~1", "--json").json


def test_it_is_carried_to_another_store_and_runs_there(ran: Whet, trained: str, tmp_path: Path) -> None:
    assert f"+{trained}" in ran("policy", "diff").out
    assert trained in ran("policy", "blame", "adapter").out
    ran("policy", "export", "carried")
    shutil.rmtree(tmp_path / ".whet")
    ran("init")
    ran("policy", "commit", "carried", "--reason", "from the other store")
    assert ran("policy", "show", "--json").json["adapter"]["candidate"] is None
    assert "brought by a person" in ran("policy", "show").out
    question = "Write solve(x): zorp."
    ran("run", question, "--model", "tiny")
    (run,) = ran("run", "list", "--json").json["items"]
    under = TinyModel(tmp_path / "lora").answer([Message(role="user", content=question)], Sampling(temperature=0))
    assert ran("run", "show", run["id"], "--json").json["run"]["answer"] == under.text
    assert adapter_version(tmp_path / ".whet" / "adapters" / trained) == trained


def test_what_cannot_be_is_one_line(ran: Whet, trained: str, tmp_path: Path) -> None:
    refused = ran("run", "What is the answer?", code=2).err
    assert "takes none; use tiny, hf:FOLDER or vllm:FOLDER" in refused
    assert refused.count("\n") == 1
    ran("policy", "export", "carried")
    (tmp_path / "carried" / "adapter.safetensors").unlink()
    (tmp_path / "carried" / "adapter").write_text("f" * 64)
    refused = ran("policy", "commit", "carried", "--reason", "why", code=3).err
    assert "names adapter 'ffffffffffff', which is not in this store" in refused
    assert refused.count("\n") == 1
