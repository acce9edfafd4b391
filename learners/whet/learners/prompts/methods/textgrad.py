"""TextGrad: criticise the prompt by its failures, rewrite it by the criticism, and take back what did not help.

learner = TextGrad(model="openai/gpt-4o-mini", runs=200)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from whet.learners.prompts.archive import Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, examples, fenced

__all__ = ["CRITICISE", "TextGrad"]

CRITICISE = """\
Below is a part of a prompt, and what came of it on some tasks. Say what in this text led to the failures and what is
missing in it. Criticise only; do not write a new version.

# Text ({part})
{text}

# Results
{examples}"""

_REWRITE = """\
Improve this part of a prompt by the criticism. It has to serve other tasks of this kind as well, so keep what works and
do not mention single examples. Answer with the whole new text between lines of three back-ticks.

# Text ({part})
{text}

# Criticism
{criticism}

# Results
{examples}{earlier}"""


@dataclass(kw_only=True)
class TextGrad(PromptLearner):
    """Textual gradients (Yuksekgonul et al. 2024, arXiv 2406.07496).

    ``memory``: how many earlier criticisms the rewriting model sees. A rewrite that does not gain on its own tasks is
    not admitted, one that does not gain on the validation tasks is not built upon: the paper's revert.
    """

    name: ClassVar[str] = "textgrad"
    memory: int = 2

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns one rewrite of each part, made from a minibatch; none where nothing failed."""
        parent = parents[0]
        on = tuple(await lab.run(parent.policy, lab.minibatch(self.minibatch)))
        if all(each.score >= 1.0 for each in on):
            return []
        earlier = [node.note for node in lab.archive.children(parent)][-self.memory :] if self.memory else []
        told = "".join(f"\n\n# Did not help\n{note}" for note in earlier)
        drafts = []
        for part, text in parent.parts.items():
            criticism = await lab.ask(CRITICISE.format(part=part, text=text, examples=examples(on)))
            asked = _REWRITE.format(part=part, text=text, criticism=criticism, examples=examples(on), earlier=told)
            drafts.append(Draft(parts={part: fenced(await lab.ask(asked))}, parents=(parent,), note=criticism, on=on))
        return drafts
