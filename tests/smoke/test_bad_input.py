"""Strange but writable settings of the control scenario: one line, or a run that ends; nothing is lost."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from channels.csi_file import write_csi
from scenarios.cli import main

TINY = ("run", "control", "--preset", "tiny", "--seeds", "1", "--workers", "0")
NO_SHARING = "evaluation.sharing.schedulers=[]"
# The reference lines need no training, so that a run takes a second.
QUICK = ("evaluation.methods=[state-feedback,state-hold,true-model]", NO_SHARING)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("evaluation.methods=[]", "evaluation.methods is empty"),
        ("evaluation.methods=[jepaa]", "jepaa"),
        ("evaluation.interval_steps=[0,4]", "interval_steps"),
        ("evaluation.interval_steps=[-1]", "interval_steps"),
        ("evaluation.interval_steps=[60]", "longer than an episode"),
        ("evaluation.erasures=[1.5]", "erasures"),
        ("evaluation.codecs=[uniform-99]", "uniform-99"),
        ("evaluation.codecs=[float32-8]", "float32-8"),
        ("evaluation.codecs=[uniform]", "uniform"),
        ("evaluation.event_thresholds_n=[-1]", "event_thresholds_n"),
        ("evaluation.sharing.num_devices_semantic=[0]", "num_devices_semantic"),
        ("dataset.refresh_steps=[]", "refresh_steps"),
        ("dataset.refresh_steps=[0]", "refresh_steps"),
        ("dataset.exploration_std_n=[]", "exploration_std_n"),
        ("dataset.state_error_std=[-1,0,0,0]", "state_error_std"),
        ("plant.gravity_m_s2=.inf", "gravity_m_s2"),
        ("training.regularizer=vicregx", "vicreg"),
        ("model.gap_steps=45", "dataset.num_steps"),
        ("channel.model=recorded", "channel.path = null is missing: it takes a path"),
        ("channel.path=channel.h5", "it takes channel.model = recorded"),
    ],
)
def test_a_refused_setting_is_one_line_and_leaves_no_folder(setting, told, tmp_path, capfd):
    assert main([*TINY, "--out", str(tmp_path / "run"), setting]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert not (tmp_path / "run").exists()


def write_nothing(path: Path) -> None:
    pass


def write_text(path: Path) -> None:
    path.write_text("no HDF5")


def write_other(path: Path) -> None:
    write_csi(path, np.ones((4, 2, 1), complex), dataset="h")


def write_nan(path: Path) -> None:
    csi = np.ones((4, 2, 1), complex)
    csi[3, 1, 0] = np.nan
    write_csi(path, csi)


def write_silence(path: Path) -> None:
    write_csi(path, np.zeros((4, 2, 1), complex))


def write_narrow(path: Path) -> None:
    write_csi(path, np.ones((4, 2, 8), complex), bandwidth_hz=10e6)


def write_short(path: Path) -> None:
    write_csi(path, np.ones((4, 39, 2, 1), complex), snapshot_interval_s=0.02)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (write_nothing, "there is no such file"),
        (write_text, "can't be read as HDF5"),
        (write_other, "no dataset csi (it has h): name one by channel.dataset"),
        (write_nan, "NaN or infinity, first at [3, 1, 0]"),
        (write_silence, "zero throughout at [0], which no path reaches"),
        (write_narrow, "take a smaller grid.bandwidth_hz"),
        (write_short, "40 steps of 0.02 s need 40"),
    ],
)
def test_a_recording_that_will_not_do_is_refused_before_anything_runs(write, told, tmp_path, capfd):
    write(tmp_path / "csi.h5")
    settings = ("link=nr", "channel.model=recorded", f"channel.path={tmp_path / 'csi.h5'}")
    assert main([*TINY, "--out", str(tmp_path / "run"), *settings]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert f"channel.path = {tmp_path / 'csi.h5'}" in printed.err
    assert told in printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("link=nr", "link.mcs_index=2"), "take 3 to 28"),
        (("link=nr", "grid.uplink_share=0.01"), "holds no uplink slot"),
        # Three slots of 11 resource blocks; what is shared is a carrier whatever the link.
        (
            ("link=nr", "grid.bandwidth_hz=5e6", "grid.uplink_share=0.08"),
            "a packet of raw-frames has 32832 bits",
        ),
        (("evaluation.sharing.num_devices_frames=[1]", "grid.uplink_share=0.01"), "holds no uplink slot"),
        (("grid.bandwidth_hz=5e6", "grid.uplink_share=0.08"), "leave out raw-frames"),
        (("link=nr-bit", "link.mcs_index=4", "evaluation.methods=[raw-frames]"), "too low a code rate"),
        (("channel.model=umi", "channel.num_cells=7", "channel.max_distance_m=120"), "take at most 115"),
    ],
)
def test_what_the_carrier_cannot_do_is_refused_before_anything_runs(settings, told, tmp_path, capfd):
    assert main([*TINY, "--out", str(tmp_path / "run"), *settings]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("downlink.link=nr", "grid.uplink_share=0.99"), "leaves no downlink slot"),
        (("downlink.link=analog",), "carries numbers, and commands are bytes"),
        (("link=analog",), "set codec.kind=analog"),
        (("link=analog", "codec.kind=analog", "codec.num_symbols=200"), "link.num_resource_blocks = 2"),
        (("codec.num_symbols=5",), "it is for analog"),
        (("downlink.link=nr-bit", "grid.num_data_symbols=9"), "grid.num_data_symbols"),
        (("downlink.link=nr", "downlink.link.mcs_index=2"), "take 3 to 28"),
        (("downlink.link.max_retransmissions=2",), "it takes downlink.link.kind = nr"),
    ],
)
def test_a_refused_downlink_or_analog_link_is_one_line_and_leaves_no_folder(settings, told, tmp_path, capfd):
    assert main([*TINY, "--out", str(tmp_path / "run"), *settings]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("link=nr-bit", "grid.num_data_symbols=9"), "grid.num_data_symbols"),
        (
            ("link=nr", "channel.model=street-canyon", "channel.base_station_m=[-50,20,10]"),
            "channel.base_station_m = (-50, 20, 10) lies inside a building",
        ),
        (("dataset.start_rate_rad_s=1000", "evaluation.methods=[jepa]"), "dataset.start_"),
        (("teacher.state_cost=[0,0,0,0]", *QUICK), "teacher.state_cost"),
    ],
)
def test_what_only_computing_shows_is_one_line_too(settings, told, tmp_path, capfd):
    assert main([*TINY, "--out", str(tmp_path / "run"), *settings]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert told in printed.err


@pytest.mark.parametrize(
    "settings",
    [
        ("evaluation.methods=[state-feedback]",),
        ("evaluation.methods=[state-hold]", "evaluation.interval_steps=[]"),
        ("evaluation.methods=[true-model]", "evaluation.horizon_steps=[]"),
        ("evaluation.methods=[jepa-event]",),
        (
            "evaluation.methods=[hold-last,state-hold]",
            "downlink.link=nr",
            "downlink.link.max_retransmissions=2",
        ),
        ("evaluation.methods=[jepa,state-hold]", "evaluation.interval_steps=[1]"),
        (
            "evaluation.methods=[state-hold,true-model]",
            "plant.start_angle_rad=1.5",
            "plant.max_angle_rad=0.01",
        ),
    ],
)
def test_a_part_of_the_results_is_drawn_without_the_others(settings, tmp_path, capfd):
    """Few methods, no interval, no survivor: whatever there is to show is shown."""
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out), NO_SHARING, *settings]) == 0, capfd.readouterr().err
    assert len(pd.read_parquet(out / "records.parquet")) > 0
    assert main(["plot", str(out)]) == 0
    assert main(["show", str(out)]) == 0


def test_a_run_that_computes_nothing_leaves_the_manifest_alone(tmp_path):
    out = tmp_path / "run"
    for _ in range(2):
        assert main([*TINY, "--out", str(out), *QUICK]) == 0
    manifest = (out / "manifest.json").read_text()
    assert manifest.count('"started"') == 2  # the folder's and one session's


def test_python_m_does_what_the_command_does(tmp_path):
    command = [sys.executable, "-m", "scenarios.control", *TINY[2:], "--out", str(tmp_path / "run"), *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "records.parquet").exists()


def test_a_run_keeps_to_the_recording_that_it_began_with(tmp_path, capfd):
    """The manifest names the file by its content: another one of the same name doesn't continue the run."""
    path, out = tmp_path / "csi.h5", tmp_path / "run"
    write_csi(path, np.ones((4, 2, 1), complex))
    command = [*TINY, "--out", str(out), *QUICK, "channel.model=recorded", f"channel.path={path}"]
    assert main(command) == 0
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((out / "manifest.json").read_text())["inputs"] == {str(path): sha256}
    assert main(command) == 0
    write_csi(path, np.full((4, 2, 1), 2j))
    capfd.readouterr()
    assert main(command) == 2
    assert f"holds a run on another {path} (SHA-256 {sha256}" in capfd.readouterr().err
