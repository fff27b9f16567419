"""Every kind of file gives the same rows, and a broken one says where it is broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from launcher.data.read import find_parts
from launcher.data.rows import Part, Row
from launcher.errors import InputError, Problem
from launcher.recipe.schema import Columns, Source

ROWS = [{"text": 'a "quoted", é', "label": "x"}, {"text": "two\nlines", "label": "y"}]


def parts_of(*paths: Path | str) -> list[Part]:
    sources = [Source(path=str(path)) for path in paths]
    return find_parts(sources, Columns(), "data.train", Path("cache"))


def rows_of(path: Path) -> list[Row | Problem]:
    return [row for part in parts_of(path) for row in part.rows()]


def problem_of(path: Path) -> str:
    problems = [row for row in rows_of(path) if isinstance(row, Problem)]
    assert len(problems) == 1, problems
    return str(problems[0])


@pytest.fixture(autouse=True)
def _work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: bytes | str) -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl() -> str:
    return "".join(json.dumps(row) + "\n" for row in ROWS)


def write_like(name: str) -> Path:
    path = Path(name)
    if name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith("sv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, ["text", "label"], delimiter="," if name.endswith(".csv") else "\t"
            )
            writer.writeheader()
            writer.writerows(ROWS)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(jsonl().encode()))
    elif name == "array.json":
        path.write_text(json.dumps(ROWS, indent=2))
    else:
        path.write_text(jsonl())
    return path


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("a.jsonl", [":1", ":2"]),
        ("a.jsonl.gz", [":1", ":2"]),
        ("lines.json", [":1", ":2"]),
        ("array.json", [":row 1", ":row 2"]),
        ("a.csv", [":2", ":3"]),
        ("a.tsv", [":2", ":3"]),
        ("a.parquet", [":row 1", ":row 2"]),
    ],
)
def test_all_formats_give_the_same_rows(name: str, places: list[str]) -> None:
    rows = rows_of(write_like(name))
    assert [row.values for row in rows if isinstance(row, Row)] == ROWS
    assert [row.place for row in rows] == [name + place for place in places]


def test_lines_after_a_record_of_two_lines_are_counted_right() -> None:
    path = write("a.csv", 'text,label\n"two\nlines",x\nb\n')
    assert problem_of(path) == "a.csv:4: 1 fields, but the first line names 2."


def test_a_text_file_has_one_row_per_non_empty_line() -> None:
    rows = rows_of(write("a.txt", "one\n\n  \ntwo\r\n"))
    assert rows == [Row("a.txt:1", {"text": "one"}), Row("a.txt:4", {"text": "two"})]


def test_a_glob_is_sorted_and_sources_keep_their_order() -> None:
    for name in ("b.txt", "a.txt", "c.txt"):
        write(name, name)
    assert [part.name for part in parts_of("c.txt", "[ab].txt")] == ["c.txt", "a.txt", "b.txt"]


def test_a_byte_order_mark_is_no_part_of_the_first_row() -> None:
    assert rows_of(write("a.jsonl", b'\xef\xbb\xbf{"text": "a"}')) == [
        Row("a.jsonl:1", {"text": "a"})
    ]


def in_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def twice_named() -> bytes:
    return in_parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]))


def too_late() -> bytes:
    """A day that Python's calendar doesn't have."""
    days = pa.array([2**31 - 1], pa.int32()).cast(pa.date32())
    return in_parquet(pa.Table.from_arrays([pa.array(["a"]), days], ["text", "day"]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 1,}\n', "a.jsonl:2: not JSON: "),
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl:2: a row must be an object, not a list."),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: JSON that is nested too deeply."),
        ("a.json", "[" * 100_000, "a.json:1: JSON that is nested too deeply."),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}", "a.jsonl:2: a number of thousands of"),
        (
            "a.jsonl",
            '{"a": {"b": 1, "b": 2}}',
            "a.jsonl:1: the key 'b' occurs twice in one object.",
        ),
        ("a.json", '[{"text": 1, "text": 2}]', "a.json:1: the key 'text' occurs twice in one"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: not UTF-8: 0xff at byte 16"),
        ("a.txt", b"\xef\xbb\xbfab\xff\n", "a.txt:1: not UTF-8: 0xff at byte 5 of the file."),
        ("a.txt", b"\xef\xbb\xbfab\nc\0d\n", "a.txt:2: a NUL byte at byte 7 of the file."),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl: named .jsonl, but holds UTF-16 text"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "a.jsonl: named .jsonl, but holds gzip."),
        ("a.jsonl.gz", '{"a": 1}', "a.jsonl.gz: named .gz, but holds text."),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a":1}\n' * 999, mtime=0)[:-20],
            "a.jsonl.gz:98: can't be read beyond",
        ),
        ("a.csv", "text,text\na,b\n", "a.csv:1: column names occur twice: text, text."),
        ("a.csv", 'text\n"open\n', "not CSV: unexpected end of data."),
        ("a.csv", b"text\nok\n\xe9\n", "a.csv:3: not UTF-8: 0xe9 at byte 8 of the file."),
        ("a.json", '[{"a": 1},\n {"a" 2}]', "a.json:2: not JSON: Expecting ':' delimiter"),
        ("a.parquet", twice_named(), "a.parquet: column names occur twice: text."),
        ("a.parquet", too_late(), "a.parquet: not a readable Parquet file: "),
        ("a.parquet", b"PAR1 but no footer", "a.parquet: not a readable Parquet file: "),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs"),
    ],
)
def test_broken_files_say_where(name: str, content: bytes | str, message: str) -> None:
    assert message in problem_of(write(name, content))


def test_reading_goes_on_after_a_bad_line() -> None:
    rows = rows_of(write("a.jsonl", '{"a": 1}\nx\n{"a": 2}\ny\n'))
    assert [type(row) for row in rows] == [Row, Problem, Row, Problem]
    assert "at column 1" in str(rows[1])


def test_everything_that_is_missing_is_listed_at_once() -> None:
    write("a.pdf", "")
    with pytest.raises(InputError) as caught:
        parts_of("no/such.jsonl", "no*.jsonl", "a.pdf", "../up.txt")
    cwd, known = Path.cwd(), "Known: .jsonl, .json, .csv, .tsv, .txt, .parquet."
    assert [str(problem) for problem in caught.value.problems] == [
        f"no/such.jsonl: data.train[0].path: no such file; looked from {cwd}.",
        f"no*.jsonl: data.train[1].path: the pattern matches no file; looked from {cwd}.",
        f"a.pdf: data.train[2].path: a file name that ends so says no format: a.pdf. {known}",
        f"../up.txt: data.train[3].path: no such file; looked from {cwd}.",
    ]


def test_a_data_set_folder_goes_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(Path("hf").resolve()))
    Path("set").mkdir()
    write("set/train.jsonl", jsonl())
    write("set/test.jsonl", jsonl() * 2)
    source = Source(path="set", split="test")
    (part,) = find_parts([source], Columns(), "data.train", Path("cache"))
    rows = list(part.rows())
    assert [row.values for row in rows if isinstance(row, Row)] == ROWS * 2
    assert rows[3].place == "set[test]:row 4"
    (again,) = find_parts([source], Columns(), "data.train", Path("cache"))
    (train,) = parts_of("set")
    assert part.digest() == again.digest() != train.digest()


def test_class_labels_of_a_data_set_become_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(Path("hf").resolve()))
    features = datasets.Features({"label": datasets.ClassLabel(names=["no", "yes"])})
    split = datasets.Dataset.from_dict({"label": [1, 0, -1]}, features=features)
    Path("set").mkdir()
    split.to_parquet("set/train.parquet")  # which keeps the names
    source = Source(path="set", split="train")
    (part,) = find_parts([source], Columns(), "data.train", Path("cache"))
    labels = [row.values["label"] for row in part.rows() if isinstance(row, Row)]
    assert labels == ["yes", "no", -1]


def test_an_unknown_data_set_is_an_input_error() -> None:
    with pytest.raises(InputError) as caught:
        parts_of("no-such-org/no-such-set")
    assert "no such file" in str(caught.value)
    assert "as a data set:" in str(caught.value)


def test_an_unknown_split_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(Path("hf").resolve()))
    Path("set").mkdir()
    write("set/train.jsonl", jsonl())
    with pytest.raises(InputError, match=r"Unknown split"):
        find_parts([Source(path="set", split="dev")], Columns(), "data.train", Path("cache"))


@pytest.mark.parametrize("named", ["odd.jsonl", "*.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to nothing", "loop"])
def test_what_is_no_file_is_refused_and_not_left_out(named: str, kind: str) -> None:
    """A run without one of the files of its pattern would be another run."""
    write("a.jsonl", '{"text": "a"}')
    odd = Path("odd.jsonl")
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"device": "/dev/zero", "loop": "odd.jsonl"}.get(kind, "nowhere"))
    with pytest.raises(InputError) as caught:
        find_parts([Source(path=named)], Columns(), "data.train", Path("cache"))
    (problem,) = caught.value.problems
    assert (problem.place, problem.key) == ("odd.jsonl", "data.train[0].path")
    assert any(word in problem.message for word in ("not a file", "can't be read"))
