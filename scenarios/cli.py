"""The command line: list, run, sweep, train, plot, show and doctor.

Heavy packages are imported inside the commands, so that --help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios.catalogue import SCENARIOS, load_scenario
from scenarios.failures import explain

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

    from scenarios.contracts import Scenario
    from scenarios.progress import Progress

# One seed is an answer in minutes, but has no interval: papers need five or more.
_NUM_SEEDS = {"tiny": 2, "paper": 5}

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Simulates semantic communication with joint-embedding predictive architectures over 3GPP links.",
)

ScenarioName = Annotated[str, typer.Argument(metavar="SCENARIO", help="Its name; `semcom list` has them.")]
Assignments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings; `semcom list SCENARIO` has the keys."),
]
Preset = Annotated[str, typer.Option(help="The settings to start from: tiny, default or paper.")]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, help="How many seeds, from 0 on. By default 1, but 2 for tiny and 5 for paper."),
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; 0 computes in this one. By default one per core.")
]
Address = Annotated[str | None, typer.Option(help="A Ray cluster that runs already, such as 10.0.0.1:6379.")]
Out = Annotated[Path | None, typer.Option(help="The run folder. By default runs/SCENARIO; it is resumed.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]


def _print_table(title: str, table: pd.DataFrame) -> None:
    """Prints one table: ruled on a terminal, aligned text elsewhere."""
    from analysis.tables import to_text

    heads = [str(name) for name in table.columns]
    lines = [[to_text(value) for value in row] for row in table.itertuples(index=False)]
    if not sys.stdout.isatty():
        widths = [max(len(cell) for cell in column) for column in zip(heads, *lines, strict=True)]
        print(f"\n{title}")
        for line in [heads, *lines]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ruled = Table(title=Text(title), title_justify="left")
    for head in heads:
        ruled.add_column(Text(head))
    for line in lines:
        ruled.add_row(*(Text(cell) for cell in line))
    Console().print(ruled)


def _print_listing(title: str, rows: Sequence[tuple[str, str]]) -> None:
    print(title)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name.ljust(width)}  {text}".rstrip())


def _progress() -> Progress:
    from scenarios.progress import BarProgress, LineProgress

    if sys.stdout.isatty():
        from rich.console import Console

        return BarProgress(Console())
    return LineProgress(lambda line: print(line, flush=True))


def _configure(scenario: Scenario, preset: str, assignments: Sequence[str] | None) -> BaseModel:
    from scenarios.settings import apply_overrides, parse_overrides
    from semcom.contracts import SemcomError

    if preset not in scenario.presets:
        raise SemcomError(f"unknown preset {preset}: {scenario.name} has {', '.join(scenario.presets)}")
    return apply_overrides(scenario.presets[preset], parse_overrides(assignments or []))


def _seeds(preset: str, num_seeds: int | None) -> list[int]:
    return list(range(num_seeds if num_seeds is not None else _NUM_SEEDS.get(preset, 1)))


def _workers(workers: int | None) -> int:
    from scenarios.doctor import num_cores

    if workers is not None:
        return workers
    # With one core a worker would only wait in turn with this process.
    return num_cores() if num_cores() > 1 else 0


def _report(scenario: Scenario, path: Path) -> None:
    """Draws a folder's figures and prints where they are, then prints its tables."""
    from scenarios.experiment import draw, tabulate
    from semcom.records import RunFolder

    folder = RunFolder.open(path)
    for file in draw(scenario, folder):
        print(file)
    for title, table in tabulate(scenario, folder):
        _print_table(title, table)


@app.command("list")
def list_command(
    scenario: Annotated[str | None, typer.Argument(metavar="[SCENARIO]", help="Lists its settings.")] = None,
    preset: Preset = "default",
) -> None:
    """List scenarios, links, channels, schedulers and codecs, or the settings of one scenario."""
    if scenario is None:
        from channels.catalogue import CHANNELS, LINKS
        from nodes.schedulers import SCHEDULERS
        from semcom.codecs.catalogue import CODECS

        def documented(types: dict[str, type[BaseModel]]) -> list[tuple[str, str]]:
            return [(name, (kind.__doc__ or "").partition("\n")[0]) for name, kind in types.items()]

        _print_listing("scenarios", [(name, summary) for name, (_, summary) in SCENARIOS.items()])
        _print_listing("links", documented(LINKS))
        _print_listing("channels", documented(CHANNELS))
        _print_listing("schedulers", list(SCHEDULERS.items()))
        _print_listing("codecs", list(CODECS.items()))
        return
    import pandas as pd

    from scenarios.keys import describe

    chosen = load_scenario(scenario)
    rows = [
        (
            row.key,
            row.default,
            row.allowed,
            row.description + (f" (with {row.only_with})" * bool(row.only_with)),
        )
        for row in describe(chosen.config_type, _configure(chosen, preset, None))
    ]
    title = f"{chosen.name}: {chosen.summary}; presets: {', '.join(chosen.presets)} (shown: {preset})"
    _print_table(title, pd.DataFrame(rows, columns=["key", "value", "takes", "what it is"]))


@app.command("run")
def run_command(
    scenario: ScenarioName,
    assignments: Assignments = None,
    preset: Preset = "default",
    seeds: Seeds = None,
    workers: Workers = None,
    address: Address = None,
    out: Out = None,
) -> None:
    """Run a scenario: train, simulate, draw its figures and print its tables. The same command resumes."""
    chosen = load_scenario(scenario)
    config = _configure(chosen, preset, assignments)
    from nodes.cluster import Cluster
    from scenarios.experiment import pending_points, run_experiment
    from scenarios.keys import plain
    from scenarios.settings import input_files
    from semcom.records import RunFolder

    numbers, path = _seeds(preset, seeds), out or Path("runs") / scenario
    # Whatever is refused is refused before a folder is made.
    points, hired = chosen.points(config, numbers), Cluster(_workers(workers), address)
    with RunFolder.create(
        path,
        scenario=scenario,
        preset=preset,
        config=plain(config),
        seeds=numbers,
        inputs=input_files(config),
    ) as folder:
        if pending_points(folder, points):
            with hired as cluster:
                run_experiment(chosen, config, numbers, cluster, folder, _progress())
    _report(chosen, path)


@app.command("sweep")
def sweep_command(
    scenario: ScenarioName,
    axis: Annotated[
        list[str], typer.Option(metavar="KEY=V1,V2,...", help="A setting and its values; give one or more.")
    ],
    assignments: Assignments = None,
    preset: Preset = "default",
    seeds: Seeds = None,
    workers: Workers = None,
    address: Address = None,
    out: Out = None,
) -> None:
    """Run every combination of the axes' values at the scenario's operating point. Resumable."""
    chosen = load_scenario(scenario)
    config = _configure(chosen, preset, assignments)
    from nodes.cluster import Cluster
    from scenarios.experiment import pending_cells, run_sweep
    from scenarios.keys import plain
    from scenarios.settings import input_files, parse_axes, parse_overrides, sweep_cells
    from semcom.contracts import SemcomError
    from semcom.records import RunFolder

    axes, numbers = parse_axes(axis), _seeds(preset, seeds)
    path = out or Path("runs") / f"{scenario}-sweep"
    if twice := axes.keys() & parse_overrides(assignments or []).keys():
        raise SemcomError(f"{min(twice)} is both an axis and a setting: keep one of them")
    # Whatever is refused is refused before a folder is made.
    inputs: list[Path] = []
    for _, cell_config in sweep_cells(config, axes):
        chosen.sweep_points(cell_config, numbers)
        inputs += input_files(cell_config)
    hired = Cluster(_workers(workers), address)
    with RunFolder.create(
        path,
        scenario=scenario,
        preset=preset,
        config=plain(config),
        seeds=numbers,
        axes=list(axes),
        inputs=list(dict.fromkeys(inputs)),
    ) as folder:
        if pending_cells(chosen, config, axes, numbers, folder):
            with hired as cluster:
                run_sweep(chosen, config, axes, numbers, cluster, folder, _progress())
    _report(chosen, path)


@app.command("train")
def train_command(
    scenario: ScenarioName,
    assignments: Assignments = None,
    mode: Annotated[str, typer.Option(help="central, split, federated, or several: a,b.")] = "central",
    axis: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,...", help="A setting and its values, to compare trainings of."),
    ] = None,
    preset: Preset = "default",
    seeds: Seeds = None,
    workers: Workers = None,
    address: Address = None,
    out: Out = None,
) -> None:
    """Train a scenario's models and keep their checkpoints in the run folder, where `run` finds them.

    With several modes or an axis, its JEPA in each combination, to compare what they cost and reach.
    """
    chosen = load_scenario(scenario)
    config = _configure(chosen, preset, assignments)
    from nodes.cluster import Cluster
    from scenarios.experiment import train_only
    from scenarios.keys import plain
    from scenarios.settings import input_files, parse_axes, parse_overrides
    from scenarios.trainings import parse_modes, plan_trainings, tabulate_trainings, uncounted
    from semcom.contracts import SemcomError
    from semcom.records import RunFolder

    modes, axes = parse_modes(mode), parse_axes(axis or [])
    if twice := axes.keys() & parse_overrides(assignments or []).keys():
        raise SemcomError(f"{min(twice)} is both an axis and a setting: keep one of them")
    numbers, path = _seeds(preset, seeds), out or Path("runs") / scenario
    # Asked here, so that a mode that the scenario doesn't offer leaves no folder behind.
    jobs = plan_trainings(chosen, config, axes, numbers, modes)
    with RunFolder.create(
        path,
        scenario=scenario,
        preset=preset,
        config=plain(config),
        seeds=numbers,
        inputs=list(dict.fromkeys(file for job in jobs for file in input_files(job.config))),
    ) as folder:
        for line in uncounted(jobs, folder):
            _progress().warn(line)
        missing = any(not folder.has_checkpoint(job.model, job.key) for job in jobs)
        with Cluster(_workers(workers) if missing else 0, address if missing else None) as cluster:
            checkpoints = train_only(chosen, jobs, cluster, folder, _progress())
    for checkpoint in dict.fromkeys(checkpoints):
        print(checkpoint)
    for title, table in tabulate_trainings(folder):
        _print_table(title, table)


def _scenario_of(path: Path) -> Scenario:
    from semcom.records import RunFolder

    return load_scenario(RunFolder.open(path).manifest["scenario"])


@app.command("plot")
def plot_command(folder: Folder) -> None:
    """Redraw the figures of a run folder; its manifest.json and records.parquet are enough."""
    from scenarios.experiment import draw
    from semcom.records import RunFolder

    for file in draw(_scenario_of(folder), RunFolder.open(folder)):
        print(file)


@app.command("show")
def show_command(folder: Folder) -> None:
    """Show what a run folder holds: its settings, where they come from, and its tables."""
    import yaml

    from scenarios.experiment import tabulate
    from semcom.records import RunFolder

    chosen, opened = _scenario_of(folder), RunFolder.open(folder)
    print(yaml.safe_dump(opened.manifest, sort_keys=False, allow_unicode=True), end="")
    print(f"num_records: {len(opened.records)}")
    for title, table in tabulate(chosen, opened):
        _print_table(title, table)


@app.command("doctor")
def doctor_command(
    ray_tracing: Annotated[
        bool, typer.Option("--ray-tracing", help="Require what ray tracing needs.")
    ] = False,
) -> None:
    """Examine the installation and the machine, and say what to install."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from scenarios.doctor import examine

    findings = examine(ray_tracing)
    table = Table()
    for head in ("what", "found", "state", "what to do"):
        table.add_column(head, overflow="fold")
    colors = {"ok": "green", "warning": "yellow", "missing": "red"}
    for finding in findings:
        state = Text(finding.state, style=colors[finding.state])
        table.add_row(Text(finding.what), Text(finding.found), state, Text(finding.remedy))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        from semcom.contracts import SemcomError

        first = missing[0]
        others = f" (and {len(missing) - 1} more, see the table)" if len(missing) > 1 else ""
        raise SemcomError(f"{first.what}: {first.found}: {first.remedy}{others}")


def _complain(text: str) -> int:
    print(f"semcom: {' '.join(text.split())}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for what the user can mend, 130 if interrupted.

    Faults of the program itself are raised, with their traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(app)
    interrupted = "interrupted: what is finished is kept, and the same command goes on from there"
    try:
        code = command.main(args=given, prog_name="semcom", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "semcom"
        return _complain(f"{error.format_message().rstrip('.')}: see {where} --help")
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        return _complain(text)
    if code == 130:
        _complain(interrupted)
    return code if isinstance(code, int) else 0


# The base of BadParameter: typer has its own copy of click in some versions, and exports only this.
_UsageError: Any = typer.BadParameter.__mro__[1]


def run_main(name: str) -> int:
    """Runs `semcom run NAME` with this process's arguments, for `python -m scenarios.NAME`."""
    return main(["run", name, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
