"""The splits of a task set, and a view for learners that holds nothing but the training split.

view = TrainView(load_tasks("world:7"))
view.tasks                  # training tasks; anything else is refused
"""

from collections.abc import Iterator

from whet.core.errors import NotFoundError, RefusedError
from whet.core.records import Split, Task, TaskSet
from whet.core.splits import split_of

__all__ = ["TrainView", "of_split", "split_of"]


def of_split(task_set: TaskSet, split: Split) -> tuple[Task, ...]:
    """Returns the tasks of one split, in the set's order."""
    return tuple(task for task in task_set.tasks if task.split == split)


class TrainView:
    """What a learner is given of a task set: the training tasks. The others are not in it, only their ids are."""

    def __init__(self, task_set: TaskSet) -> None:
        self.name, self.version, self.packages = task_set.name, task_set.version, task_set.packages
        self.tasks = of_split(task_set, "train")
        self._withheld = {task.id: task.split for task in task_set.tasks if task.split != "train"}

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def get(self, task_id: str) -> Task:
        """Returns a training task.

        Raises:
            RefusedError: it belongs to another split.
            NotFoundError: the set has no such task.
        """
        if task_id in self._withheld:
            raise _refused(f"task {task_id!r}", self._withheld[task_id])
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise NotFoundError(f"no task {task_id!r} in {self.name!r}")

    def split(self, split: Split) -> tuple[Task, ...]:
        """Returns the training tasks when asked for ``train``; raises RefusedError for any other split."""
        if split != "train":
            raise _refused(f"the split of {self.name!r}", split)
        return self.tasks


def _refused(what: str, split: Split) -> RefusedError:
    reader = "the gate" if split == "heldout" else "the final report"
    return RefusedError(f"{what} is {split}: only {reader} may read it; learn from the train split")
