"""Nothing that is fitted knows the test sequences: other observations and labels there, the same bits."""

from dataclasses import replace

import isac_setups
import pytest
import torch

from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.isac import scenario, watching
from scenarios.isac.cells import make_shared, resolve
from scenarios.isac.data import SensingData, Sequences
from scenarios.isac.jpeg import JpegCodec
from scenarios.isac.scenario import SCENARIO, training_job
from scenarios.isac.training import MODELS, train_model
from semcom.codecs.catalogue import CodecConfig


def changed(part: Sequences) -> Sequences:
    """Sequences that were observed otherwise, where everybody was elsewhere and hidden otherwise."""
    visible = 1 - part.visible_share
    return Sequences(255 - part.frame, 3 * part.csi.flip(0, 2, 3), 5 - part.position_m.flip(0), visible)


def otherwise(data: SensingData) -> SensingData:
    return replace(data, test=changed(data.test))


def weights(name: str, data: SensingData) -> dict[str, torch.Tensor]:
    return train_model(name, 0, data, isac_setups.config().training_inputs())[0].state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_weights_do_not_know_the_test_sequences(name):
    expected = isac_setups.trained()[training_job(isac_setups.config(), name, 0).key]
    found = weights(name, otherwise(isac_setups.data()))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def test_weights_know_the_training_sequences():
    """The power check: the same change of what they are trained on is seen in them."""
    data = isac_setups.data()
    expected = isac_setups.trained()[training_job(isac_setups.config(), "image-only", 0).key]
    found = weights("image-only", replace(data, train=changed(data.train)))
    assert not all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def sent(data: SensingData) -> list[bytes]:
    """What codecs that are fitted make of the same frames and embeddings."""
    model = isac_setups.model()
    config = isac_setups.config().model_copy(update={"codec": CodecConfig(kind="entropy", bits=3)})
    payloads: list[bytes] = []
    for method in ("inpainting", "jpeg"):
        setting = resolve(config, Point("sweep", method, 0), model.num_cameras, model.num_receivers)
        for sensor, codec in enumerate(
            make_shared([setting], {setting.model_key: model}, {0: data})[setting.codec_key]
        ):
            if isinstance(codec, JpegCodec):
                frames = isac_setups.data().validation.frame[0, :, sensor]
                payloads += codec.encode(frames.permute(0, 2, 3, 1).numpy())
            else:
                payloads += codec.encode(model.calibration[:16, sensor, : model.dim_of(sensor)])
    return payloads


def test_codecs_do_not_know_the_test_sequences():
    data = isac_setups.data()
    assert sent(otherwise(data)) == sent(data)
    # The power check; codecs of embeddings are fitted to those that the model keeps.
    assert sent(replace(data, train=changed(data.train))) != sent(data)


@pytest.mark.parametrize("sensor", ["camera", "receiver"])
def test_thresholds_of_alarms_do_not_know_the_test_sequences(sensor, monkeypatch):
    config, detection_at = isac_setups.config(), watching.detection_at
    point = Point("alarm", "inpainting", 0, {"fault": "noise", "sensor": sensor})

    def found(data: SensingData) -> tuple[list[float], list[float]]:
        thresholds: list[float] = []

        def told(*arguments):
            detection = detection_at(*arguments)
            thresholds.append(detection.threshold)
            return detection

        monkeypatch.setattr(watching, "detection_at", told)
        monkeypatch.setattr(scenario, "keep_sequences", lambda config, seed: data)
        [rows] = SCENARIO.simulate(config, [point], isac_setups.trained(), Cluster())
        return thresholds, [row.value for row in rows]

    data = isac_setups.data()
    (expected, rates), (thresholds, other_rates) = found(data), found(otherwise(data))
    assert thresholds == expected
    assert other_rates != rates
    # The power check: those come from the sequences that alarms are calibrated on.
    assert found(replace(data, validation=changed(data.validation)))[0] != expected
