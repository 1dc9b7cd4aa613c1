"""What isac can't do: one line that names it, before anything is trained, and before a folder is made where
the data need not be read for it."""

from pathlib import Path
from typing import Any

import h5py
import isac_setups
import numpy as np
import pytest

from scenarios.cli import main

TINY = ("run", "isac", "--preset", "tiny", "--seeds", "1", "--workers", "0")

NOTHING = tuple(
    f"evaluation.{name}=[]"
    for name in (
        "missing_methods",
        "loss_methods",
        "receiver_methods",
        "rate_methods",
        "jpeg_methods",
        "faults",
    )
)


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
        (("evaluation.missing_methods=[inpaint]",), "missing_methods holds 'inpaint': it takes inpainting"),
        (("evaluation.loss_methods=[kalman]",), "evaluation.loss_methods holds 'kalman': it takes"),
        (("evaluation.receiver_methods=[x]",), "evaluation.receiver_methods holds 'x': it takes"),
        (("evaluation.missing=[camera-3]",), "evaluation.missing holds 'camera-3': it takes none, camera-1"),
        (("evaluation.faults=[broken]",), "faults holds 'broken': it takes frozen, noise, swapped"),
        (("evaluation.rate_methods=[jpeg]",), "'jpeg', whose frames are not sent as embedding"),
        (("evaluation.jpeg_methods=[oracle]",), "'oracle', whose frames are not sent as jpeg"),
        (("evaluation.missing=[none,camera-1,none]",), "evaluation.missing holds 'none' twice"),
        (("evaluation.erasures=[0,0.3,0.0]",), "evaluation.erasures holds 0.0 twice"),
        (("evaluation.rate_receiver_intervals=[4,4]",), "evaluation.rate_receiver_intervals holds 4 twice"),
        (("evaluation.containers=[file,file]",), "evaluation.containers holds 'file' twice"),
        (("evaluation.containers=[jfif]",), 'containers = ["jfif"] is not a choice'),
        (("evaluation.rate_receiver_intervals=[]",), "rate_receiver_intervals = [] has the wrong length"),
        (NOTHING, "evaluation asks for nothing"),
        ((*NOTHING[1:], "evaluation.missing_methods=[inpainting]", "evaluation.missing=[]"),
         "evaluation asks for nothing"),
        ((*(each for each in NOTHING if "loss" not in each), "evaluation.erasures=[]"),
         "evaluation asks for nothing"),
        (("evaluation.qualities=[101]",), "evaluation.qualities = [101] is out of range"),
        (("evaluation.codecs=[uniform-99]",), "codec 'uniform-99' is unknown"),
        (("evaluation.codecs=[analog]",), "codec 'analog' sends no bits to be counted"),
        (("evaluation.codecs=[klt-4-task]",), "codec 'klt-4-task' weighs errors by a task"),
        (("codec.kind=klt", "codec.weighting=task"), "leave it at none"),
        (("link=analog",), "link analog and codec analog are not offered by isac"),
        (("codec.kind=analog",), "link analog and codec analog are not offered by isac"),
        (("evaluation.outage_step=10",), "outage_step = 10, and sequences have 10 steps: lower it"),
        (("split.segment_steps=5", "evaluation.outage_step=5"), "and sequences have 5 steps"),
        (("split.segment_steps=11",), "split.segment_steps = 11, and walks have 10 steps"),
        (("data.room.num_steps=3",), "data.room.num_steps = 3 is too short for a sequence"),
        (("evaluation.num_receivers=[0,5]",), "num_receivers holds 5, and there are 4 receivers: lower it"),
        (("data.room.num_cameras=1", "evaluation.missing=[camera-2]"), "'camera-2', and there is 1 camera"),
        (("data.room.num_cameras=1",), "holds 'swapped', and there is 1 camera"),
        (("data.room.num_receivers=1", "evaluation.num_receivers=[1]"), "'swapped', and there is 1 receiver"),
        (("split.validation_share=0.1",), "1 sequence is for validation"),
        (("data.room.num_steps=8",), "validation has 18 steps from evaluation.outage_step = 2 on, and 5 %"),
        (("data.room.num_sequences=2",), "2 sequences, and training, validation and test need one each"),
        (("split.validation_share=0.5", "split.test_share=0.5"), "leave nothing to train on"),
        (("data.room.furniture=[{centre_m: [6.0, 2.0], size_m: [0.4, 1.0, 1.0]}]",),
         "furniture[0] reaches from 5.8 to 6.2 m, outside the room"),
        (("data.room.furniture=[{centre_m: [3.0, 2.0], size_m: [0.1, 0.0, 1.0]}]",),
         "data.room.furniture[0].size_m = [0.1, 0.0, 1.0] is out of range"),
        (("data.room.frame_height_px=15",), "data.room.frame_height_px = 15 is out of range"),
        (("data.room.camera_height_m=3",), "camera_height_m = 3 is above the ceiling"),
        (("data.room.shapes=[tall]",), "max_pedestrians = 2, and shapes names 1: add some"),
        (("data.room.max_pedestrians=4",), "data.room.max_pedestrians = 4 is out of range"),
        (("model.num_lags=0",), "model.num_lags = 0 is out of range"),
        (("alarm.shrinkage=0",), "alarm.shrinkage = 0 is out of range"),
        (("observation.csi_snr_db=.nan",), "observation.csi_snr_db"),
        (("data=recorded",), "data.path = null is missing: it takes a path"),
        (("data.path=walks.h5",), "it takes data.kind = recorded"),
        (("link=nr", "grid.uplink_share=0.0001"), "holds no uplink slot"),
        (("link=nr", "codec.bits=16", "model.camera_dim=4096", "grid.bandwidth_hz=5e6",
          "grid.uplink_share=0.01", "data.room.interval_s=0.1"), "a packet of inpainting has 65600 bits"),
        (("link=nr", "evaluation.loss_methods=[jpeg]", "grid.bandwidth_hz=5e6", "grid.uplink_share=0.05",
          "data.room.interval_s=0.1"), "a packet of jpeg has"),
    ],
)  # fmt: skip
def test_a_refused_setting_is_one_line_and_leaves_no_folder(settings, told, tmp_path, capfd):
    line = refusal([*TINY, "--out", str(tmp_path / "run"), *settings], capfd)
    assert told in line
    assert not (tmp_path / "run").exists()


def test_a_sweep_of_no_method_is_refused(tmp_path, capfd):
    command = ["sweep", "isac", "--axis", "link.probability=0,1", *TINY[2:], "--out", str(tmp_path / "run")]
    assert "loss_methods is empty" in refusal([*command, "evaluation.loss_methods=[]"], capfd)
    assert not (tmp_path / "run").exists()


def write_raw(path: Path, **changed: Any) -> None:
    """Writes what write_sensing would refuse."""
    with h5py.File(path, "w") as file:
        for name, array in {**isac_setups.recording(), **changed}.items():
            if array is not None:
                file[name] = array


def with_value(name: str, at: tuple[int, ...], value: complex) -> dict[str, Any]:
    array = isac_setups.recording()[name]
    array[at] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changed", "settings", "told"),
    [
        ({"frame": None}, (), "has no dataset frame"),
        ({"position_m": None}, (), "has no dataset position_m"),
        ({"csi": None}, (), "has no dataset csi or csi_amplitude"),
        (with_value("csi", (7, 1, 3), np.nan), (), "csi holds NaN or infinity, first at [7, 1, 3]"),
        ({"frame": np.zeros((96, 2, 16, 24, 3))}, (), "frame has type float64 and shape (96, 2, 16, 24, 3)"),
        ({"frame": np.zeros((96, 2, 10, 24, 3), np.uint8)}, (), "of 11 x 11 pixels at least: SSIM"),
        ({"csi": np.ones((95, 3, 6), np.complex64)}, (), "csi has 95 rows, frame has 96"),
        # Steps out of the order of time, and one that is there twice.
        (with_value("time_s", (5,), 1.2), (), "time_s"),
        (with_value("time_s", (5,), 2.0), (), "has time_s = 2 twice, at steps 4 and 5"),
        ({"sequence": np.repeat(range(9), [12] * 7 + [6] * 2)}, (), "give split.segment_steps"),
        (isac_setups.recording(num_cameras=1), (), "'swapped', and there is 1 camera"),
        (isac_setups.recording(1), ("evaluation.missing=[camera-2]",), "'camera-2', and there is 1 camera"),
        ({}, ("evaluation.num_receivers=[4]",), "num_receivers holds 4, and there are 3 receivers"),
        ({}, ("evaluation.outage_step=12",), "outage_step = 12, and sequences have 12 steps"),
        ({}, ("split.validation_share=0.1",), "1 sequence is for validation"),
    ],
)  # fmt: skip
def test_recorded_data_that_will_not_do_are_refused_before_a_training(
    changed, settings, told, tmp_path, capfd
):
    path = tmp_path / "walks.h5"
    write_raw(path, **changed)
    keys = {setting.partition("=")[0] for setting in settings}
    usual = [] if "evaluation.num_receivers" in keys else ["evaluation.num_receivers=[0,3]"]
    data = ["data=recorded", f"data.path={path}"]
    assert told in refusal([*TINY, "--out", str(tmp_path / "run"), *data, *usual, *settings], capfd)


def test_a_recorded_file_that_is_not_there_is_named(tmp_path, capfd):
    arguments = [*TINY, "--out", str(tmp_path / "run"), "data=recorded"]
    assert "data.path = /there/is/none.h5: there is" in refusal(
        [*arguments, "data.path=/there/is/none.h5"], capfd
    )
    told = f"data.path = {tmp_path} is a folder: give the path of an HDF5 file"
    assert told in refusal([*arguments, f"data.path={tmp_path}"], capfd)
    assert not (tmp_path / "run").exists()
