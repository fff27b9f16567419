"""Slurm's lists of nodes, `n[1-4],m[01-03,7]`, also where there is no scontrol: in a container.

https://slurm.schedmd.com/slurm.conf.html#OPT_NodeName
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_NOBODY = ("", "(null)", "None", "None assigned", "N/A")
_ENTRY = re.compile(r"(?:[^,\[\]]|\[[^\]]*\])+")
_BRACKETS = re.compile(r"\[([^\]]*)\]")


def hostnames(nodes: str) -> tuple[str, ...]:
    """Return the names in a list, in its order, as `scontrol show hostnames` does."""
    if nodes in _NOBODY:
        return ()
    return tuple(name for entry in _ENTRY.findall(nodes) for name in _names(entry))


def _names(entry: str) -> list[str]:
    """Return the names of one entry: every bracket stands for each of its numbers."""
    fixed, *rest = _BRACKETS.split(entry)
    numbers = [_numbers(bracket) for bracket in rest[::2]]
    tails = rest[1::2]
    return [
        fixed + "".join(number + tail for number, tail in zip(chosen, tails, strict=True))
        for chosen in itertools.product(*numbers)
    ]


def _numbers(bracket: str) -> Sequence[str]:
    found = []
    for part in bracket.split(","):
        first, dash, last = part.partition("-")
        if not dash:
            found.append(first)
            continue
        width = len(first)  # 08-11: padded with zeros
        found += [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return found
