"""Sensors over the air: what they send, what the base station makes of it."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import isac_setups
import numpy as np
import pytest
import torch

from channels.links.erasure import ErasureConfig, ErasureLink
from nodes.base_station import BaseStation
from nodes.cluster import Cluster
from nodes.contracts import Uplink
from nodes.schedulers import PeriodicConfig, make_scheduler
from nodes.simulation import DeviceHost, StationHost, simulate
from scenarios.contracts import Point
from scenarios.isac import methods
from scenarios.isac.cells import make_cell, make_shared, resolve
from scenarios.isac.config import TINY
from scenarios.isac.data import SensingData
from scenarios.isac.jpeg import JpegCodec
from scenarios.isac.memo import Memo
from scenarios.isac.methods import ARRIVED, INPAINTED, METHODS, PRIOR, SceneReceiver
from scenarios.isac.scenario import SCENARIO
from scenarios.isac.world import SensingWorld
from semcom.codecs.catalogue import CodecConfig
from semcom.codecs.floating import Float32Codec
from semcom.contracts import SemcomError
from semcom.packets import pack_packets
from semcom.rng import Streams

VERSION = 7
CODEC_ID = Float32Codec(1).codec_id


@dataclass
class HandModel:
    """Sensors a (2 numbers) and b (1); predicted is 100 and what was heard, a tenth of it a step later."""

    num_lags: int = 2

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(num_lags=self.num_lags)
        self.num_sensors, self.embedding_dim = 2, 2
        self.mean = torch.tensor([[7.0, 8.0], [9.0, 0.0]])

    def padded(self, z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(z, (0, 2 - z.shape[-1]))

    def predictor(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        known = torch.where(arrived[..., None], context, 0).sum(dim=(2, 3))
        weight = 0.1 ** torch.arange(context.shape[1])
        return (100 + known @ weight)[:, None, None].expand(-1, 2, 2)

    def fusion(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        return 100 + self.predictor(context, arrived)


def station(fill: str = "predict", num_rooms: int = 2) -> SceneReceiver:
    return SceneReceiver(
        HandModel(), [Float32Codec(2), Float32Codec(1)], VERSION, CODEC_ID, fill, num_rooms, Memo(1)
    )


def payload(*values: float) -> bytes:
    [packed] = Float32Codec(len(values)).encode(torch.tensor([values]))
    return packed


def believed(receiver: SceneReceiver, step: int) -> list[list[float]]:
    return receiver.command(step).tolist()


def test_what_is_missing_is_predicted_from_the_window_and_told_from_what_arrived():
    node = station()
    # Room 0 hears of a, room 1 of nothing.
    bits = node.update(0, np.array([0]), [payload(1.0, 2.0)])
    assert bits.tolist() == [64]
    first = [[1, 2, ARRIVED], [103, 103, INPAINTED]]
    assert believed(node, 0) == first + [[100, 100, PRIOR]] * 2
    # A step later room 0 hears of b, and remembers a; room 1 hears of both.
    node.update(1, np.array([1, 2, 3]), [payload(5.0), payload(3.0, 4.0), payload(6.0)])
    second = node.command(1)
    torch.testing.assert_close(second[0], torch.tensor([100 + 5 + 0.3, 105.3, INPAINTED]))
    assert second[1:].tolist() == [[5, 0, ARRIVED], [3, 4, ARRIVED], [6, 0, ARRIVED]]
    # Nothing arrives: b is still in room 0's window, a no longer; a step later neither.
    third = node.command(2)
    torch.testing.assert_close(third[:2], torch.tensor([[100.5, 100.5, INPAINTED]] * 2))
    assert third[2:, 2].tolist() == [INPAINTED] * 2
    assert believed(node, 3) == [[100, 100, PRIOR]] * 4


def test_a_masked_head_fills_by_the_predictor_that_was_trained_with_it():
    node = station("fuse")
    node.update(0, np.array([0]), [payload(1.0, 2.0)])
    assert believed(node, 0) == [[1, 2, ARRIVED], [203, 203, INPAINTED]] + [[200, 200, PRIOR]] * 2


@pytest.mark.parametrize(
    ("fill", "unheard", "later"),
    [
        ("zero", [[0, 0, PRIOR]] * 4, [0, 0, PRIOR]),
        ("mean", [[7, 8, PRIOR], [9, 0, PRIOR]] * 2, [7, 8, PRIOR]),
        ("last", [[7, 8, PRIOR], [9, 0, PRIOR]] * 2, [1, 2, INPAINTED]),
    ],
)
def test_other_fills_look_at_one_step_or_at_all(fill, unheard, later):
    node = station(fill)
    assert believed(node, 0) == unheard
    node.update(1, np.array([0]), [payload(1.0, 2.0)])
    now = believed(node, 1)
    assert now[0] == [1, 2, ARRIVED]
    assert now[1] == [*unheard[1][:2], INPAINTED]
    assert now[2:] == unheard[2:]
    for step in (2, 3, 9):
        assert believed(node, step)[0] == later


def test_steps_may_be_left_out_but_not_come_out_of_order():
    node, patient = station(), station()
    for receiver in (node, patient):
        receiver.update(0, np.array([0]), [payload(1.0, 2.0)])
    patient.command(1)
    # In between nothing arrived, whether it was asked about or not.
    assert torch.equal(node.command(2), patient.command(2))
    with pytest.raises(SemcomError, match="step 1 comes after step 2"):
        node.update(1, np.array([0]), [payload(1.0, 2.0)])


def packet(device: int, step: int, *values: float) -> tuple[int, bytes]:
    [packed] = pack_packets([device], step, VERSION, CODEC_ID, [payload(*values)])
    return device, packed


def served(*sent: tuple[int, bytes], step: int = 1) -> tuple[BaseStation, torch.Tensor]:
    """A base station in whose step 0 nothing arrived, and its commands after these packets of one uplink."""
    link = ErasureLink(ErasureConfig(probability=0.0))
    scheduler = make_scheduler(PeriodicConfig(interval_steps=1), 4)
    base = BaseStation(4, 9, scheduler, link, None, station(), Streams(0))
    base.first_grants()
    base.serve(0, [])
    devices, packets = zip(*sent, strict=True) if sent else ((), ())
    found = base.serve(step, [Uplink(np.array(devices, dtype=np.int64), list(packets))])
    return base, found.command


def test_a_packet_out_of_time_order_is_refused_and_counted():
    base, belief = served(packet(1, 1, 5.0), packet(0, 0, 1.0, 2.0))
    assert base.counters["packets_refused"].tolist() == [1, 0, 0, 0]
    assert base.counters["packets_delivered"].tolist() == [0, 1, 0, 0]
    # It changes nothing, late as it is; nor does one that comes early.
    assert torch.equal(belief, served(packet(1, 1, 5.0))[1])
    early, belief = served(packet(1, 1, 5.0), packet(0, 2, 1.0, 2.0))
    assert early.counters["packets_refused"].tolist() == [1, 0, 0, 0]
    assert torch.equal(belief, served(packet(1, 1, 5.0))[1])


def test_of_duplicate_packets_the_last_counts_and_counts_once():
    base, belief = served(packet(1, 1, 5.0), packet(0, 1, 1.0, 2.0), packet(1, 1, 6.0))
    assert base.counters["packets_delivered"].tolist() == [1, 1, 0, 0]
    assert base.counters["payload_bits"].tolist() == [64, 32, 0, 0]
    assert torch.equal(belief, served(packet(0, 1, 1.0, 2.0), packet(1, 1, 6.0))[1])
    assert belief[1].tolist() == [6, 0, ARRIVED]
    # One of an older step does not: it stands in the place of the good one, and is refused.
    base, belief = served(packet(1, 1, 5.0), packet(1, 0, 6.0))
    assert base.counters["packets_refused"].tolist() == [0, 1, 0, 0]
    assert belief[1, 2] == PRIOR


def told(**update):
    """The configuration with embeddings that lose nothing on the way."""
    return isac_setups.config().model_copy(update={"codec": CodecConfig(kind="float32"), **update})


def outcome_of(config, point: Point, data: SensingData, model):
    setting = resolve(config, point, model.num_cameras, model.num_receivers)
    shared = make_shared([setting], {setting.model_key: model}, {point.seed: data})
    cell = make_cell(config, setting, data, model)
    [outcome] = simulate([cell], data.test.num_steps, Cluster(), shared=shared)
    belief = torch.from_numpy(outcome.world["belief"]).unflatten(0, (-1, model.num_sensors)).transpose(1, 2)
    return outcome, belief


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.frames == "embedding"])
def test_without_loss_the_station_believes_what_was_embedded_in_that_very_step(method):
    data, model = isac_setups.data(), isac_setups.model(METHODS[method].model)
    _, belief = outcome_of(told(), Point("missing", method, 0, {"missing": "none"}), data, model)
    test = data.test
    csi = test.csi.flatten(0, 1)[:, : model.num_receivers]
    expected = model.embed(test.frame.flatten(0, 1), csi).unflatten(0, test.frame.shape[:2])
    torch.testing.assert_close(belief[..., :-1], expected, atol=1e-4, rtol=1e-4)
    assert bool((belief[..., -1] == ARRIVED).all())


def test_receivers_report_in_every_fourth_step_where_a_point_says_so():
    data, model = isac_setups.data(), isac_setups.model("inpainting")
    outcome, belief = outcome_of(
        told(), Point("rate", "inpainting", 0, {"receiver_interval": 4}), data, model
    )
    arrived = belief[..., -1] == ARRIVED
    num_steps = data.test.num_steps
    expected = [step % 4 == 0 for step in range(num_steps)]
    assert arrived[:, :, model.num_cameras :].all(dim=2).all(dim=0).tolist() == expected
    assert not arrived[:, 1, model.num_cameras :].any()
    assert bool(arrived[:, :, : model.num_cameras].all())
    sent = outcome.counters["packets_sent"].reshape(-1, model.num_sensors)
    assert set(sent[:, model.num_cameras :].flatten()) == {-(-num_steps // 4)}


def test_jpeg_frames_are_embedded_where_they_arrive():
    data, model = isac_setups.data(), isac_setups.model("image-only")
    point = Point("rate", "jpeg-cameras", 0, {"quality": 30, "downscale": 2})
    outcome, belief = outcome_of(told(), point, data, model)
    codec = JpegCodec(*data.test.frame.shape[-2:], 30, 2)
    setting = resolve(told(), point, 2, 0)
    codec = make_shared([setting], {setting.model_key: model}, {0: data})[setting.codec_key][1]
    frames = data.test.frame[:, :, 1].flatten(0, 1).permute(0, 2, 3, 1).numpy()
    payloads = codec.encode(frames)
    shown = torch.from_numpy(codec.decode(payloads)).permute(0, 3, 1, 2)
    assert not np.array_equal(shown.permute(0, 2, 3, 1).numpy(), frames)
    expected = model.embed_camera(shown, 1).unflatten(0, data.test.frame.shape[:2])
    torch.testing.assert_close(belief[:, :, 1, :-1], expected, atol=1e-5, rtol=1e-5)
    # Every byte is counted, and the frames' own embeddings are others.
    assert outcome.counters["payload_bits"][1::2].sum() == 8 * sum(map(len, payloads))
    direct = model.embed_camera(data.test.frame[:, :, 1].flatten(0, 1), 1).unflatten(0, expected.shape[:2])
    assert not torch.allclose(belief[:, :, 1, :-1], direct, atol=1e-3)


def test_files_show_what_scans_show_and_take_more_bits():
    data, model = isac_setups.data(), isac_setups.model("image-only")
    beliefs, bits = [], []
    for container in ("scan", "file"):
        axes = {"quality": 30, "downscale": 2, "container": container}
        outcome, belief = outcome_of(told(), Point("rate", "jpeg-cameras", 0, axes), data, model)
        beliefs.append(belief)
        bits.append(outcome.counters["payload_bits"].sum())
    assert torch.equal(*beliefs)
    codec = JpegCodec(*data.test.frame.shape[-2:], 30, 2, "file")
    frames = data.test.frame.transpose(0, 2).flatten(0, 2).permute(0, 2, 3, 1).numpy()
    assert bits[1] == 8 * sum(map(len, codec.encode(frames)))
    # Headers and tables of each.
    assert bits[1] - bits[0] > 8 * 250 * len(frames)


def test_sensors_of_one_codec_share_it_whatever_else_is_sent():
    data, model, alone = isac_setups.data(), isac_setups.model(), isac_setups.model("image-only")
    settings = [
        resolve(told(), Point("rate", method, 0, axes), 2, num_receivers)
        for method, num_receivers in (("jpeg", model.num_sensors - 2), ("jpeg-cameras", 0))
        for axes in ({"quality": 5, "downscale": 1}, {"quality": 5, "downscale": 2})
    ]
    models = {settings[0].model_key: model, settings[2].model_key: alone}
    shared = make_shared(settings, models, {0: data})
    small, half, small_alone, half_alone = (shared[setting.codec_key] for setting in settings)
    # Frames are coded alike for both models, embeddings of CSI beside frames of either size.
    assert all(a is b for a, b in zip((*small[:2], *half[:2]), (*small_alone, *half_alone), strict=True))
    assert all(a is b for a, b in zip(small[2:], half[2:], strict=True))
    assert len({id(codec) for codec in (*small, *half)}) == 4 + model.num_sensors - 2


def seen_otherwise(data: SensingData) -> SensingData:
    """The same data, of which the test sequences were observed by other sensors in another room."""
    test = replace(data.test, frame=255 - data.test.frame, csi=data.test.csi.flip(0, 1, 2))
    return replace(data, test=test)


@pytest.mark.parametrize("method", ["inpainting", "supervised", "masked-head", "zero-fill", "mean-fill"])
def test_without_any_sensor_the_answer_is_the_prior_flagged_and_owes_nothing_to_what_was_observed(method):
    data, model = isac_setups.data(), isac_setups.model(METHODS[method].model)
    point = Point("missing", method, 0, {"missing": "all"})
    _, belief = outcome_of(told(), point, data, model)
    first = told().evaluation.outage_step
    assert bool((belief[:, :first, :, -1] == ARRIVED).all())
    # The predictor still knows the steps before.
    since = first + (model.config.num_lags - 1 if METHODS[method].fill in ("predict", "fuse") else 0)
    later = belief[:, since:]
    assert bool((later[..., -1] == PRIOR).all())
    assert bool((belief[:, first:since, :, -1] == INPAINTED).all())
    assert torch.equal(later, later[:1, :1].expand_as(later))
    assert bool(later.isfinite().all())
    _, other = outcome_of(told(), point, seen_otherwise(data), model)
    assert torch.equal(other[:, since:], later)
    assert not torch.equal(other[:, :first], belief[:, :first])


def test_a_run_without_any_sensor_says_so_and_scores_the_prior():
    config = told()
    points = [
        Point("missing", "inpainting", 0, {"missing": "all"}),
        Point("loss", "inpainting", 0, {"codec": "float32", "erasure_probability": 1.0}),
    ]
    models = isac_setups.trained()
    silent, lost = (
        {row.metric: row.value for row in rows}
        for rows in SCENARIO.simulate(config, points, models, Cluster())
    )
    # From the outage on, 8 steps: in the first of them the window holds one that was heard.
    assert silent["prior_share"] == 7 / 8
    assert lost["prior_share"] == 1
    assert lost["packet_loss"] == 1
    assert np.isfinite([lost["localisation_error_m"], silent["localisation_error_m"]]).all()


def test_sensors_fall_silent_with_the_outage_and_their_packets_cost_nothing():
    data, model = isac_setups.data(), isac_setups.model()
    outcome, belief = outcome_of(
        told(), Point("missing", "inpainting", 0, {"missing": "camera-2"}), data, model
    )
    sent = outcome.counters["packets_sent"].reshape(-1, model.num_sensors)
    first, num_steps = told().evaluation.outage_step, data.test.num_steps
    assert (sent[:, 1] == first).all()
    assert (np.delete(sent, 1, axis=1) == num_steps).all()
    assert bool((belief[:, first:, 1, -1] == INPAINTED).all())
    assert bool((belief[:, :first, 1, -1] == ARRIVED).all())


def test_a_state_that_is_saved_and_loaded_goes_on_to_the_same_end():
    """What a killed actor is restarted from."""
    data, model = isac_setups.data(), isac_setups.model()
    config = told(evaluation=TINY.evaluation.model_copy(update={"group_size": 7}))
    setting = resolve(config, Point("loss", "last-value", 0, {"erasure_probability": 0.4}), 2, 4)
    shared = make_shared([setting], {setting.model_key: model}, {0: data})
    cell, num_steps = make_cell(config, setting, data, model), data.test.num_steps
    [whole] = simulate([cell], num_steps, Cluster(), shared=shared)

    def hosts() -> tuple[StationHost, DeviceHost]:
        keys = [(0, group) for group in range(len(cell.groups()))]
        return StationHost({0: cell}, num_steps, shared), DeviceHost({0: cell}, keys, shared)

    stations, devices = hosts()
    downlinks = stations.first_grants()
    for step in range(num_steps):
        downlinks = stations.serve(step, devices.step(step, downlinks))
        if step == 4:
            saved = stations.state(), devices.state()
            stations, devices = hosts()
            downlinks = stations.load(saved[0])
            devices.load(saved[1])
    found = devices.finish(num_steps, downlinks)
    belief = np.concatenate([found[0, group]["belief"] for group in range(len(cell.groups()))])
    np.testing.assert_array_equal(belief, whole.world["belief"])
    for name, counter in stations.outcome()[0].items():
        np.testing.assert_array_equal(counter, whole.counters[name], err_msg=name)


def test_a_world_shows_each_sensor_its_own():
    frame = torch.arange(2 * 3 * 2).reshape(2, 3, 2, 1, 1, 1).expand(2, 3, 2, 3, 4, 4).to(torch.uint8)
    csi = torch.arange(2 * 3 * 3).reshape(2, 3, 3, 1).to(torch.complex64)
    # Devices 3 to 8: receivers 2 and 3 of room 0, then room 1's cameras and its first receivers.
    world = SensingWorld(frame, csi, np.arange(3, 9), 5, 2)
    view = world.observe(1, np.arange(6))
    assert view.sensor.tolist() == [3, 4, 0, 1, 2, 3]
    assert view.place.tolist() == [0, 1, 0, 1, 2, 3]
    assert view.csi.flatten().real.tolist() == [4, 5, 12, 13]
    assert view.frame[:, 0, 0, 0].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (torch.zeros(2, 3, 31, 48, dtype=torch.uint8), r"shape \[2, 3, 31, 48\]"),
        (torch.zeros(2, 1, 32, 48, dtype=torch.uint8), r"shape \[2, 1, 32, 48\]"),
        (torch.zeros(3, 32, 48, dtype=torch.uint8), r"shape \[3, 32, 48\]"),
        (torch.zeros(2, 3, 32, 48), "type torch.float32"),
    ],
)
def test_a_frame_of_another_size_or_type_is_refused(frame, words):
    with pytest.raises(
        SemcomError, match=f"frames of camera 2 have .*{words}.*takes torch.uint8 .n, 3, 32, 48"
    ):
        isac_setups.model().embed_camera(frame, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, np.nan), complex(1, -np.inf)])
def test_csi_that_is_not_finite_is_refused_by_receiver_and_row(value):
    model, csi = isac_setups.model(), isac_setups.data().test.csi[0, :, 2].clone()
    assert bool(model.embed_receiver(csi, 2).isfinite().all())
    csi[4, 1] = csi[6, 0] = value
    with pytest.raises(
        SemcomError, match=r"CSI of receiver 3 holds NaN or infinity in row 4: let the receiver"
    ):
        model.embed_receiver(csi, 2)


@pytest.mark.parametrize("csi", [torch.zeros(2, 9, dtype=torch.complex64), torch.zeros(2, 8), torch.zeros(8)])
def test_csi_of_another_size_or_type_is_refused(csi):
    with pytest.raises(SemcomError, match=r"CSI of receiver 1 has type .* takes torch.complex64 \[n, 8\]"):
        isac_setups.model().embed_receiver(csi, 0)


def test_frames_that_are_alike_are_embedded_once_for_each_camera(monkeypatch):
    model, memo, frame = isac_setups.model(), Memo(4), isac_setups.data().test.frame[0, :3, 0]
    for _ in range(2):
        for camera in (0, 1):
            z = methods._embed_once(memo, model, frame, camera)
            assert torch.equal(z, model.embed_camera(frame, camera))
    # What is asked again is remembered: nothing is embedded any more.
    monkeypatch.setattr(model, "embed_camera", None)
    assert torch.equal(methods._embed_once(memo, model, frame, 1), z)
