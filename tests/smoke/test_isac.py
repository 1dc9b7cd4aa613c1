"""The sensing scenario through the command line, inline: the tiny preset, a sweep, a training."""

import isac_setups
import numpy as np
import pandas as pd
import pytest

from scenarios.cli import main
from scenarios.isac.methods import METHODS
from scenarios.isac.scenario import IsacScenario

TINY = ("--preset", "tiny", "--seeds", "1", "--workers", "0")
SHORT = tuple(f"training.{name}={number}" for name, number in isac_setups.FEW_STEPS.items())
# One model, and no more steps than it takes.
FEW = (
    *SHORT, "evaluation.missing_methods=[inpainting]", "evaluation.loss_methods=[inpainting,last-value]",
    "evaluation.receiver_methods=[]", "evaluation.rate_methods=[]", "evaluation.jpeg_methods=[]",
    "evaluation.faults=[]", "evaluation.missing=[camera-1]", "evaluation.erasures=[0.3]",
)  # fmt: skip


@pytest.fixture
def unwritten(monkeypatch) -> None:
    """Figures are drawn, but not written, which takes longer than all the rest."""
    for module in ("analysis.figures", "scenarios.isac.results"):
        monkeypatch.setattr(f"{module}.save", lambda figure, folder, name: [folder / name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("isac") / "run"
    assert main(["run", "isac", *TINY, *SHORT, "--out", str(path)]) == 0
    return path


def test_the_records_hold_every_result_and_every_method(folder):
    records = pd.read_parquet(folder / "records.parquet")
    assert set(records["result"]) == {"missing", "loss", "receivers", "rate", "alarm"}
    methods = {name: set(part) for name, part in records.groupby("result")["method"]}
    assert methods["missing"] | methods["rate"] == set(METHODS)
    assert records["value"].notna().all()
    names = ("error_vs_missing", "error_vs_loss", "error_vs_receivers", "error_vs_bits", "alarm_roc")
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("pdf", "png")}


def test_the_same_point_has_the_same_records_whichever_result_asks(folder):
    records = pd.read_parquet(folder / "records.parquet")
    ours = records[(records["method"] == "inpainting") & (records["metric"] == "localisation_error_m")]

    def error(result: str, **where) -> float:
        part = ours[ours["result"] == result]
        for column, value in where.items():
            part = part[part[column] == value]
        return part["value"].item()

    whole = error("missing", missing="none")
    at_once = error("rate", codec="uniform-4", receiver_interval=1)
    assert whole == error("loss", erasure_probability=0.0) == at_once
    assert error("missing", missing="camera-1") == error("receivers", num_receivers=4)
    oracle = records[(records["method"] == "oracle") & (records["metric"] == "localisation_error_m")]
    assert whole == oracle["value"].item()


def test_the_same_command_goes_on_and_computes_nothing_again(folder, monkeypatch, capfd):
    # The figures are the first test's.
    monkeypatch.setattr(IsacScenario, "figures", lambda *arguments: [])
    for stage in ("train", "simulate"):
        monkeypatch.setattr(IsacScenario, stage, None)
    before = (folder / "records.parquet").read_bytes()
    assert main(["run", "isac", *TINY, *SHORT, "--out", str(folder)]) == 0
    printed = capfd.readouterr()
    assert "training" not in printed.out
    assert "Missing sensors: Localisation error (m)" in printed.out
    assert (folder / "records.parquet").read_bytes() == before


@pytest.mark.usefixtures("unwritten")
def test_a_sweep_has_a_row_for_every_cell(tmp_path, capfd):
    out = tmp_path / "run"
    command = ["sweep", "isac", "--axis", "link.probability=0,0.5", *TINY, "--out", str(out), *FEW]
    assert main(command) == 0, capfd.readouterr().err
    records = pd.read_parquet(out / "records.parquet")
    loss = records[records["metric"] == "packet_loss"].set_index(["method", "link.probability"])["value"]
    assert loss["inpainting", 0.0] == 0
    # The same packets are lost whatever is done about it.
    assert 0.3 < loss["inpainting", 0.5] == loss["last-value", 0.5] < 0.7
    for command in (["show", str(out)], ["plot", str(out)]):
        assert main(command) == 0


@pytest.mark.usefixtures("unwritten")
def test_a_training_alone_leaves_its_checkpoints_for_the_run(tmp_path, monkeypatch, capfd):
    out = ("--out", str(tmp_path / "run"))
    assert main(["train", "isac", *TINY, *out, *FEW]) == 0
    assert ".safetensors\n" in capfd.readouterr().out
    monkeypatch.setattr(IsacScenario, "train", None)
    assert main(["run", "isac", *TINY, *out, *FEW]) == 0
    assert main(["train", "isac", *TINY, "--mode", "swarm", *out, *FEW]) == 2
    assert "unknown mode swarm: choose from central, split, federated" in capfd.readouterr().err


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    "settings",
    [
        # One camera, one receiver, one pedestrian; every sensor missing; each step alone.
        ("data.room.num_cameras=1", "data.room.num_receivers=1", "data.room.max_pedestrians=1",
         "evaluation.missing=[none,camera-1,all]", "evaluation.num_receivers=[0,1]",
         "evaluation.receiver_methods=[inpainting]", "evaluation.faults=[frozen,noise]", "model.num_lags=1",
         "alarm.memory=0"),
        ("link=nr", "evaluation.missing=[]", "evaluation.erasures=[1.0]", "observation.csi_snr_db=null",
         "observation.random_phase=false", "observation.camera_noise_std=0", "codec.kind=klt",
         "model.receiver_dim=14", "model.num_lags=12", "split.segment_steps=5"),
        ("training.regularizer=sigreg", "training.matching=best", "training.pixel_weight=0",
         "training.distance=cosine", "evaluation.rate_methods=[inpainting]", "evaluation.codecs=[klt-2mean]"),
    ],
)  # fmt: skip
def test_strange_settings_that_can_be_done_are_done(settings, tmp_path):
    out, keys = tmp_path / "run", {setting.partition("=")[0] for setting in settings}
    few = [setting for setting in FEW if setting.partition("=")[0] not in keys]
    assert main(["run", "isac", *TINY, "--out", str(out), *few, *settings]) == 0
    assert pd.read_parquet(out / "records.parquet")["value"].notna().all()
    assert main(["show", str(out)]) == 0


@pytest.mark.usefixtures("unwritten")
def test_recorded_amplitudes_will_do_and_nobody_need_know_who_is_visible(tmp_path):
    arrays = isac_setups.recording()
    arrays["csi_amplitude"] = np.abs(arrays.pop("csi"))
    path = isac_setups.write(tmp_path / "office.h5", arrays)
    out, told = tmp_path / "run", ("data=recorded", f"data.path={path}")
    few = [setting for setting in FEW if "faults" not in setting]
    assert main(["run", "isac", *TINY, "--out", str(out), *told, *few, "evaluation.num_receivers=[0,3]"]) == 0
    records = pd.read_parquet(out / "records.parquet")
    assert {"missing", "loss", "alarm"} <= set(records["result"])
    assert not records["metric"].str.contains("occlusion").any()
    assert records["value"].notna().all()
