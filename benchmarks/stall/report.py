"""The measured case as a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from benchmarks.stall.bench import Case, Method
from benchmarks.stall.measure import Save
from benchmarks.stall.ratios import paired_ratio

HEAD = (
    "| | MB written | training waits, s | x bare copy (95 %) | CPU s of the wait | x bare copy"
    " (95 %) | first save, s | behind training, s | CPU s behind | MB/s |"
)


def case_table(case: Case) -> str:
    """Return the table, and what the launcher's stall is made of."""
    tensors = sum(rank["tensors"] for rank in case.described)
    size = sum(rank["bytes"] for rank in case.described)
    parameters = case.described[0]["parameters"]
    title = (
        f"\n### {case.title}: {parameters / 1e6:.1f} M parameters, {size / 1e6:.1f} MB of weights"
        f" and moments in {tensors} tensors\n"
    )
    lines = [
        title,
        HEAD,
        "|---|" + "--:|" * (HEAD.count("|") - 2),
        _floor_row([floor for method in case.methods for floor in method.floors]),
        *map(_row, case.methods),
        "",
        *_parts(case.methods[0]),
        _shares(case.methods),
    ]
    return "\n".join(lines)


def _floor_row(floors: list[Save]) -> str:
    wall = _median(floor.stall_seconds for floor in floors)
    cpu = _median(floor.stall_cpu_seconds for floor in floors)
    return f"| bare copy on the 2 ranks | - | {wall:.4f} | 1 | {cpu:.4f} | 1 | - | - | - | - |"


def _row(method: Method) -> str:
    saves, floors, first = method.saves, method.floors, method.first
    ratio = paired_ratio([s.stall_seconds for s in saves], [f.stall_seconds for f in floors])
    cpu_ratio = paired_ratio(
        [s.stall_cpu_seconds for s in saves], [f.stall_cpu_seconds for f in floors]
    )
    cells = [
        method.name,
        f"{_median(save.num_bytes for save in saves) / 1e6:.1f}",
        f"{_median(save.stall_seconds for save in saves):.4f}",
        str(ratio),
        f"{_median(save.stall_cpu_seconds for save in saves):.4f}",
        str(cpu_ratio),
        f"{first.stall_seconds:.4f}" if first else "-",
        f"{_median(save.background_seconds for save in saves):.2f}",
        f"{_median(save.background_cpu_seconds for save in saves):.2f}",
        f"{_median(save.bytes_per_second for save in saves) / 1e6:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _parts(own: Method) -> list[str]:
    """Say what the stall consists of, and show the pairs that the medians come from."""
    names = dict.fromkeys(name for save in own.saves for name in save.parts)
    parts = {name: _median(s.parts.get(name, 0.0) for s in own.saves) for name in names}
    parts["rest"] = _median(s.stall_seconds - sum(s.parts.values()) for s in own.saves)
    named = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in parts.items())
    stalls = " ".join(f"{1e3 * save.stall_seconds:.1f}" for save in own.saves)
    copies = " ".join(f"{1e3 * floor.stall_seconds:.1f}" for floor in own.floors)
    return [
        f"Parts of the launcher's stall on the slower rank, ms (medians): {named}.",
        f"Its stalls, ms: {stalls}; the copies paired with them: {copies}.",
    ]


def _shares(methods: list[Method]) -> str:
    """Say that nobody wrote around the slow disk."""
    saves = [save for method in methods for save in method.saves]
    least = min(save.throttled_bytes / save.num_bytes for save in saves)
    fastest = max(save.bytes_per_second for save in saves) / 1e6
    return (
        f"Of every checkpoint's bytes at least {100 * least:.2f} % were throttled; the fastest save"
        f" of all was written at {fastest:.1f} MB/s."
    )


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))
