"""The tiny preset of control through the command line, inline, its records and its redrawn figures."""

import warnings

import pandas as pd
import pytest

from scenarios.cli import main
from scenarios.control.methods import METHODS

COLUMNS = {"scenario", "method", "seed", "metric", "value", "unit", "num_samples", "update_interval_ms"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("control") / "run"
    with warnings.catch_warnings():
        # Sixty training steps may leave a collapsed embedding, and the warning of it is its purpose.
        warnings.simplefilter("default")
        code = main(
            ["run", "control", "--preset", "tiny", "--seeds", "1", "--workers", "0", "--out", str(path)]
        )
    assert code == 0
    return path


def test_the_records_hold_every_method_and_the_operating_point(folder):
    records = pd.read_parquet(folder / "records.parquet")
    assert set(records.columns) >= COLUMNS
    assert set(records["method"]) == set(METHODS)
    assert set(records["result"]) == {"rate", "codec", "erasure", "horizon", "sharing"}


def test_uplink_bits_are_counted_to_the_bit(folder):
    records = pd.read_parquet(folder / "records.parquet")
    rate = records[(records["result"] == "rate") & (records["metric"] == "uplink_bits_per_step")]
    jepa = rate[rate["method"] == "jepa"]
    assert set(jepa["codec"]) == {"uniform-8"}
    bits = dict(zip(jepa["update_interval_ms"], jepa["value"], strict=True))
    assert bits == {20.0: 64 + 10 * 8, 80.0: (64 + 10 * 8) / 4}


def test_the_identity_predictor_is_hold_last(folder):
    records = pd.read_parquet(folder / "records.parquet")
    score = records[(records["result"] == "rate") & (records["metric"] == "control_score")]
    score = score.set_index(["method", "update_interval_ms"])["value"]
    for interval in (20.0, 80.0):
        assert score["identity-predictor", interval] == score["hold-last", interval]


def test_devices_that_share_the_uplink_send_as_often_as_they_may(folder):
    records = pd.read_parquet(folder / "records.parquet")
    sharing = records[(records["result"] == "sharing") & (records["metric"] == "packets_per_step")]
    # Every fourth step, from the first on, on a carrier that has room for all of them.
    assert sharing["value"].tolist() == [0.25] * len(sharing)
    assert len(sharing) == 4


def test_figures_are_redrawn_from_the_records(folder):
    for figure in (folder / "figures").iterdir():
        figure.unlink()
    assert main(["plot", str(folder)]) == 0
    assert (folder / "figures" / "score_vs_interval.pdf").stat().st_size > 1000
