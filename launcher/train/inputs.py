"""What a run was begun with, file by file, and whether it is still that when the run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from launcher.checkpoint.manifest import Manifest, read_manifest
from launcher.data.rows import Part
from launcher.errors import InputError, Problem
from launcher.model.fingerprint import model_fingerprint
from launcher.recipe.changes import covers
from launcher.recipe.schema import ModelSection
from launcher.run_dir import RunDir

DATA, TOKENS, MODEL = "data/", "tokens/", "model/"
_ALLOWED_BY = {DATA: "data.train data.validation", MODEL: "model.path"}


def collect_inputs(
    parts: Iterable[Part], token_digests: Mapping[str, str], model: ModelSection
) -> dict[str, str]:
    """Return entry -> digest of everything that a run reads: it goes into every manifest.

    `data/FILE` are the files of rows, `tokens/SPLIT` what they became (with template, maximum
    length and all other settings applied), `model/FILE` the base model.
    """
    return {
        **{f"{DATA}{part.name}": f"sha256 {part.digest()}" for part in parts},
        **{f"{TOKENS}{split}": f"sha256 {digest}" for split, digest in token_digests.items()},
        **{f"{MODEL}{name}": entry for name, entry in model_fingerprint(model).items()},
    }


@dataclass(frozen=True)
class InputChange:
    """One entry that is not as it was."""

    entry: str
    before: str | None
    now: str | None

    @property
    def kind(self) -> str:
        """The group of the entry: `data/`, `tokens/` or `model/`."""
        return self.entry[: self.entry.index("/") + 1]

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.entry} is new"
        if self.now is None:
            return f"{self.entry} is gone"
        return f"{self.entry} changed from {_short(self.before)} to {_short(self.now)}"


def changed_inputs(saved: Mapping[str, str], now: Mapping[str, str]) -> list[InputChange]:
    """Return every entry that changed, is new or is gone; tokens only where nothing explains them.

    A checkpoint without entries says nothing about its inputs.
    """
    if not saved:
        return []
    entries = [*saved, *(entry for entry in now if entry not in saved)]
    found = [
        InputChange(e, saved.get(e), now.get(e)) for e in entries if saved.get(e) != now.get(e)
    ]
    causes = [change for change in found if change.kind != TOKENS]
    return causes or found


def compare_inputs(
    saved: Mapping[str, str], now: Mapping[str, str], allowed: Sequence[str]
) -> None:
    """Compare a checkpoint's inputs with those of this launch.

    `allowed` are the keys of `--allow-change`. Raises `InputError` with one problem for each entry
    that differs and isn't allowed to.
    """
    refused = [
        change for change in changed_inputs(saved, now) if not _is_allowed(change.kind, allowed)
    ]
    if refused:
        raise InputError([_problem(change) for change in refused])


def compare_with_checkpoint(
    run_dir: RunDir, now: Mapping[str, str], allowed: Sequence[str]
) -> None:
    """Compare with the newest checkpoint before any rank starts: a refusal then costs no ranks.

    Files of the checkpoint are not verified here; whatever the ranks resume from is compared again.
    """
    for folder in reversed(run_dir.committed):
        try:
            saved = read_manifest(folder).inputs
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        compare_inputs(saved, now, allowed)
        return


def changes_since(manifest: Manifest, now: Mapping[str, str], recipe_digest: str) -> list[str]:
    """Return what a run that goes on has to say of itself: what is not as in its checkpoint."""
    changes = [
        f"{change}: allowed by --allow-change" for change in changed_inputs(manifest.inputs, now)
    ]
    if manifest.recipe_digest != recipe_digest:
        changes.append("the recipe is not that of the checkpoint; changes.jsonl says what changed")
    return changes


def _is_allowed(kind: str, allowed: Sequence[str]) -> bool:
    if kind == TOKENS:
        # Any change to data or tokenizer that was allowed gives other tokens.
        return any(key.partition(".")[0] in ("data", "model") for key in allowed)
    return any(covers(key, below) for key in allowed for below in _ALLOWED_BY[kind].split())


def _problem(change: InputChange) -> Problem:
    key = "model.path" if change.kind == MODEL else "data"
    message = f"{change}, so this is not what the run was begun with."
    if change.kind == TOKENS:
        message = (
            f"{change}: from the same files come other tokens"
            " (the tokenizer, its template, or the version of a library)."
        )
    cure = f"Restore it, start over with --fresh, or go on with it: --allow-change {key}."
    return Problem("the checkpoint", key, message, cure)


def _short(entry: str) -> str:
    head, _, digest = entry.rpartition(" ")
    return f"{head} {digest[:12]}".strip()
