"""A graph pattern: a function returning a LangGraph ``StateGraph``, and what its policy may say of it.

    @pattern(prompts={"reviewer": "Say what is wrong."}, rounds=Knob(2, low=0, high=20), temperature=TEMPERATURE)
    def reviewed() -> StateGraph[State, AgentContext, State, State]:
        ...

A node reads ``runtime.context.knob("rounds")``: the value in the policy's ``settings.toml``, or the default; and
``runtime.context.prompt("reviewer")``: the text of the policy's ``prompts/reviewer.md``, or the default. A knob or
prompt that no part of the agent knows is refused by name, as is a knob outside its range.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from whet.agents.recording import Builder
from whet.core import Policy, UserError

__all__ = ["MAX_TOKENS", "TEMPERATURE", "Knob", "Pattern", "pattern", "resolve_knobs", "resolve_prompts"]


@dataclass(frozen=True)
class Knob:
    """A number that may be learned, within ``low`` and ``high`` (inclusive); whole where the default is ``whole``.

    A default of ``None`` leaves the choice open: it is not among the knobs unless the policy sets it.
    """

    default: int | float | None
    low: float = 0
    high: float = float("inf")
    whole: bool = False

    def check(self, name: str, value: object) -> int | float:
        """Returns the value as this knob takes it.

        Raises:
            UserError: it is no number, not whole where it has to be, or out of range.
        """
        whole = self.whole or isinstance(self.default, int)
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            what = "a whole number" if whole else "a number"
            raise UserError(f"the setting {name} = {value!r} has to be {what} from {self.low} to {self.high}")
        return int(value) if whole else float(value)


TEMPERATURE = Knob(None, high=5.0)
MAX_TOKENS = Knob(None, low=1, high=1 << 20, whole=True)
"""Open unless the policy sets them: some models take no temperature, and each knows its own longest answer."""


@dataclass(frozen=True)
class Pattern:
    """A graph pattern with its name, knobs and prompts (name to default text); calling it returns the graph.

    ``roles`` are the further models that it asks beside the agent's own.
    """

    name: str
    build: Callable[[], Builder]
    knobs: Mapping[str, Knob]
    prompts: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    asks: bool = False

    def __call__(self) -> Builder:
        """Returns a new graph."""
        return self.build()


def pattern(
    *, prompts: Mapping[str, str] | None = None, roles: tuple[str, ...] = (), asks: bool = False, **knobs: Knob
) -> Callable[[Callable[[], Builder]], Pattern]:
    """Makes a function that returns a ``StateGraph`` a pattern with these knobs, and prompts with their defaults.

    ``roles`` names the further models it needs: a node asks one with ``runtime.context.ask(…, role="reviewer")``.
    ``asks`` says that a node may ask a person (``interrupt``), so that the run can be resumed.
    """

    def decorate(build: Callable[[], Builder]) -> Pattern:
        return Pattern(name=build.__name__, build=build, knobs=knobs, prompts=prompts or {}, roles=roles, asks=asks)

    return decorate


def resolve_knobs(policy: Policy, knobs: Mapping[str, Knob]) -> dict[str, int | float]:
    """Returns the value of every knob under the policy; those that are left open are missing.

    Raises:
        UserError: the settings hold a knob that does not exist, or a value it does not take.
    """
    settings = policy.settings()
    if unknown := sorted(settings.keys() - knobs.keys()):
        raise UserError(
            f"settings.toml sets {', '.join(map(repr, unknown))}, which this agent does not have; "
            f"its knobs are {', '.join(sorted(knobs))}"
        )
    chosen = {name: settings.get(name, knob.default) for name, knob in knobs.items()}
    return {name: knobs[name].check(name, value) for name, value in chosen.items() if value is not None}


def resolve_prompts(policy: Policy, prompts: Mapping[str, str]) -> dict[str, str]:
    """Returns the text of every prompt under the policy.

    Raises:
        UserError: the policy has a prompt that this agent does not read.
    """
    written = {
        path.removeprefix("prompts/").removesuffix(".md"): path for path in policy.files if path.startswith("prompts/")
    }
    if unknown := sorted(written.keys() - prompts.keys()):
        raise UserError(
            f"the policy has prompts/{unknown[0]}.md, which this agent does not read; "
            f"its prompts are {', '.join(sorted(prompts))}"
        )
    return {name: policy.text(f"prompts/{name}.md", text) for name, text in prompts.items()}
