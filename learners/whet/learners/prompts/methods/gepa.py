"""GEPA: prompts evolve by reflection on runs, from parents that each lead on some task.

learner = Gepa(model="openai/gpt-4o-mini", parts="system,reviewer", runs=400)

The library ``gepa`` (extra ``prompts``) selects, merges and accepts. Runs, questions and limits stay with the ``Lab``:
the library works in a thread, and whatever it wants to run or to ask goes back over a ``Bridge`` and is refused there.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from whet.core.errors import UserError
from whet.core.loading import load_object
from whet.core.records import Task
from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import PromptLearner, examples_of, fenced
from whet.learners.prompts.parts import write_parts

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch, ProposalFn
    from gepa.core.callbacks import ValsetEvaluatedEvent
    from gepa.core.state import GEPAState

__all__ = ["Bridge", "Gepa"]

T = TypeVar("T")

# The library draws common ancestors in proportion to their scores, and breaks off where all of them are 0.
_LEAST = 1e-9
_SELECTIONS = ("pareto", "current_best", "epsilon_greedy", "top_k_pareto")
_TURNS = ("round_robin", "all")

_REFLECT = """\
Improve one part of an agent's instructions. Below are its text and what came of it: what was asked, what was answered,
and what was found. Work out what kind of tasks these are, what they require that the text does not say, and what
worked. Write all of it into the new text: who reads it will not see the examples. Keep what is right in the old one.
Answer with the whole new text between lines of three back-ticks.

# Text ({part})
{text}

# Results
{examples}"""


@dataclass(kw_only=True)
class Gepa(PromptLearner):
    """Reflective Pareto evolution (Agrawal et al. 2025, arXiv 2507.19457).

    ``selection``: how a parent is drawn: ``pareto`` (by the tasks it leads on), ``current_best``, ``epsilon_greedy``,
    ``top_k_pareto``. ``turn``: which part is rewritten: ``round_robin`` or ``all``. ``merges``: at most so many
    candidates are put together from the parts of two (0: none).

    Raises:
        UserError: the library is not installed, or an option has an impossible value.
    """

    name: ClassVar[str] = "gepa"
    selection: str = "pareto"
    turn: str = "round_robin"
    merges: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, known in (("selection", _SELECTIONS), ("turn", _TURNS)):
            if getattr(self, option) not in known:
                raise UserError(f"{option}={getattr(self, option)!r}; there are {', '.join(known)}")
        if self.merges < 0:
            raise UserError(f"merges is {self.merges!r}; at least 0 is needed")
        load_object("gepa:optimize", what="learner 'gepa'")

    async def search(self, lab: Lab) -> None:
        """Lets the library evolve until the runs are used up, a candidate is perfect, or ``steps`` are done."""
        bridge = Bridge()
        adapter = _Adapter(lab, bridge)
        await bridge.carry(lambda: self._optimise(lab, adapter, bridge))
        if bridge.failure is not None:
            raise bridge.failure

    def _optimise(self, lab: Lab, adapter: "_Adapter", bridge: "Bridge") -> None:
        from gepa.api import optimize

        def done(gepa_state: "GEPAState[Any, Any]") -> bool:
            perfect = lab.archive.mean(lab.archive.best()) == 1.0
            return bridge.failure is not None or perfect or lab.left < 1 or gepa_state.i + 1 >= self.steps

        optimize(
            seed_candidate=dict(lab.archive.nodes[0].parts),
            trainset=list(lab.tasks),
            valset=list(lab.validation),
            adapter=adapter,
            candidate_selection_strategy=self.selection,  # type: ignore[arg-type]
            module_selector=self.turn,
            reflection_minibatch_size=self.minibatch,
            use_merge=self.merges > 0,
            max_merge_invocations=self.merges,
            merge_val_overlap_floor=min(5, len(lab.validation)),
            stop_callbacks=done,
            callbacks=[adapter],  # type: ignore[list-item]
            logger=_Silent(),
            seed=self.seed,
        )


class Bridge:
    """Calls from a thread into the event loop that began it. The first failure ends all further calls.

    A library may swallow what a call raises; ``failure`` still says it.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._call: Future[Any] | None = None

    async def carry(self, work: Callable[[], None]) -> None:
        """Does the work in a thread; when it is cancelled, the thread has ended before the cancellation goes on."""
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError as error:
            self.failure = error
            if self._call is not None:
                self._call.cancel()
            await asyncio.wait([thread])
            raise

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Returns what a coroutine returns in the loop; called from the thread. Raises what it raises."""
        if self.failure is not None:
            coroutine.close()
            raise self.failure
        call = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._call = call
        if self.failure is not None:  # Cancelled between the first look and now: nobody else cancels this call.
            call.cancel()
        self.failure = self.failure or call.exception()
        return call.result()


class _Adapter:
    """A lab as the library sees it. It keeps the library's pool in the lab's archive, number by number."""

    def __init__(self, lab: Lab, bridge: Bridge) -> None:
        self.lab, self.bridge = lab, bridge
        self.seed = lab.archive.nodes[0]
        self._drafts: dict[frozenset[tuple[str, str]], tuple[str, list[Evidence]]] = {}
        self._shown: list[Evidence] = []
        self.propose_new_texts: ProposalFn | None = self.rewrite

    def evaluate(
        self, batch: list[Task], candidate: dict[str, str], capture_traces: bool = False
    ) -> "EvaluationBatch[Evidence | None, Evidence | None]":
        """Returns the scores of a candidate; a run that nobody could judge counts as none."""
        from gepa.core.adapter import EvaluationBatch

        found = self.bridge.call(self.lab.run(write_parts(self.seed.policy, candidate), batch))
        judged = {each.task.id: each for each in found}
        evidence = [judged.get(task.id) for task in batch]
        scores = [max(_LEAST, each.score if each else 0.0) for each in evidence]
        return EvaluationBatch(outputs=evidence, scores=scores, trajectories=evidence)

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: "EvaluationBatch[Evidence | None, Evidence | None]",
        components_to_update: list[str],
    ) -> dict[str, list[dict[str, str]]]:
        """Returns, for each part that some node was told, what became of it."""
        self._shown = [each for each in eval_batch.outputs if each is not None]
        shown = {
            part: self.bridge.call(examples_of(self.lab, self._shown, candidate[part])) for part in components_to_update
        }
        return {part: [{"examples": text}] for part, text in shown.items() if text}

    def rewrite(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """Returns the rewritten parts; those that no node was told stay."""
        answers = {
            part: self.bridge.call(
                self.lab.ask(_REFLECT.format(part=part, text=candidate[part], examples=records[0]["examples"]))
            )
            for part, records in reflective_dataset.items()
        }
        texts = {part: fenced(answer) for part, answer in answers.items()}
        note = " ".join(answer.partition("```")[0].strip() for answer in answers.values())
        self._drafts[_key({**candidate, **texts})] = note, self._shown
        return texts

    def on_valset_evaluated(self, event: "ValsetEvaluatedEvent") -> None:
        """Adds what entered the library's pool to the archive; its runs were made already."""
        archive, parents = self.lab.archive, [self.lab.archive.nodes[number] for number in event["parent_ids"]]
        if event["candidate_idx"] == 0:
            self.bridge.call(self.lab.assess(self.seed))
            return
        note, evidence = self._drafts.get(_key(event["candidate"]), ("merged", []))
        node = archive.add(
            write_parts(self.seed.policy, event["candidate"]),
            event["candidate"],
            parents=[parent.number for parent in parents],
            note=note,
            evidence=[id for each in evidence for id in each.ids] or _inherited(parents, self.lab),
            tainted=any(each.run.trust == "tainted" for each in evidence),
        )
        self.bridge.call(self.lab.assess(node))


class _Silent:
    """A logger of the library that says nothing."""

    def log(self, message: str) -> None:
        """Drops the message."""


def _key(candidate: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(candidate.items())


def _inherited(parents: Sequence[Node], lab: Lab) -> list[str]:
    """Returns what a merged candidate rests on: all that its parents rest on."""
    return [id for parent in parents for node in lab.archive.lineage(parent) for id in node.evidence]
