"""Every combination of values, each with a name of its own."""

from __future__ import annotations

import pytest

from launcher.cluster.slurm.sweep import Task, named, tasks_of
from launcher.errors import InputError


def test_no_sweep_is_one_task() -> None:
    assert tasks_of(()) == [Task((), "")]


def test_every_combination_with_a_name_that_says_it() -> None:
    tasks = tasks_of(("train.learning_rate=1e-5,2e-5", "run.seed=1,2"))
    assert [task.suffix for task in tasks] == [
        "-learning_rate-1e-5-seed-1",
        "-learning_rate-1e-5-seed-2",
        "-learning_rate-2e-5-seed-1",
        "-learning_rate-2e-5-seed-2",
    ]
    assert tasks[1].overrides == ("train.learning_rate=1e-5", "run.seed=2")


def test_commas_in_lists_and_texts_are_no_separators() -> None:
    lists, texts = tasks_of(("method.target_modules=[q,v],[k]",)), tasks_of(('a.b="x,y",z',))
    assert [task.overrides[0] for task in lists] == [
        "method.target_modules=[q,v]",
        "method.target_modules=[k]",
    ]
    assert [task.overrides[0] for task in texts] == ['a.b="x,y"', "a.b=z"]


def test_values_that_only_punctuation_tells_apart_are_numbered() -> None:
    assert [task.suffix for task in tasks_of(("a.b=[x],x",))] == ["-0", "-1"]


def test_a_long_name_ends_with_the_task() -> None:
    task = Task((), "-" + "x" * 40)
    assert named("a" * 90, task, 7) == "a" * 90 + "-7"
    assert len(named("a" * 100, task, 999)) <= 100


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("train.learning_rate", "need KEY=V1,V2"),
        ("train.learning_rate=1", "at least two values"),
        ("train.learning_rate=1,,2", "at least two values"),
        ("train.learning_rate=1,1", "stands twice"),
        ("run.name=a,b", "follows from the values"),
        ("cluster.num_nodes=1,2", "all alike"),
        ("run.seed=" + ",".join(map(str, range(1001))), "1000 at most"),
    ],
)
def test_what_is_no_sweep(sweep: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tasks_of((sweep,))


def test_a_key_twice() -> None:
    with pytest.raises(InputError, match=r"run\.seed is given twice"):
        tasks_of(("run.seed=1,2", "run.seed=3,4"))


def test_millions_of_combinations_are_refused_before_they_are_made() -> None:
    values = ",".join(map(str, range(2000)))
    sweeps = [f"train.{key}={values}" for key in ("max_steps", "warmup_steps", "eps")]
    with pytest.raises(InputError, match=f"{2000**3} combinations"):
        tasks_of(sweeps)
