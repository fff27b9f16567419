"""Two parsers read a job script; neither takes a value for anything else."""

from __future__ import annotations

import shlex

import pytest

from launcher.cluster.slurm.quoting import as_file_name_pattern, for_bash, for_sbatch


def test_plain_values_stay_readable() -> None:
    assert for_sbatch("/runs/support-bot/slurm-%j.log") == "/runs/support-bot/slurm-%j.log"
    assert for_sbatch("a100&ib") == "a100&ib"
    assert for_bash("/runs/a") == "/runs/a"


def test_what_sbatch_would_take_apart_is_quoted() -> None:
    assert for_sbatch('a b"c') == '"a b\\"c"'
    assert for_sbatch("a #b") == '"a #b"'
    assert for_sbatch("a\\b") == '"a\\\\b"'


@pytest.mark.parametrize("text", ["$(touch x)", "`id`", "it's", 'a"b', "", "a b", "*", "~", "!x"])
def test_bash_reads_one_word_as_it_was(text: str) -> None:
    assert shlex.split(for_bash(text)) == [text]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "a\x85b"])
def test_no_line_breaks_get_through(text: str) -> None:
    for quote in (for_bash, for_sbatch):
        with pytest.raises(ValueError, match="no value of a job script"):
            quote(text)


def test_a_percent_sign_of_a_path_is_no_pattern() -> None:
    assert as_file_name_pattern("/runs/100%j") == "/runs/100%%j"
