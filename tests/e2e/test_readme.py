"""Every command of the README works, in the order a reader meets them, and every path exists.

Commands run as they are written, in a folder that looks like a checkout; only what they run there
is smaller: a few rows, SmolLM2's first layers, a few steps.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from launcher.errors import EXIT_STOPPED
from launcher.recipe.resolve import resolve
from tests.support.documented import DEADLINE_SECONDS, run, run_line

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and its kind.

    `cluster`: needs machines that tests don't have. `running`: is about a run that is under way.
    """

    language: str
    kind: str
    text: str


BLOCKS = [
    Block(*match) for match in re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```$", README, re.M | re.S)
]
COMMANDS = [
    (block.kind, line)
    for block in BLOCKS
    if block.language in ("bash", "console")
    for line in block.text.splitlines()
    if line.strip()
]


@pytest.fixture(scope="module")
def sandbox(
    tmp_path_factory: pytest.TempPathFactory,
    minilm_dir: Path,
    smollm2_cut_dir: Path,
    topics_dir: Path,
    chats_dir: Path,
) -> Path:
    """Return a folder with the recipes and the quickstart's assets, all of them cut short."""
    folder = tmp_path_factory.mktemp("checkout")
    assets = folder / "quickstart/assets"
    assets.mkdir(parents=True)
    (assets / "minilm").symlink_to(minilm_dir)
    (assets / "smollm2-135m").symlink_to(smollm2_cut_dir)
    for data, num_train, num_validation in ((topics_dir, 96, 24), (chats_dir, 16, 6)):
        for split, count in (("train", num_train), ("validation", num_validation)):
            cut_rows(data / f"{split}.jsonl", assets / data.name / f"{split}.jsonl", count)
    for source in (REPOSITORY / "recipes").glob("*.yaml"):
        (folder / "recipes").mkdir(exist_ok=True)
        text = source.read_text(encoding="utf-8")
        text = re.sub(r"num_epochs: \d+$", "num_epochs: 1", text, flags=re.M)
        text = re.sub(r"max_steps: \d+$", "max_steps: 2", text, flags=re.M)
        text = re.sub(r"warmup_steps: \d+$", "warmup_steps: 1", text, flags=re.M)
        (folder / "recipes" / source.name).write_text(text, encoding="utf-8")
    return folder


def cut_rows(source: Path, target: Path, count: int) -> None:
    """Copy the first rows; of labelled ones those whose label the training rows have."""
    target.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    train = target.with_name("train.jsonl")
    if target != train:
        known = {json.loads(line).get("label") for line in train.read_text().splitlines()}
        rows = [row for row in rows if row.get("label") in known]
    target.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))


def test_the_readme_has_commands_of_every_verb() -> None:
    verbs = {line.split()[1] for _, line in COMMANDS if line.startswith("launcher ")}
    assert verbs == {"check", "run", "prepare", "export", "report", "schema", "stop", "submit"}


@pytest.mark.parametrize(
    "line", [line for kind, line in COMMANDS if not kind and not line.startswith("make ")]
)
def test_command_runs_as_written(line: str, sandbox: Path) -> None:
    run_line(line, sandbox)


def test_commands_left_behind_what_the_readme_says(sandbox: Path) -> None:
    runs = sorted(path.name for path in (sandbox / "runs").iterdir())
    assert runs == [
        "by-hand", "quickstart", "quickstart-2", "quickstart-smollm2-lora",
        "quickstart-smollm2-qlora",
    ]  # fmt: skip
    for name in runs:
        summary = json.loads((sandbox / "runs" / name / "summary.json").read_text())
        assert summary["outcome"] in ("finished", "early_stopped"), name
    exported = {path.name for path in (sandbox / "exports").iterdir()}
    assert exported == {"quickstart-last", "smollm2-merged"}
    assert json.loads((sandbox / "recipe.schema.json").read_text())["properties"]["train"]


@pytest.mark.parametrize("line", [line for kind, line in COMMANDS if kind == "running"])
def test_command_about_a_run_under_way(line: str, sandbox: Path) -> None:
    long = ["--set", "run.name=under-way", "--set", "train.num_epochs=100"]
    command = ["launcher", "run", "recipes/quickstart.yaml", *long]
    running = subprocess.Popen(command, cwd=sandbox, stdout=subprocess.DEVNULL)
    metrics = sandbox / "runs/under-way/metrics.jsonl"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    run_line(line.replace("quickstart", "under-way"), sandbox)
    assert running.wait(DEADLINE_SECONDS) == EXIT_STOPPED


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"])
def test_python_block_runs(block: Block, sandbox: Path) -> None:
    assert run(["python", "-c", block.text], sandbox).strip()


@pytest.mark.parametrize("line", [line for kind, line in COMMANDS if kind == "cluster"])
def test_a_cluster_command_would_submit_what_it_says(line: str, sandbox: Path) -> None:
    """Its GPUs and its hub model are not here: the script is all that can be had of it."""
    without = "--partition gpu"
    assert without in line
    script = run([*line.replace(without, "").split(), "--dry-run"], sandbox)
    for option in ("nodes=2", "gpus-per-node=8", "time=24:00:00", "requeue"):
        assert f"#SBATCH --{option}\n" in script


@pytest.mark.parametrize("line", [line for _, line in COMMANDS if line.startswith("make ")])
def test_make_target_exists_and_ci_runs_it(line: str) -> None:
    assert run(["make", "--dry-run", *line.split()[1:]], REPOSITORY).strip()
    ci = (REPOSITORY / ".ci/run").read_text(encoding="utf-8").splitlines()
    if line == "make test":  # a part of what CI runs
        line, everything = "make test-all", paths_of("test-all")
        assert all(path.startswith(everything) for path in paths_of("test"))
    assert line in ci, "what the README tells to type has to be run by CI"


def paths_of(target: str) -> tuple[str, ...]:
    """Return the folders and files of tests that a target of the Makefile hands to pytest."""
    printed = run(["make", "--dry-run", target], REPOSITORY).splitlines()
    (line,) = (line for line in printed if "-m pytest" in line)
    return tuple(word for word in line.split() if word.startswith("tests/"))


def test_the_recipe_shown_is_the_recipe() -> None:
    shown = next(block.text for block in BLOCKS if block.language == "yaml")
    assert shown == (REPOSITORY / "recipes/quickstart.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"][1:])
def test_yaml_fragment_fits_into_a_recipe(block: Block, sandbox: Path) -> None:
    path = sandbox / "recipes/fragment.yaml"
    path.write_text(f"extends: quickstart.yaml\nrun: {{name: fragment}}\n{block.text}")
    resolve(path)


def test_every_recipe_is_listed() -> None:
    listed = set(re.findall(r"^\| \[[^]]+\]\(recipes/([^)]+)\)", README, re.M))
    assert listed == {path.name for path in (REPOSITORY / "recipes").glob("*.yaml")}


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 15
    missing = [
        link
        for link in links
        if not link.startswith("https://") and not (REPOSITORY / link).exists()
    ]
    assert not missing


def test_the_run_folder_is_as_drawn(sandbox: Path) -> None:
    drawn = next(block.text for block in BLOCKS if block.text.startswith("runs/quickstart/"))
    names = [name for line in drawn.splitlines()[1:] for name in re.findall(r"[\w./-]+", line[:35])]
    assert len(names) > 12
    for name in names:
        pattern = re.sub(r"step-\d+", "step-*", name)
        assert list((sandbox / "runs/quickstart").glob(pattern)), name


def test_the_file_tree_is_the_repository() -> None:
    tree = next(block.text for block in BLOCKS if block.text.startswith("Makefile "))
    drawn = drawn_paths(tree)
    missing = [path for path in drawn if not (REPOSITORY / path).exists()]
    assert not missing
    tracked = run(["git", "ls-files"], REPOSITORY).split()
    top = {path.split("/")[0] for path in tracked if not path.startswith((".", "README"))}
    inside = {
        "/".join(path.split("/")[:2])
        for path in tracked
        if path.startswith("launcher/") and not path.endswith(("__init__.py", "py.typed"))
    }
    assert top | inside <= {path.rstrip("/") for path in drawn}


def drawn_paths(tree: str) -> list[str]:
    """Return the paths of a commented tree; two spaces of indentation are one folder down."""
    paths, parent = [], ""
    for line in tree.splitlines():
        first, *others = re.split(r" {2,}", line.strip())
        if not line.startswith(" "):
            parent = ""
        names = [first] + [o for o in others if re.fullmatch(r"[A-Z]+|[\w-]*[./][\w./-]*", o)]
        paths += [parent + name for name in names]
        if not line.startswith(" ") and first.endswith("/"):
            parent = first
    return paths


def test_yaml_blocks_are_yaml() -> None:
    for block in BLOCKS:
        if block.language == "yaml":
            assert YAML(typ="safe").load(block.text)
