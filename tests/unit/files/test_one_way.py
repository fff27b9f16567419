"""Only the files room opens, removes or replaces files: what it guards against, it guards all of.

Not meant: temporary files, which Python makes private, and what libraries read and write.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "launcher"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "files" not in path.parents)
OF_PATHS = {
    "chmod", "hardlink_to", "mkdir", "open", "read_bytes", "read_text", "rename", "rmdir",
    "symlink_to", "touch", "unlink", "write_bytes", "write_text",
}  # fmt: skip
OF_OS = OF_PATHS | {"makedirs", "remove", "removedirs", "replace", "symlink", "truncate"}
OF_SHUTIL = {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"}
ALLOWED = {
    "os.open(os.devnull, os.O_WRONLY)": "a device of the system's",
    "os.open(os.devnull, os.O_RDWR)": "a device of the system's",
    "gzip.open(file, 'rb')": "a file that the files room has opened",
    "run_dir.root.chmod(448)": "makes the folder private that was just made, or looked at",
}


def file_calls(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="open")):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)):
                if name in OF_OS:
                    yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="shutil"), attr=name)):
                if name in OF_SHUTIL:
                    yield ast.unparse(node)
            # `a.replace(b)` of a path has one argument, that of a text two.
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr=name)) if name in OF_PATHS:
                yield ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_touches_files(path: Path) -> None:
    assert [call for call in file_calls(path.read_text()) if call not in ALLOWED] == []


def test_what_is_allowed_is_used() -> None:
    used = {call for path in MODULES for call in file_calls(path.read_text())}
    assert set(ALLOWED) <= used


@pytest.mark.parametrize(
    "source",
    [
        "path.read_text()", "Path(name).open('rb')", "open(path)", "os.unlink(path)",
        "shutil.rmtree(folder)", "path.replace(other)", "(a / b).write_text('')",
    ],
)  # fmt: skip
def test_each_way_is_seen(source: str) -> None:
    assert list(file_calls(source))
