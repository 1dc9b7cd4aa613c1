"""What charting can't do: one line that names it, before anything is trained, and before a folder is made
where the data need not be read for it."""

from pathlib import Path
from typing import Any

import charting_setups
import h5py
import numpy as np
import pytest

from scenarios.cli import main

TINY = ("run", "charting", "--preset", "tiny", "--seeds", "1", "--workers", "0")


def refusal(arguments: list[str], capfd) -> str:
    """Runs it and returns the one line that it is refused with."""
    assert main(arguments) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert "training" not in printed.out
    return printed.err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("evaluation.charts=[w-jepaa]",), "evaluation.charts holds 'w-jepaa': it takes w-jepa, supervised"),
        (("evaluation.forecasts=[kalman]",), "evaluation.forecasts holds 'kalman': it takes w-jepa"),
        (("evaluation.loss_methods=[siamese]",), "evaluation.loss_methods holds 'siamese': it takes w-jepa"),
        (("evaluation.codecs=[uniform-99]",), "codec 'uniform-99' is unknown"),
        (("evaluation.csi_codecs=[klt-mean]",), "codec 'klt-mean' is unknown"),
        (("evaluation.feature_codecs=[klt-4-task]",), "codec 'klt-4-task' weighs errors by a task"),
        (("evaluation.codecs=[analog]",), "codec 'analog' sends no bits to be counted"),
        (("codec.kind=klt", "codec.weighting=task"), "leave it at none"),
        (("codec.mean_bits=4",), "does not belong to uniform: it is for klt"),
        (("evaluation.look_aheads_s=[0.2,4.0]",), "look_aheads_s up to 4 s (20 positions)"),
        (("evaluation.look_aheads_s=[]",), "evaluation.look_aheads_s"),
        (("evaluation.num_history=19",), "too short for evaluation.num_history = 19"),
        (("training.rollout_steps=23",), "shorter than a training window of 25: shorten training.rollout_s"),
        (("data.scene.num_trajectories=2",), "2 trajectories, and training and what is held out need one"),
        (("data.scene.num_trajectories=6",), "split.test_share = 0.2 of 6 trajectories is 1"),
        (("split.validation_share=0.5", "split.test_share=0.5"), "leave nothing to train on"),
        (("data.scene.num_steps=9",), "18 samples, and K = 0.05 n neighbours need 20"),
        (("data.scene.num_steps=3",), "6 samples, and K = 0.05 n neighbours need 20"),
        (("split.segment_steps=25",), "split.segment_steps = 25, the longest trajectory has 24"),
        (("split.segment_steps=4",), "shorter than a training window of 6"),
        (("link=analog",), "the link analog and the codec analog need each other"),
        (("codec.kind=analog",), "the link analog and the codec analog need each other"),
        (
            ("link=nr", "codec.bits=16", "model.embedding_dim=1024", "sender=user", "grid.bandwidth_hz=5e6",
             "grid.uplink_share=0.01", "data.scene.interval_s=0.1"),
            "a packet of w-jepa has 32832 bits",
        ),
        (("link=nr", "grid.uplink_share=0.0001"), "holds no uplink slot"),
        (("data=recorded",), "data.path = null is missing: it takes a path"),
        (("data.path=walks.h5",), "it takes data.kind = recorded"),
        (("data=recorded", "data.path=/there/is/none.h5"), "/there/is/none.h5"),
        (("data.scene.scene=atlantis",), "scene = atlantis is not there"),
        (("velocity.noise_share=-1",), "velocity.noise_share = -1 is out of range"),
        (("observation.snr_db=.inf",), "observation.snr_db"),
        (("features.num_taps=0",), "features.num_taps = 0 is out of range"),
    ],
)  # fmt: skip
def test_a_refused_setting_is_one_line_and_leaves_no_folder(settings, told, tmp_path, capfd):
    line = refusal([*TINY, "--out", str(tmp_path / "run"), *settings], capfd)
    assert told in line
    assert not (tmp_path / "run").exists()


def test_a_sweep_of_no_method_is_refused(tmp_path, capfd):
    command = [
        "sweep",
        "charting",
        "--axis",
        "link.probability=0,1",
        *TINY[2:],
        "--out",
        str(tmp_path / "run"),
    ]
    assert "loss_methods is empty" in refusal([*command, "evaluation.loss_methods=[]"], capfd)
    assert not (tmp_path / "run").exists()


def write_raw(path: Path, **changed: Any) -> None:
    """Writes what write_dataset would refuse."""
    arrays = {**charting_setups.trajectories(), **changed}
    with h5py.File(path, "w") as file:
        for name in ("csi", "position_m", "time_s", "velocity_m_s", "trajectory"):
            if arrays[name] is not None:
                file[name] = arrays[name]


def csi_with(value: complex) -> np.ndarray:
    csi = charting_setups.trajectories()["csi"]
    csi[7, 1, 0, 1, 3] = value
    return csi


@pytest.mark.parametrize(
    ("changed", "settings", "told"),
    [
        ({"position_m": None}, (), "has no dataset position_m"),
        ({"csi": None}, (), "has no dataset csi"),
        ({"csi": csi_with(np.nan)}, (), "csi holds NaN or infinity, first at [7, 1, 0, 1, 3]"),
        ({"position_m": np.zeros((5, 3))}, (), "position_m has 5 rows, csi has 360"),
        ({"csi": np.ones((360, 4))}, (), "csi has type float64 and shape (360, 4)"),
        ({"time_s": None, "trajectory": None}, (), "these are of 2 with 2 rows"),
        ({"velocity_m_s": None}, (), "velocity.source = recorded, and the data have no velocity_m_s"),
        (
            {"trajectory": np.r_[np.repeat(np.arange(11), 30), np.repeat([11, 12], [20, 10])]},
            (),
            "10 to 30 positions: give split.segment_steps",
        ),
        (charting_setups.trajectories(2), (), "2 trajectories, and training and what is held out need one"),
        (charting_setups.trajectories(5), (), "split.test_share = 0.2 of 5 trajectories is 1"),
        (charting_setups.trajectories(10, 9), (), "K = 0.05 n neighbours need 20"),
        ({}, ("evaluation.look_aheads_s=[0.2,6]",), "look_aheads_s up to 6 s (30 positions)"),
        ({}, ("evaluation.num_history=25",), "too short for evaluation.num_history = 25"),
        ({}, ("training.rollout_steps=29",), "shorter than a training window of 31"),
        ({}, ("split.segment_steps=31",), "split.segment_steps = 31, the longest trajectory has 30"),
    ],
)  # fmt: skip
def test_recorded_data_that_will_not_do_are_refused_before_a_training(
    changed, settings, told, tmp_path, capfd
):
    path = tmp_path / "walks.h5"
    write_raw(path, **changed)
    arguments = [*TINY, "--out", str(tmp_path / "run"), "data=recorded", f"data.path={path}", *settings]
    assert told in refusal(arguments, capfd)
