"""RLTF-FM: beside GRPO the policy learns to say what critics say, so that it knows what would be wrong."""

from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, need
from whet.learners.weights.methods.groups import Grouped, comparable, counted
from whet.learners.weights.methods.hindsight import critic_prompt
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row, answer_row

__all__ = ["RLTFFM"]


class RLTFFM(Grouped, frozen=True, kw_only=True):
    """Reinforcement learning from text feedback, by feedback modelling: critiques are targets.

    ``coefficient`` of the critiques' likelihood.
    """

    info = Info(
        name="rltf-fm",
        family="policy-gradient",
        title="grpo, and critiques as something to predict",
        paper="arXiv 2602.02482",
        needs=("several judged runs of each task", "critiques"),
    )
    rollouts = Rollouts()
    discount: float = 0.1
    coefficient: float = 0.01

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows of multi-turn grpo, and one for each criticised answer with the critique as target.

        Raises:
            UserError: no task has several judged runs, or none was criticised.
        """
        rows, told = list[Row](), list[Row]()
        for task_id, group in comparable(experience, self).items():
            for one, weights in zip(group, self.compare(group), strict=True):
                rows += counted(one, weights, task_id)
                told += _criticised(one)
        need(told, self.info.name, "critiques", "run an agent with a critic (whet run start TASKS --graph refine)")
        return [*rows, *told]

    def objectives(self) -> dict[str, Objective]:
        """Returns the policy gradient, and the likelihood of critiques."""
        return {"": self.loss(), "critique": NLL(coefficient=self.coefficient)}


def _criticised(one: Conversation) -> list[Row]:
    rows = []
    for turn in one.turns:
        critiques = [critique for critique in turn.critiques if critique.sign == "negative"]
        if critiques:
            said = "\n".join(critique.text.strip() for critique in critiques)
            rows.append(
                answer_row(
                    critic_prompt(turn.attempt.messages, turn.attempt.text),
                    said,
                    term="critique",
                    off_policy=True,
                    task_id=one.task.id,
                    sources=one.sources,
                    trust=one.episode.run.trust,
                )
            )
    return rows
