"""The keys of a site file; each is documented beneath itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.schema import SLURM_CONSTRAINT_PATTERN, PositiveInt, Section, SlurmName


class Container(Section):
    """A container that the ranks of a job run in."""

    type: Literal["pyxis", "apptainer"]
    """pyxis: srun --container-image (enroot). apptainer: `apptainer exec` before Python."""
    image: str
    """An image as that tool names it: a file, or `nvcr.io#nvidia/pytorch:25.06-py3`."""
    mounts: tuple[str, ...] = ()
    """SOURCE, SOURCE:TARGET or SOURCE:TARGET:ro each; the working and the run folder are there."""
    python: str = "python3"
    """The Python inside that has the launcher."""


class Site(Section):
    """What a cluster's jobs have in common; a recipe's `cluster` keys come first."""

    partition: SlurmName | None = None
    """Partition of a recipe that names none."""
    account: SlurmName | None = None
    """Account of a recipe that names none."""
    qos: SlurmName | None = None
    """Quality of service of a recipe that names none."""
    constraint: Annotated[str, Field(pattern=SLURM_CONSTRAINT_PATTERN)] | None = None
    """Features of nodes for a recipe that names none."""
    cpus_per_rank: PositiveInt | None = None
    """CPUs of each rank; absent: 4 beside a GPU, else 1."""
    options: tuple[str, ...] = ()
    """More options of sbatch, such as `--exclusive` or `--mem=0`."""
    modules: tuple[str, ...] = ()
    """Modules that are loaded before anything else."""
    setup: tuple[str, ...] = ()
    """Lines of bash after the modules: activate an environment, raise a limit."""
    environment: dict[str, str | int] = Field(default={})
    """Variables of the job, as they are: no part of a value is expanded."""
    pass_variables: tuple[str, ...] = ()
    """Variables that the job gets from the shell that submits it."""
    container: Container | None = None
    """Absent: the ranks run in the Python that submitted the job."""
    template: str | None = None
    """Your own copy of slurm/train.sbatch; relative to this file."""
