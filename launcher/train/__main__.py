"""One rank's process: `accelerate launch ... -m launcher.train RECIPE` starts it.

What is imported here is quick: until the signal handlers are there, a stop signal is a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from launcher.errors import EXIT_FAILED, LauncherError, Stopped
from launcher.files.write import append_descriptor
from launcher.lock import release_all
from launcher.recipe.consent import Consent
from launcher.streams import outlive_readers
from launcher.train.watch import RankWatch, start_watch
from launcher.world import World

LAST_WORDS_SECONDS = 300.0
"""What rank 0 may take to end its records, after which the other ranks leave without it."""


def main() -> int:
    """Watch, train, report, and return the exit code."""
    world = World.from_environment()
    watch = start_watch(world)
    terminal = divert_output(world)
    try:
        train(world, terminal, watch)
        watch.heartbeat.at("done")
    except Stopped as stopped:
        watch.heartbeat.at("done")
        return report_stop(stopped, world)
    except Exception as error:  # noqa: BLE001 - whatever ends a rank is reported, and ends it
        return report_failure(error, world, watch)
    finally:
        watch.heartbeat.stop()
        release_all()
    return 0


def train(world: World, terminal: TextIO, watch: RankWatch) -> None:
    """Resolve the recipe and carry this rank to its end."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m launcher.train")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    Consent.add_to(parser)
    arguments = parser.parse_args()
    started = time.monotonic()
    from launcher.recipe.resolve import resolve

    resolved = resolve(
        arguments.recipe,
        arguments.overrides,
        processes=world.world_size,
        consent=Consent.of(arguments),
    )
    if world.logs is None and resolved.recipe.run.max_hours is not None:
        watch.heartbeat.limit(started + 3600 * resolved.recipe.run.max_hours)
    watch.heartbeat.at("start")
    # torch takes seconds to load: bad input has been refused before that.
    from launcher.train.run import run_rank

    watch.heartbeat.at("start")
    run_rank(resolved, world, terminal, watch=watch)


def divert_output(world: World) -> TextIO:
    """Send what libraries print to this rank's log; return the stream for our own lines.

    Only rank 0 keeps the terminal. Without a log folder (processes started by hand) nothing is
    diverted.
    """
    if world.logs is None:
        return sys.stdout
    terminal = os.fdopen(os.dup(1), "w", buffering=1)
    log = append_descriptor(world.logs.rank(world.rank))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    outlive_readers()  # a full disk must not end a rank whose library prints
    return terminal


def report_stop(stopped: Stopped, world: World) -> int:
    """Say on rank 0 that the run stopped as it was asked to; no failure."""
    from launcher.train.failure import write_stopped

    if world.is_main_process:
        if world.logs is not None:
            with contextlib.suppress(OSError):  # a full disk: the heartbeat says it too
                write_stopped(stopped, world.logs)
        print(stopped, file=sys.stderr, flush=True)
    elif world.logs is not None:
        # The agent takes the first exit for a failure, and gives the others 30 s.
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while not world.logs.stopped.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    return stopped.exit_code


def report_failure(error: Exception, world: World, watch: RankWatch) -> int:
    """Say what went wrong where it is read: the log, the failure file, once on the terminal."""
    from launcher.train.failure import describe_failure, write_failure

    failure = describe_failure(error, world, watch.heartbeat.place)
    if world.logs is not None:
        with contextlib.suppress(OSError):  # a full disk: then it is in the log alone, if there
            write_failure(failure, world.logs)
    if not isinstance(error, LauncherError):
        print(failure["traceback"], file=sys.stderr, flush=True)
    elif world.logs is not None or world.is_main_process:
        print(error, file=sys.stderr, flush=True)
    return error.exit_code if isinstance(error, LauncherError) else EXIT_FAILED


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a communication library that wait for dead peers must not keep this rank alive.
    os._exit(code)
