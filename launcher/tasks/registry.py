"""All tasks by name; a new one is a file of its own and a line here."""

from __future__ import annotations

from launcher.recipe.schema import TaskName
from launcher.tasks.causal_lm import CausalLM
from launcher.tasks.interface import Task
from launcher.tasks.sequence_classification import SequenceClassification

TASKS: dict[TaskName, Task] = {task.name: task for task in (CausalLM(), SequenceClassification())}


def task_for(name: TaskName) -> Task:
    """Return the task that a recipe's `model.task` names."""
    return TASKS[name]
