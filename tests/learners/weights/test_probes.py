"""What the embedded model could do before it was trained: the gate's probes tell whether it still can."""

from typing import TYPE_CHECKING

import msgspec
import pytest

from whet.agents.tasksets.world import world_task
from whet.core.models.tiny.world import World
from whet.core.prompting import render_system
from whet.core.records import Message, Task
from whet.learners.weights.methods.rft import RFT
from whet.learners.weights.rows import answer_row
from whet.learners.weights.templates import encode_rows

if TYPE_CHECKING:
    from conftest import Bench


@pytest.fixture(scope="module")
def probes() -> list[Task]:
    """Tasks of another world with the definitions in the context: the base model solves nearly all of them."""
    world, found = World(8, verbs=12), []
    for number, each in enumerate(world.tasks(24, lengths=(2,))):
        told = render_system(lessons=world.definitions(each.verbs, distractors=2, seed=number))
        task = world_task(each, world)
        messages = (Message(role="system", content=told), *task.messages)
        found.append(msgspec.structs.replace(task, messages=messages, split="heldout"))
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize(("lr", "decision"), [(1e-3, "promoted"), (8e-3, "rejected")])
async def test_an_adapter_that_gains_is_refused_when_it_lost_what_the_base_could_do(
    bench: "Bench", probes: list[Task], lr: float, decision: str
) -> None:
    rows = [answer_row(task.messages, task.reference or "", task_id=task.id) for task in bench.train]
    trainer = bench.trainer(RFT(), lr=lr)
    trainer.fit(encode_rows(rows, bench.template).data)
    promotion = await bench.decide(trainer, probes)
    assert promotion.low is not None
    assert promotion.low > 0.02, "the gain is shown either way"
    assert promotion.decision == decision, promotion.reason
    found = promotion.evidence["probes"]
    assert isinstance(found, dict)
    assert isinstance(found["incumbent_mean"], float)
    assert isinstance(found["candidate_mean"], float)
    assert found["incumbent_mean"] > 0.9
    if decision == "promoted":
        assert found["candidate_mean"] > 0.8
    else:
        assert "probes that were solved" in promotion.reason
        assert found["candidate_mean"] < 0.5
