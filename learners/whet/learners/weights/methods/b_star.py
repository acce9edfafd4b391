"""B-STaR: choose temperature and threshold by how many different right answers they give, and how few wrong ones.

    balance(unique=6, selected=8, target=8)                # 0.5625 = min(6/8, 1) · 6/8
    setting = choose(samples, thresholds=(0.0, 0.5, 1.0), target=8)
    setting.temperature, setting.threshold

The rows are those of rejection sampling at that setting, and the policy goes on at that temperature.
"""

from collections.abc import Iterable, Mapping, Sequence

from whet.core.policy import Policy
from whet.core.records import Json, Record
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.selection import balanced, distinct, grouped
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["BStar", "Setting", "balance", "choose"]


class Setting(Record, frozen=True, kw_only=True):
    """A temperature to sample at, a score to select from, and the mean balance score over tasks, in [0, 1]."""

    temperature: float
    threshold: float
    balance: float


class BStar(Method, frozen=True, kw_only=True):
    """Imitates what is selected at the setting that balances exploration and exploitation (arXiv 2412.17256).

    ``target`` n*: how many different right answers to a task are enough. ``thresholds``: scores to choose from; an
    answer is selected from the chosen one on. Temperatures are those that the runs were sampled at.
    """

    info = Info(
        name="b-star",
        family="imitation",
        title="B-STaR: balanced self-taught reasoner",
        paper="arXiv 2412.17256",
        needs=("judged runs sampled at several temperatures",),
    )
    per_task: int = 8
    target: int = 8
    thresholds: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each different right answer selected at the chosen setting.

        Raises:
            UserError: the runs were sampled at fewer than two temperatures, or nothing passed.
        """
        setting = self.setting(experience)
        good = distinct(one for one in _selected(_samples(experience), setting) if one.passed)
        how = "run more training tasks, at other temperatures (temperature in settings.toml)"
        need(good, "b-star", "answers that passed", how)
        return [one.row() for one in balanced(good, self.per_task, kit.rng)]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)

    def serving(self, policy: Policy, experience: Experience) -> Mapping[str, str]:
        """Returns the settings with the chosen temperature, at which the next experience is sampled."""
        settings = policy.settings() | {"temperature": self.setting(experience).temperature}
        return {"settings.toml": "".join(f"{name} = {_toml(value)}\n" for name, value in sorted(settings.items()))}

    def setting(self, experience: Experience) -> Setting:
        """Returns the chosen setting.

        Raises:
            UserError: there are samples at fewer than two temperatures.
        """
        samples = _samples(experience)
        several = {one.temperature for one in samples}
        what = f"judged answers sampled at several known temperatures (found: {sorted(map(str, several)) or 'none'})"
        how = "run training tasks with another temperature in the policy's settings.toml, or use rft"
        need(several if len(several) > 1 else (), "b-star", what, how)
        return choose(samples, self.thresholds, self.target)


def balance(unique: int, selected: int, target: int) -> float:
    """Returns min(n′/n*, 1) · n′/n of one task: n′ different right answers among n selected ones, n* is the target."""
    return min(unique / target, 1.0) * unique / selected if selected else 0.0


def choose(samples: Sequence[Solution], thresholds: Iterable[float], target: int) -> Setting:
    """Returns the setting of the highest mean balance, of equal ones the lowest temperature and the highest threshold.

    Temperatures are compared on the tasks that were sampled at each of them; where there is none, on all, and a task
    without samples counts as 0.
    """
    by_temperature = {t: [one for one in samples if one.temperature == t] for t in {one.temperature for one in samples}}
    shared = set.intersection(*({one.task.id for one in group} for group in by_temperature.values()))
    tasks = shared or {one.task.id for one in samples}
    settings = [
        Setting(temperature=t or 0.0, threshold=threshold, balance=_mean_balance(group, threshold, target, tasks))
        for t, group in by_temperature.items()
        for threshold in thresholds
    ]
    return max(settings, key=lambda one: (one.balance, -one.temperature, one.threshold))


def _mean_balance(group: Sequence[Solution], threshold: float, target: int, tasks: set[str]) -> float:
    by_task = grouped(one for one in group if (one.score or 0.0) >= threshold)
    scores = [_balance_of(by_task.get(task, []), target) for task in tasks]
    return sum(scores) / len(scores)


def _balance_of(selected: Sequence[Solution], target: int) -> float:
    return balance(len({one.key for one in selected if one.passed}), len(selected), target)


def _samples(experience: Experience) -> list[Solution]:
    known = [one for one in solutions(experience) if one.passed is not None and one.temperature is not None]
    return [one for one in known if not one.off_policy]


def _selected(samples: Iterable[Solution], setting: Setting) -> list[Solution]:
    at = [one for one in samples if one.temperature == setting.temperature]
    return [one for one in at if (one.score or 0.0) >= setting.threshold]


def _toml(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
