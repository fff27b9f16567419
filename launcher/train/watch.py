"""What ties a rank to the outside: stop signals in, heartbeats and stacks out, its parent's end."""

from __future__ import annotations

import faulthandler
import signal
from dataclasses import dataclass

from launcher.files.write import append_descriptor
from launcher.process import die_with_parent
from launcher.train.heartbeat import Heartbeat
from launcher.train.stop import StopFlag, install_signal_handlers
from launcher.world import World


@dataclass(frozen=True)
class RankWatch:
    """The stop flag and the heartbeat of one rank."""

    stop: StopFlag
    heartbeat: Heartbeat


def start_watch(world: World) -> RankWatch:
    """Make a process a rank that can be stopped, watched and ended; before anything slow.

    The heartbeat comes last: whoever sees it may signal this process.
    """
    stop = StopFlag()
    install_signal_handlers(stop)
    if world.agent_pid is not None:
        die_with_parent(world.agent_pid)
    if world.logs is not None:
        stacks = append_descriptor(world.logs.stacks(world.rank))
        faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
        faulthandler.enable(file=stacks)  # a crash in native code shows where it was called from
    heartbeat = Heartbeat(world, stop)
    heartbeat.start()
    return RankWatch(stop, heartbeat)


def quiet_watch(world: World) -> RankWatch:
    """Return a watch that nobody outside sees or sets: no handlers, no heartbeat file."""
    stop = StopFlag()
    return RankWatch(stop, Heartbeat(world, stop))
