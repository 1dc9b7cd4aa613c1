"""Reports over the air: what arrays or users send, what the central node believes, which points there are."""

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
from scenarios.charting.data import VelocityConfig
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
from scenarios.charting.scenario import SCENARIO, training_job, velocity_name, velocity_variants
from scenarios.charting.sources import load_sequences
from scenarios.contracts import Point
from scenarios.recorded import RecordedData
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.floating import Float32Codec
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import SemcomError
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


def test_a_sweep_s_records_know_no_look_ahead_and_those_of_results_do(config):
    points = [Point("sweep", "w-jepa", 0), Point("rate", "w-jepa", 0, {"codec": "uniform-4"})]
    swept, rate = SCENARIO.simulate(config, points, charting_setups.trained(), Cluster())
    assert all(not row.point for row in swept)
    look_aheads = [row.point["look_ahead_s"] for row in rate if row.metric == "position_error"]
    assert look_aheads == [0.2, 1.0]


def test_a_point_s_axes_say_what_the_configuration_leaves_open(config):
    told = config.model_copy(update={"link": NrConfig(), "codec": CodecConfig(kind="uniform", bits=3)})
    rate = resolve(told, Point("rate", "csi", 4, {"codec": "klt-8mean"}))
    assert (rate.link, rate.codec, rate.seed) == (
        ErasureConfig(probability=0.0),
        CodecConfig(kind="klt", mean_bits=8),
        4,
    )
    loss = resolve(told, Point("loss", "w-jepa", 0, {"codec": "uniform-3", "erasure_probability": 0.25}))
    assert loss.link == ErasureConfig(probability=0.25)
    swept = resolve(told, Point("sweep", "hold-last", 0))
    assert (swept.link, swept.codec) == (NrConfig(), told.codec)
    # Methods that send the same share their codecs, others and other seeds don't.
    keys = {
        resolve(told, Point("sweep", method, seed)).codec_key for method in OVER_THE_AIR for seed in (0, 1)
    }
    assert len(keys) == 2 * 3


@pytest.mark.parametrize("mean_bits", [4.0, 0.00005, 1e6, 123.4567, 1 / 3])
def test_a_codec_of_any_mean_bits_is_found_again_by_its_name(mean_bits):
    codec = CodecConfig(kind="klt", mean_bits=mean_bits)
    assert codec_config(codec_name(codec)) == codec


@pytest.mark.parametrize("name", ["klt-8", "klt-64mean", "klt-0.5mean", "analog-3symbols-at-2.5dB"])
def test_names_are_as_short_as_they_are_exact(name):
    assert codec_name(codec_config(name)) == name


@pytest.mark.parametrize("wrong", ["uniform-4mean", "klt-0mean", "klt-mean", "klt-4-4mean", "klt-1e3mean"])
def test_a_mean_that_there_is_not_is_refused(wrong):
    with pytest.raises(SemcomError, match=f"codec '{wrong}' is unknown"):
        codec_config(wrong)


def test_velocities_have_names_and_variants(config):
    assert [velocity_name(VelocityConfig(noise_share=share)) for share in (0, 0.2, 1.5)] == [
        "exact",
        "20 % off",
        "150 % off",
    ]
    assert velocity_name(VelocityConfig(source="none", noise_share=0.3)) == "unknown"
    told = config.model_copy(
        update={"evaluation": TINY.evaluation.model_copy(update={"velocity_noise_shares": (0.0, 0.1, 0.5)})}
    )
    assert list(velocity_variants(told)) == ["10 % off", "50 % off", "unknown"]
    noisy = told.model_copy(update={"velocity": VelocityConfig(source="positions", noise_share=0.5)})
    variants = velocity_variants(noisy)
    assert list(variants) == ["exact, from positions", "10 % off, from positions", "unknown"]
    assert variants["10 % off, from positions"].velocity == VelocityConfig(
        source="positions", noise_share=0.1
    )
    assert variants["10 % off, from positions"].data == noisy.data
    # Who knows none has no variants: there is nothing to be noisy.
    assert velocity_variants(told.model_copy(update={"velocity": VelocityConfig(source="none")})) == {}


def listed(config, result: str) -> list[tuple]:
    points = [point for point in SCENARIO.points(config, [0]) if point.result == result]
    return [(point.method, *point.axes.values()) for point in points]


def test_points_are_those_that_the_evaluation_names(config):
    assert listed(config, "rate") == [
        ("w-jepa", "uniform-4"),
        ("csi", "klt-64mean"),
        ("features", "klt-64mean"),
    ]
    assert listed(config, "loss") == [("w-jepa", "uniform-4", 0.3), ("hold-last", "uniform-4", 0.3)]
    assert listed(config, "velocity") == [("w-jepa", "exact"), ("w-jepa", "20 % off"), ("w-jepa", "unknown")]
    assert not listed(config, "air")
    told = config.model_copy(update={"link": NrConfig()})
    assert listed(told, "air") == [
        ("w-jepa", "uniform-4", "nr", "indoor-factory"),
        ("hold-last", "uniform-4", "nr", "indoor-factory"),
    ]
    few = config.model_copy(
        update={"evaluation": TINY.evaluation.model_copy(update={"charts": ("pca",), "forecasts": ()})}
    )
    assert (listed(few, "chart"), listed(few, "forecast")) == ([("pca",)], [])


def changed(config, part: str, **update):
    return config.model_copy(update={part: getattr(config, part).model_copy(update=update)})


def test_a_training_key_follows_all_that_the_weights_depend_on_and_nothing_else(config, tmp_path):
    def keys(told) -> tuple[str, str]:
        return training_job(told, "w-jepa", 0).key, training_job(told, "lstm", 0).key

    model, lstm = keys(config)
    both = [
        changed(config, "observation", snr_db=10.0),
        changed(config, "velocity", noise_share=0.1),
        changed(config, "split", test_share=0.3),
        changed(config, "features", num_taps=4),
    ]
    assert all(set(keys(told)).isdisjoint((model, lstm)) for told in both)
    for told in (changed(config, "model", head_dim=8), changed(config, "training", num_steps=30)):
        assert keys(told)[0] != model
    for told in (
        changed(config, "lstm", num_steps=30),
        changed(config, "evaluation", look_aheads_s=(0.2, 0.4)),
        changed(config, "evaluation", num_history=5),
    ):
        assert (keys(told)[0], keys(told)[1] != lstm) == (model, True)
    for told in (
        changed(config, "evaluation", charts=("pca",), codecs=(), erasures=(0.9,), group_size=3),
        config.model_copy(update={"link": NrConfig(), "sender": "user", "codec": CodecConfig(kind="klt")}),
    ):
        assert keys(told) == (model, lstm)
    # The same numbers under another name are the same data; other numbers of the same name aren't.
    copy = tmp_path / "copy.h5"
    copy.write_bytes(config.data.path.read_bytes())
    moved = config.model_copy(update={"data": RecordedData(path=copy)})
    assert keys(moved) == (model, lstm)
    charting_setups.write(copy, csi=2 * charting_setups.trajectories()["csi"])
    assert set(keys(moved)).isdisjoint((model, lstm))
    assert (
        len({training_job(config, name, seed).key for name in ("w-jepa", "siamese") for seed in (0, 1)}) == 4
    )


def test_a_file_that_changed_is_read_again(config, tmp_path):
    path = charting_setups.write(tmp_path / "walks.h5")
    told = config.model_copy(update={"data": RecordedData(path=path)})
    before = load_sequences(told, 0).test.position_m
    arrays = charting_setups.trajectories()
    charting_setups.write(path, position_m=arrays["position_m"] + [1.0, 0, 0])
    torch.testing.assert_close(load_sequences(told, 0).test.position_m, before + torch.tensor([1.0, 0]))


def test_only_what_the_results_need_is_trained(config):
    def trained(told) -> list[str]:
        return [job.model for job in SCENARIO.training_jobs(told, 0, "central")]

    assert trained(config) == [
        "w-jepa", "siamese", "autoencoder", "supervised", "odometry", "lstm", "lstm-velocity", "w-jepa",
        "w-jepa",
    ]  # fmt: skip
    few = changed(
        config, "evaluation", charts=("pca",), forecasts=("wiener",), velocity_noise_shares=(),
        without_velocity=False,
    )  # fmt: skip
    assert trained(few) == ["w-jepa"]
    # What is told velocities can't be where there are none.
    unknown = config.model_copy(update={"velocity": VelocityConfig(source="none")})
    assert trained(unknown) == ["w-jepa", "siamese", "autoencoder", "supervised", "lstm"]
    methods = {point.method for point in SCENARIO.points(unknown, (0,))}
    assert not methods & {"odometry", "dead-reckoning", "lstm-velocity"}
    with pytest.raises(SemcomError, match="trains in mode central only"):
        SCENARIO.training_jobs(config, 0, "federated")


def test_weights_of_another_shape_are_one_line(config):
    other = changed(config, "model", hidden_dim=9)
    jobs = SCENARIO.training_jobs(other, 0, "central")
    models = dict(zip((job.key for job in jobs), charting_setups.trained().values(), strict=True))
    with pytest.raises(SemcomError, match=r"the checkpoint of w-jepa, seed 0: tensor .* the model expects"):
        SCENARIO.simulate(other, [Point("chart", "w-jepa", 0)], models, Cluster())


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
