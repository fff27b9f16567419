"""What a site file may put into a job script: each kind of value has the form it must have.

Everything is quoted besides; what is refused here would be quoted and yet not mean what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from launcher.cluster.slurm.site_schema import Site
from launcher.errors import Problem
from launcher.recipe.tree import KeyPath, Node, dotted

OWN_OPTIONS = frozenset((
    "account", "array", "chdir", "constraint", "cpus-per-task", "dependency", "error", "export",
    "gpus-per-node", "job-name", "kill-on-invalid-dep", "nodes", "no-requeue", "ntasks",
    "ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos", "requeue", "signal",
    "time", "wrap",
))  # fmt: skip
"""Options of sbatch that come from elsewhere: recipe, other keys of the file, or the launcher."""

_LINE = re.compile(r"[^\x00-\x1f\x7f\u0085\u2028\u2029]*")
_MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+:=-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(=[A-Za-z0-9_.,:;@%+/&|*()\[\]-]+)?")
_IMAGE = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_.,:/#@+ -]*")
_MOUNT = re.compile(r"[^,:\x00-\x1f\x7f]+(:[^,:\x00-\x1f\x7f]+){0,2}")


def bad_values(site: Site, root: Node, template: Path | None) -> Iterator[Problem]:
    """Yield a problem for each value that has no place in a job script."""
    for path, value, pattern, rule in _checked(site):
        if not pattern.fullmatch(value):
            message = f"got {value!r}, need {rule}."
            yield Problem(root.place_of(path), dotted(path), message)
    for index, option in enumerate(site.options):
        name = option.partition("=")[0].removeprefix("--")
        if name in OWN_OPTIONS:
            message = f"--{name} is set from the recipe, from other keys of this file, or always."
            cure = "See `launcher submit --dry-run`; a template of your own may change it."
            yield Problem(root.place_of(("options", index)), f"options.{index}", message, cure)
    for name, text in site.environment.items():
        if "$(" in str(text) or "`" in str(text):
            message = f"got {str(text)!r}: values are taken as they are, and nothing is run."
            cure = "Write it as a line under `setup`."
            yield Problem(
                root.place_of(("environment", name)), f"environment.{name}", message, cure
            )
    if template is not None and not template.is_file():
        yield Problem(root.place_of(("template",)), "template", f"{template} is no file.")


def _checked(site: Site) -> Iterator[tuple[KeyPath, str, re.Pattern[str], str]]:
    line = (_LINE, "one line of text")
    variable = (_VARIABLE, "the name of a variable: letters, digits, '_'")
    lists = (
        ("modules", site.modules, (_MODULE, "the name of a module, such as cuda/12.8")),
        ("setup", site.setup, line),
        ("options", site.options, (_OPTION, "an option of sbatch in one piece, such as --mem=0")),
        ("pass_variables", site.pass_variables, variable),
    )
    for key, values, rule in lists:
        yield from (((key, index), value, *rule) for index, value in enumerate(values))
    for name, value in site.environment.items():
        yield ("environment", name), name, *variable
        yield ("environment", name), str(value), *line
    if site.container is not None:
        yield ("container", "image"), site.container.image, _IMAGE, "the name of an image"
        yield ("container", "python"), site.container.python, *line
        for index, mount in enumerate(site.container.mounts):
            rule = (_MOUNT, "SOURCE, SOURCE:TARGET or SOURCE:TARGET:ro")
            yield ("container", "mounts", index), mount, *rule
