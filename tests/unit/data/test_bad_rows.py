"""A row that can't be read or used is named by file and line, or skipped and counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from launcher.data import build
from launcher.data.rows import BrokenPart, Row
from launcher.data.text_files import read_csv, read_jsonl
from launcher.errors import InputError
from launcher.recipe.schema import Recipe
from launcher.train.prepare import open_prepared, prepare
from tests.support.tiny_tokenizers import byte_tokenizer, save_tokenizer

GOOD = [json.dumps({"text": f"row {number}"}).encode() for number in range(8)]
BAD = {
    "not JSON": b'{"text": "cut of',
    "not UTF-8": b'{"text": "\xff"}',
    "a NUL byte": b'{"text": "\0"}',
    "half a surrogate pair": rb'{"text": "\uD83D alone"}',
    "nested too deeply": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a row must be an object": b'"text"',
    "need a string": b'{"text": 5}',
}


@pytest.fixture(autouse=True)
def _work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tokenizer(Path("model"), byte_tokenizer())


def recipe(path: str = "train.jsonl", **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run": {"name": "test"},
            "model": {"path": "model", "task": "causal-lm"},
            "method": {"type": "full"},
            "data": {"train": [{"path": path}], **data},
            "train": {"max_steps": 1, "global_batch_size": 1, "micro_batch_size": 1},
            "deepspeed": "zero2",
        }
    )


def write(*lines: bytes, name: str = "train.jsonl") -> None:
    Path(name).write_bytes(b"".join(line + b"\n" for line in lines))


def refused(recipe: Recipe) -> list[str]:
    with pytest.raises(InputError) as caught:
        prepare(recipe)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_is_named_by_its_line(what: str) -> None:
    write(*GOOD[:5], BAD[what], *GOOD[5:])
    (line,) = refused(recipe())
    assert line.startswith("train.jsonl:6: ")
    assert what in line
    with pytest.raises(InputError, match="not prepared"):
        open_prepared(recipe())


def test_skipped_rows_are_counted_and_the_first_few_named() -> None:
    write(GOOD[0], *BAD.values(), *GOOD[1:])
    prepared = prepare(recipe(bad_rows="skip"))
    report = prepared.report["train"]
    assert len(prepared.train) == 8
    assert (report["rows"], report["used"], report["dropped"]) == (15, 8, {"bad": 7})
    lines = [int(example.split(":")[1]) for example in report["bad_examples"]]
    assert lines == [2, 3, 4, 5, 6]
    (warning,) = [line for line in prepared.report["warnings"] if "skipped" in line]
    assert warning.startswith("7 train rows can't be read or used and are skipped; the first: ")
    assert "train.jsonl:2: not JSON" in warning
    assert open_prepared(recipe(bad_rows="skip")).report == prepared.report


def test_rows_keep_their_tokens_when_others_are_skipped() -> None:
    write(*GOOD)
    clean = prepare(recipe()).inputs["tokens/train"]
    write(GOOD[0], BAD["not UTF-8"], *GOOD[1:])
    assert prepare(recipe(bad_rows="skip")).inputs["tokens/train"] == clean


def test_bad_validation_rows_are_told_of_too() -> None:
    write(*GOOD)
    write(BAD["not JSON"], *GOOD, name="v.jsonl")
    prepared = prepare(recipe(bad_rows="skip", validation=[{"path": "v.jsonl"}]))
    assert prepared.report["validation"]["dropped"] == {"bad": 1}
    assert any("1 validation rows" in line for line in prepared.report["warnings"])


def test_when_no_row_is_good_the_reason_is_given() -> None:
    write(*BAD.values())
    (line,) = refused(recipe(bad_rows="skip"))
    assert "none of the 7 rows can be used: 7 can't be read or used." in line
    assert "The first: train.jsonl:1: not JSON" in line


def truncated_gzip() -> str:
    write(*(json.dumps({"text": f"row {n} {n * n}"}).encode() for n in range(5000)))
    packed = gzip.compress(Path("train.jsonl").read_bytes())
    Path("cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    return "cut.jsonl.gz"


def flipped_gzip() -> str:
    packed = bytearray(gzip.compress(b"\n".join(GOOD), compresslevel=0))
    packed[packed.index(b"row 3") + 4] ^= 1  # still a row: only the checksum tells
    Path("flipped.jsonl.gz").write_bytes(bytes(packed))
    return "flipped.jsonl.gz"


def truncated_parquet() -> str:
    parquet.write_table(pyarrow.table({"text": [f"row {n}" for n in range(1000)]}), "t.parquet")
    whole = Path("t.parquet").read_bytes()
    Path("cut.parquet").write_bytes(whole[: len(whole) // 2])
    return "cut.parquet"


def flipped_parquet() -> str:
    table = pyarrow.table({"text": [f"row {n}" for n in range(1000)]})
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    parquet.write_table(table, "flipped.parquet", write_page_checksum=True, **options)
    content = bytearray(Path("flipped.parquet").read_bytes())
    content[content.index(b"row 500") + 4] ^= 1
    Path("flipped.parquet").write_bytes(bytes(content))
    return "flipped.parquet"


def undecodable_csv() -> str:
    Path("bad.csv").write_bytes(b'text\na\n"b\xff"\nc\n')
    return "bad.csv"


def not_what_it_says() -> str:
    Path("plain.jsonl.gz").write_bytes(GOOD[0])
    return "plain.jsonl.gz"


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
@pytest.mark.parametrize(
    ("broken", "parts"),
    [
        (truncated_gzip, ("cut.jsonl.gz:", "can't be read beyond line ", "Compressed file ended")),
        (flipped_gzip, ("flipped.jsonl.gz:", "CRC check failed")),
        (truncated_parquet, ("cut.parquet: ", "not a readable Parquet file")),
        (flipped_parquet, ("flipped.parquet: ", "CRC")),
        (undecodable_csv, ("bad.csv:3: ", "not UTF-8: 0xff at byte 9 of the file")),
        (not_what_it_says, ("plain.jsonl.gz: ", "named .gz, but holds text")),
    ],
)
def test_what_loses_an_unknown_number_of_rows_is_never_skipped(
    broken: Callable[[], str], parts: tuple[str, ...], bad_rows: str
) -> None:
    (line,) = refused(recipe(broken(), bad_rows=bad_rows))
    for part in parts:
        assert part in line


def test_the_line_after_the_last_whole_one_is_named() -> None:
    name = truncated_gzip()
    rows = list(read_jsonl(Path(name)))
    assert all(isinstance(row, Row) for row in rows[:-1])
    broken = rows[-1]
    assert isinstance(broken, BrokenPart)
    assert broken.place == f"{name}:{len(rows)}"


def test_a_csv_row_with_other_fields_is_one_bad_row() -> None:
    Path("t.csv").write_text("text,label\na,b\nonly one\nc,d\n")
    kinds = [type(row).__name__ for row in read_csv(Path("t.csv"), ",")]
    assert kinds == ["Row", "Problem", "Row"]


def test_nobody_waits_long_for_the_first_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it, others are looked for among the next rows, not through all of the data."""
    monkeypatch.setattr(build, "MAX_ROWS_AFTER", 1500)
    monkeypatch.setattr(build, "BATCH_ROWS", 1000)
    write(GOOD[0], BAD["not JSON"], *(GOOD[1],) * 4000, BAD["not UTF-8"])
    lines = refused(recipe())
    assert len(lines) == 2
    assert lines[0].startswith("train.jsonl:2: not JSON")
    assert lines[1] == "train.jsonl:1503: stopped here, 1500 rows after the first problem."


def test_a_surrogate_pair_is_text() -> None:
    write(rb'{"text": "\uD83D\uDE00 and \\ud800 spelled out"}')
    assert len(prepare(recipe()).train) == 1
