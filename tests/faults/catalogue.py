"""The faults: what is injected and what has to come of it; one row each in docs/faults.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    id: str
    injected: str
    required: str


FAULTS = {
    fault.id: fault
    for fault in (
        Fault(
            "F1",
            "a rank is killed with SIGKILL at a random step",
            "every process ends with an error, at most two checkpoint intervals are lost, the"
            " resumed run is bitwise the same; under `launcher run` it takes at most 5 s, and rank,"
            " step and signal are named",
        ),
        Fault(
            "F2",
            "`launcher run` itself is killed with SIGKILL",
            "no rank is left after 10 s, the resumed run is bitwise the same",
        ),
        Fault(
            "F3",
            "a rank is killed before every write, fsync, rename and removal of a save",
            "the next start resumes a verified checkpoint, the half one is reported and its space"
            " freed, the rest is bitwise the same",
        ),
        Fault(
            "F4",
            "SIGTERM, SIGUSR1 or SIGINT to one rank or to all, at a random moment",
            "all ranks commit one checkpoint at one step and exit with 75; no micro-step is"
            " repeated or lost: the resumed run is bitwise the same",
        ),
        Fault(
            "F6",
            "a stop, and SIGKILL before the save is done",
            "the checkpoint before is intact and resumed; a grace shorter than a save is warned of",
        ),
        Fault(
            "F7",
            "more signals while the checkpoint of the first is being saved",
            "the save is completed whole; exit 75",
        ),
        Fault(
            "F9",
            "a rank is stopped with SIGSTOP",
            "it is named within the timeout + 5 s, the stacks of the others are dumped, all are"
            " ended at once",
        ),
        Fault("F10", "a rank is ten times slower", "a warning names it; the run goes on"),
        Fault(
            "F11",
            "the disk is full in the middle of a save",
            "the error gives path, needed and free bytes; the run goes on or stops as the recipe"
            " says; the checkpoint before is valid; what can be foreseen is refused beforehand",
        ),
        Fault(
            "F12",
            "each file of a checkpoint is truncated, emptied, deleted, or one bit is flipped",
            "it is never used: the one before is, and the file is named; with none left, exit 3",
        ),
        Fault(
            "F13",
            "a file of a checkpoint is a pickle that runs code",
            "the code is not run, whatever the manifest says",
        ),
        Fault(
            "F14",
            "the run is resumed on 1, 2, 3 or 4 ranks and at another ZeRO stage",
            "same samples in the same order, losses within 1e-5; or a refusal before the model"
            " loads where the batch can't be divided",
        ),
        Fault(
            "F15",
            "the loss or a gradient of one rank is NaN or infinite",
            "all ranks agree; step and rows are named; the run stops or skips as the recipe says;"
            " nothing of it is logged as a number or becomes the best",
        ),
        Fault(
            "F16",
            "a row in the middle of the data is corrupt",
            "file and line are named before training; in skip mode the rows are counted",
        ),
        Fault(
            "F17",
            "wandb is down: it raises, or never answers",
            "losses are bitwise those without wandb; its trouble is a warning",
        ),
        Fault(
            "F18",
            "the time limit comes",
            "the run stops before it with its checkpoint, exit 75, and resumes bitwise the same",
        ),
        Fault("F19", "the clock jumps by an hour", "no timer notices"),
        Fault(
            "F20",
            "recipe, data or base model are changed before a resume",
            "refused with a diff; `--allow-change KEY` goes on",
        ),
        Fault(
            "F21",
            "two launches in one run folder; and the lock of a dead one",
            "the second is refused and names the holder; a dead holder's lock is taken over",
        ),
        Fault(
            "F23",
            "the kernel kills a rank that is out of memory",
            "it is reported as out of memory, with the knobs that help",
        ),
        Fault(
            "F24",
            "a rank dies at the same step each time it is restarted",
            "restarts end with: no progress in 3 attempts",
        ),
        Fault(
            "F25",
            "a kill between two evaluations of a run that stops early",
            "patience and the best survive: the run stops at the same step with the same best",
        ),
        Fault(
            "F26",
            "fsync fails; the file system becomes read-only",
            "the save is reported as failed, never as saved",
        ),
        Fault(
            "F27",
            "an old checkpoint can't be removed: immutable, busy, or with somebody's notes in it",
            "a warning names its path; every later checkpoint is kept and linked, the run is"
            " bitwise the same",
        ),
        Fault(
            "F28",
            "checkpoints are moved to an archive and linked back",
            "pruning removes the link alone; a run resumes through one; the archive is untouched",
        ),
        Fault(
            "F29",
            "nobody reads what is printed any more",
            "training goes on; a warning says so; bitwise the same",
        ),
        Fault(
            "F30",
            "stray and hostile entries in every folder of a run: pipes, devices, loops of links,"
            " sockets, gigabytes",
            "no reader of the folder fails; the run resumes bitwise the same; what is in the way of"
            " a result is refused by name",
        ),
        Fault(
            "F31",
            "odd records in every file of a run",
            "set aside, counted and said, bitwise the same; an odd recipe is refused by name",
        ),
        Fault(
            "F32",
            "prepared data are altered at equal size",
            "the ranks refuse them; the same command prepares them anew, bitwise the same",
        ),
        Fault(
            "F33",
            "step numbers grow from six digits to seven",
            "the oldest checkpoints are pruned, the newest is resumed, bitwise the same",
        ),
        Fault(
            "F34",
            "strangers at the port where nodes meet: many, silent, rude",
            "the nodes meet, the losses are those of a run without strangers",
        ),
        Fault(
            "F35",
            "the run folder becomes read-only, or is removed, in the middle of a run",
            "the run ends with one error that names it; once it is back the same command resumes"
            " bitwise the same",
        ),
        Fault(
            "F36",
            "another user made a folder first: of the run, the data, the compiled kernels",
            "refused by name with a cure, or a fresh one is taken; nothing of it is used",
        ),
    )
}
