"""Names of each task's head: what `freeze` trains by default, and what adapters leave whole.

Also where no torch is loaded: `launcher check` counts trained parameters by them.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.recipe.schema import TaskName

HEAD_PATTERNS: Mapping[TaskName, tuple[str, ...]] = {
    "causal-lm": ("lm_head.*", "*.lm_head.*", "embed_out.*"),
    "sequence-classification": (
        "classifier.*",
        "pre_classifier.*",
        "score.*",
        "classification_head.*",
    ),
}
"""Task -> shell-style patterns of parameter names, in a model and in its files."""
