"""The charting scenario through the command line, inline: the tiny preset, a sweep, a training."""

import charting_setups
import pandas as pd
import pytest

from scenarios.charting.config import TINY as TINY_PRESET
from scenarios.charting.methods import CHARTS, FORECASTS
from scenarios.charting.scenario import ChartingScenario
from scenarios.cli import main

TINY = ("--preset", "tiny", "--seeds", "1", "--workers", "0")
# One model, and no more steps than it takes.
FEW = (
    "training.num_steps=10", "evaluation.charts=[w-jepa]", "evaluation.forecasts=[w-jepa]",
    "evaluation.velocity_noise_shares=[]", "evaluation.without_velocity=false",
)  # fmt: skip


def recorded() -> tuple[str, ...]:
    return ("data=recorded", f"data.path={charting_setups.recorded_file()}")


@pytest.fixture
def unwritten(monkeypatch) -> None:
    """Figures are drawn, but not written, which takes longer than all the rest."""
    for module in ("analysis.figures", "scenarios.charting.results"):
        monkeypatch.setattr(f"{module}.save", lambda figure, folder, name: [folder / name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("charting") / "run"
    assert main(["run", "charting", *TINY, "--out", str(path)]) == 0
    return path


def test_the_records_hold_every_result_and_every_method(folder):
    records = pd.read_parquet(folder / "records.parquet")
    assert set(records["result"]) == {"chart", "forecast", "velocity", "rate", "loss"}
    methods = {name: set(part) for name, part in records.groupby("result")["method"]}
    assert methods["chart"] == set(CHARTS)
    assert methods["forecast"] == set(FORECASTS)
    assert methods["rate"] == {"w-jepa", "csi", "features"}
    assert records["value"].notna().all()
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}"
        for name in (
            "charts", "error_vs_look_ahead", "sum_rate_vs_look_ahead", "error_vs_velocity", "charts_vs_bits",
            "charts_vs_loss",
        )
        for kind in ("pdf", "png")
    }  # fmt: skip


def test_the_reference_of_the_velocity_result_is_the_chart_s_and_the_forecast_s_own(folder):
    records = pd.read_parquet(folder / "records.parquet")

    def values(result: str, metric: str, **where: str) -> list[float]:
        part = records[(records["result"] == result) & (records["metric"] == metric)]
        for column, value in where.items():
            part = part[part[column] == value]
        return part["value"].tolist()

    same = values("velocity", "trustworthiness", velocity="exact")
    assert same == values("chart", "trustworthiness", method="w-jepa")
    ahead = values("velocity", "position_error", velocity="exact")
    assert ahead == values("forecast", "position_error", method="w-jepa")
    assert len(ahead) == 2


def test_the_same_command_goes_on_and_computes_nothing_again(folder, monkeypatch, capfd):
    # The figures are the first test's.
    monkeypatch.setattr(ChartingScenario, "figures", lambda *arguments: [])
    for stage in ("train", "simulate"):
        monkeypatch.setattr(ChartingScenario, stage, None)
    before = (folder / "records.parquet").read_bytes()
    assert main(["run", "charting", *TINY, "--out", str(folder)]) == 0
    printed = capfd.readouterr()
    assert "training" not in printed.out
    assert "Position error (m) by look-ahead (s)" in printed.out
    assert (folder / "records.parquet").read_bytes() == before


@pytest.mark.usefixtures("unwritten")
def test_a_sweep_on_recorded_data_has_a_row_for_every_cell(tmp_path, capfd):
    command = ["sweep", "charting", "--axis", "link.probability=0,0.5", *TINY, "--out", str(tmp_path / "run")]
    assert main([*command, *recorded(), *FEW]) == 0, capfd.readouterr().err
    records = pd.read_parquet(tmp_path / "run" / "records.parquet")
    loss = records[records["metric"] == "packet_loss"].set_index(["method", "link.probability"])["value"]
    assert loss["w-jepa", 0.0] == 0
    assert 0.3 < loss["w-jepa", 0.5] == loss["hold-last", 0.5] < 0.7
    assert "position_error" not in set(records["metric"])


@pytest.mark.usefixtures("unwritten")
def test_a_training_alone_leaves_its_checkpoints_for_the_run(tmp_path, monkeypatch, capfd):
    out = ("--out", str(tmp_path / "run"))
    assert main(["train", "charting", *TINY, *out, *recorded(), *FEW]) == 0
    assert ".safetensors\n" in capfd.readouterr().out
    monkeypatch.setattr(ChartingScenario, "train", None)
    assert main(["run", "charting", *TINY, *out, *recorded(), *FEW]) == 0
    assert main(["train", "charting", *TINY, "--mode", "swarm", *out, *recorded(), *FEW]) == 2
    assert "unknown mode swarm: choose from central, split, federated" in capfd.readouterr().err


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    "settings",
    [
        # Nothing but the one result that is always made.
        ("evaluation.charts=[]", "evaluation.forecasts=[]", "evaluation.codecs=[]",
         "evaluation.csi_codecs=[]", "evaluation.feature_codecs=[]", "evaluation.erasures=[]"),
        ("link=analog", "codec.kind=analog", "channel.model=tdl-c", "evaluation.csi_codecs=[]",
         "sender=user"),
        ("velocity.source=none", "training.rollout_steps=1", "features.phase=calibrated",
         "split.segment_steps=15", "evaluation.loss_methods=[csi,features]"),
    ],
)  # fmt: skip
def test_strange_settings_that_can_be_done_are_done(settings, tmp_path, capfd):
    out, keys = tmp_path / "run", {setting.partition("=")[0] for setting in settings}
    few = [setting for setting in FEW if setting.partition("=")[0] not in keys]
    assert main(["run", "charting", *TINY, "--out", str(out), *recorded(), *few, *settings]) == 0
    assert pd.read_parquet(out / "records.parquet")["value"].notna().all()
    assert main(["show", str(out)]) == 0


@pytest.mark.usefixtures("unwritten")
def test_data_without_time_are_charted_as_single_snapshots(tmp_path):
    arrays = charting_setups.trajectories()
    linear = arrays["csi"][:, 0].reshape(len(arrays["csi"]), 4, -1)
    path = charting_setups.write(
        tmp_path / "places.h5", csi=linear, time_s=None, velocity_m_s=None, trajectory=None
    )
    few = ("snapshot.snr_db=[]", "snapshot.methods=[w-jepa,no-learning]", "snapshot.training.num_steps=10",
           "snapshot.training.num_context=2", "snapshot.training.num_target=2")  # fmt: skip
    out = tmp_path / "run"
    data = ("data=recorded", f"data.path={path}")
    assert main(["run", "charting", *TINY, "--out", str(out), *data, *few]) == 0
    records = pd.read_parquet(out / "records.parquet")
    assert set(records["result"]) == {"snapshot"}
    assert set(records["method"]) == {"w-jepa", "no-learning"}


def test_places_of_a_file_have_a_training_of_their_own(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("0,0,1.5\n")
    scene = TINY_PRESET.data.scene.model_copy(
        update={"positions_path": path, "num_arrays": 1, "num_rows": 1, "num_columns": 8}
    )
    config = TINY_PRESET.model_copy(update={"data": TINY_PRESET.data.model_copy(update={"scene": scene})})
    (first, *_) = ChartingScenario().training_jobs(config, 0, "central")
    path.write_text("1,0,1.5\n")
    (second, *_) = ChartingScenario().training_jobs(config, 0, "central")
    assert first.key != second.key
