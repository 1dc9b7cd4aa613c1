"""The control scenario: the same records for any workers, after a kill, and after an interrupted training."""

import itertools
import os
import signal

import numpy as np
import pytest
import torch
from control_setups import CONFIG, trained

from channels.csi_file import write_csi
from channels.delay_profiles import DelayProfileConfig
from channels.downlink import DownlinkConfig
from channels.links.analog import AnalogConfig
from channels.links.erasure import ErasureConfig
from channels.links.ideal import IdealConfig
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig
from channels.recorded import RecordedConfig
from channels.system_level import CellConfig
from nodes.cluster import Cluster
from nodes.simulation import DeviceHost, StationHost, simulate
from scenarios.contracts import Point
from scenarios.control import methods
from scenarios.control.cells import make_cell, make_shared, resolve
from scenarios.control.methods import METHODS, EventSender
from scenarios.control.plant import next_state
from scenarios.control.scenario import SCENARIO
from semcom import train
from semcom.codecs.catalogue import CodecConfig
from semcom.contracts import SemcomError
from semcom.train import Central, fit

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
def test_records_are_the_same_for_any_number_of_workers(cluster_of, expected, num_workers):
    assert SCENARIO.simulate(CONFIG, POINTS, trained(), cluster_of(num_workers)) == expected


def test_radio_links_both_ways_give_the_same_records_with_workers(cluster):
    """Bit for bit in both directions; and nr downwards alone, for which the channel is then made."""
    channel = DelayProfileConfig(model="tdl-c", snr_db=6.0, num_base_station_antennas=2)
    bits = NrBitConfig(max_retransmissions=1, mcs_rule="highest")
    # A method that holds sends few commands, which counts bit for bit.
    cases = [
        (
            CONFIG.model_copy(update={"channel": channel, "link": link, "downlink": downlink}),
            Point("rate", method, 0, {"update_interval_ms": 80.0}),
        )
        for method, link, downlink in (
            ("hold-last", bits, DownlinkConfig(link=bits, snr_offset_db=-8.0)),
            (
                "jepa",
                ErasureConfig(probability=0.1),
                DownlinkConfig(link=NrConfig(mcs_rule="highest"), snr_offset_db=-8.0),
            ),
        )
    ]

    def records(of_that_size):
        return [SCENARIO.simulate(config, [point], trained(), of_that_size) for config, point in cases]

    expected = records(Cluster())
    for [rows] in expected:
        value = {record.metric: record.value for record in rows}
        assert 0 < value["packet_loss"] < 1
        assert 0 < value["downlink_packet_loss"] < 1
        assert value["downlink_energy_per_step"] > 0
    assert records(cluster) == expected


def test_the_analog_link_gives_the_same_records_with_workers(cluster):
    """The codec is trained through the channel by the driver, and the noise is drawn where the cell lives."""
    config = CONFIG.model_copy(
        update={
            "link": AnalogConfig(),
            "channel": DelayProfileConfig(model="tdl-c", snr_db=0.0),
            "codec": CodecConfig(kind="analog", training_snr_db=5.0),
        }
    )
    point = Point("rate", "jepa", 0, {"update_interval_ms": 80.0})
    [expected] = SCENARIO.simulate(config, [point], trained(), Cluster())
    value = {record.metric: record.value for record in expected}
    # Numbers are no bits: a packet is its header, a slot of one resource block, and the header's own.
    assert (value["packet_bits"], value["payload_bits"], value["entropy_bits"]) == (64, 0, 0)
    assert value["channel_uses"] >= 2 * 144
    assert SCENARIO.simulate(config, [point], trained(), cluster) == [expected]


def test_one_channel_serves_both_directions_and_their_losses_are_independent(monkeypatch):
    made = []
    config = CONFIG.model_copy(
        update={
            "link": NrConfig(mcs_rule="highest"), "channel": DelayProfileConfig(model="tdl-c", snr_db=2.0),
            "downlink": DownlinkConfig(link=NrConfig(mcs_rule="highest"), snr_offset_db=0.0),
        }
    )  # fmt: skip
    setting = resolve(config, Point("rate", "jepa", 0, {"update_interval_ms": 20.0}))
    cell = make_cell(config, setting)
    host = StationHost({0: cell}, 30, make_shared(config, [setting], trained()))
    station = host._stations[0]
    assert station.downlink.channel._uplink is station.channel
    transmit = NrLink.transmit

    def noted(self, packets, devices, radio, step, streams):
        delivery = transmit(self, packets, devices, radio, step, streams)
        made.append((streams, step, dict(zip(devices.tolist(), delivery.ok.tolist(), strict=True))))
        return delivery

    monkeypatch.setattr(NrLink, "transmit", noted)
    simulate([cell], 30, Cluster(), shared=make_shared(config, [setting], trained()))
    pairs = [
        (up[2][device], down[2][device])
        for up, down in itertools.pairwise(made)
        if up[0] == cell.streams and down[0] == cell.streams.substream("downlink") and up[1] == down[1]
        for device in up[2].keys() & down[2].keys()
    ]
    assert len(pairs) > 200
    # A loss one way says nothing of the other.
    assert {(True, False), (False, True)} <= set(pairs)


def test_records_with_other_cells_and_with_a_recording_are_the_same_in_a_worker(cluster_of, tmp_path):
    csi = np.random.default_rng(1).normal(size=(8, 40, 2, 1, 2))
    write_csi(tmp_path / "csi.h5", csi, snapshot_interval_s=0.02)
    channels = (
        RecordedConfig(path=tmp_path / "csi.h5", snr_db=5.0),
        CellConfig(model="uma", num_cells=7, max_distance_m=288, devices_per_cell=2),
    )
    points = [Point("rate", "jepa", 0, {"update_interval_ms": 40.0})]
    for channel in channels:
        config = CONFIG.model_copy(update={"link": NrConfig(mcs_rule="highest"), "channel": channel})
        expected = SCENARIO.simulate(config, points, trained(), Cluster())
        value = {record.metric: record.value for record in expected[0]}
        assert 0 < value["packet_loss"] < 1
        assert SCENARIO.simulate(config, points, trained(), cluster_of(1)) == expected


@pytest.mark.parametrize("victim", ["device-0-1", "cell-0"])
def test_a_killed_actor_changes_nothing(cluster, victim):
    """Nor with a lossy downlink: the applied commands are among what is restored."""
    config = CONFIG.model_copy(update={"downlink": DownlinkConfig(link=ErasureConfig(probability=0.4))})
    setting = resolve(config, POINTS[len(METHODS)])
    assert setting.method == "jepa-event"
    shared, cell = make_shared(config, [setting], trained()), make_cell(config, setting)

    def kill(step: int) -> None:
        if step == 17:
            os.kill(cluster.actor_pids()[victim], signal.SIGKILL)

    num_deaths = cluster.num_deaths
    [killed] = simulate([cell], 30, cluster, shared=shared, snapshot_steps=6, on_step=kill)
    [whole] = simulate([cell], 30, Cluster(), shared=shared)
    assert cluster.num_deaths == num_deaths + 1
    assert whole.counters["downlink_packets_lost"].sum() > 50
    for ours, theirs in ((killed.counters, whole.counters), (killed.world, whole.world)):
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("link", "downlink", "axes", "loses"),
    [
        (ErasureConfig(probability=0.0), DownlinkConfig(), {}, False),
        (ErasureConfig(probability=0.4), DownlinkConfig(), {}, True),
        (
            NrConfig(mcs_rule="highest"),
            DownlinkConfig(),
            {"scheduler": "round-robin", "num_devices": 10},
            True,
        ),
        (ErasureConfig(probability=0.4), DownlinkConfig(link=ErasureConfig(probability=0.4)), {}, True),
        (
            NrConfig(mcs_rule="highest"),
            DownlinkConfig(link=NrConfig(mcs_rule="highest"), snr_offset_db=-20.0),
            {"scheduler": "round-robin", "num_devices": 10},
            True,
        ),
    ],
)
def test_the_device_s_copy_believes_what_the_base_station_does(monkeypatch, link, downlink, axes, loses):
    """Losses both ways and steps without a grant included: after each downlink both expect the same."""
    senders, stations, compared, meant = [], [], [], []
    config = CONFIG.model_copy(update={"link": link, "downlink": downlink})
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
        assert torch.equal(receiver.last_command[rows], command)
        meant.append((receiver.meant[rows] - command).abs()[known].max().item() if known.any() else 0.0)

    monkeypatch.setattr(EventSender, "__init__", noted)
    monkeypatch.setattr(EventSender, "feedback", compare)
    monkeypatch.setattr(StationHost, "__init__", noted_host)
    [outcome] = simulate([make_cell(config, setting)], 30, Cluster(), shared=make_shared(
        config, [setting], trained()))  # fmt: skip
    sent, delivered = (outcome.counters[f"packets_{name}"].sum() for name in ("sent", "delivered"))
    assert sum(compared) > 200
    assert 10 < delivered <= sent < 10 * 30
    assert (delivered < sent) == loses
    lost = outcome.counters["downlink_packets_lost"].sum()
    assert (lost > 10) == (downlink != DownlinkConfig())
    # Commands that were meant and are not applied differ by more than the rounding to 16 bits.
    assert (max(meant) > 0.1) == (downlink != DownlinkConfig())


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

            monkeypatch.setattr(train, "fit", stopping)
            with pytest.raises(KeyboardInterrupt):
                SCENARIO.train(job, Central(scratch))
        monkeypatch.setattr(train, "fit", fit)
        resumed, whole = SCENARIO.train(job, Central(scratch)), SCENARIO.train(job)
        assert resumed.tensors.keys() == whole.tensors.keys()
        for name, tensor in whole.tensors.items():
            assert torch.equal(resumed.tensors[name], tensor), name
        # A probe's least squares may differ in the last bit with where in memory its rows lie.
        for row, expected_row in zip(map(dict, resumed.log), map(dict, whole.log), strict=True):
            assert row.pop("stage") == expected_row.pop("stage")
            for told in ("warning", "metric"):
                assert row.pop(told, "") == expected_row.pop(told, "")
            assert row == pytest.approx(expected_row, rel=1e-9)


def test_the_reference_lines_need_no_model_and_ignore_the_links(expected):
    lossy = CONFIG.model_copy(
        update={
            "link": ErasureConfig(probability=0.9),
            "downlink": DownlinkConfig(link=ErasureConfig(probability=0.9)),
        }
    )
    some = [point for point in POINTS if point.method == "state-hold"]
    again = SCENARIO.simulate(lossy, some, {}, Cluster())
    assert [r.value for r in again[0]] == [r.value for r in expected[POINTS.index(some[0])]]


def test_a_downlink_that_loses_nothing_costs_bits_and_hardly_any_score(expected):
    """Of a method that holds, a command goes down only when one has changed; the predicting one's always."""
    config = CONFIG.model_copy(update={"downlink": DownlinkConfig(link=IdealConfig())})
    points = [POINTS[list(METHODS).index(method)] for method in ("jepa", "hold-last", "identity-predictor")]
    records = SCENARIO.simulate(config, points, trained(), Cluster())
    value = [{record.metric: record.value for record in rows} for rows in records]
    without = [{r.metric: r.value for r in expected[POINTS.index(point)]} for point in points]
    for ours, theirs in zip(value, without, strict=True):
        assert not any("downlink" in metric for metric in theirs)
        assert ours["downlink_packet_loss"] == ours["stale_commands"] == 0
        assert ours["control_score"] == pytest.approx(theirs["control_score"], abs=0.02)
    jepa, hold, identity = (row["downlink_bits_per_step"] for row in value)
    assert 0.9 * 80 < jepa <= 80
    assert hold == identity
    num_updates = -(-CONFIG.evaluation.num_steps // 4)
    assert hold <= 80 * num_updates / CONFIG.evaluation.num_steps


def test_the_station_encodes_raw_frames_with_the_commands_that_the_devices_applied():
    config = CONFIG.model_copy(update={"downlink": DownlinkConfig(link=ErasureConfig(probability=0.6))})
    setting = resolve(config, Point("rate", "raw-frames", 0, {"update_interval_ms": 20.0}))
    specs, shared = {0: make_cell(config, setting)}, make_shared(config, [setting], trained())
    keys = [(0, group) for group in range(len(specs[0].groups()))]
    devices, stations = DeviceHost(specs, keys, shared), StationHost(specs, 30, shared)
    downlinks = stations.first_grants()
    for step in range(10):
        uplinks = devices.step(step, downlinks)
        receiver = stations._stations[0].receiver
        worlds = [devices._groups[key].world for key in keys]
        applied = torch.cat([world.past_command for world in worlds])
        limit = config.plant.max_force_n
        assert torch.equal(receiver.past_command.clamp(-limit, limit), applied)
        downlinks = stations.serve(step, uplinks)
    assert stations.outcome()[0]["downlink_stale_steps"].sum() > 30
    assert (receiver.past_command[:, -1] != receiver.last_command).any()


def test_the_true_model_rolls_on_under_what_was_applied():
    receiver = methods.StateReceiver(CONFIG.plant, CONFIG.teacher, 2, 1, roll_out=True)
    states = np.array([[0.1, 0, 0.05, 0], [-0.2, 0, 0.01, 0]])
    receiver.update(0, np.arange(2), [state.tobytes() for state in states])
    meant = receiver.command(0)
    applied = torch.tensor([[1.5], [meant[1, 0]]])
    receiver.applied(0, applied)
    expected = next_state(torch.from_numpy(states), applied[:, 0].double(), CONFIG.plant)
    assert torch.equal(receiver.believed, expected)


def test_holding_and_keeping_the_embedding_are_the_same_over_a_lossy_downlink_too():
    config = CONFIG.model_copy(update={"downlink": DownlinkConfig(link=ErasureConfig(probability=0.5))})
    points = [POINTS[list(METHODS).index(method)] for method in ("hold-last", "identity-predictor")]
    hold, identity = SCENARIO.simulate(config, points, trained(), Cluster())
    assert [r.value for r in hold] == [r.value for r in identity]
    assert {r.metric: r.value for r in hold}["stale_commands"] > 0.1


def test_a_checkpoint_of_another_shape_is_one_line():
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"hidden_dim": 16})})
    models = dict(zip((j.key for j in SCENARIO.training_jobs(other, 0, "central")), trained().values(),
                      strict=True))  # fmt: skip
    with pytest.raises(SemcomError, match=r"the checkpoint of jepa, seed 0: tensor .* the model expects"):
        SCENARIO.simulate(other, POINTS[:1], models, Cluster())
