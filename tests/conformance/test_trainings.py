"""Trainings side by side: which are planned, how their costs and scores are told, and what is drawn."""

import math

import pandas as pd
import pytest
import torch

from analysis.trainings import setting_text, short_setting, training_figure, training_table
from scenarios.catalogue import load_scenario
from scenarios.control.config import TINY
from scenarios.trainings import parse_modes, plan_trainings, uncounted
from semcom.contracts import SemcomError
from semcom.records import RunFolder

KIND = "collaboration.federated.strategy.kind"
CONTROL = load_scenario("control")


def rows(*trainings):
    listed = []
    for number, (mode, setting, seed, score, bits) in enumerate(trainings):
        told = {"model": "jepa", "seed": seed, "key": str(number), "mode": mode, "setting": setting}
        listed.append({**told, "stage": "encoder", "step": 0, "total": 1.0})
        listed.append({**told, "stage": "score", "step": 0, "metric": "state", "score": score})
        listed.append(
            {**told, "stage": "account", "step": 0, "rounds": 4, "bits_up": bits, "bits_down": 2 * bits}
        )
    return pd.DataFrame(listed)


KRUM, MEAN = f"{KIND}=krum", f"{KIND}=fedavg"
ROWS = rows(
    ("central", "", 0, 0.9, 4e6),
    ("central", "", 1, 0.8, 4e6),
    ("federated", MEAN, 0, 0.7, 1e6),
    ("federated", MEAN, 1, 0.7, 3e6),
    ("federated", KRUM, 0, 0.6, 1e6),
)


def test_a_line_for_each_mode_and_setting_with_means_over_seeds():
    table = training_table(ROWS)
    assert table[["mode", "setting", "seeds"]].values.tolist() == [
        ["central", "", 2],
        ["federated", "fedavg", 2],
        ["federated", "krum", 1],
    ]
    # Student's t of one degree of freedom: 12.706; the deviation of 0.9 and 0.8 over the root of two is 0.05.
    assert table["score"].tolist() == ["0.85 ± 0.64", "0.7 ± 0", "0.6"]
    assert table["Mbit up"].tolist() == ["4 ± 0", "2 ± 13", "1"]
    assert table["Mbit down"].tolist() == ["8 ± 0", "4 ± 25", "2"]
    assert table["rounds"].tolist() == ["4 ± 0", "4 ± 0", "4"]
    assert table["wall time (s)"].tolist() == ["", "", ""]
    assert "setting" not in training_table(ROWS[ROWS["mode"] == "central"])


def test_trainings_that_were_not_accounted_for_are_left_out():
    assert training_table(pd.DataFrame()).empty
    assert training_table(ROWS[ROWS["stage"] == "encoder"]).empty
    assert training_table(ROWS[ROWS["stage"] != "account"]).empty
    assert training_figure(ROWS[ROWS["stage"] != "account"]) is None
    unscored = training_table(ROWS[ROWS["stage"] != "score"])
    assert unscored["score"].tolist() == ["", "", ""]
    assert training_figure(ROWS[ROWS["stage"] != "score"]) is None


def test_the_figure_has_a_marker_for_each_at_its_bits_and_score():
    figure = training_figure(ROWS)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    points = {
        box.get_label(): (float(box.lines[0].get_xdata()[0]), float(box.lines[0].get_ydata()[0]))
        for box in axes.containers
    }
    expected = {
        "central": (12e6, 0.85),
        "federated, fedavg": (6e6, 0.7),
        "federated, krum": (3e6, 0.6),
    }
    assert points == {name: pytest.approx(point) for name, point in expected.items()}
    assert axes.get_ylabel() == "score (state)"
    free = training_figure(rows(("federated", "", 0, 0.5, 0.0), ("central", "", 0, 0.9, 1e6)))
    assert [line.get_label() for line in free.axes[0].lines if line.get_linestyle() == "--"] == ["federated"]


def test_bits_that_hardly_differ_are_on_a_linear_axis_with_the_names_above():
    figure = training_figure(rows(("split", "", 0, 0.5, 5.0e7), ("federated", "", 0, 0.6, 5.8e7)))
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert axes.get_legend() is None
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"split", "federated"}


def test_settings_are_short_in_print():
    text = setting_text({KIND: "krum", "collaboration.num_clients": 5, "a.shares": "[1, 2]"})
    assert text == f"{KIND}=krum; collaboration.num_clients=5; a.shares=[1, 2]"
    assert short_setting(text) == "krum, num clients 5, shares [1, 2]"


def test_kinds_of_the_same_name_are_told_apart():
    same = "a.embedding.kind=float32; a.gradient.kind=float32; a.strategy.kind=krum"
    assert short_setting(same) == "embedding float32, gradient float32, krum"


def test_clients_with_models_of_their_own_are_one_line_by_their_mean():
    own = rows(("federated", "", 0, 0.5, 1e6), ("central", "", 0, 0.9, 4e6))
    clients = own[(own["stage"] == "score") & (own["mode"] == "federated")]
    each = pd.concat([clients.assign(client=k, score=s) for k, s in enumerate((0.2, 0.8))])
    both = pd.concat([own, each], ignore_index=True)
    table = training_table(both)
    assert table[["mode", "seeds", "score"]].values.tolist() == [
        ["central", 1, "0.9"],
        ["federated", 1, "0.5"],
    ]
    assert training_figure(both) is not None


def test_every_mode_trains_the_jepa_once_in_each_setting_that_it_knows():
    axes = {KIND: ["fedavg", "fedmedian"], "collaboration.num_clients": [2, 3]}
    jobs = plan_trainings(CONTROL, TINY, axes, [0, 1], ["central", "federated"])
    central = [job for job in jobs if job.mode == "central"]
    federated = [job for job in jobs if job.mode == "federated"]
    # Central training hangs on neither axis, the other on both.
    assert [(job.seed, job.setting, job.is_counted) for job in central] == [(0, "", True), (1, "", True)]
    assert len(federated) == len({job.key for job in federated}) == 8
    assert {job.setting for job in federated} == {
        f"{KIND}={kind}; collaboration.num_clients={num}" for kind in axes[KIND] for num in (2, 3)
    }
    assert not any(job.is_counted for job in federated)
    assert {job.model for job in jobs} == {"jepa"}
    raw = plan_trainings(CONTROL, TINY, {"collaboration.central.raw.kind": ["lossless", "quantised"]}, [0],
                         ["central", "federated"])  # fmt: skip
    assert [job.mode for job in raw] == ["central", "federated", "central"]


def test_one_mode_alone_trains_all_its_models_and_counts_the_jepa_s():
    jobs = plan_trainings(CONTROL, TINY, {}, [0], ["central"])
    listed = CONTROL.training_jobs(TINY, 0, "central")
    assert [job.key for job in jobs] == [job.key for job in listed]
    assert [job.model for job in jobs if job.is_counted] == ["jepa"]


@pytest.mark.parametrize("name", ["control", "charting", "isac", "elaa"])
def test_presets_have_a_jepa_to_compare(name):
    scenario = load_scenario(name)
    jobs = plan_trainings(scenario, scenario.presets["tiny"], {}, [0], ["central", "federated"])
    assert [(job.mode, job.model) for job in jobs] == [
        ("central", scenario.jepa),
        ("federated", scenario.jepa),
    ]


def test_modes_are_checked():
    assert parse_modes("federated, central") == ["federated", "central"]
    with pytest.raises(SemcomError, match="unknown mode magic"):
        parse_modes("central,magic")
    with pytest.raises(SemcomError, match="central is given twice"):
        parse_modes("central,central")
    links = load_scenario("links")
    with pytest.raises(SemcomError, match="no JEPA"):
        plan_trainings(links, links.presets["tiny"], {"packet_bytes": [20, 24]}, [0], ["central"])


def test_the_folder_keeps_mode_and_setting_and_reads_files_without(tmp_path):
    with RunFolder.create(
        tmp_path / "run", scenario="control", preset="tiny", config={}, seeds=[0]
    ) as folder:
        assert folder.trainings.empty
        folder.save_training("jepa", "old", 0, {"w": torch.zeros(1)}, [{"step": 0, "total": 1.0}])
        path = folder.path / "training.parquet"
        before = pd.read_parquet(path).drop(columns=["mode", "setting"])
        before.to_parquet(path)
        log = [{"stage": "account", "step": 0, "rounds": 1, "bits_up": 8}]
        folder.save_training("jepa", "new", 0, {"w": torch.zeros(1)}, log, "federated", MEAN)
        found = folder.trainings.set_index("key")
        assert found.loc["old", ["mode", "setting"]].tolist() == ["central", ""]
        assert found.loc["new", ["mode", "setting"]].tolist() == ["federated", MEAN]
        assert math.isnan(found.loc["old", "bits_up"])
        jobs = plan_trainings(CONTROL, TINY, {}, [0], ["central"])
        assert uncounted(jobs, folder) == []
        jepa = next(job for job in jobs if job.is_counted)
        folder.save_training("jepa", jepa.key, 0, {"w": torch.zeros(1)}, [{"stage": "encoder", "step": 0}])
        (line,) = uncounted(jobs, folder)
        assert "jepa, seed 0" in line
    assert len(training_table(RunFolder.open(tmp_path / "run").trainings)) == 1
