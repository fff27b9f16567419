"""Plain text and prompt/completion pairs as tokens: where a sequence starts, ends and has loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from launcher.data.rows import Encoded


@dataclass(frozen=True)
class Specials:
    """Tokens that the tokenizer itself puts around a text, and the one that ends a document."""

    prefix: tuple[int, ...]
    """Such as a BOS, or BERT's `[CLS]`."""
    suffix: tuple[int, ...]
    """Such as BERT's `[SEP]`; empty for most decoders."""
    eos: int | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Specials:
        """Probe the tokenizer: flags such as `add_bos_token` don't hold everywhere."""
        bare = tokenize(tokenizer, ["a"])[0]
        full = tokenizer(["a"], add_special_tokens=True, verbose=False)["input_ids"][0]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                after = full[start + len(bare) :]
                return cls(tuple(full[:start]), tuple(after), tokenizer.eos_token_id)
        return cls((), (), tokenizer.eos_token_id)

    def opened(self, ids: list[int]) -> list[int]:
        """Put the prefix in front, unless the text brought it along: never a double BOS."""
        return ids if tuple(ids[: len(self.prefix)]) == self.prefix else [*self.prefix, *ids]

    def ended(self, ids: list[int]) -> list[int]:
        """Put the end-of-document token behind, unless it is there."""
        return ids if self.eos is None or ids[-1:] == [self.eos] else [*ids, self.eos]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of a batch of texts with nothing added around them."""
    if not texts:
        return []
    # verbose=False: a text beyond the model's maximum is our truncation's business, not a warning's
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, specials: Specials, texts: Sequence[str]
) -> list[Encoded]:
    """Documents: every token is a target, and so is the end; a blank one comes back empty."""
    encoded = []
    for text, ids in zip(texts, tokenize(tokenizer, texts), strict=True):
        if not text.strip():
            encoded.append(Encoded([], [], format="text"))
            continue
        ids = specials.ended(specials.opened(ids))
        encoded.append(Encoded(ids, [True] * len(ids), format="text"))
    return encoded


def encode_completions(
    tokenizer: PreTrainedTokenizerBase, specials: Specials, pairs: Sequence[tuple[str, str]]
) -> list[Encoded]:
    """Prompts without loss, each followed by its completion and the end with loss.

    At inference the prompt is tokenised alone. Prompt and completion are therefore tokenised as one
    text only where that leaves the prompt's tokens as they are; where a token would straddle the
    border they are tokenised apart.
    """
    prompts = tokenize(tokenizer, [prompt for prompt, _ in pairs])
    wholes = tokenize(tokenizer, [prompt + completion for prompt, completion in pairs])
    apart = [i for i, ids in enumerate(prompts) if wholes[i][: len(ids)] != ids]
    completions = tokenize(tokenizer, [pairs[i][1] for i in apart])
    for i, completion in zip(apart, completions, strict=True):
        wholes[i] = prompts[i] + completion

    encoded = []
    for prompt, whole in zip(prompts, wholes, strict=True):
        opened = specials.opened(whole)
        without_loss = len(prompt) + len(opened) - len(whole)
        ids = specials.ended(opened)
        mask = [False] * without_loss + [True] * (len(ids) - without_loss)
        encoded.append(Encoded(ids, mask, format="prompt"))
    return encoded


def encode_wrapped(
    tokenizer: PreTrainedTokenizerBase, specials: Specials, texts: Sequence[str]
) -> list[list[int]]:
    """Texts with the tokenizer's own prefix and suffix; a blank one comes back empty."""
    return [
        [*specials.opened(ids), *specials.suffix] if text.strip() else []
        for text, ids in zip(texts, tokenize(tokenizer, texts), strict=True)
    ]
