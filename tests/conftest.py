"""What all tests share: one thread, no network, clean variables, real weights, honest skips."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Set before torch, tokenizers or the hub's library is imported; processes that tests start inherit
# them. One OpenMP thread: a forked rank whose parent has run a thread pool hangs in its first
# tensor operation.
os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    GLOO_SOCKET_IFNAME="lo",
    DS_ACCELERATOR="cpu",
    TOKENIZERS_PARALLELISM="false",
    # One ninja for all: another version compiles DeepSpeed's operator anew.
    PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
)
# A shell lets its background jobs ignore these, and the launches that tests start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
for _name in [name for name in os.environ if name.startswith(("WANDB_", "ACCELERATE_", "PET_"))]:
    del os.environ[_name]

import pytest

# What these assert is shown in full, as of the tests themselves.
pytest.register_assert_rewrite("tests.faults", "tests.support")

from quickstart import assets
from tests.support.operators import build_operators

if TYPE_CHECKING:
    from tests.support.training import Runs

REPOSITORY = Path(__file__).resolve().parent.parent
PROCESS_TIERS = tuple(REPOSITORY / "tests" / tier for tier in ("ranks", "e2e", "faults", "slurm"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out by file; unit tests one by one."""
    from tests.support.scheduling import Scheduling

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is no GPU."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not _has_gpu():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="this machine has no GPU"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI=true a skipped test is a failure, but for those that only a GPU can run."""
    outcome: Any = yield
    report = outcome.get_result()
    excused = hasattr(report, "wasxfail") or item.get_closest_marker("gpu")
    if report.skipped and os.environ.get("CI") == "true" and not excused:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true doesn't allow: {report.longrepr}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was not run."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("NOT EVERYTHING WAS TESTED", sep="!", red=True, bold=True)
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[-1]}")


@pytest.fixture(scope="session")
def deepspeed_ops() -> None:
    """Compile DeepSpeed's CPU communication operator, once; cached between runs."""
    build_operators()


@pytest.fixture(autouse=True)
def _operators_before_ranks(request: pytest.FixtureRequest) -> None:
    """Two ranks that compile at once run into their timeouts, so compile before the first."""
    if _starts_processes(request.node):
        request.getfixturevalue("deepspeed_ops")


@pytest.fixture(autouse=True)
def _launches_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    if not _starts_processes(request.node):
        yield
        return
    from tests.support.launches import ended

    with ended():
        yield


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """MiniLM-L6, a real 22M parameter BERT encoder without a classification head."""
    return assets.minilm(assets.FOLDER)


@pytest.fixture(scope="session")
def tiny_bert_dir(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's tokenizer before two narrow random layers: a run of it takes seconds."""
    from tests.support.tiny_model import write_tiny_bert

    return write_tiny_bert(minilm_dir, tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """SmolLM2-135M-Instruct: 30 Llama layers, tied embeddings, chat template."""
    return assets.smollm2(assets.FOLDER)


@pytest.fixture(scope="session")
def smollm2_cut_dir() -> Path:
    """The same with its first 4 layers only: real weights at a fraction of the compute."""
    return assets.smollm2_cut(assets.FOLDER, num_layers=4)


@pytest.fixture(scope="session")
def minilm_cut_dir(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real weights of MiniLM: 2 of its 6 layers, 4,096 of its 30,522 tokens."""
    from tests.support.tiny_model import write_cut

    folder = tmp_path_factory.mktemp("minilm-cut")
    return write_cut(minilm_dir, folder, num_layers=2, vocabulary=4096)


@pytest.fixture(scope="session")
def smollm2_small_dir(smollm2_cut_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real weights of SmolLM2: 2 of its 30 layers, 4,096 of its 49,152 tokens."""
    from tests.support.tiny_model import write_cut

    folder = tmp_path_factory.mktemp("smollm2-cut")
    return write_cut(smollm2_cut_dir, folder, num_layers=2, vocabulary=4096)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs that several tests look at, each trained once."""
    from tests.support.training import Runs

    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def topics_dir() -> Path:
    """`train.jsonl` and `validation.jsonl` with text and label: the topic of a conversation."""
    return assets.topics(assets.FOLDER)


@pytest.fixture(scope="session")
def chats_dir() -> Path:
    """`train.jsonl` and `validation.jsonl` with messages: the conversations as chats."""
    return assets.chats(assets.FOLDER)


@pytest.fixture(scope="session")
def small_topics(topics_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of those topics: 90 rows to train on, 37 to measure on."""
    from tests.support.small_data import write_small_topics

    return write_small_topics(topics_dir, tmp_path_factory.mktemp("topics"))


@pytest.fixture
def topics_recipe(
    tmp_path: Path, minilm_dir: Path, small_topics: Path
) -> Callable[..., dict[str, Any]]:
    """Make a recipe, from its sections, that trains MiniLM on the small topics."""
    from tests.support.training import base_recipe

    rows = small_topics / "train.jsonl"
    return partial(base_recipe, tmp_path, minilm_dir, "sequence-classification", rows)


@pytest.fixture
def tiny_recipe(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> Callable[..., dict[str, Any]]:
    """The same for the tiny model: where real weights aren't the subject."""
    from tests.support.training import base_recipe

    rows = small_topics / "train.jsonl"
    return partial(base_recipe, tmp_path, tiny_bert_dir, "sequence-classification", rows)


def _starts_processes(item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(tier) for tier in PROCESS_TIERS)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
