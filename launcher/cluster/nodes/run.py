"""`launcher run --num-nodes N --node-rank I --head HOST`: the same command on each of N nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.cluster.launch import Carrier
from launcher.cluster.local import resolve_launch
from launcher.cluster.node.devices import require_this_node, visible_gpus
from launcher.cluster.nodes.carry import carry_nodes, send_regrets
from launcher.cluster.nodes.meeting import MEETING_SECONDS
from launcher.cluster.nodes.placement import NodeOptions, Placement, port_for
from launcher.errors import InputError
from launcher.files.read import real
from launcher.recipe.check import KeyedRule
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.load import draft_recipe
from launcher.recipe.run_settings import run_folder
from launcher.run_dir import RunDir


def run_on_nodes(
    recipe: Path,
    overrides: Sequence[str],
    processes: int | None,
    options: NodeOptions,
    *,
    fresh: bool,
    consent: Consent = NO_CONSENT,
    rules: Sequence[KeyedRule] = (),
) -> int:
    """Be one of several nodes that carry a run; return the exit code, the same on all of them.

    `processes` are those of all nodes together. `rules` are checked together with the recipe's own.

    Raises:
        InputError: the options or the recipe can't be used, or another launch holds its folder.
    """
    options.check()
    try:
        num_gpus = visible_gpus()
        resolved = resolve_launch(
            recipe, overrides, processes, num_gpus, fresh=fresh, consent=consent, rules=rules
        )
        require_this_node(resolved, num_gpus)
    except InputError as error:
        run_dir = _folder_of(recipe, overrides)
        if not options.node_rank or run_dir is None:
            raise
        return send_regrets(_placement(options, run_dir), error, MEETING_SECONDS)
    run_dir = run_folder(resolved)
    placement = _placement(options, run_dir)
    return carry_nodes(resolved, run_dir, placement, carrier=Carrier(), prepares=True)


def _placement(options: NodeOptions, run_dir: RunDir) -> Placement:
    assert options.num_nodes is not None
    assert options.node_rank is not None
    assert options.head is not None
    return Placement(
        num_nodes=options.num_nodes,
        node_rank=options.node_rank,
        head=options.head,
        port=options.port or port_for(str(real(run_dir.root))),
        key_file=run_dir.meeting_key,
    )


def _folder_of(recipe: Path, overrides: Sequence[str]) -> RunDir | None:
    """Return the folder of a run whose recipe is not right; None if it doesn't even say that."""
    loaded = draft_recipe(recipe, overrides).loaded
    if loaded is None:
        return None
    return RunDir(Path(loaded.recipe.run.dir) / loaded.recipe.run.name)
