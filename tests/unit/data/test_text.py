"""Where plain text and prompt/completion rows start, end and have loss."""

from __future__ import annotations

from launcher.data.text import Specials, encode_completions, encode_texts, encode_wrapped
from tests.support.tiny_tokenizers import byte_tokenizer


def test_a_document_gets_one_bos_and_one_eos_whatever_it_brings_along() -> None:
    tokenizer = byte_tokenizer(before=("<s>",))
    specials = Specials.of(tokenizer)
    plain, dressed, blank = encode_texts(tokenizer, specials, ["ab", "<s>ab</s>", " \n"])
    assert tokenizer.decode(plain.input_ids) == "<s>ab</s>"
    assert plain.loss_mask == [True] * 4
    assert plain.num_targets == 3  # a, b, </s>: nothing predicts the first token
    assert dressed.input_ids == plain.input_ids
    assert blank.input_ids == []


def test_specials_are_found_by_probing() -> None:
    tokenizer = byte_tokenizer(before=("<s>",), after=("</s>",))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert Specials.of(tokenizer) == Specials((bos,), (eos,), eos)
    assert Specials.of(byte_tokenizer()) == Specials((), (), eos)


def test_only_the_completion_and_the_end_have_loss() -> None:
    tokenizer = byte_tokenizer(before=("<s>",))
    row = encode_completions(tokenizer, Specials.of(tokenizer), [("Q: 1+1\nA:", " 2")])[0]
    assert tokenizer.decode(row.input_ids) == "<s>Q: 1+1\nA: 2</s>"
    with_loss = [t for t, m in zip(row.input_ids, row.loss_mask, strict=True) if m]
    assert tokenizer.decode(with_loss) == " 2</s>"


def test_a_token_never_straddles_prompt_and_completion() -> None:
    # "ab" is one token, so the joint text "ab" has no border between prompt and completion
    tokenizer = byte_tokenizer(merges=(("a", "b"),))
    specials = Specials.of(tokenizer)
    straddling, clean = encode_completions(tokenizer, specials, [("a", "b"), ("x", "ab")])
    assert len(tokenizer("ab", add_special_tokens=False)["input_ids"]) == 1
    assert tokenizer.convert_ids_to_tokens(straddling.input_ids) == ["a", "b", "</s>"]
    assert straddling.loss_mask == [False, True, True]
    assert tokenizer.convert_ids_to_tokens(clean.input_ids) == ["x", "ab", "</s>"]
    assert clean.loss_mask == [False, True, True]


def test_an_empty_prompt_leaves_bos_without_loss() -> None:
    tokenizer = byte_tokenizer(before=("<s>",))
    row = encode_completions(tokenizer, Specials.of(tokenizer), [("", "a")])[0]
    assert row.loss_mask == [False, True, True]


def test_wrapped_equals_the_tokenizer_itself() -> None:
    tokenizer = byte_tokenizer(before=("<s>",), after=("</s>",))
    ids = encode_wrapped(tokenizer, Specials.of(tokenizer), ["hello", "", "é"])
    assert ids[0] == tokenizer("hello")["input_ids"]
    assert ids[1] == []
    assert ids[2] == tokenizer("é")["input_ids"]
