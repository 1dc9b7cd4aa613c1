"""The command line on a toy scenario: what runs, what resumes, and the one line for each bad input."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from analysis import figures, tables
from scenarios import catalogue
from scenarios.cli import main
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.doctor import check_llvm, find_llvm
from semcom.contracts import Record, SemcomError
from semcom.rng import Streams


class ToyConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    gain: float = Field(1.0, ge=0, le=10, description="what the weights start from")
    depth: int = Field(1, ge=1, le=4)
    noise: Literal["low", "high"] = "low"


class Toy:
    """Two methods at three intervals; counts what it computes, and stops before batch `stop_before`."""

    name = "toy"
    jepa = ""
    summary = "a toy"
    config_type = ToyConfig
    presets: Mapping[str, BaseModel] = {"tiny": ToyConfig(), "default": ToyConfig(depth=2)}

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.simulated: list[Point] = []
        self.stop_before: int | None = None

    def prepare(self, config, seeds, cluster, on_progress=None):
        pass

    def training_jobs(self, config: ToyConfig, seed: int, mode: str) -> list[TrainingJob]:
        if mode != "central":
            raise SemcomError(f"scenario toy can't be trained in mode {mode}: it takes central")
        return [TrainingJob("net", seed, f"{config.gain:g}-{seed}", config)]

    def train(self, job: TrainingJob, scratch: Path | None) -> Trained:
        self.trained.append(job.key)
        weight = Streams(job.seed).torch_generator("weight")
        return Trained({"w": job.config.gain * torch.randn(3, generator=weight)}, [{"epoch": 0, "loss": 1.0}])

    def points(self, config: ToyConfig, seeds: Sequence[int]) -> list[Point]:
        return [
            Point("main", method, seed, {"interval_ms": interval})
            for method in ("ours", "base")
            for interval in (20, 40, 80)
            for seed in seeds
        ]

    def sweep_points(self, config: ToyConfig, seeds: Sequence[int]) -> list[Point]:
        return [Point("sweep", method, seed) for method in ("ours", "base") for seed in seeds]

    def simulate(
        self, config: ToyConfig, points: Sequence[Point], models: Mapping[str, Any], cluster: Any
    ) -> list[list[Record]]:
        if self.stop_before is not None and len(self.simulated) >= self.stop_before:
            raise KeyboardInterrupt
        self.simulated += points
        return [self._record(config, point, models[f"{config.gain:g}-{point.seed}"]) for point in points]

    def _record(self, config: ToyConfig, point: Point, model: Mapping[str, torch.Tensor]) -> list[Record]:
        interval = float(point.axes.get("interval_ms", 0))
        value = float(model["w"].sum()) + interval * config.depth + (point.method == "ours")
        return [Record("toy", point.method, point.seed, "score", value, "%", 5, dict(point.axes))]

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        return figures.save(figures.line_figure(records, "interval_ms", "score"), folder, "score")

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        return [("Score by interval", tables.pivot(records, ["method", "interval_ms"]))]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    module = ModuleType("toy_scenario")
    module.SCENARIO = Toy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_scenario", module)
    monkeypatch.setitem(catalogue.SCENARIOS, "toy", ("toy_scenario", "a toy"))
    return module.SCENARIO


@pytest.fixture
def semcom(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed; returns what it prints."""

    def call(*arguments: str | Path) -> str:
        code = main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out

    return call


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused; returns its one line."""

    def call(*arguments: str | Path, code: int = 2) -> str:
        assert main([str(argument) for argument in arguments]) == code
        printed = capfd.readouterr()
        assert printed.err.count("\n") == 1
        assert printed.err.startswith("semcom: ")
        assert "Traceback" not in printed.err + printed.out
        return printed.err

    return call


RUN = ("run", "toy", "--preset", "tiny", "--workers", "0")


def test_a_run_leaves_records_figures_and_tables(toy: Toy, semcom: Callable[..., str], tmp_path: Path):
    printed = semcom(*RUN, "--seeds", "2", "--out", tmp_path / "run", "gain=2")
    records = pd.read_parquet(tmp_path / "run" / "records.parquet")
    assert list(records.columns) == [
        *("scenario", "method", "seed", "metric", "value", "unit", "num_samples", "result"),
        "interval_ms",
    ]
    assert len(records) == 12
    files = {
        str(file.relative_to(tmp_path / "run")) for file in (tmp_path / "run").rglob("*") if file.is_file()
    }
    assert files == {
        *("config.yaml", "manifest.json", "records.parquet", "training.parquet"),
        *("figures/score.pdf", "figures/score.png"),
        *("checkpoints/net-2-0.safetensors", "checkpoints/net-2-1.safetensors"),
    }
    assert printed.index("score.pdf") < printed.index("Score by interval")
    assert "±" in printed


def test_a_finished_run_computes_nothing_and_more_seeds_only_those(
    toy: Toy, semcom: Callable[..., str], tmp_path: Path
):
    for seeds in ("2", "2", "3", "1"):
        semcom(*RUN, "--seeds", seeds, "--out", tmp_path / "run")
    assert toy.trained == ["1-0", "1-1", "1-2"]
    assert len(toy.simulated) == 18
    assert {point.seed for point in toy.simulated[12:]} == {2}


def test_a_resumed_run_equals_an_uninterrupted_one(
    toy: Toy, semcom: Callable[..., str], refused: Callable[..., str], tmp_path: Path
):
    semcom(*RUN, "--seeds", "3", "--out", tmp_path / "whole")
    toy.trained, toy.simulated, toy.stop_before = [], [], 7
    text = refused(*RUN, "--seeds", "3", "--out", tmp_path / "parts", code=130)
    assert "the same command goes on" in text
    assert len(pd.read_parquet(tmp_path / "parts" / "records.parquet")) == len(toy.simulated) == 12
    toy.stop_before = None
    semcom(*RUN, "--seeds", "3", "--out", tmp_path / "parts")
    assert len(toy.trained) == 3
    assert len(toy.simulated) == 18
    whole, parts = (tmp_path / name / "records.parquet" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_training_first_and_running_later_trains_once(toy: Toy, semcom: Callable[..., str], tmp_path: Path):
    out = tmp_path / "run"
    printed = semcom("train", "toy", "--preset", "tiny", "--workers", "0", "--seeds", "2", "--out", out)
    assert printed.splitlines()[-1].endswith("net-1-1.safetensors")
    semcom(*RUN, "--seeds", "2", "--out", out)
    assert toy.trained == ["1-0", "1-1"]


def test_a_sweep_has_every_combination_and_resumes(toy: Toy, semcom: Callable[..., str], tmp_path: Path):
    def sweep(gains: str) -> str:
        axes = ("--axis", f"gain={gains}", "--axis", "noise=low,high")
        preset = ("--preset", "tiny", "--workers", "0", "--seeds", "2")
        return semcom("sweep", "toy", *axes, *preset, "--out", tmp_path / "sweep")

    sweep("1,2")
    assert (len(toy.trained), len(toy.simulated)) == (4, 16)
    printed = sweep("1,2,3")
    assert (len(toy.trained), len(toy.simulated)) == (6, 24)
    records = pd.read_parquet(tmp_path / "sweep" / "records.parquet")
    assert len(records.groupby(["method", "seed", "gain", "noise"])) == len(records) == 24
    assert (tmp_path / "sweep" / "figures" / "sweep-score.pdf").exists()
    assert "noise" in printed


def test_records_and_manifest_are_enough_to_plot_and_show(
    toy: Toy, semcom: Callable[..., str], tmp_path: Path
):
    semcom(*RUN, "--out", tmp_path / "run")
    (tmp_path / "docs").mkdir()
    for name in ("records.parquet", "manifest.json"):
        (tmp_path / "docs" / name).write_bytes((tmp_path / "run" / name).read_bytes())
    printed = semcom("plot", tmp_path / "docs")
    assert [Path(line).name for line in printed.splitlines()] == ["score.pdf", "score.png"]
    drawn, redrawn = (tmp_path / name / "figures" / "score.pdf" for name in ("run", "docs"))
    assert drawn.read_bytes() == redrawn.read_bytes()
    shown = semcom("show", tmp_path / "docs")
    for part in ("scenario: toy", "num_records: 12", "gain: 1.0", "Score by interval"):
        assert part in shown


def test_list_names_everything_there_is(toy: Toy, semcom: Callable[..., str]):
    printed = semcom("list")
    for name in ("toy", "control", "nr", "erasure", "indoor-factory", "round-robin", "entropy"):
        assert f"  {name} " in printed
    settings = semcom("list", "toy")
    for part in ("gain", "1.0", "a number from 0 to 10", "what the weights start from", "one of low, high"):
        assert part in settings


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "tou"], ["unknown scenario tou", "toy"]),
        (["run", "toy", "--preset", "huge"], ["unknown preset huge", "tiny, default"]),
        (["run", "toy", "gian=2"], ["unknown key gian", "did you mean gain?"]),
        (["run", "toy", "depth=deep"], ["depth = deep has the wrong type", "an integer from 1 to 4"]),
        (["run", "toy", "gain=11"], ["gain = 11 is out of range", "from 0 to 10"]),
        (["run", "toy", "noise=lo"], ["noise = lo is not a choice", "mean low?"]),
        (["run", "toy", "gain"], ["'gain' is not a setting"]),
        (["run", "toy", "--seeds", "0"], ["--seeds"]),
        (["run", "toy", "--sedes", "1"], ["--sedes"]),
        (["run"], ["SCENARIO"]),
        (["rum", "toy"], ["rum"]),
        (["run", "toy", "--workers", "0", "--address", "127.0.0.1:1"], ["--workers"]),
        (["sweep", "toy"], ["--axis"]),
        (["sweep", "toy", "--axis", "gain=1,12"], ["gain = 12 is out of range"]),
        (["sweep", "toy", "--axis", "gain=1,2", "gain=3"], ["gain is both"]),
        (["train", "toy", "--mode", "federated"], ["mode federated", "central"]),
        (["train", "toy", "--mode", "magic"], ["unknown mode magic", "central, split, federated"]),
        (["plot", "nowhere"], ["nowhere is no run folder"]),
        (["show", "nowhere"], ["nowhere is no run folder"]),
        (["list", "tou"], ["unknown scenario tou"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(
    toy: Toy,
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    parts: list[str],
):
    monkeypatch.chdir(tmp_path)
    text = refused(*arguments)
    for part in parts:
        assert part in text
    if "--address" not in arguments:
        assert not list(tmp_path.iterdir())
    assert not toy.trained


def test_folders_that_can_not_be_used_are_one_line(
    toy: Toy, semcom: Callable[..., str], refused: Callable[..., str], tmp_path: Path
):
    (tmp_path / "file").write_text("mine")
    assert "can't be written" in refused(*RUN, "--out", tmp_path / "file")
    assert "can't be written" in refused(*RUN, "--out", tmp_path / "file" / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    assert "is not empty and no run folder" in refused(*RUN, "--out", tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    semcom(*RUN, "--out", tmp_path / "run")
    before = (tmp_path / "run" / "records.parquet").read_bytes()
    assert "gain = 1.0, not 2" in refused(*RUN, "--out", tmp_path / "run", "gain=2")
    sweep = ("sweep", "toy", "--preset", "tiny", "--axis", "gain=1", "--out", tmp_path / "run")
    assert "axes" in refused(*sweep)
    assert (tmp_path / "run" / "records.parquet").read_bytes() == before
    (tmp_path / "run" / "records.parquet").write_bytes(before[:-9])
    assert "records.parquet is truncated" in refused("plot", tmp_path / "run")


def test_a_checkpoint_that_was_cut_off_is_one_line(
    toy: Toy, semcom: Callable[..., str], refused: Callable[..., str], tmp_path: Path
):
    semcom("train", "toy", "--preset", "tiny", "--workers", "0", "--seeds", "1", "--out", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "net-1-0.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-3])
    assert "net-1-0.safetensors is truncated" in refused(*RUN, "--seeds", "1", "--out", tmp_path / "run")


def test_a_missing_package_is_one_line(
    toy: Toy, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    def without_sionna(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'sionna' ({name})", name="sionna.phy")

    monkeypatch.setattr(importlib, "import_module", without_sionna)
    text = refused("run", "toy")
    assert "package sionna is not installed: pip install" in text
    assert ">=2.2" in text


def test_a_fault_of_the_program_keeps_its_traceback(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy, "train", lambda job, scratch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*RUN, "--out", str(tmp_path / "run")])


def test_doctor_names_what_there_is(capfd: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    printed = capfd.readouterr().out
    for name in ("python", "torch", "sionna", "ray", "LLVM", "cores", "memory", "GPU"):
        assert name in printed


@pytest.mark.parametrize(
    ("libraries", "version", "state"),
    [
        ([], None, "missing"),
        (["libLLVM-14.0.6.so.1", "libLLVM-15.so.1"], 15, "missing"),
        (["libLLVM-15.so.1", "libLLVM-16.so.1"], 16, "ok"),
        (["libLLVM-14.so", "libLLVM.so.19.1"], 19, "ok"),
    ],
)
def test_llvm_is_found_and_judged(tmp_path: Path, libraries: list[str], version: int | None, state: str):
    for name in libraries:
        (tmp_path / name).touch()
    found = find_llvm((f"{tmp_path}/libLLVM*.so*",), {})
    assert (found[1] if found else None) == version
    finding = check_llvm(True, found)
    assert finding.state == state
    assert ("libllvm19" in finding.remedy) == (state != "ok")
    assert check_llvm(False, found).state in ("ok", "warning")


def test_an_old_llvm_stops_only_who_needs_it(
    semcom: Callable[..., str],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "libLLVM-15.so.1").touch()
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(tmp_path / "libLLVM-15.so.1"))
    semcom("doctor")
    text = refused("doctor", "--ray-tracing")
    for part in ("LLVM", "15", "16 or newer", "libllvm19"):
        assert part in text


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys; from scenarios.cli import main; code = main(['--help']); "
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert "doctor" in done.stdout
    assert "typer" in modules
    assert not {"torch", "sionna", "ray", "pandas", "matplotlib", "numpy"} & set(modules)
