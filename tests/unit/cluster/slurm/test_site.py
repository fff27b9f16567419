"""Mistakes in a site file are named like those in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.slurm.site import SITE_VARIABLE, load_site
from launcher.errors import InputError
from launcher.shipped import shipped_folder


def problems_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_site(path)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "partitoin: gpu",
            "site.yaml:1: partitoin: unknown key partitoin. Did you mean partition?",
        ),
        ("account: a;b", 'site.yaml:1: account: got "a;b" (text), need letters'),
        ("constraint: $(id)", "site.yaml:1: constraint: got"),
        ("modules: ['cuda; rm -rf /']", "site.yaml:1: modules.0: got 'cuda; rm -rf /'"),
        ('setup: ["a\\nb"]', "site.yaml:1: setup.0: got 'a\\nb', need one line of text."),
        ("\nenvironment:\n  A-B: x", "site.yaml:3: environment.A-B: got 'A-B'"),
        ("environment: {A: $(id)}", "environment.A: got '$(id)': values are taken as they are"),
        ("environment: {A: '`id`'}", "environment.A: got '`id`'"),
        ("environment: {WANDB_API_KEY: 0123456789}", "secret in a config file (value ****)"),
        ("options: ['--partition=x']", "options.0: --partition is set from the recipe"),
        ("options: ['--mem 0']", "options.0: got '--mem 0', need an option of sbatch"),
        ("container: {type: docker, image: x}", "container.type: got"),
        ("container: {type: pyxis}", "container.image: is missing"),
        ("container: {type: pyxis, image: x, mounts: ['a,b']}", "container.mounts.0: got 'a,b'"),
        ("template: none.sbatch", "site.yaml:1: template: none.sbatch is no file."),
        ("- a", "site.yaml"),
        ("a: [", "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems_of(tmp_path, text)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "modules: ['a b']\noptions: ['x']\ntemplate: none")
    assert [line.partition(" ")[0] for line in found.splitlines()] == [
        "site.yaml:1:",
        "site.yaml:2:",
        "site.yaml:3:",
    ]


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(SITE_VARIABLE, raising=False)
    assert load_site(None).path is None
    home = tmp_path / "home" / ".config" / "launcher" / "site.yaml"
    for path, name in (
        (home, "home"),
        (tmp_path / "slurm" / "site.yaml", "project"),
        (tmp_path / "variable.yaml", "variable"),
        (tmp_path / "given.yaml", "given"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"partition: {name}\n")
    assert load_site(None).site.partition == "project"
    monkeypatch.setenv(SITE_VARIABLE, str(tmp_path / "variable.yaml"))
    assert load_site(None).site.partition == "variable"
    assert load_site(tmp_path / "given.yaml").site.partition == "given"
    monkeypatch.setenv(SITE_VARIABLE, str(tmp_path / "missing.yaml"))
    with pytest.raises(InputError, match=r"\$LAUNCHER_SITE: .*missing\.yaml is no file"):
        load_site(None)


def test_an_empty_file_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("# nothing yet\n")
    assert load_site(tmp_path / "site.yaml").site.partition is None


def test_the_example_is_right() -> None:
    site = load_site(shipped_folder("slurm") / "site.yaml.example").site
    assert site.environment == {"NCCL_SOCKET_IFNAME": "ib0"}
    assert site.cpus_per_rank == 8
