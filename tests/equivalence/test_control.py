"""The control scenario: the same records for any workers, after a kill, and after an interrupted training."""

import os
import signal

import numpy as np
import pytest
import torch
from control_setups import CONFIG, trained

from channels.csi_file import write_csi
from channels.delay_profiles import DelayProfileConfig
from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig
from channels.links.nr_bit import NrBitConfig
from channels.recorded import RecordedConfig
from channels.system_level import CellConfig
from nodes.cluster import Cluster
from nodes.simulation import StationHost, simulate
from scenarios.contracts import Point
from scenarios.control import methods, training
from scenarios.control.cells import make_cell, make_shared, resolve
from scenarios.control.methods import METHODS, EventSender
from scenarios.control.scenario import SCENARIO
from semcom.contracts import SemcomError
from semcom.train import fit

POINTS = [
    *(Point("rate", method, 0, {"update_interval_ms": 80.0}) for method in METHODS),
    Point("rate", "jepa-event", 0, {"event_threshold_n": 0.5}),
    Point("erasure", "jepa", 0, {"update_interval_ms": 40.0, "erasure_probability": 0.3}),
    Point("rate", "jepa", 0, {"update_interval_ms": 40.0, "codec": "entropy-6"}),
    Point("sharing", "jepa", 0, {"update_interval_ms": 40.0, "scheduler": "age", "num_devices": 9}),
    Point("sharing", "raw-frames", 0, {"update_interval_ms": 40.0, "scheduler": "max-snr", "num_devices": 5}),
    Point("horizon", "jepa", 0, {"update_interval_ms": 80.0}),
]


@pytest.fixture(scope="module")
def expected():
    return SCENARIO.simulate(CONFIG, POINTS, trained(), Cluster())


@pytest.mark.parametrize("num_workers", [1, 3])
def test_records_are_the_same_for_any_number_of_workers(cluster, expected, num_workers):
    with Cluster(num_workers) as of_that_size:
        assert SCENARIO.simulate(CONFIG, POINTS, trained(), of_that_size) == expected


def test_bit_for_bit_records_are_the_same_for_any_number_of_workers(cluster):
    channel = DelayProfileConfig(model="tdl-c", snr_db=6.0, num_base_station_antennas=2)
    link = NrBitConfig(max_retransmissions=1)
    config = CONFIG.model_copy(update={"link": link, "channel": channel})
    points = [Point("rate", method, 0, {"update_interval_ms": 80.0}) for method in ("jepa", "supervised")]
    expected = SCENARIO.simulate(config, points, trained(), Cluster())
    value = {(record.method, record.metric): record.value for record in expected[0] + expected[1]}
    assert 0 < value["jepa", "packet_loss"] < 1
    for num_workers in (1, 3):
        with Cluster(num_workers) as of_that_size:
            assert SCENARIO.simulate(config, points, trained(), of_that_size) == expected


def test_records_with_other_cells_and_with_a_recording_are_the_same_in_a_worker(cluster, tmp_path):
    csi = np.random.default_rng(1).normal(size=(8, 40, 2, 1, 2))
    write_csi(tmp_path / "csi.h5", csi, snapshot_interval_s=0.02)
    channels = (
        RecordedConfig(path=tmp_path / "csi.h5", snr_db=5.0),
        CellConfig(model="uma", num_cells=7, max_distance_m=288, devices_per_cell=2),
    )
    points = [Point("rate", "jepa", 0, {"update_interval_ms": 40.0})]
    with Cluster(1) as of_that_size:
        for channel in channels:
            config = CONFIG.model_copy(update={"link": NrConfig(), "channel": channel})
            expected = SCENARIO.simulate(config, points, trained(), Cluster())
            value = {record.metric: record.value for record in expected[0]}
            assert 0 < value["packet_loss"] < 1
            assert SCENARIO.simulate(config, points, trained(), of_that_size) == expected


@pytest.mark.parametrize("victim", ["device-0-1", "cell-0"])
def test_a_killed_actor_changes_nothing(cluster, victim):
    setting = resolve(CONFIG, POINTS[len(METHODS)])
    assert setting.method == "jepa-event"
    shared, cell = make_shared(CONFIG, [setting], trained()), make_cell(CONFIG, setting)

    def kill(step: int) -> None:
        if step == 17:
            os.kill(cluster.actor_pids()[victim], signal.SIGKILL)

    num_deaths = cluster.num_deaths
    [killed] = simulate([cell], 30, cluster, shared=shared, snapshot_steps=6, on_step=kill)
    [whole] = simulate([cell], 30, Cluster(), shared=shared)
    assert cluster.num_deaths == num_deaths + 1
    for ours, theirs in ((killed.counters, whole.counters), (killed.world, whole.world)):
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("link", "axes", "loses"),
    [
        (ErasureConfig(probability=0.0), {}, False),
        (ErasureConfig(probability=0.4), {}, True),
        (NrConfig(), {"scheduler": "round-robin", "num_devices": 10}, True),
    ],
)
def test_the_device_s_copy_believes_what_the_base_station_does(monkeypatch, link, axes, loses):
    """Losses and steps without a grant included: after each downlink both expect the same next step."""
    senders, stations, compared = [], [], []
    config = CONFIG.model_copy(update={"link": link})
    point = Point("sharing" if axes else "rate", "jepa-event", 0, {"event_threshold_n": 0.3, **axes})
    setting = resolve(config, point)
    init, advance, host_init = EventSender.__init__, EventSender.feedback, StationHost.__init__

    def noted(self, *arguments):
        senders.append(self)
        init(self, *arguments)

    def noted_host(self, *arguments):
        stations.append(self)
        host_init(self, *arguments)

    def compare(self, step, delivered, command):
        advance(self, step, delivered, command)
        receiver = stations[0]._stations[0].receiver
        group = senders.index(self)
        rows = slice(4 * group, 4 * group + len(self.z))
        expects = methods._predict(self.model, receiver.z, receiver.last_command)[rows]
        known = receiver.known[rows]
        assert torch.equal(self.known, known)
        torch.testing.assert_close(self.z[known], expects[known])
        compared.append(int(known.sum()))

    monkeypatch.setattr(EventSender, "__init__", noted)
    monkeypatch.setattr(EventSender, "feedback", compare)
    monkeypatch.setattr(StationHost, "__init__", noted_host)
    [outcome] = simulate([make_cell(config, setting)], 30, Cluster(), shared=make_shared(
        config, [setting], trained()))  # fmt: skip
    sent, delivered = (outcome.counters[f"packets_{name}"].sum() for name in ("sent", "delivered"))
    assert sum(compared) > 200
    assert 10 < delivered <= sent < 10 * 30
    assert (delivered < sent) == loses


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    for model in ("jepa", "supervised"):
        [job] = [job for job in SCENARIO.training_jobs(CONFIG, 0, "central") if job.model == model]
        scratch = tmp_path / model
        scratch.mkdir()
        for stop_in_stage in (1, 2):
            calls = []

            def stopping(
                model_, batch_loss, num_steps, *arguments, _calls=calls, _stop=stop_in_stage, **named
            ):
                _calls.append(num_steps)

                def loss(step, generator):
                    if len(_calls) == _stop and step == 13:
                        raise KeyboardInterrupt
                    return batch_loss(step, generator)

                return fit(model_, loss, num_steps, *arguments, checkpoint_every=5, **named)

            monkeypatch.setattr(training, "fit", stopping)
            with pytest.raises(KeyboardInterrupt):
                SCENARIO.train(job, scratch)
        monkeypatch.setattr(training, "fit", fit)
        resumed, whole = SCENARIO.train(job, scratch), SCENARIO.train(job)
        assert resumed.tensors.keys() == whole.tensors.keys()
        for name, tensor in whole.tensors.items():
            assert torch.equal(resumed.tensors[name], tensor), name
        # A probe's least squares may differ in the last bit with where in memory its rows lie.
        for row, expected_row in zip(map(dict, resumed.log), map(dict, whole.log), strict=True):
            assert row.pop("stage") == expected_row.pop("stage")
            assert row.pop("warning", "") == expected_row.pop("warning", "")
            assert row == pytest.approx(expected_row, rel=1e-9)


def test_the_reference_lines_need_no_model_and_ignore_the_link(expected):
    lossy = CONFIG.model_copy(update={"link": ErasureConfig(probability=0.9)})
    some = [point for point in POINTS if point.method == "state-hold"]
    again = SCENARIO.simulate(lossy, some, {}, Cluster())
    assert [r.value for r in again[0]] == [r.value for r in expected[POINTS.index(some[0])]]


def test_a_checkpoint_of_another_shape_is_one_line():
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"hidden_dim": 16})})
    models = dict(zip((j.key for j in SCENARIO.training_jobs(other, 0, "central")), trained().values(),
                      strict=True))  # fmt: skip
    with pytest.raises(SemcomError, match=r"the checkpoint of jepa, seed 0: tensor .* the model expects"):
        SCENARIO.simulate(other, POINTS[:1], models, Cluster())
