"""Lets a recipe or an override change the method of what it is laid over."""

from __future__ import annotations

from launcher.recipe.rules_text import METHODS
from launcher.recipe.tree import Node


def drop_foreign_keys(root: Node) -> Node:
    """Drop inherited keys that the method no longer has: `rank` where lora became full.

    Only where `type` was written in another file, or by an override: beside it, they are mistakes.
    Keys that both methods have (`rank`, where lora became qlora) stay.
    """
    method = root.child("method")
    kind = method.child("type") if method else None
    if method is None or kind is None or kind.value not in METHODS:
        return root
    known = METHODS[kind.value].model_fields
    others = {key for other in METHODS.values() for key in other.model_fields}
    kept = {
        key: node
        for key, node in method.value.items()
        if key in known or key not in others or _source(node) == _source(kind)
    }
    return Node({**root.value, "method": Node(kept, method.place)}, root.place)


def _source(node: Node) -> str:
    """Return the file a node was written in; all overrides are one."""
    is_override = node.place.startswith("--set ")
    return "--set" if is_override else node.place.rpartition(":")[0]
