"""Code inside a model folder: run only where recipe and command both say so, and only one state."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.errors import Problem
from launcher.recipe.finding import Finding, Place, nearest_place
from launcher.recipe.schema import ModelSection

FLAG = "--trust-remote-code"
KEY = "model.trust_remote_code"
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


def check_remote_code(
    model: ModelSection, place: Place, *, is_folder: bool, allowed: bool
) -> Iterator[Finding]:
    """Yield what is missing before code that came with a model may be run.

    A recipe is passed around and its author may be anybody; the flag is said by whose rights the
    code gets. A branch or tag of a hub name can be given other code after somebody has read it, so
    a commit has to be named.
    """
    if allowed and not model.trust_remote_code:
        message = "the recipe says false, so no code of the model would be run."
        cure = f"Leave the option out, or write {KEY}: true."
        yield (KEY,), Problem(FLAG, KEY, message, cure)
    if not model.trust_remote_code:
        return
    if not allowed:
        message = f"true, so the code in {model.path} would be run with all that you may do."
        cure = f"Read it, then add {FLAG} to the command; or write false."
        yield (KEY,), Problem(nearest_place(place, KEY), KEY, message, cure)
    if not is_folder and not _COMMIT.match(model.revision or ""):
        key = "model.revision"
        seen = f'got "{model.revision}"' if model.revision else "is missing"
        message = f"{seen}; code of a hub model needs the 40 hexadecimal digits of a commit."
        cure = "A branch or tag can be given other code after you have read it."
        yield (KEY, key), Problem(nearest_place(place, key), key, message, cure)
