"""The ``Learner`` contract: from what a memory holds on training tasks to a proposal for the gate.

    async for proposal in learner.propose(TrainMemory(memory), incumbent, Budget(calls=20)):
        print(proposal.candidate.summary, len(proposal.lessons))

Learners are named by a registered short name (``lessons``, ``skills``) or a dotted path ``package.module:Class``.
"""

import inspect
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from typing import Protocol, get_args, runtime_checkable

import msgspec

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.loading import nearest
from whet.core.policy import Policy
from whet.core.records import Candidate, Lesson, Record
from whet.learners.gate import Arm
from whet.learners.view import TrainMemory
from whet.learners.weights.method import METHODS

__all__ = ["LEARNERS", "Learner", "Listing", "Proposal", "load_learner"]


class Listing(Record, frozen=True, kw_only=True):
    """What ``whet learn --list`` says of a learner, and where its class is.

    ``learns``: lessons, prompts, skills, settings, …; ``policy``: all of a policy but its weights. ``paper``: where the
    method comes from. ``needs``: what must be there, in words. ``costs``: what a proposal takes. ``practises``: whether
    it runs the agent. ``extra``: what to install beyond the base, as pip is told.
    """

    at: str
    learns: str
    title: str
    paper: str = ""
    needs: str = ""
    costs: str = ""
    practises: bool = False
    extra: str = ""


LEARNERS: dict[str, Listing] = {
    "apohf": Listing(
        at="whet.learners.prompts.methods.apohf:Apohf",
        learns="prompts",
        title="which of a pool of prompts a person likes best, by as few duels as it takes",
        paper="arXiv 2405.17346",
        needs="a person who compares answers, and a pool of prompts or a model that writes one",
        costs="two runs a duel",
        practises=True,
    ),
    "autolibra": Listing(
        at="whet.learners.rubrics.autolibra:AutoLibra",
        learns="rubrics",
        title="metrics induced from what people remarked on, as a rubric",
        paper="AutoLibra, arXiv 2505.02820",
        needs="remarks in words on recorded runs, and a model",
        costs="per run with remarks: one call, and two for each round",
    ),
    "coding-agent": Listing(
        at="whet.learners.prompts.methods.coding_agent:CodingAgent",
        learns="policy",
        title="an agent edits the policy's folder and tries it on training tasks",
        needs="a model that calls tools, and a sandbox",
        costs="up to 40 questions and all of the runs a session",
        practises=True,
    ),
    "corrections": Listing(
        at="whet.learners.experience.corrections:CorrectionLearner",
        learns="lessons",
        title="what a person corrected, once the task was solved, and what had failed before",
        paper="DROC, arXiv 2311.10678",
        needs="corrections or comments on judged runs, and a later run that passed; a model words them, if given",
        costs="with a model a question for each correction",
    ),
    "criteria": Listing(
        at="whet.learners.rubrics.criteria:Criteria",
        learns="rubrics",
        title="criteria mined from documents, as a rubric",
        paper="EvalAgent, arXiv 2504.15219",
        needs="documents, training tasks, and a model",
        costs="a call per passage, and one more",
    ),
    "errors": Listing(
        at="whet.learners.experience.errors:ErrorLearner",
        learns="lessons",
        title="recent errors that stand, as negative lessons; ErrorMemory tells them at once",
        paper="ReLoop2, arXiv 2306.08808",
        needs="judged runs",
        costs="nothing",
    ),
    "gepa": Listing(
        at="whet.learners.prompts.methods.gepa:Gepa",
        learns="prompts",
        title="prompts evolve by reflection, from parents that each lead on some task; merges",
        paper="arXiv 2507.19457",
        needs="a model that writes",
        costs="a question and two minibatches of runs a step, all validation tasks for each that gains",
        practises=True,
        extra="whet[prompts]",
    ),
    "ensemble": Listing(
        at="whet.learners.prompts.methods.ensemble:Ensemble",
        learns="any",
        title="one budget split over several learners by gain per run",
        needs="what its engines need; a model, if given",
        costs="the runs it is given",
        practises=True,
    ),
    "exemplars": Listing(
        at="whet.learners.prompts.methods.exemplars:Exemplars",
        learns="prompts",
        title="verified runs as examples in the prompt",
        paper="arXiv 2310.03714",
        needs="tasks that are solved now and then",
        costs="a minibatch and the validation tasks a step",
        practises=True,
    ),
    "lessons": Listing(
        at="whet.learners.lessons:LessonLearner",
        learns="lessons",
        title="definitions, remarks and hints from judged runs",
        needs="judged runs, or feedback; a model, if given",
        costs="replays in a sandbox",
    ),
    "propositions": Listing(
        at="whet.learners.experience.propositions:PropositionLearner",
        learns="lessons",
        title="what is known of each person, told in that person's tasks only",
        paper="GUM, arXiv 2505.10831",
        needs="feedback with a person, and a model that writes",
        costs="a question for each person with something new",
    ),
    "reformulation": Listing(
        at="whet.learners.experience.reformulation:ReformulationLearner",
        learns="lessons",
        title="what people mean by requests that fail, from what they asked next",
        paper="arXiv 1911.02557",
        needs="sessions of runs, with verdicts or feedback",
        costs="nothing",
    ),
    "scope": Listing(
        at="whet.learners.experience.scope:ScopeLearner",
        learns="lessons",
        title="exceptions for lessons where telling them does harm",
        paper="C3PO, arXiv 2402.10893",
        needs="judged runs in which lessons were told and withheld",
        costs="nothing",
    ),
    "shortcuts": Listing(
        at="whet.learners.experience.shortcuts:ShortcutLearner",
        learns="skills",
        title="tool calls that are repeated with success, as one tool",
        paper="Mobile-Agent-E, arXiv 2501.11733",
        needs="judged runs of an agent with tools that act in the sandbox",
        costs="replays in a sandbox",
    ),
    "skills": Listing(
        at="whet.learners.skills:SkillLearner",
        learns="skills",
        title="verified helpers as a skill with a self-test",
        needs="judged runs; a model, if given",
        costs="replays in a sandbox",
    ),
    "textgrad": Listing(
        at="whet.learners.prompts.methods.textgrad:TextGrad",
        learns="prompts",
        title="criticise the prompt by its failures, rewrite, take back what did not help",
        paper="arXiv 2406.07496",
        needs="a model that writes",
        costs="two questions and a minibatch of runs a step",
        practises=True,
    ),
    "mipro": Listing(
        at="whet.learners.prompts.methods.mipro:Mipro",
        learns="prompts",
        title="instructions and demonstrations, searched together",
        paper="MIPROv2, arXiv 2406.11695",
        needs="a model that writes",
        costs="candidates - 1 questions for each part; a minibatch a step, all validation tasks every fifth",
        practises=True,
        extra="whet[prompts]",
    ),
    "prefpo": Listing(
        at="whet.learners.prompts.methods.prefpo:PrefPO",
        learns="prompts",
        title="of two prompts a model says which answers better and why; the loser is rewritten",
        paper="arXiv 2603.19311",
        needs="a model that writes, criteria in words; no labels",
        costs="two questions, two minibatches and all validation tasks a step",
        practises=True,
    ),
    "promptagent": Listing(
        at="whet.learners.prompts.methods.promptagent:PromptAgent",
        learns="prompts",
        title="tree search over prompts, each rewritten by its errors",
        paper="arXiv 2310.16427",
        needs="a model that writes",
        costs="for each child two questions, a minibatch and all validation tasks",
        practises=True,
    ),
    "opto": Listing(
        at="whet.learners.prompts.methods.opto:Opto",
        learns="prompts, settings",
        title="prompts and settings changed together, from code, trace and feedback",
        paper="OptoPrime, arXiv 2406.16218",
        needs="a model that writes",
        costs="a question and two minibatches of runs a step",
        practises=True,
    ),
    "promst": Listing(
        at="whet.learners.prompts.methods.promst:Promst",
        learns="prompts",
        title="for tasks of many steps: a person's rules on what went wrong, children pruned by a forecast",
        paper="arXiv 2402.08702",
        needs="a model that writes; rules, where there are any",
        costs="for each prompt of a level five questions, a minibatch and all validation tasks for up to 4 children",
        practises=True,
    ),
    "playbook": Listing(
        at="whet.learners.prompts.methods.playbook:Playbook",
        learns="principles",
        title="a playbook of counted bullets: added, updated, merged, retired",
        paper="ACE, arXiv 2510.04618",
        needs="a model that writes",
        costs="two questions and a minibatch of runs a step",
        practises=True,
    ),
    "principles": Listing(
        at="whet.learners.prompts.methods.principles:Principles",
        learns="principles",
        title="praise, critique or rewriting becomes one conditional principle, shown to a person",
        paper="ConstitutionMaker, arXiv 2310.15428; C3PO, arXiv 2402.10893",
        needs="feedback on runs, and a model that writes",
        costs="two or three questions, and 16 runs where there is an agent, for each piece of feedback",
    ),
    "skill-evolve": Listing(
        at="whet.learners.evolve:SkillEvolver",
        learns="skills",
        title="a model writes or improves a skill, compared with none and the old one first",
        needs="judged runs, and a model that writes",
        costs="up to three questions, each with 16 to 24 runs",
        practises=True,
    ),
    "tune": Listing(
        at="whet.learners.prompts.methods.tune:Tune",
        learns="settings",
        title="temperature, rounds, n and other settings by their scores",
        paper="TPE, Bergstra et al. 2011",
        needs="tasks",
        costs="a run for each validation task a step",
        practises=True,
        extra="whet[prompts]",
    ),
    "zo-ranksgd": Listing(
        at="whet.learners.prompts.methods.zo_ranksgd:ZoRankSgd",
        learns="settings",
        title="settings by rankings only: of verifiers, a judge or a person",
        paper="arXiv 2303.03751",
        needs="tasks, and somebody who ranks",
        costs="10 candidates on a minibatch a step",
        practises=True,
    ),
    "discovery": Listing(
        at="whet.learners.discovery:DiscoveryLearner",
        learns="skills",
        title="invent tasks from known helpers, try them, keep what verifies",
        paper="Voyager, arXiv 2305.16291; 2504.20406",
        needs="judged runs whose helpers are known",
        costs="up to 24 runs, each tried up to 4 times",
        practises=True,
    ),
    "workflows": Listing(
        at="whet.learners.workflows:WorkflowLearner",
        learns="skills",
        title="a program over listed tools, read as plain steps by a person",
        paper="FlowMind, arXiv 2404.13050",
        needs="tools, training tasks with verifiers, and a model that writes",
        costs="up to three questions; drafts are tried in a sandbox",
    ),
    "tips": Listing(
        at="whet.learners.experience.tips:TipLearner",
        learns="lessons",
        title="one list of advice, written anew from what was done and what came of it",
        paper="Mobile-Agent-E, arXiv 2501.11733",
        needs="judged runs, and a model that writes",
        costs="one question",
    ),
}
"""Registered learners, beside the methods that train weights: short name to where it is and what it does."""


class Proposal(Record, frozen=True, kw_only=True):
    """A change for the gate: a new policy, new lessons, or both, with the record of where they come from.

    A proposal that only adds lessons keeps the incumbent's policy. ``retires`` are ids of lessons it replaces.
    """

    candidate: Candidate
    policy: Policy
    lessons: tuple[Lesson, ...] = ()
    retires: tuple[str, ...] = ()

    def arm(self, incumbent: Arm) -> Arm:
        """Returns the side of the gate's comparison that this proposal is."""
        kept = tuple(id for id in incumbent.lessons if id not in self.retires)
        added = tuple(lesson.id for lesson in self.lessons if lesson.id not in kept)
        return Arm(policy=self.policy, lessons=(*kept, *added))


@runtime_checkable
class Learner(Protocol):
    """Proposes changes from experience. It sees training tasks only, and spends no more than its budget."""

    @property
    def name(self) -> str:
        """The learner's name, recorded with its candidates."""
        ...

    def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields proposals, the most promising first; none when there is nothing new to learn.

        Raises:
            BudgetError: the budget does not allow what the learner needs.
        """
        ...


def describe(name: str) -> dict[str, str | bool]:
    """Returns what a registered learner learns, in words, and what it needs; as ``whet learn --list`` shows it."""
    listing = LEARNERS[name]
    return {
        "name": name,
        "learns": listing.learns,
        "description": listing.title,
        "paper": listing.paper,
        "needs": listing.needs,
        "costs": listing.costs,
        "practises": listing.practises,
        "extra": listing.extra,
    }


def options_of(name: str) -> list[str]:
    """Returns the options of a registered learner that can be given as text."""
    module, _, attribute = LEARNERS[name].at.partition(":")
    accepted = inspect.signature(vars(import_module(module))[attribute]).parameters
    return [key for key, each in accepted.items() if _told_in_text(each.annotation)]


def load_learner(name: str, **options: object) -> Learner:
    """Returns a learner by its short name or dotted path, made with these options.

    Raises:
        UserError: no such learner, or it does not take one of the options; the message lists what there is.
    """
    if name in METHODS:
        return _weight_learner(name, options)
    path = LEARNERS[name].at if name in LEARNERS else name
    module, _, attribute = path.partition(":")
    known = [*sorted(LEARNERS), *METHODS]
    try:
        made = vars(import_module(module))[attribute]
    except (ImportError, KeyError, ValueError) as error:
        why = f" ({error})" if attribute else nearest(name, known)
        raise UserError(
            f"no learner {name!r}{why}; there are {', '.join(known)}, or give package.module:Class"
        ) from error
    accepted = inspect.signature(made).parameters
    if unknown := sorted(set(options) - set(accepted)):
        raise UserError(f"learner {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted) or 'nothing'}")
    learner = made(**{key: _read(key, value, accepted[key].annotation) for key, value in options.items()})
    if not isinstance(learner, Learner):
        raise UserError(f"{path!r} is no learner: it needs a name and propose(view, incumbent, budget)")
    return learner


def _weight_learner(name: str, options: Mapping[str, object]) -> Learner:
    """Returns the learner of a method that trains weights; what is no option of the method's is one of the learner's.

    Raises:
        UserError: neither has such an option, or it cannot have such a value.
    """
    from whet.learners.weights.learner import WeightLearner
    from whet.learners.weights.method import load_method

    theirs = load_method(name).__struct_fields__
    own = {key: each.annotation for key, each in inspect.signature(WeightLearner).parameters.items()}
    mine = {key: _read(key, value, own[key]) for key, value in options.items() if key in own and key not in theirs}
    method = load_method(name, **{key: value for key, value in options.items() if key not in mine})
    return WeightLearner(method, **mine)  # type: ignore[arg-type]


def _told_in_text(wanted: object) -> bool:
    """Returns whether an option of this annotation can be a text or a number; one that says nothing may be either."""
    unknown = wanted is inspect.Parameter.empty or isinstance(wanted, str)
    return unknown or not {str, int, float, bool}.isdisjoint((wanted, *get_args(wanted)))


def _read(name: str, value: object, wanted: object) -> object:
    """Returns an option's value; a text, as a command line gives it, is read as what the option is."""
    if isinstance(value, str) and not _told_in_text(wanted):
        raise UserError(f"{name}={value!r} cannot be read: {name} is no text or number; give it in Python")
    if not isinstance(value, str) or wanted not in (int | None, float | None, int, float, bool):
        return value
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{name}={value!r} cannot be read: {error}") from error
