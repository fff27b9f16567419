"""The folder of fetched models on this machine, by the rules of the hub's own library.

The library reads HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and others when it is imported, so these
functions answer for the environment of this process. The import takes 0.1 s, hence in functions.
"""

from __future__ import annotations

from pathlib import Path


def hub_cache() -> Path:
    """Return the folder of fetched models."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def is_fetched(model: str, revision: str | None) -> bool:
    """Tell whether a hub model has been fetched, in the revision that ranks will look for."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:  # a folder that isn't there, such as models/mine/7b
        return False
    return isinstance(found, str)
