"""What may come to lie in a folder: files cut, altered, or exchanged, and strays."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 7, 1.5, -0.0, 1e308, 2**63, 2**64, 10**39, "", "x", "7", "NaN",
    "\x1b[2J\x07", "\ud83d", "a" * 5000, [], [1], [[]], {}, {"a": {}}, "../../x", "/etc/passwd",
)  # fmt: skip
ODD_TEXTS = (
    "[" * 20_000, '{"step": ' * 20_000, '{"step": ' + "9" * 5000 + "}", '{"step": 1e999}', "null",
    "[]", "7", '"text"', "{}", "\x00" * 64, "\ufeff{}", '{"step": 1, "step": 2}', "}{", "é" * 100,
    "&a [*a]", "? ", "!!python/object:os.system {}", "- - - -", "\t", "%YAML 9.9\n---\n",
)  # fmt: skip
STRAYS = (
    "logs/abc", "logs/999", "logs/0007", "logs/-1", "logs/" + "9" * 30, "logs/٣٣٣", "jobs/x",
    "jobs/007", "checkpoints/step-x", "checkpoints/step-9999999", "checkpoints/step-000000",
    "checkpoints/.tmp", "checkpoints/step-000005", "lock.json.1", "stop.json", "submit-lock.json",
    "best", "latest", "export", "wandb", "meeting.key", "report.html", "timings.json",
)  # fmt: skip

Mutation = Callable[[Path, random.Random], None]


def mutate(root: Path, chance: random.Random) -> str:
    """Change one thing in a folder; return what."""
    regular = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    files = sorted(path for path in regular if path.stat().st_size < 1 << 20)
    if not files or chance.random() < 0.2:
        path = root / chance.choice(STRAYS)
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return _apply(path, chance.choice(EXCHANGES), chance)
    path = chance.choice(files)
    kinds = [*CHANGES, *EXCHANGES]
    if path.suffix in (".json", ".jsonl"):
        kinds += [alter_json] * len(kinds)
    return _apply(path, chance.choice(kinds), chance)


def _apply(path: Path, mutation: Mutation, chance: random.Random) -> str:
    mutation(path, chance)
    return f"{mutation.__name__} {path}"


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def remove(path: Path, _chance: random.Random) -> None:
    path.unlink()


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"x")
    for _ in range(chance.choice((1, 1, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def insert_line(path: Path, chance: random.Random) -> None:
    lines = path.read_bytes().split(b"\n")
    lines.insert(chance.randrange(len(lines) + 1), odd_text(chance))
    path.write_bytes(b"\n".join(lines))


def alter_json(path: Path, chance: random.Random) -> None:
    """Put an odd value in some place of a JSON value, or of one line of JSON lines."""
    lines = path.read_text().split("\n") if path.suffix == ".jsonl" else [path.read_text()]
    index = chance.randrange(len(lines))
    try:
        value = json.loads(lines[index])
    except ValueError:
        return
    lines[index] = json.dumps(_altered(value, chance))
    path.write_text("\n".join(lines))


def _altered(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _altered(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        index = chance.randrange(len(value))
        return [*value[:index], _altered(value[index], chance), *value[index + 1 :]]
    return chance.choice(ODD_VALUES)


def odd_text(chance: random.Random) -> bytes:
    """Return what isn't a record, nor a recipe."""
    text = chance.choice((*ODD_TEXTS, chance.randbytes(64).decode("latin-1")))
    return text.encode(errors="surrogatepass")


def _cleared(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def as_text(path: Path, chance: random.Random) -> None:
    _cleared(path).write_bytes(odd_text(chance))


def as_folder(path: Path, _chance: random.Random) -> None:
    (_cleared(path) / "inner").mkdir(parents=True)


def as_pipe(path: Path, _chance: random.Random) -> None:
    os.mkfifo(_cleared(path))


def as_socket(path: Path, _chance: random.Random) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(_cleared(path).parent)  # a path of a socket has 107 characters at most
    try:
        listener.bind(path.name[:100])
    finally:
        os.chdir(here)
        listener.close()


def as_device(path: Path, _chance: random.Random) -> None:
    _cleared(path).symlink_to("/dev/zero")


def as_dangling_link(path: Path, _chance: random.Random) -> None:
    _cleared(path).symlink_to("nowhere")


def as_loop(path: Path, _chance: random.Random) -> None:
    _cleared(path).symlink_to(path.name)


def as_hole(path: Path, _chance: random.Random) -> None:
    with _cleared(path).open("wb") as file:
        file.truncate(1 << 36)


CHANGES: tuple[Mutation, ...] = (truncate, remove, flip, flip, insert_line)
EXCHANGES: tuple[Mutation, ...] = (
    as_text, as_text, as_folder, as_pipe, as_socket, as_device, as_dangling_link, as_loop, as_hole,
)  # fmt: skip
