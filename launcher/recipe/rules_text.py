"""Puts the rule of a recipe key into words, read from the schema so that the two can't differ."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from launcher.recipe.schema import (
    MOSTS,
    NAME_PATTERN,
    PATH_PATTERN,
    SLURM_CONSTRAINT_PATTERN,
    SLURM_NAME_PATTERN,
    TIME_PATTERN,
    FreezeMethod,
    FullMethod,
    LoraMethod,
    QloraMethod,
    Recipe,
)
from launcher.recipe.tree import KeyPath, Node

METHODS: dict[str, type[BaseModel]] = {
    "full": FullMethod,
    "freeze": FreezeMethod,
    "lora": LoraMethod,
    "qlora": QloraMethod,
}
_PATTERNS = {
    NAME_PATTERN: "letters, digits, '.', '_' and '-' (text, at most 100, no '.', '_' or '-' first)",
    PATH_PATTERN: "a path without control characters (text, at most 4095)",
    TIME_PATTERN: "minutes, hours:minutes:seconds or days-hours:minutes:seconds (text)",
    SLURM_NAME_PATTERN: "letters, digits, '_', '.', '@', '+', '-', with ',' between names (text)",
    SLURM_CONSTRAINT_PATTERN: "names of features with & | , * ( ) [ ] between them (text)",
}
_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


def section_of(
    path: KeyPath,
    *,
    tag: str | None = None,
    root: Node | None = None,
    top: type[BaseModel] = Recipe,
) -> type[BaseModel] | None:
    """Return the model of the section at `path`, or None where there is no section.

    The method's section depends on its type: `tag`, or what stands in `root`. `top`: the model of
    the whole file.
    """
    model: type[BaseModel] | None = top
    for part in path:
        if isinstance(part, int):
            continue
        if part == "method":
            model = METHODS.get(tag or _method_type(root), QloraMethod)
            continue
        field = model.model_fields.get(part) if model else None
        model = _model_in(field.annotation) if field else None
    return model


def _method_type(root: Node | None) -> str:
    method = root.child("method") if root else None
    kind = method.child("type") if method else None
    return str(kind.value) if kind else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found:
            return found
    return None


def field_rule(path: KeyPath, root: Node, top: type[BaseModel] = Recipe) -> str:
    """Return the rule of the value at `path`: `an integer >= 1`, `one of linear, cosine`."""
    if path == ("method", "type"):
        return f"one of {', '.join(METHODS)}"
    names = [part for part in path if isinstance(part, str)]
    section = section_of(tuple(names[:-1]), root=root, top=top)
    field = section.model_fields.get(names[-1]) if section else None
    if field is None:
        return "another value"
    annotation: Any = field.annotation
    if isinstance(path[-1], int):
        annotation = next(iter(get_args(annotation)), annotation)
        return describe(annotation)
    return describe(annotation, field.metadata)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return what a type and its constraints allow, in words."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], _flatten(arguments[1:]))
    if origin is Literal:
        return (
            str(arguments[0]) if len(arguments) == 1 else f"one of {', '.join(map(str, arguments))}"
        )
    if origin in (Union, types.UnionType):
        arms = [describe(part) for part in arguments if part is not type(None)]
        return " or ".join(dict.fromkeys(arms))
    if origin is dict:
        return "a section of names and texts"
    if origin is tuple:
        return _list_rule(arguments, metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    return _scalar(annotation, metadata)


def _list_rule(arguments: tuple[Any, ...], metadata: Sequence[Any]) -> str:
    if arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: each {describe(arguments[0])}"
    least = next((entry.min_length for entry in metadata if hasattr(entry, "min_length")), 0)
    return f"a list of {f'at least {least} ' if least else ''}{_item(arguments[0])}"


def _item(annotation: Any) -> str:
    text = describe(annotation)
    return {"text": "texts", "a section": "sections", "an integer": "integers"}.get(text, text)


def _flatten(metadata: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for entry in metadata:
        flat += entry.metadata if isinstance(entry, FieldInfo) else [entry]
    return flat


def _scalar(annotation: Any, metadata: Sequence[Any]) -> str:
    for entry in metadata:
        if getattr(entry, "pattern", None) in _PATTERNS:
            return _PATTERNS[entry.pattern]
    if annotation is str:
        return "text"
    if annotation is bool:
        return "true or false"
    bounds = [
        f"{sign} {getattr(entry, name)}"
        for name, sign in _BOUNDS
        for entry in metadata
        if getattr(entry, name, None) is not None and not (name == "le" and entry.le in MOSTS)
    ]
    noun = "an integer" if annotation is int else "a finite number"
    return f"{noun} {' and '.join(bounds)}".strip()
