"""The control scenario with every codec of the catalogue: its name, its fitting, its records."""

import control_setups
import pytest
import torch

from channels.links.nr import NrConfig
from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.control.cells import make_shared, resolve
from scenarios.control.models import MotionModel
from scenarios.control.scenario import SCENARIO
from scenarios.control.weighting import task_weight
from scenarios.settings import apply_overrides, parse_overrides
from semcom.codecs.catalogue import CODECS, CodecConfig
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import SemcomError
from semcom.rng import Streams

NAMES = [
    *(kind if kind.startswith(("float", "analog")) else f"{kind}-2" for kind in CODECS),
    "analog-3symbols-at-2.5dB-task",
    "fsq-6levels",
    "fsq-2-task",
    "fsq-3levels-task",
    "rvq-1-task",
    "factorised-2-task",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_is_called_by_its_name(name):
    assert codec_name(codec_config(name)) == name


@pytest.mark.parametrize(
    "wrong",
    [
        "fsq",
        "fsq-9",
        "fsq-0levels",
        "vq-2levels",
        "uniform-4-task",
        "float32-task",
        "fsq-task",
        "fsq-2-",
        "analog-2",
        "fsq-2-3symbols",
    ],
)
def test_a_codec_that_there_is_not_is_refused(wrong):
    with pytest.raises(SemcomError, match=f"codec '{wrong}' is unknown"):
        codec_config(wrong)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["codec.kind=fsq", "codec.bits=9"], "9 is too much for fsq: it takes 1 to 8"),
        (["codec.levels=3"], "levels = 3 does not belong to uniform"),
        (["codec.weighting=task"], "weighting = task is not for uniform"),
        (["codec.kind=sfq"], "did you mean"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, complaint):
    with pytest.raises(SemcomError, match=complaint):
        apply_overrides(control_setups.CONFIG, parse_overrides(given))


def untrained(config, seed=0):
    """Weights as they are drawn, whitened: codecs need nothing more of a model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MotionModel(config.model, config.camera, config.plant, Streams(seed), with_predictor=True)
        model.actor.mlp[-1].weight.data.normal_()
        generator = torch.Generator().manual_seed(4)
        model.calibration.copy_(torch.randn(model.calibration.shape, generator=generator))
    return model


def simulate(name: str, link=None):
    update = {"codec": codec_config(name)} | ({"link": link} if link else {})
    config = control_setups.CONFIG.model_copy(update=update)
    point = Point("sweep", "jepa", 0)
    key = resolve(config, point).model_key
    with Cluster(0) as cluster:
        (records,) = SCENARIO.simulate(config, [point], {key: untrained(config).state_dict()}, cluster)
    return {record.metric: record.value for record in records}


@pytest.mark.parametrize("name", NAMES)
def test_every_codec_runs_and_its_three_sizes_are_recorded(name):
    measured = simulate(name)
    assert measured["packets_refused"] == measured["packet_loss"] == 0
    if name.startswith("analog"):
        assert measured["entropy_bits"] == 0
    else:
        assert 0 < measured["entropy_bits"] < measured["payload_bits"] + 8
    assert measured["transport_block_bits"] == measured["packet_bits"] == measured["payload_bits"] + 64
    if name in ("float32", "float16", "uniform-2"):
        assert measured["entropy_bits"] == measured["payload_bits"]


def test_padding_to_the_transport_block_is_counted_on_top():
    measured = simulate("fsq-2", NrConfig())
    assert measured["padding_bits"] > 0
    total = measured["packet_bits"] + measured["padding_bits"]
    assert measured["transport_block_bits"] == pytest.approx(total)


def test_the_weight_is_that_of_the_commands_that_follow_from_an_error():
    model = untrained(control_setups.CONFIG).double()
    weight = task_weight(model)
    assert torch.equal(weight, weight.T)
    assert float(torch.linalg.eigvalsh(weight)[0]) > -1e-9

    def commands(z: torch.Tensor) -> torch.Tensor:
        given = []
        for _ in range(8):
            given.append(model.actor(z))
            z = model.predictor(z, given[-1])
        return torch.cat(given, dim=1)

    z = model.calibration[:512]
    error = 1e-5 * torch.randn(z.shape[1], generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        change = (commands(z + error) - commands(z - error)) / 2
    assert float(error @ weight @ error) == pytest.approx(float(change.square().sum(dim=1).mean()), rel=1e-3)


def test_codecs_of_one_model_that_differ_only_in_weight_are_kept_apart():
    config = control_setups.CONFIG
    points = [Point("codec", "jepa", 0, {"codec": name}) for name in ("fsq-1", "fsq-1-task", "fsq-2levels")]
    settings = [resolve(config, point) for point in points]
    models = {settings[0].model_key: untrained(config).state_dict()}
    shared = make_shared(config, settings, models)
    assert len({setting.codec_key for setting in settings}) == 3
    assert shared[settings[1].codec_key].metric.weighted
    same = shared[settings[0].codec_key].state_dict()
    assert all(torch.equal(same[k], v) for k, v in shared[settings[2].codec_key].state_dict().items())
    assert settings[1].codec == CodecConfig(kind="fsq", bits=1, weighting="task")
