"""Finds keys and passwords in configs: they belong in the environment and are never printed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from launcher.errors import Problem
from launcher.recipe.tree import KeyPath, Node, dotted

MASK = "****"

# Published shapes of tokens: Hugging Face, OpenAI and alike, GitHub, AWS, Slack, Google, W&B.
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|AIza[0-9A-Za-z_-]{30,}|wandb_v[0-9]+_[A-Za-z0-9_]{16,})"
)
_BARE_WANDB_KEY = re.compile(r"\b[0-9a-f]{40}\b")
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_SECRET_NAME = re.compile(r"(^|_)(api_?key|token|password|passwd|secret|credentials?)$", re.I)


def is_secret(path: KeyPath, value: object) -> bool:
    """Tell whether a value at a dotted key is shaped or named like a secret."""
    if not isinstance(value, str) or not value:
        return False
    name = str(path[-1]) if path else ""
    if _SECRET_NAME.search(name) or _TOKEN.search(value) or _PASSWORD_IN_URL.search(value):
        return True
    # 40 hexadecimal digits are also how git names a commit.
    return bool(_BARE_WANDB_KEY.search(value)) and name != "revision"


def redact(text: str) -> str:
    """Return text with everything that is shaped like a secret masked."""
    for pattern in (_TOKEN, _PASSWORD_IN_URL):
        text = pattern.sub(MASK, text)
    return text


def find_secrets(root: Node) -> list[tuple[KeyPath, Problem]]:
    """Return one problem for each secret in the tree, with its path; no value is quoted."""
    return [
        (path, _problem(path, node)) for path, node in root.walk() if is_secret(path, node.value)
    ]


def _problem(path: KeyPath, node: Node) -> Problem:
    parts = [str(part).lower() for part in path]
    variable = "WANDB_API_KEY" if "wandb" in parts or _looks_like_wandb(node.value) else "HF_TOKEN"
    message = f"secret in a config file (value {MASK})."
    return Problem(
        node.place, dotted(path), message, f"Remove it here, revoke it, and set {variable} instead."
    )


def _looks_like_wandb(value: str) -> bool:
    return bool(_BARE_WANDB_KEY.search(value)) or value.startswith("wandb_v")


def without(root: Node, paths: Iterable[KeyPath]) -> Node:
    """Return the tree without the mapping entries at `paths`."""
    for path in paths:
        root = _drop(root, path)
    return root


def _drop(node: Node, path: KeyPath) -> Node:
    key, rest = path[0], path[1:]
    below = node.child(key)
    if below is None:
        return node
    if isinstance(node.value, list):
        items = [
            _drop(item, rest) if i == key and rest else item for i, item in enumerate(node.value)
        ]
        return Node(items, node.place)
    entries = dict(node.value)
    if rest:
        entries[str(key)] = _drop(below, rest)
    else:
        del entries[str(key)]
    return Node(entries, node.place)
