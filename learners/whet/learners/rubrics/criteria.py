"""Criteria mined from documents: what a style guide, a handbook or a review says good answers have, as a rubric.

    learner = Criteria("docs/handbook.md", model="openai/gpt-4o-mini")
    async for proposal in learner.propose(view, incumbent, budget):
        print(proposal.candidate.summary)          # 6 criteria of 14 from 3 documents

After EvalAgent (Wadhwa et al. 2025, arXiv 2504.15219), offline: the documents are given rather than searched for.
Document → "the response should …" → only what applies to the tasks → ranked by how many of them, and by how many
documents say so.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec

from whet.core.budget import Budget
from whet.core.errors import NotFoundError, UserError
from whet.core.models import Model
from whet.core.records import Json, Record, Task
from whet.feedback.answers import quoted
from whet.feedback.traits import Trait, rubric_path
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.rubrics.teacher import Teacher, numbers, propose_rubric, text_of
from whet.learners.view import TrainMemory
from whet.memory.similar import resemblance

__all__ = ["Criteria", "Criterion", "read_documents"]

NAME = "criteria"
SUFFIXES = (".md", ".txt", ".rst")
PASSAGE = 4000
ALIKE = 0.7
_CLIPPED = 300

_MINE = """From the document below, list what a response to tasks like these should do or have, as the document says it:
each a criterion that can be answered with yes or no, "The response should …", with a short name and the shortest part
of the document that says it, word for word. What the document does not say is no criterion.
Answer with a JSON list and nothing else: [{"name": "…", "criterion": "The response should …", "quote": "…"}]"""

_APPLY = """To which of these tasks does each criterion apply? It applies where a response could fail it.
Answer with a JSON list and nothing else: [{"criterion": 0, "tasks": [0, 2]}]"""


class Criterion(Record, frozen=True, kw_only=True):
    """A criterion, the documents that say it, and the share of the sampled tasks that it applies to."""

    name: str
    text: str
    documents: frozenset[str]
    applies: float = 0.0


class Criteria:
    """Proposes a policy with a rubric of criteria from documents.

    Args:
        documents: a file of text, or a folder of them (``.md``, ``.txt``, ``.rst``).
        model: a model, or its name, that reads; that of the agent which practises unless given.
        rubric: name of the rubric in the policy, which is written anew.
        top: how many criteria are kept.
        share: the share of the sampled tasks that a criterion has to apply to.
        sample: how many training tasks are looked at.
        tainted: whether strangers wrote the documents; then the proposal waits for a person.

    Raises:
        UserError: an option has an impossible value.
    """

    def __init__(
        self,
        documents: str = "",
        model: Model | str | None = None,
        rubric: str = "criteria",
        top: int = 8,
        share: float = 0.1,
        sample: int = 20,
        tainted: bool = False,
    ) -> None:
        rubric_path(rubric)
        if top < 1 or sample < 1 or not 0 <= share <= 1:
            raise UserError(
                f"top={top!r}, sample={sample!r}, share={share!r}: at least 1, at least 1, and a share from 0 to 1"
            )
        self._documents, self._model, self._rubric = documents, model, rubric
        self._top, self._share, self._sample, self._tainted = top, share, sample, tainted

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields one proposal; none where the documents say nothing about such tasks, or the rubric says it already.

        Raises:
            NotFoundError: there are no such documents.
            UserError: no documents are named, or there is no model to ask.
            ModelError: the model could not be asked.
            BudgetError: the budget does not allow it.
        """
        documents = read_documents(self._documents)
        teacher = Teacher.of(self._model, view, budget, learner=NAME)
        tasks = await view.tasks()
        tasks = tasks[:: max(1, len(tasks) // self._sample)][: self._sample]
        mined = merged([each async for each in _mine(teacher, documents, tasks)])
        found = await _applicable(teacher, mined, tasks)
        applying = [each for each in found if each.applies > 0 and each.applies >= self._share]
        ranked = sorted(applying, key=lambda each: (-each.applies * len(each.documents), each.name))[: self._top]
        if not ranked:
            return
        config: dict[str, Json] = {"documents": [*documents], "mined": len(mined)}
        for proposal in propose_rubric(
            NAME,
            self._rubric,
            [Trait(name=each.name, definition=each.text) for each in ranked],
            incumbent,
            summary=f"{len(ranked)} criteria of {len(mined)} from {len(documents)} documents",
            config=config,
            evidence=(),
            usage=teacher.usage,
            trust="tainted" if self._tainted else "trusted",
        ):
            yield proposal


def read_documents(path: str) -> dict[str, str]:
    """Returns the text of a file, or of the files in a folder, by name.

    Raises:
        UserError: no path is given, or a file is no text.
        NotFoundError: there is no such file, or none of text in the folder.
    """
    if not path:
        raise UserError("criteria needs documents: whet learn criteria --set documents=FILE_OR_FOLDER")
    place = Path(path)
    files = sorted(file for file in place.rglob("*") if file.suffix in SUFFIXES) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise NotFoundError(f"no documents at {path!r}; give a file, or a folder with {', '.join(SUFFIXES)}")
    try:
        return {str(file): file.read_text() for file in files}
    except UnicodeDecodeError as error:
        raise UserError(f"a document at {path!r} is no text in UTF-8: {error}") from error


def merged(found: Sequence[Criterion]) -> list[Criterion]:
    """Returns the criteria with those that say the same taken together, the first one's words kept."""
    kept: list[Criterion] = []
    for each in found:
        alike = next((n for n, old in enumerate(kept) if resemblance(old.text, each.text) >= ALIKE), None)
        if alike is None:
            kept.append(each)
        else:
            kept[alike] = msgspec.structs.replace(kept[alike], documents=kept[alike].documents | each.documents)
    return kept


async def _mine(teacher: Teacher, documents: dict[str, str], tasks: Sequence[Task]) -> AsyncIterator[Criterion]:
    """Yields the criteria of every passage whose quotes are in it, whatever the line breaks."""
    for name, text in documents.items():
        for passage in _passages(text):
            prompt = "\n\n".join([_MINE, _listed(tasks), f"# Document\n{quoted(passage)}"])
            for entry in await teacher.ask(prompt):
                quote = " ".join(text_of(entry, "quote").split())
                title, said = text_of(entry, "name"), text_of(entry, "criterion")
                if title and said and quote and quote in " ".join(passage.split()):
                    yield Criterion(name=title, text=said, documents=frozenset({name}))


async def _applicable(teacher: Teacher, mined: Sequence[Criterion], tasks: Sequence[Task]) -> list[Criterion]:
    """Returns the criteria with the share of the tasks that each applies to."""
    if not mined or not tasks:
        return []
    lines = "\n".join(f"{n}. {' '.join(each.text.split())}" for n, each in enumerate(mined))
    applies = dict.fromkeys(range(len(mined)), 0.0)
    for entry in await teacher.ask("\n\n".join([_APPLY, f"# Criteria\n{lines}", _listed(tasks)])):
        for number in numbers(entry, "criterion", len(mined)):
            applies[number] = len(numbers(entry, "tasks", len(tasks))) / len(tasks)
    return [msgspec.structs.replace(each, applies=applies[n]) for n, each in enumerate(mined)]


def _passages(text: str) -> Iterator[str]:
    """Yields the paragraphs of a text, as many together as one question takes."""
    passage = ""
    for paragraph in text.split("\n\n"):
        if passage and len(passage) + len(paragraph) > PASSAGE:
            yield passage
            passage = ""
        passage += paragraph + "\n\n"
    if passage.strip():
        yield passage


def _listed(tasks: Sequence[Task]) -> str:
    return "# Tasks\n" + "\n".join(f"{n}. {' '.join(task.prompt.split())[:_CLIPPED]}" for n, task in enumerate(tasks))
