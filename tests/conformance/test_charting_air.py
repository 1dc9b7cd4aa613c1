"""Reports over the air: what arrays or users send, and what the central node believes."""

from dataclasses import replace

import charting_setups
import numpy as np
import pytest
import torch

from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig
from nodes.cluster import Cluster
from nodes.simulation import simulate
from scenarios.charting.cells import make_cell, make_shared, resolve, slots
from scenarios.charting.config import TINY, ChartingConfig
from scenarios.charting.measures import air_records, load_model
from scenarios.charting.methods import (
    OVER_THE_AIR,
    ReportReceiver,
    ReportSender,
    View,
    embeddings_received,
    source_dim,
    vectors_to_send,
)
from scenarios.charting.models import ArrayModel
from scenarios.charting.scenario import SCENARIO, training_job
from scenarios.charting.sources import load_sequences
from scenarios.contracts import Point
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.floating import Float32Codec
from semcom.encoders import ParallelMlpEncoder

SOURCES = ("embedding", "csi", "features")


@pytest.fixture(scope="module")
def config() -> ChartingConfig:
    return charting_setups.config()


@pytest.fixture(scope="module")
def data(config):
    return load_sequences(config, 0)


@pytest.fixture(scope="module")
def model(config) -> ArrayModel:
    weights = charting_setups.trained()[training_job(config, "w-jepa", 0).key]
    return load_model(config, 0, weights, "w-jepa")


def test_perceptrons_side_by_side_are_what_each_is_alone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder = ParallelMlpEncoder(3, 5, 4, 16)
        vectors = torch.randn(7, 3, 5)
    with torch.no_grad():
        for bias in encoder.biases:
            bias.normal_(generator=torch.Generator().manual_seed(2))
        together = encoder(vectors)
        for sensor in range(3):
            torch.testing.assert_close(encoder.of_sensor(vectors[:, sensor], sensor), together[:, sensor])
            # They share no weights.
            assert not torch.allclose(encoder.of_sensor(vectors[:, 0], sensor), together[:, (sensor + 1) % 3])


def test_an_array_alone_embeds_as_all_do_together(model, data):
    csi = data.test.csi[0]
    together = model.embed(csi)
    assert together.shape == (charting_setups.NUM_STEPS, 2, TINY.model.embedding_dim)
    torch.testing.assert_close(
        model.embed(data.test.csi), torch.stack([model.embed(c) for c in data.test.csi])
    )
    for array in (0, 1):
        torch.testing.assert_close(
            model.embed_array(csi[:, array], array), together[:, array], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("arrays", [(0,), (1,), (0, 1)])
def test_what_is_sent_without_loss_is_what_was_embedded(model, data, source, arrays):
    csi = data.test.csi[1][:, arrays]
    dim = len(arrays) * source_dim(model, source)
    sent = vectors_to_send(model, source, csi, arrays)
    assert sent.shape == (len(csi), dim)
    codec = Float32Codec(dim)
    received = embeddings_received(model, source, codec.decode(codec.encode(sent)), arrays)
    torch.testing.assert_close(received, model.embed(data.test.csi[1])[:, arrays], atol=1e-4, rtol=1e-4)


def float32_codecs(model, source, arrays_of_slots) -> list[Float32Codec]:
    return [Float32Codec(len(arrays) * source_dim(model, source)) for arrays in arrays_of_slots]


def test_a_sender_s_payloads_stand_in_the_order_of_its_rows(model, data):
    arrays = ((0,), (1,))
    sender = ReportSender(model, float32_codecs(model, "embedding", arrays), 7, "embedding", arrays)
    rows = np.array([1, 2, 5])
    csi = data.test.csi[[0, 1, 1], [3, 3, 9]]
    again, payloads = sender.encode(3, rows, View(csi, np.array([1, 0, 1])))
    assert again.tolist() == rows.tolist()
    expected = [model.embed_array(csi[[i], slot], slot)[0] for i, slot in enumerate((1, 0, 1))]
    found = Float32Codec(model.embedding_dim).decode(payloads)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=1e-6)


def receiver(model, between: str, num_users: int = 2) -> ReportReceiver:
    arrays = ((0,), (1,))
    velocity_m_s = torch.randn(num_users, 9, 2, generator=torch.Generator().manual_seed(3))
    method = replace(OVER_THE_AIR["w-jepa"], between=between)
    return ReportReceiver(model, float32_codecs(model, "embedding", arrays), 7, method, velocity_m_s, arrays)


def payload(*values: float) -> bytes:
    [packed] = Float32Codec(len(values)).encode(torch.tensor([values]))
    return packed


@torch.no_grad()
def test_what_is_lost_is_predicted_from_all_that_is_believed(model):
    node, mean = receiver(model, "predict"), model.calibration.mean(dim=0)
    assert torch.equal(node.command(0), mean.repeat(2, 1))
    # User 0 is heard by array 1 alone; nobody has heard of user 1 yet.
    node.update(1, np.array([1]), [payload(1.0, 2.0, 3.0)])
    first = node.command(1).reshape(2, 2, 3)
    assert torch.equal(first[0], torch.stack([mean[0], torch.tensor([1.0, 2.0, 3.0])]))
    assert torch.equal(first[1], mean)
    # Nothing arrives: the predictor goes on, under the velocity from step 1 to step 2.
    second = node.command(2).reshape(2, 2, 3)
    torch.testing.assert_close(second[0], model.predict(first[0], node.velocity_m_s[0, 1]))
    assert torch.equal(second[1], mean)
    # One array arrives, and the other one's embedding is predicted.
    node.update(3, np.array([0, 3]), [payload(4.0, 5.0, 6.0), payload(7.0, 8.0, 9.0)])
    third = node.command(3).reshape(2, 2, 3)
    assert third[0, 0].tolist() == [4, 5, 6]
    torch.testing.assert_close(third[0, 1], model.predict(second[0], node.velocity_m_s[0, 2])[1])
    assert third[1, 1].tolist() == [7, 8, 9]
    assert torch.equal(third[1, 0], mean[0])
    assert not torch.allclose(third[0, 1], second[0, 1])


@torch.no_grad()
def test_what_is_held_stays_until_something_arrives(model):
    node, mean = receiver(model, "hold"), model.calibration.mean(dim=0)
    node.update(0, np.array([2]), [payload(1.0, 2.0, 3.0)])
    expected = mean.repeat(2, 1, 1)
    expected[1, 0] = torch.tensor([1.0, 2.0, 3.0])
    for step in range(4):
        assert torch.equal(node.command(step), expected.flatten(0, 1))
    node.update(4, np.array([2]), [payload(0.0, 0.0, 1.0)])
    expected[1, 0] = torch.tensor([0.0, 0.0, 1.0])
    assert torch.equal(node.command(4), expected.flatten(0, 1))


def test_bits_are_those_of_the_payloads_whoever_sends_them(model):
    node = receiver(model, "predict")
    bits = node.update(0, np.array([0, 1, 3]), [payload(1.0, 2.0, 3.0)] * 3)
    assert bits.tolist() == [96, 96, 96]
    assert node.max_payload_bits == 96


def beliefs(config, data, model, method: str = "w-jepa") -> torch.Tensor:
    """What the central node believes at every step in the end, [U, T, R, D]."""
    setting = resolve(config, Point("sweep", method, 0))
    shared = make_shared(config, [setting], {0: model}, {0: data}, Cluster())
    [outcome] = simulate([make_cell(config, setting, data)], data.test.num_steps, Cluster(), shared=shared)
    num_users, num_steps = data.test.csi.shape[:2]
    belief = torch.from_numpy(outcome.world["belief"]).unflatten(0, (num_users, -1)).transpose(1, 2)
    return belief.reshape(num_users, num_steps, 2, model.embedding_dim)


@pytest.mark.parametrize("method", OVER_THE_AIR)
@pytest.mark.parametrize("sender", ["array", "user"])
def test_without_loss_the_node_believes_what_was_embedded_in_that_very_step(
    config, data, model, method, sender
):
    told = config.model_copy(update={"codec": CodecConfig(kind="float32"), "sender": sender})
    assert len(slots(told, 2)) == {"array": 2, "user": 1}[sender]
    found = beliefs(told, data, model, method)
    torch.testing.assert_close(found, model.embed(data.test.csi), atol=1e-4, rtol=1e-4)


def test_a_lossy_link_leaves_beliefs_that_are_predicted_or_held(config, data, model):
    lossy = config.model_copy(
        update={"codec": CodecConfig(kind="float32"), "link": ErasureConfig(probability=0.4)}
    )
    embedded = model.embed(data.test.csi)
    held, predicted = (beliefs(lossy, data, model, method) for method in ("hold-last", "w-jepa"))
    lost = ((held - embedded).abs().amax(dim=-1) > 1e-4)[:, 1:]
    # The same packets are lost whatever is done about it, each array's on its own.
    again = ((predicted - embedded).abs().amax(dim=-1) > 1e-4)[:, 1:]
    assert torch.equal(lost, again)
    num = lost.numel()
    assert abs(float(lost.float().mean()) - 0.4) < 4.5 * (0.4 * 0.6 / num) ** 0.5
    assert bool((lost[..., 0] != lost[..., 1]).any())
    assert torch.equal(held[:, 1:][lost], held[:, :-1][lost])
    assert not torch.equal(predicted[:, 1:][lost], predicted[:, :-1][lost])


def test_a_user_s_report_is_one_packet_and_arrays_take_one_each(config):
    points = [Point("sweep", "w-jepa", 0)]
    bits = {}
    for sender in ("array", "user"):
        told = config.model_copy(update={"sender": sender, "codec": CodecConfig(kind="uniform", bits=4)})
        [rows] = SCENARIO.simulate(told, points, charting_setups.trained(), Cluster())
        bits[sender] = {row.metric: row.value for row in rows}
    for sender, num_packets, num_bits in (("array", 2, 16), ("user", 1, 24)):
        # Three numbers of four bits are a byte and a half, six are three bytes.
        assert bits[sender]["header_bits_per_report"] == 64 * num_packets
        assert bits[sender]["payload_bits_per_report"] == num_packets * num_bits
        assert bits[sender]["reports"] == 2 * charting_setups.NUM_STEPS
        assert bits[sender]["packet_loss"] == 0


def test_the_codec_of_a_report_is_fitted_to_what_is_sent_of_it(config, data, model):
    for method, dim in (("w-jepa", 3), ("csi", 64), ("features", model.features.mean.shape[1])):
        setting = replace(
            resolve(config, Point("sweep", method, 0)), codec=CodecConfig(kind="uniform", bits=8)
        )
        shared = make_shared(config, [setting], {0: model}, {0: data}, Cluster())
        codecs = shared[setting.codec_key]
        assert [codec.embedding_dim for codec in codecs] == [dim, dim]
        train = data.train.csi.flatten(0, 1)
        for array, codec in enumerate(codecs):
            sent = vectors_to_send(model, OVER_THE_AIR[method].source, train[:, [array]], [array])
            error = (codec(sent) - sent).square().mean() / sent.square().mean()
            assert float(error) < 1e-3
    assert make_codec(CodecConfig(kind="uniform", bits=8), 3).embedding_dim == 3


def test_costs_are_counted_to_the_bit(config, data, model):
    """By hand from the counters of a cell in which one device of four sent nothing."""
    from nodes.base_station import COUNTERS
    from nodes.contracts import CellOutcome
    from scenarios.charting.measures import Heard

    setting = replace(resolve(config, Point("air", "w-jepa", 0)), link=NrConfig())
    num_steps = charting_setups.NUM_STEPS
    counters = {name: np.zeros(4) for name in COUNTERS} | {
        "packets_sent": np.array([30, 20, 10, 0]),
        "packets_delivered": np.array([30, 10, 5, 0]),
        "payload_bits": np.array([360, 240, 120, 0]),
        "header_bits": 64 * np.array([30, 20, 10, 0]),
        "padding_bits": np.array([30, 20, 10, 0]),
        "channel_uses": np.array([600, 300, 300, 0]),
        "airtime_s": np.array([0.3, 0.2, 0.1, 0.0]),
        "energy_j": np.array([6.0, 0, 0, 0]),
    }
    belief = model.embed(data.test.csi).transpose(1, 2).flatten(0, 1).numpy()
    point = Point("air", "w-jepa", 0, {"codec": "uniform-4"})
    weights = charting_setups.trained()[training_job(config, "w-jepa", 0).key]
    rows = air_records(Heard(config, point, setting, CellOutcome(counters, {"belief": belief}), weights))
    found = {row.metric: row.value for row in rows}
    expected = {
        "payload_bits_per_report": 720 / 60,
        "header_bits_per_report": 64 * 60 / 60,
        "padding_bits_per_report": 1.0,
        "packet_loss": 15 / 60,
        "channel_uses_per_report": 20.0,
        "airtime_s_per_report": 0.01,
        "energy_j_per_report": 0.1,
        "reports": 2 * num_steps,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # Its beliefs are the embeddings themselves: it scores what the chart does.
    [chart] = SCENARIO.simulate(config, [Point("chart", "w-jepa", 0)], charting_setups.trained(), Cluster())
    of_chart = {row.metric: row.value for row in chart}
    for name in ("trustworthiness", "continuity", "mae", "fitted_mae", "rajski_distance"):
        assert found[name] == pytest.approx(of_chart[name], rel=1e-9)
