"""The report page: whole without a network, true to the records, safe with hostile text."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launcher.metrics.jsonl import JsonlWriter
from launcher.metrics.record import Event
from launcher.metrics.report import build_report, spans
from launcher.metrics.report_facts import count, event_rows, notes, outcome
from launcher.metrics.report_plot import POINTS, smooth, thin
from launcher.metrics.report_read import read_run
from launcher.run_dir import RunDir
from tests.support.records import train_record
from tests.support.sample_run import STEPS_PER_EPOCH, evaluation, write_sample_run

REPOSITORY = Path(__file__).resolve().parents[3]
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The page as a browser's parser sees it: text without scripts, attributes, and figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style" and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def figures(self) -> dict[str, Any]:
        found = re.search(r"var figures = (\{.*\});\n", self.scripts[-1])
        assert found is not None
        figures: dict[str, Any] = json.loads(found[1])
        return figures


@pytest.fixture(scope="module")
def early_stopped(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run_dir = write_sample_run(tmp_path_factory.mktemp("report") / "run")
    assert build_report(run_dir) == run_dir.report
    return run_dir


@pytest.fixture(scope="module")
def page(early_stopped: RunDir) -> Page:
    return Page(early_stopped.report)


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [trace for trace in figure["data"] if trace["name"] == name]
    return dict(found)


def test_the_head_says_what_was_trained_and_how_it_ended(page: Page) -> None:
    loss = evaluation(240).metrics["validation/loss"]
    for words in (
        "support-topics",
        "Stopped early",
        "sequence-classification",
        "ZeRO-2",
        "2 ranks × 4 rows × 2 micro-batches = 16 rows a step",  # noqa: RUF001
        f"{loss:.4f} at step 240",
        "320 of 480",
        "22.7 M",
        "Overfitting since step 256",
    ):
        assert words in page.text


def test_curves_are_the_records(page: Page) -> None:
    loss = page.figures["loss"]
    validation = trace(loss, "validation")
    assert validation["x"] == list(range(0, 321, 16))
    assert validation["y"] == [
        float(f"{evaluation(step).metrics['validation/loss']:.6g}") for step in validation["x"]
    ]
    assert trace(loss, "training, each record")["x"] == list(range(1, 321))
    shares = page.figures["shares"]
    assert [trace["name"] for trace in shares["data"]] == ["accuracy", "F1"]
    assert set(page.figures) == {
        "loss",
        "shares",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "memory",
    }


def test_best_overfitting_and_restarts_are_marked(page: Page) -> None:
    loss = page.figures["loss"]
    best = trace(loss, "best")
    assert (best["x"], best["y"]) == (
        [240],
        [float(f"{evaluation(240).metrics['validation/loss']:.6g}")],
    )
    areas = [shape for shape in loss["layout"]["shapes"] if shape["type"] == "rect"]
    assert [(area["x0"], area["x1"]) for area in areas] == [(256, 320)]
    lines = [shape["x0"] for shape in loss["layout"]["shapes"] if shape["type"] == "line"]
    assert lines == [112, 224]
    texts = [annotation["text"] for annotation in loss["layout"]["annotations"]]
    assert "overfitting since step 256" in texts
    assert any(text.startswith("best: ") and text.endswith("at step 240") for text in texts)


def test_every_axis_has_its_unit(page: Page) -> None:
    units = {
        key: figure["layout"]["yaxis"]["title"]["text"] for key, figure in page.figures.items()
    }
    assert units == {
        "loss": "loss per target (nats)",
        "shares": "share of validation rows",
        "grad_norm": "L2 norm before clipping",
        "learning_rate": "learning rate",
        "tokens_per_second": "tokens / s, all ranks",
        "memory": "peak so far, GiB",
    }
    for figure in page.figures.values():
        assert figure["layout"]["xaxis"]["title"]["text"] == "optimizer step"


def test_data_events_and_recipe_are_there(page: Page) -> None:
    for words in (
        "1,562",
        "26 of 1562 training rows dropped",
        "psychology",
        "what is the difference between a comet",
        "no improvement in 3 evaluations",
        "early stop",
        "35 checkpoints and best evaluations",
        "# --set data.max_seq_len=128",
    ):
        assert words in page.text


def test_nothing_is_fetched(page: Page) -> None:
    loading = {"src", "href", "action", "data", "srcset", "background", "poster"}
    assert not [found for found in page.attributes if found[1] in loading]
    (policy,) = [value for tag, name, value in page.attributes if "default-src" in value]
    assert "default-src 'none'" in policy
    nonces = {value for tag, name, value in page.attributes if (tag, name) == ("script", "nonce")}
    assert len(nonces) == 1
    assert f"script-src 'nonce-{nonces.pop()}';" in policy
    styles = re.findall(r"^<style>(.*?)^</style>", page.source, re.DOTALL | re.MULTILINE)
    assert len(styles) == 1
    assert not [style for style in styles if "url(" in style or "@import" in style]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run")
    recipe = run_dir.resolved.read_text().replace("support-topics ", json.dumps(HOSTILE) + " ")
    run_dir.resolved.write_text(recipe)
    data = json.loads(run_dir.data_report.read_text())
    data["train"]["labels"] = {HOSTILE: 3}
    data["sample"] = {"pieces": [{"supervised": True, "text": HOSTILE}], "label": HOSTILE}
    data["warnings"] = [HOSTILE]
    run_dir.data_report.write_text(json.dumps(data))
    jsonl = JsonlWriter(run_dir, resume_step=320)
    jsonl.event(Event("warning", "t", 320, {"message": HOSTILE, HOSTILE: HOSTILE}))
    jsonl.close()
    with run_dir.metrics.open("a") as file:
        file.write(json.dumps({"step": 321, f"validation/{HOSTILE}": 2.5}) + "\n")
    page = Page(build_report(run_dir))
    assert page.text.count("document.title='owned'") >= 6  # shown, as text
    assert not [
        found for found in page.attributes if found[:2] in {("img", "src"), ("img", "onerror")}
    ]
    assert len(page.scripts) == 2
    assert "<script>document" not in json.dumps(page.figures)


def test_a_running_run_shows_what_there_is(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run", "running")
    with run_dir.metrics.open("a") as file:
        file.write('{"step": 273, "epoch": 2.8, "tra')  # being written right now
    before = run_dir.metrics.read_bytes()
    page = Page(build_report(run_dir))
    assert run_dir.metrics.read_bytes() == before  # a report only reads
    assert "Running" in page.text
    assert "272 of 480" in page.text
    assert trace(page.figures["loss"], "best")["x"] == [240]


def test_a_stopped_run_can_go_on(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run", "running")
    jsonl = JsonlWriter(run_dir, resume_step=272)
    jsonl.event(Event("stop", "2026-03-14T10:00:00.000+00:00", 272, {"reason": "Ctrl-C"}))
    assert outcome(read_run(run_dir)).label == "Stopped, can go on"
    jsonl.event(Event("start", "2026-03-14T11:00:00.000+00:00", 272, {"world_size": 2}))
    jsonl.close()
    assert outcome(read_run(run_dir)).label == "Running"


def test_a_failed_run_names_its_cause(tmp_path: Path) -> None:
    page = Page(build_report(write_sample_run(tmp_path / "run", "failed")))
    assert "Failed" in page.text
    assert "TrainingError on rank 1, node-2" in page.text
    assert "the gradient norm is nan" in page.text


def test_what_the_launch_found_goes_before_what_a_rank_said(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run", "failed")
    logs = run_dir.launches[-1]
    failed_at = json.loads(logs.failures[0].read_text())["time"]
    found = {"kind": "Killed", "rank": 3, "host": "node-4", "message": "rank 3 was killed"}
    logs.cause.write_text(json.dumps({**found, "time": failed_at + 1}))
    page = Page(build_report(run_dir))
    assert "Killed on rank 3, node-4" in page.text
    assert "rank 3 was killed" in page.text
    assert "TrainingError" not in page.text


def test_a_failure_is_over_when_the_run_goes_on(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run", "failed")
    assert outcome(read_run(run_dir)).label == "Failed"
    jsonl = JsonlWriter(run_dir, resume_step=48)
    jsonl.event(Event("start", "2026-03-14T10:00:00.000+00:00", 48, {"world_size": 2}))
    jsonl.close()
    assert outcome(read_run(run_dir)).label == "Running"


@pytest.mark.parametrize("folder_exists", [True, False])
def test_a_run_without_records_still_has_a_page(tmp_path: Path, folder_exists: bool) -> None:
    run_dir = RunDir(tmp_path / "early-bird")
    if folder_exists:
        run_dir.root.mkdir()
    page = Page(build_report(run_dir))
    assert "early-bird" in page.text
    assert "Not started" in page.text
    assert "No step has been recorded yet." in page.text


@pytest.mark.parametrize(
    "name", ["summary", "data_report", "resolved", "metrics", "events"], ids=lambda name: name
)
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00\xff", '{"step": 1}\n'])
def test_no_broken_file_breaks_the_page(tmp_path: Path, name: str, content: str) -> None:
    run_dir = write_sample_run(tmp_path / "run")
    getattr(run_dir, name).write_text(content)
    assert build_report(run_dir).stat().st_size > 1000


def test_what_is_not_finite_is_said_and_leaves_a_gap(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    jsonl = JsonlWriter(run_dir, resume_step=0)
    for step in range(1, 101):
        loss = math.nan if step in (40, 41) else 1.0
        jsonl.train(train_record(step, loss=loss, skipped_steps=2 * (step > 41)))
    jsonl.close()
    page = Page(build_report(run_dir))
    assert "The training loss was not finite at 2 steps, first at 40." in page.text
    assert "2 updates were skipped" in page.text
    each = trace(page.figures["loss"], "training, each record")
    assert [each["x"][index] for index, y in enumerate(each["y"]) if y is None] == [40, 41]
    smoothed = trace(page.figures["loss"], "training, smoothed")["y"]
    assert [value for value in smoothed if value is not None] == [1.0] * 98


def test_thinning_keeps_both_ends_and_every_spike() -> None:
    values = [math.sin(step / 500) for step in range(50_000)]
    values[12_345], values[23_456], values[34_567] = 9.0, -9.0, math.nan
    steps, kept = thin(range(50_000), values)
    assert len(steps) <= POINTS + 10
    assert steps == sorted(set(steps))
    assert {0, 12_345, 23_456, 34_567, 49_999} <= set(steps)
    assert repr(kept) == repr([values[step] for step in steps])


def test_a_long_run_has_a_page_of_bounded_size(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    jsonl = JsonlWriter(run_dir, resume_step=0)
    for step in range(1, 20_001):
        jsonl.train(train_record(step, loss=1 + math.sin(step), grad_norm=2 + math.cos(step)))
    jsonl.close()
    page = Page(build_report(run_dir))
    assert len(page.scripts[-1]) < 300_000


def test_smoothing_is_an_unbiased_average() -> None:
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    weights = [0.92**age for age in range(2, -1, -1)]
    expected = sum(w * v for w, v in zip(weights, [1.0, 2.0, 4.0], strict=True)) / sum(weights)
    assert smooth([1.0, 2.0, 4.0])[-1] == pytest.approx(expected)


@pytest.mark.parametrize("num_small", range(14))
def test_charts_leave_no_hole(num_small: int) -> None:
    columns = spans(num_small)
    assert len(columns) == num_small + 1
    filled = 0
    for span in columns:
        filled += span
        assert filled <= 6  # no chart wraps and leaves its row unfinished
        filled %= 6
    assert filled == 0


@pytest.mark.parametrize(("step", "anchor"), [(16, "left"), (160, "center"), (320, "right")])
def test_the_best_step_is_named_inside_the_chart(tmp_path: Path, step: int, anchor: str) -> None:
    run_dir = write_sample_run(tmp_path / "run", "finished")
    summary = json.loads(run_dir.summary.read_text())
    accuracy = evaluation(step).metrics["validation/accuracy"]
    summary["best"] = {"step": step, "metric": "validation/accuracy", "value": accuracy}
    run_dir.summary.write_text(json.dumps(summary))
    page = Page(build_report(run_dir))
    (note,) = page.figures["loss"]["layout"]["annotations"]
    assert note["text"] == f"best accuracy: {accuracy:.4f} at step {step}"
    assert note["xanchor"] == anchor
    assert "Best validation loss" not in page.text


def test_of_a_restart_only_changes_are_told(early_stopped: RunDir) -> None:
    starts = [row for row in event_rows(read_run(early_stopped)) if row["kind"] == "start"]
    assert [row["step"] for row in starts] == ["0", "112", "224"]
    assert "zero stage 2" in starts[0]["detail"]
    assert [row["detail"] for row in starts[1:]] == ["as before", "as before"]


def test_a_healthy_run_has_no_notes(tmp_path: Path) -> None:
    assert notes(read_run(write_sample_run(tmp_path / "run", "finished"))) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (999, "999"), (45_812, "45.8 k"), (22_718_606, "22.7 M"), (7e10, "70 B")],
)
def test_large_numbers(value: float, text: str) -> None:
    assert count(value) == text


def test_a_report_needs_no_torch(early_stopped: RunDir) -> None:
    script = (
        "import sys; from pathlib import Path; from launcher.run_dir import RunDir;"
        "from launcher.metrics.report import build_report;"
        f"build_report(RunDir(Path({str(early_stopped.root)!r})));"
        "print(sorted({'torch', 'transformers', 'wandb', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_epochs_are_those_of_the_records(page: Page) -> None:
    assert f"{320 / STEPS_PER_EPOCH:.2f} epochs" in page.text
