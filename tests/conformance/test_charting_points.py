"""Operating points of charting: which there are, what names them, and which models they need."""

import charting_setups
import pytest
import torch

from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig
from nodes.cluster import Cluster
from scenarios.charting.cells import resolve
from scenarios.charting.config import TINY, ChartingConfig
from scenarios.charting.data import VelocityConfig
from scenarios.charting.methods import (
    OVER_THE_AIR,
)
from scenarios.charting.scenario import SCENARIO, training_job, velocity_name, velocity_variants
from scenarios.charting.sources import load_sequences
from scenarios.contracts import Point
from scenarios.recorded import RecordedData
from semcom.codecs.catalogue import CodecConfig
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import SemcomError

SOURCES = ("embedding", "csi", "features")


@pytest.fixture(scope="module")
def config() -> ChartingConfig:
    return charting_setups.config()


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
    with pytest.raises(SemcomError, match="offered in modes central, split, federated"):
        SCENARIO.training_jobs(config, 0, "swarm")


def test_weights_of_another_shape_are_one_line(config):
    other = changed(config, "model", hidden_dim=9)
    jobs = SCENARIO.training_jobs(other, 0, "central")
    models = dict(zip((job.key for job in jobs), charting_setups.trained().values(), strict=True))
    with pytest.raises(SemcomError, match=r"the checkpoint of w-jepa, seed 0: tensor .* the model expects"):
        SCENARIO.simulate(other, [Point("chart", "w-jepa", 0)], models, Cluster())
