"""Task sets: loaded by a spec, split by a hash of each task's id, checked before a token is spent.

from whet.agents.tasksets import TrainView, load_tasks, validate

task_set = load_tasks("world:7?n=100&lengths=1-3")
view = TrainView(task_set)              # all that a learner is given
report = await validate(task_set)       # do references pass, do empty answers fail?
"""

from whet.agents.tasksets.registry import KINDS, load_tasks
from whet.agents.tasksets.splits import TrainView, of_split, split_of
from whet.agents.tasksets.validation import ValidationFailure, ValidationReport, empty_answer, validate

__all__ = [
    "KINDS",
    "TrainView",
    "ValidationFailure",
    "ValidationReport",
    "empty_answer",
    "load_tasks",
    "of_split",
    "split_of",
    "validate",
]
