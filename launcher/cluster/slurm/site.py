"""The site file: what is the same for every job of a cluster, written once for all recipes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from launcher.cluster.slurm.site_schema import Site
from launcher.cluster.slurm.site_values import bad_values
from launcher.errors import InputError, Problem
from launcher.files.read import read_text, why_unreadable
from launcher.recipe.extends import display
from launcher.recipe.read_yaml import parse_yaml
from launcher.recipe.schema_problems import schema_problems
from launcher.recipe.secrets import find_secrets, without
from launcher.recipe.tree import Node

SITE_VARIABLE = "LAUNCHER_SITE"
DEFAULT_PLACES = (Path("slurm/site.yaml"), Path("~/.config/launcher/site.yaml"))


@dataclass(frozen=True)
class LoadedSite:
    """A site file that was read, or none."""

    site: Site
    path: Path | None
    root: Node

    def place(self, *path: str | int) -> str:
        """Return where a value was written."""
        return self.root.place_of(path)

    @property
    def template(self) -> Path | None:
        """The job template that it names."""
        if self.site.template is None or self.path is None:
            return None
        return self.path.parent / Path(self.site.template).expanduser()


def load_site(given: Path | None) -> LoadedSite:
    """Return the site file: as given, else $LAUNCHER_SITE, else the first default that is there.

    Raises:
        InputError: it is missing where it was named, or something in it is wrong.
    """
    path = _find(given)
    if path is None:
        return LoadedSite(Site(), None, Node({}, "no site file"))
    name = display(path)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(name, "", f"{why_unreadable(error)}.")) from error
    root = parse_yaml(text, name)
    root = Node({}, root.place) if root.value is None else root
    if not isinstance(root.value, dict):
        message = "a site file is a mapping of keys."
        raise InputError(Problem(root.place, "", message, "Copy slurm/site.yaml.example."))
    secrets = find_secrets(root)
    problems = [problem for _, problem in secrets]
    clean = without(root, [where for where, _ in secrets])
    try:
        site = Site.model_validate_json(json.dumps(clean.plain()), strict=True)
    except ValidationError as error:
        raise InputError([*problems, *schema_problems(error, clean, Site)]) from error
    loaded = LoadedSite(site, path, clean)
    problems += bad_values(site, clean, loaded.template)
    if problems:
        raise InputError(problems)
    return loaded


def _find(given: Path | None) -> Path | None:
    named = given or (Path(os.environ[SITE_VARIABLE]) if os.environ.get(SITE_VARIABLE) else None)
    if named is None:
        places = (place.expanduser() for place in DEFAULT_PLACES)
        return next((place for place in places if place.is_file()), None)
    if not named.expanduser().is_file():
        source = "--site" if given else f"${SITE_VARIABLE}"
        raise InputError(
            Problem(source, "", f"{named} is no file.", "Copy slurm/site.yaml.example.")
        )
    return named.expanduser()
