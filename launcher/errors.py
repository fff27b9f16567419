"""Errors meant for the user: each knows its exit code and is printed without a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NO_CHECKPOINT = 3
EXIT_STOPPED = 75  # BSD sysexits EX_TEMPFAIL: "try again", which a scheduler may act on


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input, in the four parts a reader needs to mend it.

    `place` is `file:line`, an override (`--set train.seed=x`) or a path; `key` the dotted recipe or
    DeepSpeed key (empty where there is none); `message` gives the value seen and the rule it
    breaks; `cure` says what to write instead.
    """

    place: str
    key: str
    message: str
    cure: str = ""

    def __str__(self) -> str:
        head = f"{self.place}: {self.key}: " if self.key else f"{self.place}: "
        return f"{head}{self.message}{f' {self.cure}' if self.cure else ''}"


class LauncherError(Exception):
    """The base of all errors a user can act on; `exit_code` is what the process ends with."""

    exit_code = EXIT_FAILED


class InputError(LauncherError):
    """Bad recipe, DeepSpeed config, data, model folder or geometry; carries every problem found."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NoCheckpointError(LauncherError):
    """A checkpoint was asked for and none that verifies exists."""

    exit_code = EXIT_NO_CHECKPOINT


class TrainingError(LauncherError):
    """The run can't go on: the message names the step, what was seen and what to change."""


class NonFiniteError(TrainingError):
    """A loss or gradient is NaN or infinite, and the recipe says to stop then."""


class Stopped(LauncherError):
    """No failure: the run was asked to stop and did, at a step boundary, with its state saved."""

    exit_code = EXIT_STOPPED

    def __init__(self, step: int, reason: str) -> None:
        self.step = step
        self.reason = reason
        when = f"at step {step}" if step else "before the first step"
        super().__init__(f"stopped {when} ({reason}); the same command resumes it.")


OF_A_PATH = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.ENXIO,
}  # fmt: skip
"""A system's errors that another path, or other permissions, would have spared."""


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn what the system refuses into an error that is told without a traceback.

    A path that is too long, not permitted or read-only is the user's to mend: exit code 2.
    """
    try:
        yield
    except RuntimeError as error:  # of Path.expanduser
        if "home directory" not in str(error):
            raise
        message = "the home directory that `~` stands for is not known."
        raise InputError(Problem("a path", "", message, "Write it in full.")) from error
    except OSError as error:
        if error.filename is None or error.errno not in OF_A_PATH:
            raise LauncherError(f"{type(error).__name__}: {error}.") from error
        cure = "Correct the path, or its permissions."
        raise InputError(Problem(str(error.filename), "", f"{error.strerror}.", cure)) from error
