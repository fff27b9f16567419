"""Chat turns as tokens through the model's own template, with loss on what the assistant said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from launcher.data.bounded import SECONDS, TooLongError, bounded
from launcher.data.columns import kind_of
from launcher.data.rows import Encoded, RowError

ROLES = ("system", "developer", "user", "assistant", "tool")

Span = tuple[int, int]
"""Characters [start, end) of a rendered chat that the assistant said."""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it
_PROBE = "probe7391"


class ChatEncoder:
    """Turns chats into tokens; what it needs to know of the template is found out once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.get_chat_template()
        self.marks_generation = _GENERATION_TAG.search(self._template) is not None
        """Whether the template itself says what the assistant generates."""
        self.end_of_turn = _end_of_turn(tokenizer)
        """The control token that the template puts after an assistant turn; None without one."""

    def encode(self, chats: Sequence[Any]) -> list[Encoded | RowError]:
        """Encode a batch of chats: rendered one by one, tokenised together."""
        rendered = [self._render_checked(chat) for chat in chats]
        texts = [item[0] for item in rendered if not isinstance(item, RowError)]
        if not texts:
            return [item for item in rendered if isinstance(item, RowError)]
        # The template writes its own BOS, so nothing is added around the text.
        tokens = self._tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        pairs = iter(zip(tokens["input_ids"], tokens["offset_mapping"], strict=True))
        return [
            item if isinstance(item, RowError) else self._encoded(item[1], *next(pairs))
            for item in rendered
        ]

    def _encoded(self, spans: list[Span], ids: list[int], offsets: list[Span]) -> Encoded:
        mask = mask_of_spans(offsets, spans)
        mask = end_at_turn(ids, mask, self.end_of_turn, extend=self.marks_generation)
        return Encoded(ids, mask, format="chat")

    def _render_checked(self, chat: Any) -> tuple[str, list[Span]] | RowError:
        try:
            check_messages(chat)
            # a column store (Parquet) gives every message all keys, None where it had none
            messages = [{k: v for k, v in turn.items() if v is not None} for turn in chat]
            with bounded():
                if self.marks_generation:
                    return self._render_marked(messages)
                return self._render_by_prefix(messages)
        except RowError as error:
            return error
        except jinja2.TemplateError as error:
            return RowError(f"the chat template refuses these messages: {error}.")
        except TooLongError:
            return RowError(f"the chat template takes over {SECONDS:.0f} s for these messages.")
        except Exception as error:  # noqa: BLE001 - a template is a program: it may do anything
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return RowError(f"the chat template fails on these messages ({said}).")

    def _render_marked(self, messages: list[dict[str, Any]]) -> tuple[str, list[Span]]:
        arguments: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        rendered: Any = render_jinja_template(  # the annotation says str, it is a pair of lists
            conversations=[messages],
            chat_template=self._template,
            return_assistant_tokens_mask=True,
            **arguments,
        )
        texts, spans = rendered
        return texts[0], list(spans[0])

    def _render_by_prefix(self, messages: list[dict[str, Any]]) -> tuple[str, list[Span]]:
        """What a turn adds to the rendering is what was said in it, if the earlier text stays."""
        whole = self._render(messages)
        spans = []
        for i, turn in enumerate(messages):
            if turn["role"] != "assistant":
                continue
            before = self._render(messages[:i], add_generation_prompt=True)
            after = whole if i == len(messages) - 1 else self._render(messages[: i + 1])
            if not (whole.startswith(after) and after.startswith(before)):
                raise RowError(
                    f"the chat template renders message {i} differently when more messages follow, "
                    "so what the assistant said can't be told from the text. Mark it with "
                    "{% generation %} in a template of your own (model.chat_template)."
                )
            spans.append((len(before), len(after)))
        return whole, spans

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert isinstance(text, str)
        return text


def check_messages(chat: Any) -> None:
    """Raise `RowError` unless this is a list of turns with a known role and something said."""
    if not isinstance(chat, list) or not chat:
        raise RowError(f"messages is {kind_of(chat)}, need a list of {{role, content}}.")
    for i, turn in enumerate(chat):
        if not isinstance(turn, Mapping):
            raise RowError(f"message {i} is {kind_of(turn)}, need an object with role and content.")
        if "role" not in turn or ("content" not in turn and not turn.get("tool_calls")):
            keys = ", ".join(map(str, turn)) or "none"
            raise RowError(f"message {i} needs the keys role and content; it has {keys}.")
        if turn["role"] not in ROLES:
            raise RowError(
                f"message {i} has the unknown role {turn['role']!r}; known: {', '.join(ROLES)}."
            )
        if turn.get("tool_calls"):
            continue  # a call of a tool may say nothing beside
        if not isinstance(turn["content"], str):
            raise RowError(f"content of message {i} is {kind_of(turn['content'])}, need a string.")
        if not turn["content"].strip():
            raise RowError(f"message {i} ({turn['role']}) is an empty turn.")


def mask_of_spans(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """True for the tokens that hold at least one character of a span; both lists ascend."""
    mask, current = [], 0
    for start, end in offsets:
        # a token of width 0 is one whose space was trimmed away: it stands for what is before it
        start = start if end > start else start - 1
        while current < len(spans) and spans[current][1] <= start:
            current += 1
        mask.append(current < len(spans) and end > spans[current][0])
    return mask


def end_at_turn(
    ids: Sequence[int], mask: Sequence[bool], end_of_turn: int | None, *, extend: bool
) -> list[bool]:
    """Let each stretch of targets end with the end-of-turn token.

    What the template writes after that token (a line break) is never generated, so has no loss.
    With `extend` a stretch that stops just before the token takes it in: without it the model
    would never learn to stop.
    """
    result = list(mask)
    if end_of_turn is None:
        return result
    start = 0
    while start < len(ids):
        if not result[start]:
            start += 1
            continue
        end = start
        while end < len(ids) and result[end]:
            end += 1
        if extend and end < len(ids) and ids[end] == end_of_turn:
            result[end] = True
            end += 1
        last = next((i for i in range(end - 1, start - 1, -1) if ids[i] == end_of_turn), None)
        if last is not None:
            result[last + 1 : end] = [False] * (end - last - 1)
        start = end
    return result


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Find the control token behind what an assistant says, by letting it say something known."""
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _PROBE}]
    try:
        with bounded():
            text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # noqa: BLE001 - a template of its own kind: each chat shows whether it fits
        return None
    assert isinstance(text, str)
    after = text.rpartition(_PROBE)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    controls = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in ids if i in controls), None)
