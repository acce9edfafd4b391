"""Judges: models that give verdicts on one answer, and that compare two.

from whet.feedback.judges import Checklist

verdict = await Checklist({"items": ["It is polite."]}, model=model).verify(task, run)
"""

from whet.feedback.judges.asking import judging_under
from whet.feedback.judges.checklist import Checklist
from whet.feedback.judges.followup import FollowUpJudge
from whet.feedback.judges.judging import ModelJudge
from whet.feedback.judges.pairwise import Pairwise
from whet.feedback.judges.panel import Panel
from whet.feedback.judges.rubric import ASPECTS, Aspects, OwnAnswer, Rubric
from whet.feedback.judges.rubrics import with_rubric
from whet.feedback.judges.steps import StepJudge

__all__ = [
    "ASPECTS",
    "Aspects",
    "Checklist",
    "FollowUpJudge",
    "ModelJudge",
    "OwnAnswer",
    "Pairwise",
    "Panel",
    "Rubric",
    "StepJudge",
    "judging_under",
    "with_rubric",
]
