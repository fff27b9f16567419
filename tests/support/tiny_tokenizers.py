"""Tokenizers of a few hundred tokens, built on the spot, each with one trait that matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen and SmolLM write chats; nothing marks what the assistant generates."""

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The same text, with the assistant's part marked."""

MARKED_WITHOUT_END = MARKED.replace(
    "<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"
)
"""The mark leaves out the end of the turn, as some published templates do."""

BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
"""As Llama 2 and Mistral write chats: a BOS of its own, no generation prompt."""

FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% else %}...{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Rewrites earlier assistant turns, as reasoning models do with their thoughts."""

ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
"""Ends a turn with nothing that a model could stop at."""


def byte_tokenizer(
    chat_template: str | None = None,
    *,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    pad: str | None = "<pad>",
    merges: tuple[tuple[str, str], ...] = (),
) -> PreTrainedTokenizerBase:
    """Return a tokenizer of single bytes plus `merges`; `before`/`after` go around every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(a + b for a, b in merges)]
    model = BPE({token: i for i, token in enumerate(vocabulary)}, list(merges))
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    if before or after:
        around = [*before, "$A", *after]
        ids = [(token, backend.token_to_id(token)) for token in {*before, *after}]
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join(around), special_tokens=ids
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token=pad
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Save a tokenizer as a model folder has it; return the folder as a recipe would name it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write JSONL; return the path as a recipe would name it."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)
