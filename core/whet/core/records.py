"""The vocabulary as frozen records: what the rooms hand to each other and what the store keeps.

Every record with an ``id`` is a row of the store. Records are immutable: a change is a new record (a ``Lesson`` has
versions) or, for the few states of a ``Run`` and a ``Job``, a replacement that the change log keeps.
Times are UTC milliseconds, money is micro-dollars, scores lie in [0, 1].
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import msgspec

from whet.core.ids import new_id, now_ms

__all__ = [
    "Actor",
    "Body",
    "Candidate",
    "Check",
    "Completion",
    "Critique",
    "CritiqueGiven",
    "ExecResult",
    "ExecStatus",
    "Execution",
    "FailureLabel",
    "Feedback",
    "FeedbackKind",
    "HumanEdit",
    "Interrupted",
    "Job",
    "Json",
    "Lesson",
    "LessonKind",
    "LessonStatus",
    "Message",
    "ModelCall",
    "NodeFinished",
    "NodeStarted",
    "Outcome",
    "Promotion",
    "Record",
    "Role",
    "Run",
    "RunStatus",
    "Sampling",
    "Span",
    "Split",
    "Step",
    "StepBody",
    "Task",
    "TaskSet",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Trust",
    "Usage",
    "Use",
    "Verdict",
    "VerdictGiven",
    "VerdictKind",
    "VerifierSpec",
]

if TYPE_CHECKING:
    Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
else:  # msgspec resolves annotations when it decodes, and knows no recursive alias
    Json = Any

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "heldout", "sealed"]
RunStatus = Literal["running", "interrupted", "done", "failed", "cancelled"]
Outcome = Literal["pass", "fail", "infra_error", "timeout", "tampered", "abstain"]
VerdictKind = Literal["execution", "rule", "model", "human"]
FeedbackKind = Literal["rating", "preference", "correction", "comment", "followup", "accept", "reject"]
LessonKind = Literal["case", "lesson", "negative", "fact", "preference"]
LessonStatus = Literal["proposed", "active", "quarantined", "retired"]
Trust = Literal["trusted", "tainted"]
ExecStatus = Literal["ok", "nonzero", "signal", "timeout", "oom", "output_limit", "disk_full"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, compared by value, unknown fields are ignored when read."""


# --- what is said to and by a model ---------------------------------------------------------------------------------


class ToolCall(Record, frozen=True, kw_only=True):
    """A model's request to run a tool; ``arguments`` is JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Record, frozen=True, kw_only=True):
    """One chat message."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class ToolSpec(Record, frozen=True, kw_only=True):
    """A tool as shown to a model; ``parameters`` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Json]


class Sampling(Record, frozen=True, kw_only=True):
    """How to sample. ``None`` leaves a choice to the back end.

    ``seed`` makes a local model repeatable; it is passed on to a provider that takes one, and left out otherwise.
    ``logprobs`` asks for logprobs, and for token ids, where the back end has them.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False


class Usage(Record, frozen=True, kw_only=True):
    """What a call or a run used. ``dollars`` in micro-dollars, ``seconds`` of wall time."""

    input_tokens: int = 0
    output_tokens: int = 0
    micro_dollars: int = 0
    calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            micro_dollars=self.micro_dollars + other.micro_dollars,
            calls=self.calls + other.calls,
            seconds=self.seconds + other.seconds,
        )


class Completion(Record, frozen=True, kw_only=True):
    """A model's answer. Token ids and logprobs (natural log, one per output token) when the back end gives them.

    ``kept``: nobody was asked, it was given before (a cache, a record), so it costs nothing.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    model: str = ""
    finish_reason: str = "stop"
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    kept: bool = False

    def counted(self) -> "Completion":
        """Returns the answer with a usage of at least one call, unless it was kept: a model may not say its usage."""
        if self.kept or self.usage.calls:
            return self
        return msgspec.structs.replace(self, usage=self.usage + Usage(calls=1))


# --- tasks ----------------------------------------------------------------------------------------------------------


class VerifierSpec(Record, frozen=True, kw_only=True):
    """Which verifier judges a task: a registered short name or dotted path, and its parameters.

    An agent may consult a ``public`` verifier while it works (tests that come with the task). The others judge its
    answer; only runs on training tasks hear of them before.
    """

    kind: str
    params: dict[str, Json] = {}
    public: bool = False


class Task(Record, frozen=True, kw_only=True):
    """An input, the verifiers that judge it, tags and a split. ``reference`` is a solution known to be right.

    ``files`` maps workspace paths to text. ``meta`` is free; learners never see it for held-out tasks.
    """

    table: ClassVar[str] = "tasks"
    id: str
    messages: tuple[Message, ...]
    verifiers: tuple[VerifierSpec, ...] = ()
    files: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    split: Split = "train"
    reference: str | None = None
    meta: dict[str, Json] = {}
    task_set: str = ""
    scope: str = "default"

    @property
    def prompt(self) -> str:
        """The text of the last user message, or the empty string."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


class TaskSet(Record, frozen=True, kw_only=True):
    """A named, versioned collection of tasks; ``packages`` are what its tests import beyond the standard library."""

    name: str
    version: str
    tasks: tuple[Task, ...]
    packages: tuple[str, ...] = ()


# --- runs and steps -------------------------------------------------------------------------------------------------


class ExecResult(Record, frozen=True, kw_only=True):
    """What happened to a command in a sandbox. Output is text (invalid UTF-8 replaced), capped, head and tail kept."""

    status: ExecStatus
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    seconds: float = 0.0
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with exit code 0."""
        return self.status == "ok"


class Run(Record, frozen=True, kw_only=True):
    """One attempt of an agent at a task. ``policy`` is the digest of the policy tree it ran under."""

    table: ClassVar[str] = "runs"
    id: str = msgspec.field(default_factory=new_id)
    task_id: str
    agent: str
    policy: str = ""
    model: str = ""
    seed: int = 0
    status: RunStatus = "running"
    answer: str | None = None
    error: str | None = None
    usage: Usage = Usage()
    parent_id: str | None = None
    purpose: Literal["train", "gate", "live", "replay", "import"] = "train"
    tags: tuple[str, ...] = ()
    meta: dict[str, Json] = {}
    actor: str | None = None
    trust: Trust = "trusted"
    started_at: int = msgspec.field(default_factory=now_ms)
    ended_at: int | None = None
    scope: str = "default"


class Body(Record, frozen=True, kw_only=True, tag_field="kind"):
    """What a step says; one subclass per kind of step."""


class NodeStarted(Body, frozen=True, kw_only=True, tag="node_started"):
    """A graph node began. ``input`` is what is new in its state, as JSON: changed keys, and items added to lists."""

    input: Json = None


class NodeFinished(Body, frozen=True, kw_only=True, tag="node_finished"):
    """A graph node ended; ``error`` when it raised."""

    output: Json = None
    error: str | None = None
    seconds: float = 0.0


class ModelCall(Body, frozen=True, kw_only=True, tag="model_call"):
    """A model was asked and answered (or failed: ``error``): the agent's own, or its further model of a ``role``."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    tools: tuple[ToolSpec, ...] = ()
    completion: Completion | None = None
    error: str | None = None
    role: str = ""


class ToolResult(Body, frozen=True, kw_only=True, tag="tool_result"):
    """A tool ran. What it returned may come from strangers, so it is tainted unless the tool says otherwise.

    A ``pending`` result says that the tool goes on in the background; a later step with the same ``call.id`` has what
    it returned.
    """

    call: ToolCall
    content: str
    error: str | None = None
    trust: Trust = "tainted"
    pending: bool = False


class Execution(Body, frozen=True, kw_only=True, tag="execution"):
    """Code or a command was executed in a sandbox."""

    command: str
    result: ExecResult


class VerdictGiven(Body, frozen=True, kw_only=True, tag="verdict"):
    """A verdict was reached inside the run; ``answer`` is the digest of the answer it judges."""

    verdict_id: str
    answer: str = ""


class CritiqueGiven(Body, frozen=True, kw_only=True, tag="critique"):
    """A critique was given inside the run; ``answer`` is the digest of the answer it is about."""

    critique_id: str
    answer: str = ""


class HumanEdit(Body, frozen=True, kw_only=True, tag="edit"):
    """A person changed the state or the answer."""

    before: str
    after: str
    actor: str


class Interrupted(Body, frozen=True, kw_only=True, tag="interrupted"):
    """The graph stopped to ask a person; ``value`` is the question, ``resumed_with`` the answer when it came."""

    value: Json = None
    resumed_with: Json = None


StepBody: TypeAlias = (
    NodeStarted
    | NodeFinished
    | ModelCall
    | ToolResult
    | Execution
    | VerdictGiven
    | CritiqueGiven
    | HumanEdit
    | Interrupted
)


class Step(Record, frozen=True, kw_only=True):
    """One event of a run. ``seq`` counts from 0 within the run and orders it; ``parent_id`` makes it a tree."""

    table: ClassVar[str] = "steps"
    id: str = msgspec.field(default_factory=new_id)
    run_id: str
    seq: int
    node: str = ""
    parent_id: str | None = None
    body: StepBody
    at: int = msgspec.field(default_factory=now_ms)


# --- verdicts, critiques, feedback ----------------------------------------------------------------------------------


class Check(Record, frozen=True, kw_only=True):
    """One check of a verdict, with the detail a critic needs. ``call``, ``expected``, ``got`` are Python source/reprs.

    ``got`` is ``raised ValueError: …`` for an exception. ``line`` is the failing line of the answer (from 1).
    """

    name: str
    passed: bool
    call: str = ""
    expected: str = ""
    got: str = ""
    line: int | None = None
    message: str = ""


class Verdict(Record, frozen=True, kw_only=True):
    """A verifier's outcome on a run. Only ``pass`` and ``fail`` judge the agent; the rest say why not."""

    table: ClassVar[str] = "verdicts"
    id: str = msgspec.field(default_factory=new_id)
    run_id: str
    task_id: str
    verifier: str
    outcome: Outcome
    score: float = 0.0
    kind: VerdictKind = "execution"
    checks: tuple[Check, ...] = ()
    detail: str = ""
    actor: str | None = None
    repetition: int = 0
    environment: str = ""
    seconds: float = 0.0
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"

    @property
    def judged(self) -> bool:
        """Whether this verdict says something about the agent (pass or fail)."""
        return self.outcome in ("pass", "fail")


class Span(Record, frozen=True, kw_only=True):
    """A stretch of the answer: characters ``start`` (inclusive) to ``end`` (exclusive)."""

    start: int
    end: int


class Critique(Record, frozen=True, kw_only=True):
    """Language that says what was wrong or right, where, by whom, grounded in which verdicts."""

    table: ClassVar[str] = "critiques"
    id: str = msgspec.field(default_factory=new_id)
    run_id: str
    text: str
    source: str
    step_id: str | None = None
    span: Span | None = None
    verdict_ids: tuple[str, ...] = ()
    sign: Literal["positive", "negative"] = "negative"
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"


class Feedback(Record, frozen=True, kw_only=True):
    """What came from outside the loop. ``source`` names the actor; ``trust`` is tainted for strangers.

    ``value``: rating in [0, 1]; +1/-1 for accept/reject; for a preference, ``other_run_id`` is the run that lost.
    ``text``: comment, follow-up message or the corrected answer.
    """

    table: ClassVar[str] = "feedback"
    id: str = msgspec.field(default_factory=new_id)
    kind: FeedbackKind
    source: str
    run_id: str | None = None
    task_id: str | None = None
    step_id: str | None = None
    other_run_id: str | None = None
    value: float | None = None
    text: str = ""
    applies_when: str = ""
    person: str | None = None
    trust: Trust = "trusted"
    meta: dict[str, Json] = {}
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"


class Actor(Record, frozen=True, kw_only=True):
    """A person, model, verifier or learner. ``family`` groups models; ``agreement`` is measured, with its count."""

    table: ClassVar[str] = "actors"
    id: str
    kind: Literal["person", "model", "verifier", "learner", "tool"]
    name: str = ""
    family: str = ""
    agreement: float | None = None
    observations: int = 0
    scope: str = "default"


class FailureLabel(Record, frozen=True, kw_only=True):
    """A short label on why a run failed."""

    table: ClassVar[str] = "failure_labels"
    id: str = msgspec.field(default_factory=new_id)
    run_id: str
    label: str
    source: str
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"


# --- what is learned ------------------------------------------------------------------------------------------------


class Lesson(Record, frozen=True, kw_only=True):
    """One version of a retrievable piece of experience. The id stays over versions; ``(id, version)`` is the key.

    ``derived_from``, ``supports`` and ``contradicts`` hold ids of runs, feedback, verdicts or critiques.
    """

    table: ClassVar[str] = "lessons"
    id: str = msgspec.field(default_factory=new_id)
    version: int = 1
    kind: LessonKind = "lesson"
    status: LessonStatus = "proposed"
    text: str
    applies_when: str = ""
    not_when: str = ""
    task_text: str = ""
    source: str = ""
    trust: Trust = "trusted"
    derived_from: tuple[str, ...] = ()
    supports: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    reason: str = ""
    valid_from: int = msgspec.field(default_factory=now_ms)
    valid_to: int | None = None
    scope: str = "default"


class Use(Record, frozen=True, kw_only=True):
    """What became of a lesson (``item`` is its id) or a skill (``item`` is ``skill:NAME``) in a run."""

    table: ClassVar[str] = "uses"
    id: str = msgspec.field(default_factory=new_id)
    run_id: str
    item: str
    version: str = ""
    kind: Literal["shown", "withheld", "adopted"]
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"


class Candidate(Record, frozen=True, kw_only=True):
    """A policy version not yet promoted: who proposed it, from what, at what cost."""

    table: ClassVar[str] = "candidates"
    id: str = msgspec.field(default_factory=new_id)
    policy: str
    parent: str
    learner: str
    config: dict[str, Json] = {}
    summary: str = ""
    evidence: tuple[str, ...] = ()
    usage: Usage = Usage()
    trust: Trust = "trusted"
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"


class Promotion(Record, frozen=True, kw_only=True):
    """The gate's decision with its evidence frozen in; the log of promotions only grows. A rollback is one as well.

    ``mean``, ``low``, ``high``: paired difference candidate - incumbent with its anytime-valid interval;
    ``p``: evidence against "no better than ``min_effect``" (1 / e-value); ``n`` pairs were compared.
    """

    table: ClassVar[str] = "promotions"
    id: str = msgspec.field(default_factory=new_id)
    decision: Literal["promoted", "rejected", "insufficient_evidence", "rolled_back", "committed"]
    policy: str
    incumbent: str
    candidate_id: str | None = None
    reason: str = ""
    actor: str = "gate"
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    thresholds: dict[str, Json] = {}
    evidence: dict[str, Json] = {}
    run_ids: tuple[str, ...] = ()
    usage: Usage = Usage()
    at: int = msgspec.field(default_factory=now_ms)
    scope: str = "default"


class Job(Record, frozen=True, kw_only=True):
    """A piece of learner or maintenance work with its inputs and outputs, resumable by id."""

    table: ClassVar[str] = "jobs"
    id: str = msgspec.field(default_factory=new_id)
    kind: str
    status: Literal["running", "done", "failed", "cancelled"] = "running"
    config: dict[str, Json] = {}
    state: dict[str, Json] = {}
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    usage: Usage = Usage()
    error: str | None = None
    started_at: int = msgspec.field(default_factory=now_ms)
    ended_at: int | None = None
    scope: str = "default"
