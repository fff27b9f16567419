"""The `launcher` command: one function a verb; it checks, then hands over, and imports no torch."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from launcher import __version__
from launcher.errors import InputError, LauncherError, Problem, system_errors
from launcher.escape import for_terminal
from launcher.streams import open_closed

app = typer.Typer(
    name="launcher",
    help="Fine-tune transformer models that are too large for one card.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(help="Recipe (YAML), or the name of a shipped one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; may be repeated."),
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Ranks; default: all GPUs, else cluster.cpu_ranks."),
]
AllowChange = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-change",
        metavar="KEY",
        help="Go on with a run in which this recipe key, or section, differs; may be repeated.",
    ),
]
TrustCheckpoint = Annotated[
    bool,
    typer.Option("--trust-checkpoint", help="Resume from what belongs to another user."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the code in the model's folder; the recipe has to ask for it as well.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, such as runs/support-bot.")]


def show(text: str) -> None:
    """Print what may hold text from outside: names, labels, what libraries said."""
    typer.echo(for_terminal(text))


@app.callback(invoke_without_command=True)
def main_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Fine-tune transformer models that are too large for one card."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    processes: Processes = None,
    allow_change: AllowChange = None,
    trust_checkpoint: TrustCheckpoint = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Resolve and validate a recipe with its DeepSpeed config; print the plan of the run."""
    from launcher.plan.report import print_plan
    from launcher.recipe.consent import Consent
    from launcher.recipe.resolve import resolve

    consent = Consent(tuple(allow_change or ()), trust_checkpoint, trust_remote_code)
    print_plan(resolve(recipe, overrides or (), processes, consent=consent))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the recipe, for editors."""
    from launcher.recipe.json_schema import recipe_json_schema

    typer.echo(json.dumps(recipe_json_schema(), indent=2))


@app.command()
def prepare(
    recipe: RecipePath,
    overrides: Overrides = None,
    processes: Processes = None,
    allow_change: AllowChange = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Tokenise the data once, before any rank starts, and report on them."""
    from launcher.cluster.local import prepare_data
    from launcher.recipe.consent import Consent

    consent = Consent(tuple(allow_change or ()), trust_remote_code=trust_remote_code)
    raise typer.Exit(prepare_data(recipe, overrides or (), processes, consent))


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    processes: Processes = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over in a new folder; deletes nothing.")
    ] = False,
    num_nodes: Annotated[
        int | None,
        typer.Option("--num-nodes", min=1, help="Nodes; the same command is started on each."),
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", help="Which of them this is, from 0.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Name or address of the node of rank 0.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="First of 8 ports for the nodes to meet at.")
    ] = None,
    allow_change: AllowChange = None,
    trust_checkpoint: TrustCheckpoint = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train on this machine, or as one of several; the same command again resumes the run."""
    from launcher.cluster.local import run_local
    from launcher.cluster.nodes.placement import NodeOptions
    from launcher.plan.disk import DISK_KEYS, disk_rule
    from launcher.recipe.consent import Consent
    from launcher.streams import outlive_readers

    outlive_readers()
    consent = Consent(tuple(allow_change or ()), trust_checkpoint, trust_remote_code)
    rules = ((DISK_KEYS, disk_rule),)
    nodes = NodeOptions(num_nodes, node_rank, head, port)
    nodes.check()
    sets = [*(overrides or ()), *nodes.overrides]
    if nodes.several:
        from launcher.cluster.nodes.run import run_on_nodes

        code = run_on_nodes(
            recipe, sets, processes, nodes, fresh=fresh, consent=consent, rules=rules
        )
    else:
        code = run_local(recipe, sets, processes, fresh=fresh, consent=consent, rules=rules)
    raise typer.Exit(code)


@app.command()
def submit(
    recipe: RecipePath,
    overrides: Overrides = None,
    num_nodes: Annotated[int | None, typer.Option(min=1, help="cluster.num_nodes.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="cluster.gpus_per_node.")] = None,
    time: Annotated[str | None, typer.Option(help="cluster.time, such as 24:00:00.")] = None,
    partition: Annotated[str | None, typer.Option(help="cluster.partition.")] = None,
    account: Annotated[str | None, typer.Option(help="cluster.account.")] = None,
    qos: Annotated[str | None, typer.Option(help="cluster.qos.")] = None,
    constraint: Annotated[str | None, typer.Option(help="cluster.constraint.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="A job array, one run a value; may be repeated."),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", help="Start once this job has ended well; may be repeated."),
    ] = None,
    prepare_on: Annotated[
        str | None,
        typer.Option(metavar="PARTITION", help="Prepare the data in a job there, not here."),
    ] = None,
    site: Annotated[Path | None, typer.Option(help="Site file; see docs/slurm.md.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job script; write nothing.")
    ] = False,
    allow_change: AllowChange = None,
    trust_checkpoint: TrustCheckpoint = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Submit a run to Slurm: it saves, requeues itself and resumes until it is done."""
    from launcher.cluster.slurm.plan import Request
    from launcher.cluster.slurm.submit import submit as submit_job
    from launcher.plan.disk import DISK_KEYS, disk_rule
    from launcher.recipe.consent import Consent

    cluster = {
        "num_nodes": num_nodes,
        "gpus_per_node": gpus_per_node,
        "time": time,
        "partition": partition,
        "account": account,
        "qos": qos,
        "constraint": constraint,
    }
    request = Request(
        recipe,
        tuple(overrides or ()),
        cluster,
        tuple(sweep or ()),
        tuple(after or ()),
        prepare_on,
        site,
        Consent(tuple(allow_change or ()), trust_checkpoint, trust_remote_code),
    )
    code = submit_job(request, dry_run=dry_run, rules=((DISK_KEYS, disk_rule),))
    raise typer.Exit(code)


@app.command()
def stop(
    run_folder: RunFolder,
    now: Annotated[
        bool,
        typer.Option("--now", help="Signal it too: also ends what has not come to its first step."),
    ] = False,
) -> None:
    """Stop a run: it saves and exits 75, or leaves the queue; the same command resumes it."""
    from launcher.cluster.stop import ask_to_stop

    show(ask_to_stop(run_folder, now=now))


@app.command()
def status(
    run_folder: Annotated[
        Path | None, typer.Argument(help="Run folder; default: the newest under ./runs.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends.")] = False,
) -> None:
    """Show where a run is: state, job, step, loss, speed, time left, what comes next."""
    from launcher.cluster.follow.status import show_status

    show_status(run_folder, watch=watch)


@app.command()
def logs(
    run_folder: RunFolder,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on, over attempts too, until the run ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="One of its attempts; default: the newest.")
    ] = None,
) -> None:
    """Print what the ranks printed, each line with host and rank; a root cause comes first."""
    from launcher.cluster.follow.logs import show_logs
    from launcher.cluster.follow.read import find_run

    show_logs(find_run(run_folder), show, rank=rank, attempt=attempt, follow=follow)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that run folders are in.")] = Path("runs"),
) -> None:
    """List all runs of a folder: state, step, best, last update, job, hours."""
    from launcher.cluster.follow.runs import list_runs

    show(list_runs(folder))


@app.command()
def doctor() -> None:
    """Say what this machine, or the allocation around it, can do, and what is missing."""
    from launcher.cluster.doctor.report import examine, exit_code, lines

    checks = examine()
    typer.echo("\n".join(lines(checks)))
    raise typer.Exit(exit_code(checks))


@app.command()
def export(
    run_folder: RunFolder,
    weights: Annotated[
        str | None, typer.Option(help="best or last; default: the recipe's.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Fold adapters into the base.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default: RUN/export.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write the weights of a run for others: safetensors, tokenizer and model card, verified."""
    from launcher.cluster.local import export_run
    from launcher.recipe.consent import Consent

    consent = Consent(trust_remote_code=trust_remote_code)
    code = export_run(run_folder, weights=weights, merge=merge, out=out, consent=consent)
    raise typer.Exit(code)


@app.command()
def report(run_folder: RunFolder) -> None:
    """Write RUN/report.html: curves, data, throughput and events on one self-contained page."""
    from launcher.cluster.follow.read import find_run
    from launcher.metrics.report import build_report

    show(str(build_report(find_run(run_folder))))


def _require_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            # What is no UTF-8 comes as halves of pairs (PEP 383), which no file of ours can hold.
            message = f"{argument!r} is not UTF-8."
            raise InputError(Problem("the command line", "", message)) from error


def main() -> None:
    """Run the command; a mistake of the user ends with its message and exit code, no traceback."""
    try:
        open_closed()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # PYTHONIOENCODING=ascii
        _require_text(sys.argv[1:])
        with system_errors():
            app()
    except LauncherError as error:
        with contextlib.suppress(OSError):  # a full disk behind it changes no exit code
            print(for_terminal(str(error)), file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
