"""Processes that wait for a word and then save: started once, asked many times."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # one thread a rank
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
PATIENCE_SECONDS = 600.0
END = "end"


class WorkerFailed(Exception):
    """A worker raised, died or said nothing for too long; carries what it printed."""


class Workers:
    """The processes of one group: all of them do what is asked, at the same time."""

    def __init__(
        self,
        module: str,
        arguments: list[str],
        *,
        count: int,
        scratch: Path,
        environment: Mapping[str, str],
    ) -> None:
        """Start them; `count` of None processes form no group of ranks."""
        self._logs, self._processes = [], []
        scratch.mkdir()
        self._listener = Listener(str(scratch / "socket"))
        port = str(_free_port())
        for rank in range(count):
            variables = {**ENVIRONMENT, **environment}
            if count > 1:
                variables |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
                variables |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
                variables |= {"MASTER_ADDR": "127.0.0.1"}
            pairs = [f"{name}={value}" for name, value in variables.items()]
            command = ["env", *pairs, sys.executable, "-m", module, self._listener.address]
            self._logs.append(scratch / f"rank-{rank}.log")
            with self._logs[-1].open("w") as log:
                self._processes.append(
                    subprocess.Popen([*command, *arguments], cwd=REPOSITORY, stdout=log, stderr=log)
                )
        self._connections: list[Connection] = []

    def wait_until_ready(self) -> list[Any]:
        """Return what each said of itself when it was ready."""
        self._listener._listener._socket.settimeout(PATIENCE_SECONDS)  # type: ignore[attr-defined]
        while len(self._connections) < len(self._processes):
            try:
                self._connections.append(self._listener.accept())
            except TimeoutError as error:
                raise self._failure() from error
        return self._answers()

    def ask(self, command: str) -> list[Any]:
        """Let all do something; return what each answers."""
        for connection in self._connections:
            connection.send(command)
        return self._answers()

    def stop(self) -> None:
        """End all, kindly where they listen."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.send(END)
        self._listener.close()
        for process in self._processes:
            try:
                process.wait(20 if self._connections else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _answers(self) -> list[Any]:
        answers = []
        for connection in self._connections:
            try:
                answer = connection.recv() if connection.poll(PATIENCE_SECONDS) else None
            except EOFError:
                answer = None
            if answer is None or isinstance(answer, str):
                raise self._failure(answer)
            answers.append(answer)
        return answers

    def _failure(self, text: str | None = None) -> WorkerFailed:
        tails = "\n".join(f"--- {log}\n{log.read_text()[-4000:]}" for log in self._logs)
        return WorkerFailed(f"{text or 'no answer'}\n{tails}")


def serve(address: str, description: Any, answer: Callable[[str], Any]) -> None:
    """Answer the driver's words until it says END; an error is told, and ends the process."""
    connection = Client(address)
    connection.send(description)
    while (command := connection.recv()) != END:
        try:
            connection.send(answer(command))
        except BaseException:
            connection.send(traceback.format_exc())
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
