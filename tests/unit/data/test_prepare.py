"""From a recipe to prepared data: what is kept, dropped, counted and refused."""

from __future__ import annotations

import json
import multiprocessing
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from launcher.data import store
from launcher.errors import InputError
from launcher.recipe.schema import Recipe
from launcher.train import prepare as prepare_module
from launcher.train.prepare import Prepared, main, open_prepared, prepare
from tests.support.tiny_tokenizers import (
    CHATML,
    ENDLESS,
    FORGETFUL,
    byte_tokenizer,
    save_tokenizer,
    write_rows,
)

CLASSIFY = "sequence-classification"


@pytest.fixture(autouse=True)
def _work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tokenizer(Path("model"), byte_tokenizer(CHATML, before=("<s>",)))


def recipe(
    train: Any, validation: Any = None, *, model: dict[str, Any] | None = None, **data: Any
) -> Recipe:
    """Rows (written to a file) or a path as training data; the rest are keys of `data`."""
    data["train"] = [{"path": _path(train, "train.jsonl")}]
    if validation is not None:
        data["validation"] = [{"path": _path(validation, "validation.jsonl")}]
    sections = {
        "run": {"name": "test", "seed": data.pop("seed", 0)},
        "model": {"path": "model", "task": "causal-lm", **(model or {})},
        "method": {"type": "full"},
        "data": data,
        "train": {"max_steps": 1, "global_batch_size": 1, "micro_batch_size": 1},
        "deepspeed": "zero2",
    }
    return Recipe.model_validate(sections)


def _path(source: Any, name: str) -> str:
    return source if isinstance(source, str) else write_rows(Path(name), source)


def texts(*values: str) -> list[dict[str, str]]:
    return [{"text": value} for value in values]


def labelled(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in pairs]


def decoded(prepared: Prepared, split: str = "train") -> list[str]:
    cache = getattr(prepared, split)
    return [prepared.tokenizer.decode(cache[i].input_ids.tolist()) for i in range(len(cache))]


def problems_of(bad: Recipe) -> list[str]:
    with pytest.raises(InputError) as caught:
        prepare(bad)
    return [str(problem) for problem in caught.value.problems]


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def test_the_columns_of_a_row_decide_its_format() -> None:
    rows = [
        {"messages": CHAT, "prompt": "not this", "completion": "nor this"},
        {"prompt": "p", "completion": "c", "text": "not this", "messages": None},
        {"text": "t"},
    ]
    prepared = prepare(recipe(rows))
    assert decoded(prepared) == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n",
        "<s>pc</s>",
        "<s>t</s>",
    ]
    assert prepared.train.num_targets.tolist() == [3, 2, 2]
    assert prepared.report["train"]["formats"] == {"chat": 1, "prompt": 1, "text": 1}
    assert any(
        "several formats: 1 chat, 1 prompt, 1 text" in w for w in prepared.report["warnings"]
    )
    assert prepared.labels == ()
    assert prepared.validation is None


def test_columns_can_have_other_names() -> None:
    rows = [{"q": "p", "a": "c"}, {"body": "t"}]
    columns = {"prompt": "q", "completion": "a", "text": "body"}
    assert decoded(prepare(recipe(rows, columns=columns))) == ["<s>pc</s>", "<s>t</s>"]


def test_the_report_counts_and_shows() -> None:
    rows = [*texts("ab", "", "ab", "abcdefghij"), {"prompt": "0123456789", "completion": "x"}]
    prepared = prepare(recipe(rows, texts("zz", "ab"), max_seq_len=6))
    report = json.loads(json.dumps(prepared.report))
    assert report["train"] == {
        "rows": 5,
        "used": 3,
        "dropped": {"empty": 1, "no_targets_left": 1},
        "formats": {"text": 3},
        "truncated": 1,
        "truncated_share": pytest.approx(1 / 3),
        "cut_tokens": 6,
        "lengths": {"min": 4, "p50": 4, "p90": 6, "p99": 6, "max": 6},
        "tokens": 14,
        "supervised_tokens": 11,
        "supervised_share": pytest.approx(11 / 14),
    }
    assert report["validation"]["used"] == 2
    assert report["overlap"] == 1
    assert report["train_duplicates"] == 1
    assert report["sample"] == {"pieces": [{"supervised": True, "text": "<s>ab</s>"}], "tokens": 4}
    assert [warning.split(";")[0] for warning in report["warnings"]] == [
        "1 validation rows are training rows too: the validation loss looks better than it is.",
        "33.3% of the training rows are longer than data.max_seq_len",
        "2 of 5 training rows dropped: 1 empty, 1 no_targets_left.",
    ]


def test_the_sample_marks_what_has_loss() -> None:
    report = prepare(recipe([{"messages": CHAT}])).report
    assert [(piece["supervised"], piece["text"]) for piece in report["sample"]["pieces"]] == [
        (False, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        (True, "yo<|im_end|>"),
        (False, "\n"),
    ]


def test_rows_that_don_t_teach_to_stop_are_warned_of() -> None:
    save_tokenizer(Path("model"), byte_tokenizer(ENDLESS))
    warnings = prepare(recipe([{"messages": CHAT}])).report["warnings"]
    assert any("don't teach the model to stop" in warning for warning in warnings)


def test_fewer_rows_than_a_batch_are_warned_of() -> None:
    small = recipe(texts("a", "b"))
    small = small.model_copy(
        update={"train": small.train.model_copy(update={"global_batch_size": 8})}
    )
    assert "2 training rows are fewer than" in prepare(small).report["warnings"][0]


@pytest.mark.parametrize(
    ("overlong", "lengths"), [("truncate", [4, 3]), ("drop", [3]), ("error", None)]
)
def test_overlong_rows(overlong: str, lengths: list[int] | None) -> None:
    bad = recipe(texts("abcdef", "a"), max_seq_len=4, overlong=overlong)
    if lengths is not None:
        assert prepare(bad).train.lengths.tolist() == lengths
        return
    (problem,) = problems_of(bad)
    assert problem.startswith("train.jsonl:1: 8 tokens, more than data.max_seq_len 4.")


def test_classification_tokenises_as_transformers_does(minilm_dir: Path) -> None:
    rows = labelled(("A long text that is cut somewhere.", "b"), ("Short.", "a"), ("x", "c"))
    model = {"path": str(minilm_dir), "task": CLASSIFY}
    prepared = prepare(recipe(rows, model=model, max_seq_len=6))
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    expected = tokenizer([row["text"] for row in rows], truncation=True, max_length=6)["input_ids"]
    assert [prepared.train[i].input_ids.tolist() for i in range(3)] == expected
    assert prepared.labels == ("a", "b", "c")
    assert prepared.train.labels.tolist() == [1, 0, 2]
    assert prepared.train.num_targets.tolist() == [1, 1, 1]
    assert prepared.report["train"]["labels"] == {"a": 1, "b": 1, "c": 1}


def test_labels_of_csv_are_those_of_json() -> None:
    Path("train.csv").write_text("text,label\nx,10\ny,9\n")
    prepared = prepare(
        recipe("train.csv", labelled(("v", 9), ("w", "10")), model={"task": CLASSIFY})
    )
    assert prepared.labels == ("9", "10")
    assert prepared.train.labels.tolist() == [1, 0]
    assert prepared.validation is not None
    assert prepared.validation.labels.tolist() == [0, 1]


def test_an_unknown_label_in_validation_is_named_with_its_line() -> None:
    bad = recipe(
        labelled(("a", "x"), ("b", "y")),
        labelled(("c", "x"), ("d", "z")),
        model={"task": CLASSIFY},
    )
    assert problems_of(bad) == ["validation.jsonl:2: the label 'z' is not one of the 2: x, y."]


def test_labels_given_by_the_recipe_decide_order_and_membership() -> None:
    rows = labelled(("a", "x"), ("b", 0), ("c", "z"))
    model = {"task": CLASSIFY, "labels": ["y", "x"]}
    assert problems_of(recipe(rows, model=model)) == [
        "train.jsonl:3: the label 'z' is not one of the 2: y, x."
    ]
    assert prepare(recipe(rows[:2], model=model)).train.labels.tolist() == [1, 0]


def test_one_class_is_no_classification() -> None:
    (problem,) = problems_of(recipe(labelled(("a", "x"), ("b", "x")), model={"task": CLASSIFY}))
    assert "the classes are x; need at least 2" in problem


def test_all_bad_rows_are_listed_with_line_keys_and_cure() -> None:
    Path("train.jsonl").write_text(
        '{"txt": "a", "id": 1}\n'
        '{"text": 7}\n'
        "{\n"
        '{"prompt": "p"}\n'
        '{"prompt": "p", "completion": " "}\n'
        '{"messages": [{"role": "bot", "content": "x"}]}\n'
        '{"text": "fine"}\n'
    )
    found = problems_of(recipe("train.jsonl"))
    needs = "needs the columns messages, or prompt and completion, or text; it has"
    known = "known: system, developer, user, assistant, tool."
    cure = "Name yours under data.columns, such as data.columns.text=body."
    assert found == [
        f"train.jsonl:1: {needs} txt, id. {cure}",
        "train.jsonl:2: text is the number 7, need a string.",
        "train.jsonl:3: not JSON: Expecting property name enclosed in double quotes at column 2.",
        f"train.jsonl:4: {needs} prompt. {cure}",
        "train.jsonl:5: completion is empty, so there is nothing to learn.",
        f"train.jsonl:6: message 0 has the unknown role 'bot'; {known}",
    ]


def test_the_list_of_problems_ends() -> None:
    found = problems_of(recipe([{"x": i} for i in range(5000)]))
    assert len(found) == 11
    assert found[-1] == "train.jsonl:10: stopped here, after 10 problems."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train.jsonl: data.train: no rows at all."),
        (texts("", " "), "none of the 2 rows can be used: 2 have an empty text."),
        ([{"messages": CHAT[:1]}], "none of the 1 rows can be used: 1 have no token with loss"),
    ],
)
def test_nothing_to_train_on_is_refused(rows: list[dict[str, Any]], message: str) -> None:
    (problem,) = problems_of(recipe(rows))
    assert message in problem


def test_one_row_can_t_be_split() -> None:
    (problem,) = problems_of(recipe(texts("a"), validation_fraction=0.5))
    assert "data.validation_fraction" in problem


def test_a_fraction_is_held_out_by_seed() -> None:
    rows = texts(*(f"row {i}" for i in range(40)))
    first = prepare(recipe(rows, validation_fraction=0.25))
    assert first.validation is not None
    held_out = decoded(first, "validation")
    assert len(held_out) == 10
    assert sorted(decoded(first) + held_out) == sorted(f"<s>row {i}</s>" for i in range(40))
    assert (
        decoded(prepare(recipe(rows, validation_fraction=0.25, seed=1)), "validation") != held_out
    )
    assert first.report["overlap"] == 0


def test_chats_without_a_template_are_refused_once_with_the_cure() -> None:
    save_tokenizer(Path("plain"), byte_tokenizer())
    (problem,) = problems_of(recipe([{"messages": CHAT}] * 3, model={"path": "plain"}))
    assert "model.chat_template: the data are chats, but the tokenizer has no chat template." in (
        problem
    )


def test_a_template_file_replaces_the_tokenizer_s() -> None:
    save_tokenizer(Path("model"), byte_tokenizer(FORGETFUL))
    Path("mine.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    model = {"chat_template": "mine.jinja"}
    assert decoded(prepare(recipe([{"messages": CHAT}], model=model))) == ["[hi][yo]"]
    for content, message in (
        ("\n{% for %}", "mine.jinja:2: model.chat_template: not a Jinja template: "),
        (b"\xff", "mine.jinja: model.chat_template: is not UTF-8: "),
    ):
        Path("mine.jinja").write_bytes(content.encode() if isinstance(content, str) else content)
        (problem,) = problems_of(recipe([{"messages": CHAT}], model=model))
        assert problem.startswith(message)


def test_added_tokens_are_whole() -> None:
    prepared = prepare(recipe(texts("a<think>"), model={"add_tokens": ["<think>"]}))
    assert prepared.train.lengths.tolist() == [4]
    assert len(prepared.tokenizer) == len(byte_tokenizer()) + 1


def test_a_missing_pad_token_is_filled_in_and_said() -> None:
    save_tokenizer(Path("model"), byte_tokenizer(pad=None))
    prepared = prepare(recipe(texts("a")))
    assert prepared.pad_token_id == prepared.tokenizer.eos_token_id
    assert "'</s>' pads" in prepared.report["notes"][0]
    assert prepared.train[0].loss_mask.tolist() == [True, True]


def test_a_folder_without_tokenizer_is_an_input_error() -> None:
    Path("empty").mkdir()
    Path("empty/config.json").write_text('{"model_type": "llama"}')
    (problem,) = problems_of(recipe(texts("a"), model={"path": "empty"}))
    assert problem.startswith("empty: model.path: no usable tokenizer: ")


def test_code_shipped_with_a_tokenizer_never_runs() -> None:
    config = json.loads(Path("model/tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", None]}
    config["tokenizer_class"] = "Evil"
    Path("model/tokenizer_config.json").write_text(json.dumps(config))
    Path("model/evil.py").write_text("open('ran', 'w')\nclass Evil: ...\n")
    try:
        prepare(recipe(texts("a")))
    except InputError as error:
        assert "model.path" in str(error)  # noqa: PT017 (either way, as long as it didn't run)
    assert not Path("ran").exists()


# --- the cache ---------------------------------------------------------------------------------


def test_the_second_time_nothing_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(texts("a", "b"), texts("c"))
    first = prepare(asked)
    monkeypatch.setattr(prepare_module, "write_splits", None)  # would fail if called
    for again in (prepare(asked), open_prepared(asked)):
        assert again.report == first.report
        assert decoded(again) == decoded(first)
        assert again.validation is not None
        assert decoded(again, "validation") == ["<s>c</s>"]


def test_ranks_say_when_nothing_is_prepared() -> None:
    with pytest.raises(InputError, match=r"not prepared\. Run `launcher prepare` first"):
        open_prepared(recipe(texts("a")))
    prepare(recipe(texts("a")))
    with pytest.raises(InputError, match="not prepared"):
        open_prepared(recipe(texts("b")))


def cache_of(asked: Recipe) -> str:
    return str(prepare(asked).report["cache"])


def test_whatever_decides_the_tokens_is_in_the_key() -> None:
    rows = texts("some text", "other text", "third")
    plain = cache_of(recipe(rows))
    Path("other.jsonl").write_bytes(Path("train.jsonl").read_bytes())
    assert cache_of(recipe("other.jsonl")) == plain, "content counts, not the file's name"
    assert cache_of(recipe(rows, seed=5)) == plain, "the seed matters only for a split"
    Path("train.txt").write_bytes(Path("train.jsonl").read_bytes())
    Path("mine.jinja").write_text(CHATML + " ")
    others = {
        "rows": recipe(texts("some text", "other text", "THIRD")),
        "validation": recipe(rows, texts("v")),
        "split": recipe(rows, validation_fraction=0.3),
        "split by seed": recipe(rows, validation_fraction=0.3, seed=5),
        "share": recipe(rows, validation_fraction=0.6),
        "length": recipe(rows, max_seq_len=5),
        "overlong": recipe(rows, overlong="drop"),
        "columns": recipe(rows, columns={"prompt": "p"}),
        "format": recipe("train.txt"),
        "template": recipe(rows, model={"chat_template": "mine.jinja"}),
        "tokens": recipe(rows, model={"add_tokens": ["text"]}),
    }
    write_rows(Path("train.jsonl"), rows)
    found = {}
    for name, asked in others.items():
        if name == "rows":
            write_rows(Path("train.jsonl"), texts("some text", "other text", "THIRD"))
        found[name] = cache_of(asked)
        write_rows(Path("train.jsonl"), rows)
    save_tokenizer(Path("model"), byte_tokenizer(CHATML))
    found["tokenizer"] = cache_of(recipe(rows))
    assert len({plain, *found.values()}) == len(found) + 1, found


def test_task_and_labels_are_in_the_key() -> None:
    rows = labelled(("a", "x"), ("b", "y"))
    tasks = [{}, {"task": CLASSIFY}]
    tasks += [{"task": CLASSIFY, "labels": labels} for labels in (["x", "y"], ["y", "x"])]
    assert len({cache_of(recipe(rows, model=model)) for model in tasks}) == 4


def test_how_a_tokenizer_was_loaded_leaves_no_trace_in_it(minilm_dir: Path) -> None:
    asked = recipe(texts("a"), model={"path": str(minilm_dir)})
    prepare(asked).tokenizer.save_pretrained("saved")
    assert "local" not in Path("saved/tokenizer_config.json").read_text()
    open_prepared(asked)  # loads without download, and still finds what was prepared with it


def test_two_processes_may_build_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(texts(*(f"row {i}" for i in range(20))))
    forked = multiprocessing.get_context("fork")
    new_folder, both = store.new_folder, forked.Barrier(2)

    def build_together(*arguments: Any) -> AbstractContextManager[Path]:
        both.wait(30)  # each has found nothing by now, and neither has finished
        return new_folder(*arguments)

    monkeypatch.setattr(store, "new_folder", build_together)
    processes = [forked.Process(target=prepare, args=(asked,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    prepared = open_prepared(asked)
    assert decoded(prepared) == [f"<s>row {i}</s>" for i in range(20)]
    place = Path(prepared.report["cache"]).parent
    assert (place / store.MARKER).is_file()


def test_tokens_of_a_batched_build_are_those_of_one_row_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dice = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(25):
        word = "ab" * int(dice.integers(1, 9))
        rows.append(
            [{"text": word}, {"prompt": word, "completion": "c"}, {"messages": CHAT}][i % 3]
        )

    def tokens() -> list[tuple[list[int], list[bool]]]:
        cache = prepare(recipe(rows, cache_dir=f"cache-{size}")).train
        return [
            (cache[i].input_ids.tolist(), cache[i].loss_mask.tolist()) for i in range(len(cache))
        ]

    results = []
    for size in (1, 4, 1000):
        monkeypatch.setattr("launcher.data.build.BATCH_ROWS", size)
        results.append(tokens())
    assert results[0] == results[1] == results[2]


# --- the command -------------------------------------------------------------------------------


def recipe_file(**data: Any) -> str:
    asked = recipe(texts("hello", "world"), **data)
    Path("recipe.yaml").write_text(asked.model_dump_json(exclude_none=True))
    return "recipe.yaml"


def test_the_command_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([recipe_file()]) == 0
    out = capsys.readouterr().out
    assert "first row: ⟦<s>hello</s>⟧" in out
    assert "prepared in .launcher-cache" in out


def test_the_command_ends_a_mistake_with_its_message_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = recipe_file()
    Path("train.jsonl").write_text("{}\n")
    assert main([file]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("train.jsonl:1: needs the columns")
    assert "Traceback" not in captured.err


def test_altered_tokens_are_prepared_anew_and_said_once() -> None:
    settings = recipe([{"text": "abc"}] * 4)
    before = prepare(settings)
    rows = decoded(before)
    tokens = Path(before.report["cache"]) / "train" / "input_ids.bin"
    tokens.write_bytes(bytes([tokens.read_bytes()[0] ^ 1]) + tokens.read_bytes()[1:])
    with pytest.raises(InputError, match="changed"):
        open_prepared(settings)
    again = prepare(settings)
    assert "was changed since it was written: prepared anew" in again.report["replaced"]
    assert again.report["notes"] == before.report["notes"]
    assert decoded(again) == rows
    assert "replaced" not in prepare(settings).report
