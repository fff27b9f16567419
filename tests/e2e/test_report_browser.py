"""The report in a real browser: every curve is drawn, without an error and without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from launcher.metrics.report import build_report
from launcher.run_dir import RunDir
from tests.support.sample_run import Outcome, write_sample_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",  # of the page's own clock: time to draw, however slow we are
)

# Blink's resource loader in Chromium's list of who makes requests (a hash of its name).
PAGE_REQUEST = '"traffic_annotation":101845102'


@pytest.fixture(scope="session")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


def visit(browser: str, page: Path, profile: Path, *options: str) -> tuple[str, str]:
    """Open a page in a fresh profile; return the document after its scripts ran, and the log."""
    net_log = profile.with_suffix(".netlog")
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--log-net-log={net_log}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"HOME": str(profile)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr + requests_of(net_log)


def requests_of(net_log: Path) -> str:
    """Return a line for every web address that the page asked for (not the browser itself)."""
    pattern = PAGE_REQUEST + r'[^{}]*"url":"((?:https?|wss?)://[^"]*)"'
    return "".join(f"\nREQUEST {url}" for url in re.findall(pattern, net_log.read_text()))


def drawn_charts(document: str) -> dict[str, str]:
    """Return the drawn content of each chart by its key."""
    parts = re.split(r'<div class="chart[^"]*" id="chart-([a-z0-9_-]+)"', document)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def page_errors(log: str) -> list[str]:
    """Return what the page logged and what it asked the network for."""
    return [line for line in log.splitlines() if re.search("CONSOLE|^REQUEST", line)]


def test_a_page_that_asks_the_network_is_noticed(browser: str, tmp_path: Path) -> None:
    """The control: without it, a net log read wrongly would call every page self-contained."""
    page = tmp_path / "page.html"
    page.write_text("<script>fetch('https://fonts.example/css')</script>")
    _, log = visit(browser, page, tmp_path / "profile", "--dump-dom")
    assert "REQUEST https://fonts.example/css" in page_errors(log)


@pytest.mark.parametrize("outcome", ["early_stopped", "failed"])
def test_every_curve_is_drawn(browser: str, tmp_path: Path, outcome: Outcome) -> None:
    page = build_report(write_sample_run(tmp_path / "run", outcome))
    document, log = visit(browser, page, tmp_path / "profile", "--dump-dom")
    assert page_errors(log) == []
    assert 'data-charts="6"' in document  # set after the last chart was handed to Plotly
    charts = drawn_charts(document)
    assert set(charts) == {
        "loss",
        "shares",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "memory",
    }
    for key, content in charts.items():
        paths = re.findall(r'class="js-line"[^>]* d="(M[^"]*)"', content)
        corners = [len(re.findall(r"[MLHV]", path)) for path in paths]
        assert max(corners, default=0) >= 3, f"{key} has no curve"
        assert "optimizer step" in content
    if outcome == "early_stopped":
        assert "overfitting since step 256" in charts["loss"]
        assert re.search(r"best: 0\.\d{4} at step 240", charts["loss"])
        assert "restart" in charts["loss"]
        assert "clipped above 1" in charts["grad_norm"]


def test_hostile_text_does_not_run(browser: str, tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run")
    data = json.loads(run_dir.data_report.read_text())
    code = "document.title='owned'"
    attack = f'</script><script>{code}</script><img src=x onerror="{code}">'
    data["train"]["labels"] = {attack: 3}
    data["sample"]["pieces"] = [{"supervised": True, "text": attack}]
    run_dir.data_report.write_text(json.dumps(data))
    page = build_report(run_dir)
    document, _ = visit(browser, page, tmp_path / "profile", "--dump-dom")
    assert 'data-charts="6"' in document
    assert "<title>owned</title>" not in document
    # Were it to slip through the escaping, the page's policy would still not run it.
    page.write_text(page.read_text().replace("<main>", f"<main>{attack}"))
    document, log = visit(browser, page, tmp_path / "second-profile", "--dump-dom")
    assert "<title>support-topics" in document
    assert "Content Security Policy" in log


def test_a_screenshot_is_not_blank(browser: str, tmp_path: Path) -> None:
    page = build_report(write_sample_run(tmp_path / "run"))
    picture = tmp_path / "report.png"
    visit(
        browser,
        page,
        tmp_path / "profile",
        f"--screenshot={picture}",
        "--window-size=1400,1800",
    )
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1400, 1800)
    assert len(content) > 100_000  # an empty page of this size compresses to a tenth


def test_a_run_that_has_not_begun_opens_too(browser: str, tmp_path: Path) -> None:
    page = build_report(RunDir(tmp_path / "empty"))
    document, log = visit(browser, page, tmp_path / "profile", "--dump-dom")
    assert page_errors(log) == []
    assert 'data-charts="0"' in document
