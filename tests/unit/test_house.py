"""Tests know the product by its public names, so that what is inside can be changed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("launcher", "quickstart")
PATCHES = re.compile(r"attr$|patch")
"""Functions that take names as text: getattr, monkeypatch.setattr, mock.patch.object, ..."""
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_names() -> frozenset[str]:
    """Return every private function, class, variable and attribute of the product."""
    found: set[str] = set()
    for folder in PRODUCT:
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                        found.add(name)
                    case ast.Name(id=name, ctx=ast.Store()):
                        found.add(name)
                    case ast.Attribute(attr=name, ctx=ast.Store()):
                        found.add(name)
    return frozenset(filter(is_private, found))


PRIVATE = private_names()


def uses_of_private_names(source: str) -> Iterator[str]:
    """Yield what a test module does with private names of the product, by line.

    Not meant: an object's own attributes (`self._x`), and those of libraries (`os._exit`).
    """
    tree = ast.parse(source)
    libraries = set(names_of_libraries(tree))
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith(PRODUCT):
                found = any(map(is_private, [*module.split("."), *(one.name for one in names)]))
            case ast.Import(names=names):
                words = [name.name.split(".") for name in names]
                found = any(own[0] in PRODUCT and any(map(is_private, own)) for own in words)
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                found = False
            case ast.Attribute(attr=name):
                found = name in PRIVATE and root(node) not in libraries
            # monkeypatch.setattr(module, "_name", ...), module.__dict__["_name"]
            case ast.Call(func=function, args=arguments, keywords=keywords) if PATCHES.search(
                ast.unparse(function)
            ):
                found = any(map(names_private, [*arguments, *(word.value for word in keywords)]))
            case ast.Subscript(value=ast.Attribute(attr="__dict__"), slice=key):
                found = names_private(key)
            case _:
                found = False
        if found:
            yield f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


def names_private(node: ast.expr) -> bool:
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and text.rpartition(".")[2] in PRIVATE


def names_of_libraries(tree: ast.AST) -> Iterator[str]:
    """Yield the names that the module gives to what it imports from outside the product."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    module = getattr(node, "module", None) or alias.name
                    if not module.startswith(PRODUCT):
                        yield alias.asname or alias.name.partition(".")[0]


def root(node: ast.expr) -> str | None:
    """Return the name that a chain of attributes begins with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_test_uses_no_private_name(path: Path) -> None:
    assert list(uses_of_private_names(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "from launcher.train.step import _update",
        "from launcher.train import step\nstep._update(None)",
        "heart._beat()",
        "patch.setattr(step, '_update', None)",
        "patch.setattr('launcher.train.step._update', None)",
        "mock.patch('launcher.train.step._update')",
        "mock.patch.object(step, '_update')",
        "patch.setattr(step, name='_update', value=None)",
        "patch.setattr(target='launcher.train.step._update', name=None)",
        "step.__dict__['_update'] = None",
        "import launcher.train._hidden",
    ],
)
def test_such_a_use_is_found(source: str) -> None:
    assert len(list(uses_of_private_names(source))) == 1
