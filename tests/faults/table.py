"""docs/faults.md, generated from what the trials came to."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.catalogue import FAULTS

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "faults.json"
TABLE = DOCS / "faults.md"
HEAD = """\
# What a run survives

Written by `make faults` from what its trials came to; don't edit it. Every trial runs real
processes: two ranks, DeepSpeed at ZeRO-2 and ZeRO-3, full fine-tuning and LoRA with dropout, an
evaluation and a checkpoint every two of eight steps. "Bitwise the same" means that every later
loss, gradient norm, learning rate and validation metric, the best step and the exported bytes are
those of the run that nothing happened to. CI runs a sample by a fixed seed
(`tests/faults/test_faults.py`).
"""


@dataclass(frozen=True)
class Result:
    """What one trial came to."""

    fault: str
    setting: str
    name: str
    held: bool
    said: str


def load_results() -> list[Result]:
    """Return the results of the last complete run of each fault."""
    if not RESULTS.exists():
        return []
    return [Result(**result) for result in json.loads(RESULTS.read_text())]


def save_results(results: list[Result]) -> None:
    """Keep the results beside the table."""
    lines = ",\n".join(json.dumps(asdict(result)) for result in _in_order(results))
    RESULTS.write_text(f"[\n{lines}\n]\n")


def write_table(results: list[Result]) -> None:
    """Write one row a fault: what is injected, what has to hold, and how often it did."""
    lines = [HEAD, "| | injected | has to hold | held | seen |", "|---|---|---|---|---|"]
    for fault in FAULTS.values():
        own = [result for result in results if result.fault == fault.id]
        held = sum(result.held for result in own)
        seen = Counter(result.said for result in own if result.held)
        said = "; ".join(f"{count}x {text}" for text, count in seen.most_common(3))
        count = f"{held} of {len(own)}" if own else "not tried yet"
        cells = (fault.id, fault.injected, fault.required, count, said)
        lines.append(f"| {' | '.join(cells)} |")
    TABLE.write_text("\n".join(lines) + "\n")


def _in_order(results: list[Result]) -> list[Result]:
    order = list(FAULTS)
    return sorted(results, key=lambda result: order.index(result.fault))
