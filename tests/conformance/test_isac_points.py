"""Operating points: which there are, what each comes to as a cell, and which models they need."""

from dataclasses import replace

import isac_setups
import pytest

from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig
from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.isac.cells import resolve
from scenarios.isac.config import JpegConfig
from scenarios.isac.scenario import SCENARIO, training_job
from semcom.codecs.catalogue import CodecConfig
from semcom.contracts import SemcomError


def told(**update):
    """The configuration with embeddings that lose nothing on the way."""
    return isac_setups.config().model_copy(update={"codec": CodecConfig(kind="float32"), **update})


def settings_of(point: Point, num_receivers: int = 9):
    return resolve(told(link=NrConfig()), point, 2, num_receivers)


@pytest.mark.parametrize(
    ("missing", "silent"),
    [
        ("none", set()),
        ("camera-2", {1}),
        ("cameras", {0, 1}),
        ("receivers", {2, 3, 4}),
        ("all", {0, 1, 2, 3, 4}),
    ],
)
def test_what_is_missing_falls_silent(missing, silent):
    point = Point("missing", "zero-fill", 3, {"missing": missing})
    setting = settings_of(point, num_receivers=3)
    assert setting.silent == silent
    assert (setting.link, setting.seed) == (ErasureConfig(probability=0.0), 3)
    # Nothing is ever missing from the oracle, whatever is missing from the others.
    assert settings_of(replace(point, method="oracle"), num_receivers=3).silent == set()


def test_receivers_that_survive_stand_all_around_the_room():
    for number, kept in {0: [], 1: [0], 2: [0, 8], 3: [0, 4, 8], 9: list(range(9))}.items():
        setting = settings_of(Point("receivers", "inpainting", 0, {"num_receivers": number}))
        assert setting.silent == {0, *(2 + r for r in range(9) if r not in kept)}


def test_points_that_ask_the_same_share_a_cell():
    alike = [
        Point("missing", "inpainting", 0, {"missing": "camera-1"}),
        Point("receivers", "inpainting", 0, {"num_receivers": 9}),
    ]
    assert len({settings_of(point) for point in alike}) == 1
    lossless = [
        Point("missing", "inpainting", 0, {"missing": "none"}),
        Point("loss", "inpainting", 0, {"codec": "float32", "erasure_probability": 0.0}),
    ]
    rate = Point("rate", "inpainting", 0, {"codec": "float32", "receiver_interval": 1})
    assert len({settings_of(point) for point in (*lossless, rate)}) == 1
    seldom = replace(rate, axes={**rate.axes, "receiver_interval": 4})
    assert settings_of(seldom) != settings_of(rate)
    # An oracle loses nothing: no receiver's report, and no receiver.
    fewer = Point("receivers", "oracle", 0, {"num_receivers": 3})
    assert len({settings_of(replace(p, method="oracle")) for p in (rate, seldom, fewer)}) == 1
    assert settings_of(Point("air", "inpainting", 0, {})).link == NrConfig()
    jpeg = settings_of(Point("rate", "jpeg", 0, {"quality": 10, "downscale": 2, "container": "file"}))
    assert jpeg.jpeg == JpegConfig(quality=10, downscale=2, container="file")
    assert settings_of(Point("sweep", "jpeg", 0)).jpeg == told().jpeg
    assert settings_of(Point("sweep", "inpainting", 0)).jpeg is None


def listed(config, result: str) -> list[tuple]:
    points = [point for point in SCENARIO.points(config, [0]) if point.result == result]
    return [(point.method, *point.axes.values()) for point in points]


def test_points_are_those_that_the_evaluation_names():
    config = isac_setups.changed("evaluation", missing_methods=("zero-fill", "oracle"), faults=("frozen",))
    assert listed(config, "missing") == [
        ("zero-fill", "none"), ("zero-fill", "camera-1"), ("oracle", "none"),
    ]  # fmt: skip
    assert listed(config, "rate") == [
        ("inpainting", 1, "uniform-4"), ("inpainting", 4, "uniform-4"), ("image-only", 1, "uniform-4"),
        ("jpeg", 1, 5, 1, "scan"), ("jpeg", 1, 5, 1, "file"), ("jpeg", 4, 5, 1, "scan"),
        ("jpeg", 4, 5, 1, "file"), ("jpeg-cameras", 1, 5, 1, "scan"), ("jpeg-cameras", 1, 5, 1, "file"),
    ]  # fmt: skip
    assert listed(config, "alarm") == [
        ("inpainting", "frozen", "camera"), ("inpainting", "frozen", "receiver"),
    ]  # fmt: skip
    assert listed(config, "loss")[:2] == [("inpainting", "uniform-4", 0), ("inpainting", "uniform-4", 0.3)]
    assert not listed(config, "air")
    on_nr = config.model_copy(update={"link": NrConfig()})
    assert listed(on_nr, "air")[0] == ("inpainting", "uniform-4", "nr", "indoor-factory")
    assert not listed(isac_setups.changed("evaluation", missing=()), "missing")


def test_only_what_the_results_need_is_trained():
    def trained(**update) -> list[str]:
        config = isac_setups.changed("evaluation", **update)
        return [job.model for job in SCENARIO.training_jobs(config, 0, "central")]

    assert trained() == ["inpainting", "supervised", "image-only"]
    alone = {"loss_methods": ("image-only",), "receiver_methods": (), "rate_methods": (),
             "jpeg_methods": ("jpeg-cameras",), "faults": ()}  # fmt: skip
    assert trained(missing_methods=("image-only",), **alone) == ["image-only"]
    assert trained(missing_methods=("supervised",), **alone) == ["supervised", "image-only"]
    assert trained(missing_methods=(), **{**alone, "faults": ("noise",)}) == ["inpainting", "image-only"]
    with pytest.raises(SemcomError, match="offered in modes central, split, federated"):
        SCENARIO.training_jobs(isac_setups.config(), 0, "swarm")


def test_a_training_key_follows_all_that_the_weights_depend_on_and_nothing_else(tmp_path):
    def key(config, name: str = "inpainting", seed: int = 0) -> str:
        return training_job(config, name, seed).key

    config, changed = isac_setups.config(), isac_setups.changed
    other = {
        key(changed("observation", csi_snr_db=10.0)),
        key(changed("split", test_share=0.3)),
        key(changed("model", head_dim=9)),
        key(changed("training", batch_size=8)),
        key(changed("data", room=config.data.room.model_copy(update={"width_m": 5.0}))),
        key(config, "supervised"),
        key(config, "inpainting", 1),
    }
    assert len(other | {key(config)}) == 8
    for same in (
        changed("evaluation", erasures=(0.9,), group_size=3),
        config.model_copy(update={"link": NrConfig(), "codec": CodecConfig(kind="float32")}),
        changed("alarm", memory=0.2),
        changed("jpeg", quality=3),
    ):
        assert key(same) == key(config)


def test_weights_of_another_shape_are_one_line():
    other = isac_setups.changed("model", head_dim=9)
    models = {training_job(other, "inpainting", 0).key: next(iter(isac_setups.trained().values()))}
    point = Point("missing", "inpainting", 0, {"missing": "none"})
    with pytest.raises(
        SemcomError, match=r"the checkpoint of inpainting, seed 0: tensor .* the model expects"
    ):
        SCENARIO.simulate(other, [point], models, Cluster())
