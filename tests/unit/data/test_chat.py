"""What an assistant said has loss, with the end of its turn, and nothing else has."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from launcher.data import bounded
from launcher.data.chat import ChatEncoder, mask_of_spans
from launcher.data.rows import Encoded, RowError
from tests.support.tiny_tokenizers import (
    BRACKETS,
    CHATML,
    ENDLESS,
    FORGETFUL,
    MARKED,
    MARKED_WITHOUT_END,
    byte_tokenizer,
)

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hello — 你好 👋"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So  long \n"},
]


def said(tokenizer: PreTrainedTokenizerBase, row: Encoded | RowError) -> list[str]:
    """Decode each stretch of tokens with loss."""
    assert isinstance(row, Encoded), row
    stretches: list[list[int]] = []
    previous = False
    for token, supervised in zip(row.input_ids, row.loss_mask, strict=True):
        if supervised and not previous:
            stretches.append([])
        if supervised:
            stretches[-1].append(token)
        previous = supervised
    return [tokenizer.decode(stretch) for stretch in stretches]


def encode(tokenizer: PreTrainedTokenizerBase, chat: Any) -> Encoded | RowError:
    return ChatEncoder(tokenizer).encode([chat])[0]


@pytest.mark.parametrize("template", [CHATML, MARKED, MARKED_WITHOUT_END])
def test_assistant_turns_with_their_end_have_loss(template: str) -> None:
    tokenizer = byte_tokenizer(template)
    row = encode(tokenizer, CHAT)
    assert said(tokenizer, row) == ["Hello — 你好 👋<|im_end|>", "So  long \n<|im_end|>"]
    assert tokenizer.decode(row.input_ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_a_template_with_its_own_bos_gives_one_bos() -> None:
    tokenizer = byte_tokenizer(BRACKETS, before=("<s>",))
    row = encode(tokenizer, CHAT[1:])
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert said(tokenizer, row) == [" Hello — 你好 👋</s>", " So  long \n</s>"]


def test_equals_the_mask_that_transformers_makes_of_a_marked_template() -> None:
    tokenizer = byte_tokenizer(MARKED)
    theirs = tokenizer.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = encode(tokenizer, CHAT)
    assert ours.input_ids == theirs["input_ids"]
    assert ours.loss_mask == [bool(value) for value in theirs["assistant_masks"]]


def random_chat(dice: random.Random) -> list[dict[str, str]]:
    alphabet = ["a", " ", "\n", "é", "语", "🙂", "<|im_end|>", "assistant", "."]
    turns = []
    for i in range(dice.randint(1, 4)):
        for role in ("user", "assistant"):
            content = "x" + "".join(dice.choices(alphabet, k=dice.randint(0, 9)))
            turns.append({"role": role, "content": content + str(i)})
    return turns


@pytest.mark.parametrize("seed", range(20))
def test_equals_differences_of_token_prefixes(seed: int) -> None:
    """Independent: tokenise ever longer beginnings of the chat instead of looking at characters."""
    tokenizer = byte_tokenizer(CHATML)
    chat = random_chat(random.Random(seed))
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def ids_of(messages: list[dict[str, str]], prompt: bool = False) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    whole = ids_of(chat)
    expected = [False] * len(whole)
    for i, turn in enumerate(chat):
        if turn["role"] == "assistant":
            start, end = len(ids_of(chat[:i], prompt=True)), len(ids_of(chat[: i + 1]))
            while whole[end - 1] != end_of_turn:
                end -= 1
            expected[start:end] = [True] * (end - start)
    row = encode(tokenizer, chat)
    assert row.input_ids == whole
    assert row.loss_mask == expected


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_cure() -> None:
    error = encode(byte_tokenizer(FORGETFUL), CHAT)
    assert isinstance(error, RowError)
    assert "message 2 differently when more messages follow" in str(error)
    assert "{% generation %}" in str(error)
    # one answer alone is not rewritten
    assert said(byte_tokenizer(FORGETFUL), encode(byte_tokenizer(FORGETFUL), CHAT[:3]))


def test_a_chat_without_an_answer_has_no_targets() -> None:
    row = encode(byte_tokenizer(CHATML), CHAT[:2])
    assert isinstance(row, Encoded)
    assert row.num_targets == 0


def test_a_template_without_end_of_turn_is_taken_as_it_is() -> None:
    tokenizer = byte_tokenizer(ENDLESS)
    assert ChatEncoder(tokenizer).end_of_turn is None
    # without a generation prompt the role is part of what the turn adds
    assert said(tokenizer, encode(tokenizer, CHAT[1:3])) == ["assistant: Hello — 你好 👋\n"]


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("hi", "messages is a string, need a list"),
        ([], "messages is an empty list"),
        (["hi"], "message 0 is a string, need an object"),
        ([{"from": "human", "value": "hi"}], "message 0 needs the keys role and content; it has"),
        ([{"role": "user", "content": "a"}, {"role": "gpt", "content": "b"}], "message 1 has the"),
        ([{"role": "user", "content": " \n"}], "message 0 (user) is an empty turn"),
        ([{"role": "user", "content": 7}], "content of message 0 is the number 7"),
        ([{"role": "user", "content": None}], "content of message 0 is null"),
        ([{"role": ["user"], "content": "a"}], "message 0 has the unknown role ['user']"),
    ],
)
def test_bad_chats_say_which_message_and_why(chat: Any, message: str) -> None:
    error = encode(byte_tokenizer(CHATML), chat)
    assert isinstance(error, RowError)
    assert message in str(error)


def test_a_template_that_raises_is_quoted() -> None:
    error = encode(byte_tokenizer(BRACKETS), CHAT)
    assert isinstance(error, RowError)
    assert "only user and assistant" in str(error)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ 'a' * 10 ** 11 }}", "MemoryError"),
        ("{{ messages[0].content.nothing.more }}", "has no attribute"),
    ],
)
def test_whatever_a_template_does_is_the_rows_error(
    template: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "SECONDS", 0.5)
    error = encode(byte_tokenizer(template), CHAT)
    assert isinstance(error, RowError)
    assert reason in str(error)


def test_good_and_bad_chats_of_a_batch_keep_their_order() -> None:
    tokenizer = byte_tokenizer(CHATML)
    rows = ChatEncoder(tokenizer).encode([CHAT[:3], "bad", CHAT])
    assert [type(row) for row in rows] == [Encoded, RowError, Encoded]
    assert len(said(tokenizer, rows[2])) == 2


def test_tokens_that_only_touch_a_span_are_outside() -> None:
    offsets = [(0, 2), (2, 4), (4, 6), (6, 9)]
    assert mask_of_spans(offsets, [(2, 4), (6, 9)]) == [False, True, False, True]
    assert mask_of_spans(offsets, [(3, 5)]) == [False, True, True, False]


def test_zero_width_tokens_stand_for_the_space_before_them() -> None:
    # "ab c" with the space trimmed to width 0 at its end
    offsets = [(0, 1), (1, 2), (3, 3), (3, 4)]
    assert mask_of_spans(offsets, [(2, 4)]) == [False, False, True, True]
    assert mask_of_spans(offsets, [(3, 4)]) == [False, False, False, True]
    assert mask_of_spans(offsets, [(1, 3)]) == [False, True, True, False]
    assert mask_of_spans(offsets, []) == [False] * 4


def test_smollm2_real_template(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    row = encode(tokenizer, CHAT)
    assert said(tokenizer, row) == ["Hello — 你好 👋<|im_end|>", "So  long \n<|im_end|>"]
    # the template supplies its own system turn where the chat has none
    assert said(tokenizer, encode(tokenizer, CHAT[1:3])) == ["Hello — 你好 👋<|im_end|>"]
