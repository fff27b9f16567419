"""What is looked at on all nodes before any model loads, and the one table that it makes."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.cluster.nodes.facts import RUN_FOLDER, Inquiry
from launcher.cluster.outcome import Category, Cause
from launcher.errors import EXIT_BAD_INPUT, EXIT_FAILED
from launcher.files.remove import remove_file
from launcher.files.write import replace_text
from launcher.run_dir import LogDir

PREFLIGHT_SECONDS = 30.0
COMPARED = {"recipe": "recipe", "ranks": "number of ranks", "python": "Python", "driver": "driver"}
Facts = dict[str, Any]


@dataclass(frozen=True)
class Preflight:
    """What all nodes said."""

    nodes: Sequence[Facts]
    """By node rank; each has `problems`."""
    seconds: float = 0.0
    link: Mapping[str, Any] | None = None
    """The all-reduce; None where there was none."""
    shared_problems: Sequence[str] = field(default=())
    """What is wrong, and not with any one node."""

    @property
    def bad(self) -> list[Facts]:
        """The nodes that can't take part."""
        return [node for node in self.nodes if node["problems"]]

    @property
    def is_ok(self) -> bool:
        """Whether the ranks may start."""
        return not self.bad and not self.shared_problems

    def write(self, logs: LogDir) -> None:
        """Keep it as `preflight.json`."""
        measured = self.link if self.link and "seconds" in self.link else None
        record = {
            "ok": self.is_ok,
            "seconds": round(self.seconds, 2),
            "nodes": list(self.nodes),
            "allreduce": measured,
        }
        with contextlib.suppress(OSError):
            replace_text(logs.preflight, json.dumps(record, indent=1))

    def print(self, console: Console | None = None) -> None:
        """Print one row a node, and how fast they add up."""
        console = console or Console(stderr=True, highlight=False)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("node", "host", "recipe", "launcher", "torch", "driver", "GPUs", "problems"):
            table.add_column(name, overflow="fold")
        for node in self.nodes:
            versions = node.get("versions", {})
            table.add_row(
                str(node["node_rank"]),
                node["host"],
                node.get("recipe", "-"),
                versions.get("shardlaunch") or "-",
                versions.get("torch") or "-",
                node.get("driver") or "-",
                _gpu_text(node),
                Text(
                    "; ".join(node["problems"]) or "none", style="red" if node["problems"] else ""
                ),
            )
        console.print(table)
        if self.link and "seconds" in self.link:
            console.print(
                f"all-reduce of {self.link['bytes'] >> 20} MiB over {len(self.nodes)} nodes:"
                f" {1000 * self.link['seconds']:.1f} ms, {self.link['gigabytes_per_second']:.2f}"
                f" GB/s; preflight took {self.seconds:.1f} s",
                soft_wrap=True,
            )
        elif self.link:
            console.print(f"all-reduce not measured: {self.link['error']}", soft_wrap=True)

    def cause(self, logs: LogDir) -> Cause:
        """Return why the ranks may not start."""
        told = [
            f"node {node['node_rank']} ({node['host']}) {problem}"
            for node in self.bad
            for problem in node["problems"]
        ]
        text = "; ".join([*told, *self.shared_problems])
        category: Category = "node"
        if self.bad and all(node.get("refused") for node in self.bad):
            category = "input"
        return Cause(
            f"preflight failed: {text}. What all nodes said: {logs.preflight}.",
            EXIT_BAD_INPUT if category == "input" else EXIT_FAILED,
            can_restart=category == "node",  # on other nodes
            category=category,
            nodes=tuple(node["host"] for node in self.bad) if category == "node" else (),
            kind="Preflight",
            host=self.bad[0]["host"] if self.bad else None,
        )


def compare(nodes: Iterable[Facts]) -> list[Facts]:
    """Add to each node's problems where it is not as most are; the first decides between halves."""
    found = [{**node, "problems": list(node["problems"])} for node in nodes]
    told = [node for node in found if "versions" in node]
    for key, what in COMPARED.items():
        _compare(told, what, {node["node_rank"]: node[key] for node in told})
    names = sorted({name for node in told for name in node["versions"]})
    for name in names:
        what = "launcher" if name == "shardlaunch" else name
        _compare(told, what, {node["node_rank"]: node["versions"].get(name) for node in told})
    return found


def _compare(nodes: Sequence[Facts], what: str, values: Mapping[int, Any]) -> None:
    counts = Counter(values[node["node_rank"]] for node in nodes)
    if len(counts) < 2:
        return
    usual = max(counts, key=lambda value: counts[value])  # the first of equals is the first node's
    others = "the others have" if len(nodes) > 2 else f"node {nodes[0]['node_rank']} has"
    for node in nodes:
        value = values[node["node_rank"]]
        if value != usual:
            node["problems"].append(f"has {what} {value}, {others} {usual}")


def read_node_files(inquiry: Inquiry, nodes: Iterable[Facts]) -> list[Facts]:
    """Add to each node's problems what it wrote and the head doesn't see."""
    found = []
    for node in nodes:
        problems = list(node["problems"])
        folder = inquiry.folders[RUN_FOLDER]
        written = inquiry.node_file(folder, node["node_rank"])
        if not problems and not written.exists():
            problems.append(f"writes to a {RUN_FOLDER} {folder} that is not the head's")
        found.append({**node, "problems": problems})
    return found


def remove_files(inquiry: Inquiry) -> None:
    """Remove what the nodes have put into the shared folders."""
    for folder in inquiry.folders.values():
        for path in Path(folder).glob(f".preflight-{inquiry.nonce}*"):
            remove_file(path, within=Path(folder))


def _gpu_text(node: Facts) -> str:
    gpus = node.get("gpus", [])
    if not gpus:
        return "-"
    names = Counter(gpu["name"] for gpu in gpus)
    return ", ".join(f"{count} x {name}" for name, count in names.items())
