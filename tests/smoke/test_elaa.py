"""The array scenario through the command line, inline: the tiny preset, a sweep, a training."""

import pandas as pd
import pytest
from elaa_setups import SHORT, only

from scenarios.cli import main
from scenarios.elaa.scenario import ElaaScenario
from scenarios.elaa.vocabulary import BAND, ESTIMATORS, FEEDBACKS, FORECASTERS, FRONTHAUL


@pytest.fixture
def unwritten(monkeypatch) -> None:
    """Figures are drawn, but not written, which takes longer than all the rest."""
    for module in ("analysis.figures", "scenarios.elaa.results"):
        monkeypatch.setattr(f"{module}.save", lambda figure, folder, name: [folder / name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("elaa") / "run"
    assert main(["run", "elaa", *SHORT, "--out", str(path)]) == 0
    return path


def test_the_records_hold_every_result_and_every_method(folder):
    records = pd.read_parquet(folder / "records.parquet")
    results = {"estimate", "unknown", "size", "ahead", "band", "rate", "loss", "feedback"}
    assert set(records["result"]) == results
    methods = {name: set(part) for name, part in records.groupby("result")["method"]}
    assert methods["estimate"] == set(ESTIMATORS)
    assert methods["ahead"] == set(FORECASTERS)
    assert methods["band"] == set(BAND)
    assert methods["rate"] == methods["loss"] == set(FRONTHAUL)
    assert methods["feedback"] == set(FEEDBACKS)
    assert records["value"].notna().all()
    names = ("snr", "share", "band_share", "size", "look_ahead", "report_bits", "loss", "bits")
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert drawn == {f"nmse_vs_{name}.{kind}" for name in names for kind in ("pdf", "png")}


def test_the_same_point_has_the_same_records_whichever_result_asks(folder):
    records = pd.read_parquet(folder / "records.parquet")
    error = records[records["metric"] == "nmse_db"]
    of_sizes = error[(error["result"] == "size") & (error["num_elements"] == 64)].set_index("method")["value"]
    known = error[(error["result"] == "estimate") & (error["visible_share"] == 0.5)]
    known = known.set_index("method")["value"]
    assert {name: known[name] for name in of_sizes.index} == of_sizes.to_dict()
    # A mask that has to be detected is no help.
    unknown = error[error["result"] == "unknown"].set_index("method")["value"]
    assert unknown["nomp-shrink"] >= known["nomp-shrink"]


def test_the_same_command_goes_on_and_computes_nothing_again(folder, monkeypatch, capfd):
    # The figures are the first test's.
    monkeypatch.setattr(ElaaScenario, "figures", lambda *arguments: [])
    for stage in ("train", "simulate"):
        monkeypatch.setattr(ElaaScenario, stage, None)
    before = (folder / "records.parquet").read_bytes()
    assert main(["run", "elaa", *SHORT, "--out", str(folder)]) == 0
    printed = capfd.readouterr()
    assert "training" not in printed.out
    assert "NMSE (dB), mask known, by visible share and SNR" in printed.out
    assert (folder / "records.parquet").read_bytes() == before


@pytest.mark.usefixtures("unwritten")
def test_a_sweep_has_a_row_for_every_cell(tmp_path, capfd):
    out = tmp_path / "run"
    axes = ("--axis", "snr_db=0,20", "--axis", "visible_share=0.5,1")
    command = ["sweep", "elaa", *axes, *SHORT, "--out", str(out), *only("evaluation.methods=[ls]")]
    assert main(command) == 0, capfd.readouterr().err
    records = pd.read_parquet(out / "records.parquet")
    error = records[records["metric"] == "nmse_db"].set_index(["snr_db", "visible_share"])["value"]
    assert len(error) == 4
    # Of 8 x 64 elements: the noise of the whole array, or half of the power.
    assert error[20.0, 1.0] == pytest.approx(-20, abs=1)
    assert error[20.0, 0.5] == pytest.approx(-3, abs=1)
    for command in (["show", str(out)], ["plot", str(out)]):
        assert main(command) == 0


@pytest.mark.usefixtures("unwritten")
def test_a_training_alone_leaves_its_checkpoints_for_the_run(tmp_path, monkeypatch, capfd):
    told = [*SHORT, "--out", str(tmp_path / "run"), *only("evaluation.methods=[supervised,ls]")]
    assert main(["train", "elaa", *told]) == 0
    assert ".safetensors\n" in capfd.readouterr().out
    monkeypatch.setattr(ElaaScenario, "train", None)
    assert main(["run", "elaa", *told]) == 0
    assert main(["train", "elaa", "--mode", "swarm", *told]) == 2
    assert "unknown mode swarm: choose from central, split, federated" in capfd.readouterr().err


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    "settings",
    [
        # Sub-arrays that see in part; elements that sub-arrays of 16 don't divide; two test channels.
        ("visibility=markov", "array.num_elements=40", "model.patch_size=8", "subarray_size=20",
         "evaluation.methods=[ls,lmmse]", "evaluation.air_methods=[raw-ls,raw-nomp]", "data.num_test=2"),
        # Sub-arrays none of which is visible as a whole; a codec that is fitted; nothing arrives; a radio.
        ("subarray_size=64", "codec.kind=klt", "evaluation.air_methods=[raw-nomp]",
         "evaluation.erasures=[1.0]", "evaluation.air_codecs=[]", "link=nr"),
        ("visibility=blocker", "evaluation.methods=[nomp-bound-shrink]", "evaluation.snrs_db=[-5]",
         "array.min_paths=1", "array.max_paths=1", "data.num_training=16", "evaluation.feedbacks=[klt]",
         "evaluation.feedback_bits=[24]", "evaluation.forecasters=[wiener]", "evaluation.num_history=2"),
        ("evaluation.noisy_targets_snr_db=10", "evaluation.noisy_methods=[hybrid]",
         "training.regularizer=vicreg", "training.distance=cosine", "examples.mask_source=random"),
    ],
)  # fmt: skip
def test_strange_settings_that_can_be_done_are_done(settings, tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["run", "elaa", *SHORT, "--out", str(out), *only(*settings)]) == 0, capfd.readouterr().err
    assert pd.read_parquet(out / "records.parquet")["value"].notna().all()
    assert main(["show", str(out)]) == 0
