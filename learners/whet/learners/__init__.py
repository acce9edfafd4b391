"""Learners propose, the gate decides: everything learned passes here on its way into a policy.

    report = await improve(agent, tasks, ["lessons", "skills"], memory=memory, budget=Budget(calls=2000))
    for promotion in report.promotions:
        print(promotion.decision, promotion.mean, promotion.low, promotion.high, promotion.reason)

A learner sees training tasks only (``TrainMemory``); the gate compares on held-out tasks (``Gate``); what was promoted
is watched on live verdicts and taken back when they turn (``watch``).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.learners.adoption import adopt, incumbent_arm, take_in
    from whet.learners.betting import PairedTest
    from whet.learners.deciding import decide
    from whet.learners.evaluation import Measured, evaluator, measure
    from whet.learners.experience.errors import ErrorMemory
    from whet.learners.gate import Arm, Evaluate, Gate, GateConfig, Progress, Score
    from whet.learners.improve import Event, ImproveConfig, ImproveReport, improve, spent_by
    from whet.learners.learner import Learner, Proposal, load_learner
    from whet.learners.ledger import CountingLedger, Ledger, StoredLedger
    from whet.learners.lessons import LessonLearner
    from whet.learners.skills import SkillLearner
    from whet.learners.stages import Hacking, Hygiene, Lint, Stage
    from whet.learners.view import TrainMemory
    from whet.learners.watch import Watch, retire_harmful, take_back, watch
    from whet.learners.weights.learner import WeightLearner

_WHERE = {
    "Arm": "gate",
    "CountingLedger": "ledger",
    "ErrorMemory": "experience.errors",
    "Evaluate": "gate",
    "Event": "improve",
    "Gate": "gate",
    "GateConfig": "gate",
    "Hacking": "stages",
    "Hygiene": "stages",
    "ImproveConfig": "improve",
    "ImproveReport": "improve",
    "Learner": "learner",
    "Ledger": "ledger",
    "LessonLearner": "lessons",
    "Lint": "stages",
    "Measured": "evaluation",
    "PairedTest": "betting",
    "Progress": "gate",
    "Proposal": "learner",
    "Score": "gate",
    "SkillLearner": "skills",
    "Stage": "stages",
    "StoredLedger": "ledger",
    "TrainMemory": "view",
    "Watch": "watch",
    "WeightLearner": "weights.learner",
    "adopt": "adoption",
    "decide": "deciding",
    "evaluator": "evaluation",
    "improve": "improve",
    "incumbent_arm": "adoption",
    "load_learner": "learner",
    "measure": "evaluation",
    "retire_harmful": "watch",
    "spent_by": "improve",
    "take_back": "watch",
    "take_in": "adoption",
    "watch": "watch",
}

__all__ = [
    "Arm",
    "CountingLedger",
    "ErrorMemory",
    "Evaluate",
    "Event",
    "Gate",
    "GateConfig",
    "Hacking",
    "Hygiene",
    "ImproveConfig",
    "ImproveReport",
    "Learner",
    "Ledger",
    "LessonLearner",
    "Lint",
    "Measured",
    "PairedTest",
    "Progress",
    "Proposal",
    "Score",
    "SkillLearner",
    "Stage",
    "StoredLedger",
    "TrainMemory",
    "Watch",
    "WeightLearner",
    "adopt",
    "decide",
    "evaluator",
    "improve",
    "incumbent_arm",
    "load_learner",
    "measure",
    "retire_harmful",
    "spent_by",
    "take_back",
    "take_in",
    "watch",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_WHERE[name]}")
    # Importing a module sets its own name here (improve, watch), so the functions of that name are set after it.
    globals().update({each: getattr(module, each) for each, where in _WHERE.items() if where == _WHERE[name]})
    return globals()[name]
