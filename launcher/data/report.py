"""What the prepared data are, in numbers that show a silent mistake before it costs a run."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from launcher.data.build import Split, SplitCounts
from launcher.data.cache import CacheWriter, TokenCache

SAMPLE_TOKENS = 400
"""Tokens of the decoded sample."""

MANY_TRUNCATED = 0.05
"""Share of truncated rows from which the report warns."""


def split_report(cache: TokenCache, counts: SplitCounts, labels: tuple[str, ...]) -> dict[str, Any]:
    """Counts of one split; lengths and tokens are those of the rows as used."""
    lengths = cache.lengths
    tokens, supervised = int(lengths.sum()), int(cache.num_targets.sum())
    quantiles = np.quantile(lengths, [0.0, 0.5, 0.9, 0.99, 1.0], method="nearest")
    report: dict[str, Any] = {
        "rows": counts.rows,
        "used": len(cache),
        "dropped": dict(counts.dropped),
        "formats": dict(counts.formats),
        "truncated": counts.truncated,
        "truncated_share": counts.truncated / len(cache),
        "cut_tokens": counts.cut_tokens,
        "lengths": dict(zip(("min", "p50", "p90", "p99", "max"), map(int, quantiles), strict=True)),
        "tokens": tokens,
    }
    if counts.bad_examples:
        report["bad_examples"] = counts.bad_examples
    if not labels:
        report["supervised_tokens"] = supervised
        report["supervised_share"] = supervised / tokens
    else:
        found = np.bincount(cache.labels, minlength=len(labels))
        report["labels"] = dict(zip(labels, map(int, found), strict=True))
    return report


def duplicates(writers: dict[Split, CacheWriter]) -> dict[str, int]:
    """Training rows that repeat another one, and validation rows that are training rows too."""
    train = writers["train"].digests
    result = {"train_duplicates": len(train) - len(np.unique(train))}
    if "validation" in writers:
        result["overlap"] = int(np.isin(writers["validation"].digests, train).sum())
    return result


def warnings(counts: dict[Split, SplitCounts], repeated: dict[str, int], used: int) -> list[str]:
    """Sentences on what most likely is a mistake in the training data."""
    train, found = counts["train"], []
    if repeated.get("overlap"):
        found.append(
            f"{repeated['overlap']} validation rows are training rows too: "
            "the validation loss looks better than it is."
        )
    if train.truncated > MANY_TRUNCATED * used:
        found.append(
            f"{train.truncated / used:.1%} of the training rows are longer than data.max_seq_len; "
            f"{train.cut_tokens} tokens are cut."
        )
    for name, split in counts.items():
        if split.bad_examples:
            found.append(
                f"{split.dropped['bad']} {name} rows can't be read or used and are skipped; "
                f"the first: {' | '.join(split.bad_examples)}"
            )
    if train.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in train.dropped.items())
        found.append(f"{train.dropped.total()} of {train.rows} training rows dropped: {reasons}.")
    if train.without_end:
        found.append(
            f"{train.without_end} training rows end without a control token that has loss: "
            "they don't teach the model to stop."
        )
    if train.double_starts:
        found.append(f"{train.double_starts} training rows begin with the same token twice.")
    if len(train.formats) > 1:
        mixed = ", ".join(f"{count} {name}" for name, count in train.formats.items())
        found.append(f"the training rows are of several formats: {mixed}.")
    return found


def decoded_sample(
    cache: TokenCache, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Return the first row as text in pieces, each with or without loss, and its class."""
    row = cache[0]
    tokens = list(zip(row.input_ids.tolist(), row.loss_mask.tolist(), strict=True))
    pieces = [
        {"supervised": supervised, "text": tokenizer.decode([token for token, _ in group])}
        for supervised, group in groupby(tokens[:SAMPLE_TOKENS], key=lambda token: token[1])
    ]
    sample: dict[str, Any] = {"pieces": pieces, "tokens": len(tokens)}
    if labels:
        sample["label"] = labels[row.label]
    return sample
