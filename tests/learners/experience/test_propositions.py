"""Propositions: told to the one they are about, promoted, nothing from shuffled people; confidence, decay, audit."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import ScriptedModel
from whet.core.policy import Policy
from whet.core.records import (
    Completion,
    Feedback,
    Lesson,
    Message,
    Run,
    Sampling,
    Task,
    ToolSpec,
    Usage,
    Use,
    VerifierSpec,
)
from whet.feedback import feedback
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.propositions import PropositionLearner, private, weigh
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory

DAY = 86_400_000
WISHES = {"ana": "Cheers", "bo": "Regards", "cy": "Yours"}
NOTHING = Arm(policy=Policy.of({"settings.toml": "withhold_rate = 0.0"}))


class Secretary:
    """Writes letters signed as its context says the person likes it; and says what it believes of people."""

    name = "secretary"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        text = "\n".join(message.content for message in messages)
        if "# Observations" in text:
            answer = json.dumps(_beliefs(text))
        else:
            signed = re.findall(r"Likes letters signed with (\w+)\.", text)
            answer = signed[-1] if signed else "Best wishes"
        return Completion(text=answer, usage=Usage(output_tokens=10, calls=1))


def _beliefs(text: str) -> list[dict[str, object]]:
    seen = re.findall(r"- (\S+) \(comment\): Please sign it with (\w+)\.", text)
    words = {word: [id for id, each in seen if each == word] for _, word in seen}
    most = max(words, key=lambda word: len(words[word]))
    against = [id for id, word in seen if word != most]
    belief = f"Likes letters signed with {most}."
    return [{"text": belief, "kind": "preference", "confidence": 8, "evidence": words[most], "against": against}]


def letter(person: str, number: int, split: str = "train") -> Task:
    return Task(
        id=f"{person}/{number}",
        messages=(Message(role="user", content=f"Write letter number {number}."),),
        verifiers=(VerifierSpec(kind="exact", params={"expected": WISHES[person]}),),
        meta={"person": person},
        split=split,  # type: ignore[arg-type]
    )


async def correspond(memory: Memory, wishes: dict[str, list[str]]) -> None:
    async with Agent("react", Secretary(), memory=memory, policy=NOTHING.policy) as agent:
        for person, words in wishes.items():
            for number, word in enumerate(words):
                run = (await agent.arun(letter(person, number))).run
                said = feedback.comment(person, run_id=run.id, text=f"Please sign it with {word}.", person=person)
                await memory.put(said)


async def proposals(memory: Memory, learner: PropositionLearner | None = None) -> list[Proposal]:
    chosen = learner or PropositionLearner(Secretary())
    return [each async for each in chosen.propose(TrainMemory(memory), NOTHING, Budget())]


async def decide(memory: Memory) -> list[str]:
    """Puts all that is believed of anybody before the gate, on tasks of everybody."""
    heldout = [letter(person, number, "heldout") for number in range(50, 60) for person in WISHES]
    found = await proposals(memory)
    lessons = tuple(lesson for proposal in found for lesson in proposal.lessons)
    await memory.put(*lessons)
    arm = msgspec.structs.replace(NOTHING, lessons=tuple(lesson.id for lesson in lessons))
    async with Agent("react", Secretary(), memory=memory) as agent:
        return [(await Gate(GateConfig(concurrency=8)).decide(arm, NOTHING, heldout, evaluator(agent))).decision]


@pytest.mark.asyncio
async def test_the_gate_promotes_what_people_like_and_nothing_of_shuffled_people(
    memory: Memory, tmp_path: Path
) -> None:
    await correspond(memory, {person: [word] * 2 for person, word in WISHES.items()})
    assert await decide(memory) == ["promoted"]
    async with await Memory.open(tmp_path / "noise") as noise:
        words = list(WISHES.values())
        await correspond(noise, {person: [words[i - 1]] * 2 for i, person in enumerate(WISHES)})
        assert await decide(noise) != ["promoted"]


async def believed(memory: Memory, at: Sequence[int], against: Sequence[int] = ()) -> Lesson:
    task = letter("ana", 0)
    run = Run(task_id=task.id, agent="a", status="done")
    said = [
        Feedback(kind="comment", source="ana", person="ana", run_id=run.id, text="Shorter, please.", at=each)
        for each in (*at, *against)
    ]
    ids = [each.id for each in said]
    lesson = Lesson(
        kind="preference",
        text="Likes short letters.",
        applies_when="person: ana",
        source="propositions",
        status="active",
        derived_from=tuple(ids[: len(at)]),
        contradicts=tuple(ids[len(at) :]),
    )
    await memory.put(task, run, *said, lesson)
    return lesson


@pytest.mark.asyncio
async def test_confidence_follows_the_evidence_and_decays(memory: Memory) -> None:
    lesson = await believed(memory, at=[0, 0], against=[0])

    async def confidence(day: int) -> float:
        (weighed,) = await weigh(memory, now=day * DAY, half_life=30)
        return weighed.confidence

    assert await confidence(0) == pytest.approx(2 / 4)
    assert await confidence(30) == pytest.approx(1 / 2.5)
    run = Run(task_id="ana/0", agent="a", status="done")
    use = Use(run_id=run.id, item=lesson.id, version="1", kind="shown")
    liked = feedback.accept("ana", run_id=run.id, person="ana")
    others = feedback.reject("bo", run_id=run.id, person="bo")
    await memory.put(
        run, use, msgspec.structs.replace(liked, at=30 * DAY), msgspec.structs.replace(others, at=30 * DAY)
    )
    assert await confidence(30) == pytest.approx(2 / 3.5), "a run in which it was told went well for ana"
    (gone,) = await weigh(memory, now=400 * DAY, half_life=30)
    assert gone.retired
    assert (await memory.get(Lesson, lesson.id)).status == "retired"
    assert await weigh(memory) == []
    with pytest.raises(UserError, match="half_life"):
        await weigh(memory, half_life=0)


@pytest.mark.asyncio
async def test_a_belief_is_revised_with_its_evidence_kept(memory: Memory) -> None:
    old = await believed(memory, at=[1, 2])
    new = [
        Feedback(id=f"n{i}", kind="comment", source="ana", person="ana", task_id="ana/0", text=text)
        for i, text in enumerate(["Too short!", "More detail, please."])
    ]
    await memory.put(*new)
    answer = json.dumps(
        [
            {"text": "Likes long letters.", "confidence": 9, "evidence": ["n0", "n1", "made up"], "revises": old.id},
            {"text": "Is in a hurry.", "confidence": 3, "evidence": ["n0"]},
            {"text": "Has no evidence.", "confidence": 9, "evidence": ["nothing"]},
            {"text": "Her PIN is 1234.", "confidence": 9, "evidence": ["n1"]},
        ]
    )
    async with ScriptedModel([answer]) as model:
        (proposal,) = await proposals(memory, PropositionLearner(model))
    (lesson,) = proposal.lessons
    assert (lesson.text, lesson.applies_when) == ("Likes long letters.", "person: ana")
    assert (lesson.derived_from, lesson.supports) == (("n0", "n1"), old.derived_from)
    assert proposal.retires == (old.id,)
    assert f"- {old.id}: Likes short letters." in model.asked[0].messages[0].content
    assert "Shorter, please." not in model.asked[0].messages[0].content, "what is taken is not taken again"


@pytest.mark.asyncio
async def test_private_things_are_not_even_shown_to_the_model(memory: Memory) -> None:
    secrets = ["Call me on 0151 2345 6789 01.", "Write to ana@example.org.", "My password is swordfish."]
    assert all(private(text) for text in secrets)
    assert not private("I want 3 lines, 80 characters each.")
    await memory.put(letter("ana", 0))
    for text in (*secrets, "Be brief.", "Be brief, I said."):
        await memory.put(feedback.comment("ana", text=text, person="ana", task_id="ana/0"))
    async with ScriptedModel(["[]"]) as model:
        assert await proposals(memory, PropositionLearner(model)) == []
    assert "swordfish" not in model.asked[0].messages[0].content


@pytest.mark.asyncio
async def test_the_contract_is_kept_and_a_model_is_needed(memory: Memory) -> None:
    await correspond(memory, {"ana": ["Cheers"] * 2})
    assert await check_learner(PropositionLearner(Secretary()), memory)
    with pytest.raises(UserError, match="needs a model that writes"):
        await proposals(memory, PropositionLearner())
    with pytest.raises(UserError, match="min_confidence"):
        PropositionLearner(min_confidence=11)
