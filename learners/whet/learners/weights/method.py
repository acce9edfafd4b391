"""A ``Method``: how experience becomes rows, and which loss is taken of them. All methods share one trainer.

class RFT(Method, frozen=True, kw_only=True):
    "Rejection-sampled fine-tuning: imitate what was verified."
    info = Info(name="rft", family="imitation", paper="arXiv 2308.01825", needs=("verified runs",))
    per_task: int = 4                                      # the method's own options are its fields

    async def build(self, experience: Experience, kit: Kit) -> list[Row]: ...
    def objectives(self) -> dict[str, Objective]: return {"": NLL()}

method = load_method("rft", per_task=2)
"""

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.loading import load_object, nearest
from whet.core.policy import Policy
from whet.core.records import Completion, Message, Record, Sampling, Task, Verdict
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.objectives import Objective
from whet.learners.weights.rows import Row

__all__ = ["METHODS", "Info", "Kit", "Method", "Rollouts", "load_method"]

Family: TypeAlias = Literal["imitation", "preference", "policy-gradient", "self-distillation", "reward"]

_AT = "whet.learners.weights.methods."
METHODS: dict[str, str] = {
    "rft": _AT + "rft:RFT",
    "ilf": _AT + "ilf:ILF",
    "faft": _AT + "faft:FAFT",
    "coh": _AT + "coh:ChainOfHindsight",
    "agent-r": _AT + "agent_r:AgentR",
    "self-debug": _AT + "self_debug:SelfDebug",
    "b-star": _AT + "b_star:BStar",
    "teach": _AT + "teach:Teach",
    "dpo": _AT + "dpo:DPO",
    "rdpo": _AT + "rdpo:RobustDPO",
    "osp": _AT + "osp:OSP",
    "hn-dpo": _AT + "hn_dpo:HardNegativeDPO",
    "cpl": _AT + "cpl:CPL",
    "kto": _AT + "kto:KTO",
    "anyprefer": _AT + "anyprefer:Anyprefer",
    "c3po": _AT + "c3po:C3PO",
    "grpo": _AT + "grpo:GRPO",
    "critique-grpo": _AT + "critique_grpo:CritiqueGRPO",
    "ufo": _AT + "ufo:UFO",
    "herl": _AT + "herl:HeRL",
    "rise": _AT + "rise:RISE",
    "duration": _AT + "duration:DurationAware",
    "spa": _AT + "spa:SPA",
    "f-grpo": _AT + "f_grpo:FGRPO",
    "dir": _AT + "dir:ImprovementReward",
    "sdpo": _AT + "sdpo:SDPO",
    "opd": _AT + "opd:OPD",
    "followup": _AT + "followup:FollowUp",
    "rltf-sd": _AT + "rltf_sd:RLTFSD",
    "rltf-fm": _AT + "rltf_fm:RLTFFM",
    "distil": _AT + "distil:DistIL",
    "vpd": _AT + "vpd:VPD",
    "ttt-sdpo": _AT + "ttt_sdpo:TestTimeSDPO",
    "rm": _AT + "rm:RewardModel",
    "spans": _AT + "spans:SpanReward",
    "progress": _AT + "progress:ProgressEstimator",
    "reaction": _AT + "reaction:Reaction",
    "verifier": _AT + "verifier:CalibratedVerifier",
}
"""Short name of the paper -> dotted path of the method's class; loaded when asked for."""


class Info(Record, frozen=True, kw_only=True):
    """What ``whet learn --list`` says of a method. ``needs``: what must be in the memory, in words."""

    name: str
    family: Family
    title: str
    paper: str
    needs: tuple[str, ...] = ()


class Rollouts(Record, frozen=True, kw_only=True):
    """How a method that learns on-policy practises: so many rounds of so many samples of so many tasks.

    ``epochs`` over each round's data. ``staleness``: how many rounds the sampling policy may lag behind; with 0
    sampling and training take turns.
    """

    rounds: int = 8
    tasks: int = 16
    samples: int = 8
    temperature: float = 1.0
    epochs: int = 1
    staleness: int = 0


class Kit(Protocol):
    """What a builder may use besides the record: the policy under training, its judges, and chance.

    ``round`` counts from 0 where a method learns on-policy. What costs model calls comes out of the learner's budget.
    """

    round: int
    rng: random.Random

    async def ask(
        self, messages: Sequence[Message], *, n: int = 1, sampling: Sampling = Sampling(temperature=1.0)
    ) -> list[Completion]:
        """Returns ``n`` answers of the policy as it stands.

        Raises:
            UserError: the learner has no model to ask.
            BudgetError: the budget does not allow it.
        """
        ...

    async def judge(self, task: Task, answer: str) -> tuple[Verdict, ...]:
        """Returns the verdicts of the training task's own verifiers on an answer.

        Raises:
            RefusedError: the task is no training task.
        """
        ...

    async def logprobs(self, rows: Sequence[Row], *, teacher: bool = False) -> list[list[float]]:
        """Returns, for each row, the logprob of every token that counts, under the policy as it stands.

        ``teacher``: after the row's teacher context instead of its own.
        """
        ...


class Method(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all methods. A subclass sets ``info``, and its fields are the options a user may set."""

    info: ClassVar[Info]
    rollouts: ClassVar[Rollouts | None] = None

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows to learn from; none where there is nothing to learn.

        Raises:
            UserError: the experience lacks what the method needs; the message says what and how to get it.
        """
        raise NotImplementedError

    def objectives(self) -> dict[str, Objective]:
        """Returns the loss of each term of the rows; most methods have one, the term ``""``."""
        raise NotImplementedError

    def training(self) -> TrainConfig:
        """Returns the defaults of the trainer that a specialist would choose for this method."""
        return TrainConfig()

    def serving(self, policy: Policy, experience: Experience) -> Mapping[str, str]:
        """Returns the edits of the policy's files that go with the adapter, from the same experience as its rows.

        A method that trains answers under a line of the prompt, or that finds the temperature to sample at, has the
        policy put it there; most have nothing to add.
        """
        return {}


def load_method(name: str, /, **options: object) -> Method:
    """Returns a method by its short name or dotted path, with its options set.

    Raises:
        UserError: no such method or option, or a value of the wrong type; the message lists what there is.
    """
    if name not in METHODS and ":" not in name:
        raise UserError(f"no method {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}")
    made = load_object(METHODS.get(name, name), what=f"method {name!r}")
    if not (isinstance(made, type) and issubclass(made, Method)):
        raise UserError(f"{name!r} is {made!r}, which is no Method")
    return convert_options(made, options)


def convert_options(made: type[Method], options: Mapping[str, object]) -> Method:
    """Returns a method of this class; texts are read as what the option is."""
    known = made.__struct_fields__
    if unknown := [key for key in options if key not in known]:
        raise UserError(f"{made.info.name} takes no {', '.join(unknown)}; it takes {', '.join(known) or 'no options'}")
    try:
        return msgspec.convert(dict(options), made, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{made.info.name}: {error}") from error
