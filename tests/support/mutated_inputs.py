"""Tries mutated recipes, DeepSpeed configs, files and command lines on the commands that only read.

python -m tests.support.mutated_inputs 2000          that many; --seed S for others

Each is a process of its own, forked from this one, which has the front end loaded and nothing
heavy: it must end within five seconds and 500 MB with exit code 0 or 2, without a traceback, and
leave every file as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher import cli
from launcher.recipe.resolve import resolve
from launcher.recipe.schema import Recipe
from tests.support.bad_input import DEEPSPEED, RECIPE
from tests.support.mutate import EXCHANGES, odd_text

SECONDS = 5.0
"""Of CPU time; other processes may take the rest."""
WALL_SECONDS = 60.0
MOST_BYTES = 500 << 20
ODD_PATHS = (
    "", ".", "..", "/", "~", "~nobody-here/x", "-", "--", "*", "**", "[", "x\ny", "x\ty",
    "\x1b[31mred", "a" * 256, "é" * 200, "a/" * 2100, "/dev/zero", "/dev/null", "/dev/stdin",
    "/proc/self/mem", "/proc/kmsg", "/root/../root", "\udcff\udcfe", "pipe", "hole", "loop",
    "model", "train.jsonl", "train.jsonl/x", "model/config.json", "%j", "$HOME", "a'b\"c",
    "org/name", "https://example.org/x", "con:aux", "runs/taken", "runs/before",
    "\u202ereversed", "x" * 5000,
)  # fmt: skip
ODD_VALUES = (
    "", "null", "~", "true", "no", "-1", "0", "1", "3.5", "1e300", "-1e300", "1e-300", ".nan",
    ".inf", "9" * 25, "9" * 8000, '"' + "9" * 50 + '"', "1" + "0" * 400, "0x" + "f" * 300,
    "١٢٣", "\uff12", "01", "1_000", "1:30", "24:00:00", "٢٤:00:00", "{}", "[]", "[[]]",
    "{a: {b: c}}", "[" * 3000, "{a: " * 3000, "&a [*a]",
    "*b", "!!python/name:os.system", "'", '"', "|", "a: b: c", "\t", "\\", '"\\0"', '"\\ud800"',
    "x" * 70_000, "\x07", "zero3", "auto", "lora", "qlora", "full", "causal-lm", "bfloat16",
    "float16", "adamw", "steps", "{type: full}", "{type: lora, rank: 0}", "[{path: train.jsonl}]",
    "[{path: train.jsonl, weight: 1}, {path: 7}]", "2024-01-01", "=", "a=b", "%", "{{ x }}",
)  # fmt: skip
ODD_KEYS = (
    "", ".", "..", "train.", ".train", "train..seed", "data.train.0", "data.train.-1.path",
    "data.train.9.path", "data.train.x", "train.learning_rate.x", "a" * 5000, "é", "extends", "<<",
    "model", "train", "data.train", "data.train.\u0660.path", "data.columns.text", "x\ny",
    "\x1b[2J",
)  # fmt: skip
ODD_JSON = (
    "null", "true", "-1", "0", "7", "1.5", "1e999", "-1e999", "NaN", "9" * 25, "9" * 8000, '""',
    '"auto"', '"x"', '"' + "y" * 5000 + '"', "[]", "[1]", "{}", '{"a": {}}', "[" * 3000,
    '{"a":' * 900, '"\\ud800"', "0e1", "1E400", '"\\u0000"',
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A folder that has been altered, and a command to be run in it."""

    arguments: list[str]
    what: str


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    status: int | None
    """Exit code, or minus the signal; None if it had to be killed for its time."""
    cpu_seconds: float
    peak_bytes: int
    text: str


def recipe_keys() -> list[str]:
    """Return the dotted keys of the recipe that is mutated, resolved: nearly all there are."""
    run: Recipe = resolve("recipe.yaml").recipe

    def keys(value: object, above: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from keys(inner, f"{above}.{name}" if above else name)
        elif isinstance(value, list) and value:
            yield from keys(value[0], f"{above}.0")
        if above:
            yield above

    return sorted(set(keys(run.model_dump(mode="json"), "")))


def write_project(folder: Path) -> None:
    """Write what a command reads: recipe, DeepSpeed config, model, data, run folders, odd files."""
    (folder / "model").mkdir(parents=True)
    config = {"model_type": "llama", "hidden_size": 64, "max_position_embeddings": 256}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    header = {"layers.0.q_proj.weight": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}
    encoded = json.dumps(header).encode()
    weights = len(encoded).to_bytes(8, "little") + encoded + bytes(256)
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "train.jsonl").write_text('{"text": "a"}\n' * 24)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "ds.json").write_text(DEEPSPEED)
    (folder / "site.yaml").write_text("partition: main\nsetup: []\n")
    (folder / "template.jinja").write_text("{{ messages }}")
    (folder / "runs" / "taken").mkdir(parents=True)
    (folder / "runs" / "taken" / "thesis.tex").touch()
    (folder / "runs" / "before").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "hole").touch()
    os.truncate(folder / "hole", 1 << 36)


def mutated(keys: list[str], chance: random.Random) -> Trial:
    """Alter the project in the current folder, or the command line."""
    command = chance.choice((*("check",) * 6, "submit", "status", "logs", "runs", "report", "stop"))
    if command in ("status", "logs", "runs", "report", "stop"):
        path = chance.choice((*ODD_PATHS, odd_text(chance)[:300].decode("latin-1")))
        return Trial([command, path.replace("\0", "")], f"{command} {path[:60]!r}")
    arguments = [command, "recipe.yaml", *(["--dry-run"] if command == "submit" else [])]
    said = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        how = chance.choice((_text, _text, _entry, _set, _set, _set, _path, _file, _option))
        said.append(how(arguments, keys, chance))
    return Trial(arguments, "; ".join(said))


def _text(_arguments: list[str], _keys: list[str], chance: random.Random) -> str:
    """Bytes of a file are flipped, cut, doubled or put in."""
    path = Path(chance.choice(("recipe.yaml", "recipe.yaml", "ds.json", "model/config.json")))
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 1 << 20:
        return f"{path} is gone"
    data = bytearray(path.read_bytes() or b"x")
    kind = chance.choice(("flip", "cut", "double", "insert", "swap"))
    where = chance.randrange(len(data))
    if kind == "flip":
        data[where] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[where : where + chance.choice((1, 1, 5, 1000))]
    elif kind == "insert":
        data[where:where] = odd_text(chance)[: chance.choice((1, 10, 10_000))]
    else:
        lines = bytes(data).split(b"\n")
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        if kind == "double":
            lines.insert(other, lines[one])
        else:
            lines[one], lines[other] = lines[other], lines[one]
        data = bytearray(b"\n".join(lines))
    path.write_bytes(data)
    return f"{kind} at byte {where} of {path}"


def _entry(_arguments: list[str], _keys: list[str], chance: random.Random) -> str:
    """A value in a file is another."""
    path = Path(chance.choice(("recipe.yaml", "ds.json", "ds.json", "model/config.json")))
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 1 << 20:
        return f"{path} is gone"
    lines = path.read_bytes().decode("latin-1").split("\n")
    places = [number for number, line in enumerate(lines) if ":" in line]
    if not places:
        return f"{path} has no entries"
    number = chance.choice(places)
    name, _, rest = lines[number].partition(":")
    odd = chance.choice(ODD_VALUES if path.suffix == ".yaml" else ODD_JSON)
    lines[number] = f"{name}: {odd}{',' if rest.rstrip().endswith(',') else ''}"
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    return f"{name.strip()} of {path} is {odd[:40]!r}"


def _set(arguments: list[str], keys: list[str], chance: random.Random) -> str:
    key = chance.choice(ODD_KEYS) if chance.random() < 0.15 else chance.choice(keys)
    value = f"{key}={chance.choice((*ODD_VALUES, *ODD_PATHS))}"
    if chance.random() < 0.05:
        value = value.replace("=", "")
    arguments += ["--set", value]
    return f"--set {value[:60]!r}"


def _path(arguments: list[str], _keys: list[str], chance: random.Random) -> str:
    """A path is odd: the recipe, or one that it names."""
    path = chance.choice(ODD_PATHS)
    keys = ("run.dir", "run.name", "model.path", "model.tokenizer", "model.chat_template",
            "data.cache_dir", "data.train.0.path", "deepspeed", "extends")  # fmt: skip
    key = chance.choice(keys)
    if chance.random() < 0.2:
        arguments[1] = path
        return f"recipe {path[:60]!r}"
    arguments += ["--set", f"{key}={json.dumps(path)}"]
    return f"{key} {path[:60]!r}"


def _file(_arguments: list[str], _keys: list[str], chance: random.Random) -> str:
    """A file is something else: a pipe, a device, gigabytes, a loop."""
    names = ("recipe.yaml", "ds.json", "train.jsonl", "model/config.json", "model", "site.yaml",
             "model/model.safetensors", "runs", "runs/demo", "runs/demo/resolved.yaml",
             "template.jinja", "model/model.safetensors.index.json")  # fmt: skip
    path = Path(chance.choice(names))
    if not path.parent.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
    exchange = chance.choice(EXCHANGES)
    if path.parent.is_dir():
        exchange(path, chance)
    return f"{path} {exchange.__name__}"


def _option(arguments: list[str], _keys: list[str], chance: random.Random) -> str:
    options = ["--processes", "--allow-change", "--unknown", "--set"]
    if arguments[0] == "submit":
        options = [
            "--site",
            "--time",
            "--sweep",
            "--after",
            "--num-nodes",
            "--partition",
            "--prepare-on",
        ]
    option, value = chance.choice(options), chance.choice((*ODD_VALUES, *ODD_PATHS))
    if option == "--sweep":
        value = f"train.seed={value}"
    arguments += [option, value]
    return f"{option} {value[:60]!r}"


def outcome_of(arguments: list[str]) -> Outcome:
    """Run the command in a forked process, in the current folder."""
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            _become(arguments, output.fileno())
        deadline = time.monotonic() + WALL_SECONDS
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended or time.monotonic() > deadline:
                break
            time.sleep(0.002)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
        output.seek(0)
        text = output.read(1 << 20).decode(errors="replace")
    code = os.waitstatus_to_exitcode(status) if ended else None
    seconds = usage.ru_utime + usage.ru_stime
    return Outcome(code, seconds, usage.ru_maxrss * 1024, text)


def _become(arguments: list[str], output: int) -> None:
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, number)
        sys.argv = ["launcher", *arguments]
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def why_bad(trial: Trial, outcome: Outcome) -> str | None:
    """Return which rule a command broke; None if none."""
    if outcome.status is None:
        return f"not done within {WALL_SECONDS:g} s"
    if outcome.cpu_seconds > SECONDS:
        return f"{outcome.cpu_seconds:.1f} s of CPU time"
    if "Traceback" in outcome.text:
        return "a traceback"
    if outcome.status not in (0, 2):
        return f"exit code {outcome.status}"
    if outcome.peak_bytes > MOST_BYTES:
        return f"{outcome.peak_bytes >> 20} MB"
    if outcome.status == 2 and not outcome.text.strip():
        return "refused without a word"
    if "\x1b" in outcome.text or "\x07" in outcome.text or "\u202e" in outcome.text:
        return "control characters on the terminal"
    return None


def contents(folder: Path) -> dict[str, str]:
    """Return what lies in a folder: the kind of each entry, digests of small files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        small = path.is_file() and not path.is_symlink() and state.st_size < 1 << 20
        name = path.relative_to(folder).as_posix()
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if small else str(state.st_mode)
    return found


def try_many(count: int, seed: int, folder: Path) -> list[str]:
    """Return what was wrong, one line a trial."""
    project = folder / "project"
    write_project(project)
    os.chdir(project)
    keys, bad = recipe_keys(), []
    for number in range(count):
        chance = random.Random(seed * 1_000_003 + number)
        shutil.rmtree(project)
        write_project(project)
        os.chdir(project)
        trial = mutated(keys, chance)
        before = contents(project)
        outcome = outcome_of(trial.arguments)
        wrong = why_bad(trial, outcome)
        if wrong is None and trial.arguments[0] != "report" and contents(project) != before:
            wrong = "files were changed"
        if wrong is not None:
            last = outcome.text.strip().splitlines()[-1:] or [""]
            bad.append(f"seed {seed} number {number}: {wrong}: {trial.what}: {last[0][:300]}")
    return bad


def main() -> int:
    """Try as many as asked; exit 1 if any was bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutated_inputs")
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    assert "torch" not in sys.modules
    with tempfile.TemporaryDirectory(prefix="inputs-") as folder:
        bad = try_many(asked.count, asked.seed, Path(folder).resolve())
        os.chdir("/")
    print("\n".join([*bad, f"{asked.count - len(bad)} of {asked.count} held"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
