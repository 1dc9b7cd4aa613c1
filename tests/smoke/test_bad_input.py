"""Strange but writable settings of the control scenario: one line, or a run that ends; nothing is lost."""

import subprocess
import sys

import pandas as pd
import pytest

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
    ],
)
def test_a_refused_setting_is_one_line_and_leaves_no_folder(setting, told, tmp_path, capfd):
    assert main([*TINY, "--out", str(tmp_path / "run"), setting]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("link=nr-bit", "grid.num_data_symbols=9"), "grid.num_data_symbols"),
        (("link=nr", "link.mcs_index=2"), "take 3 to 28"),
        (("link=nr", "grid.uplink_share=0.01"), "holds no uplink slot"),
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
