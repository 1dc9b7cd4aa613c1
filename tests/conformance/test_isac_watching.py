"""The result on alarms: which sensors a fault touches, and over which steps its rates are taken."""

from __future__ import annotations

from dataclasses import replace

import isac_setups
import torch

from scenarios.contracts import Point
from scenarios.isac import watching
from scenarios.isac.cells import make_shared, resolve
from scenarios.isac.data import Sequences
from scenarios.isac.task import embed_all
from scenarios.isac.watching import Watch, alarm_records
from semcom.codecs.catalogue import CodecConfig

FIRST = isac_setups.config().evaluation.outage_step


def watched(fault: str, test: Sequences | None = None) -> Watch:
    """A point on cameras; embeddings lose nothing on the way."""
    config = isac_setups.config().model_copy(update={"codec": CodecConfig(kind="float32")})
    point = Point("alarm", "inpainting", 0, {"fault": fault, "sensor": "camera"})
    model, data = isac_setups.model(), isac_setups.data()
    setting = resolve(config, point, model.num_cameras, model.num_receivers)
    shared = make_shared([setting], {setting.model_key: model}, {0: data})
    return Watch(config, point, shared[setting.codec_key], model, data.validation, test or data.test)


def rates(watch: Watch, metric: str) -> dict[str, float]:
    return {row.point["score"]: row.value for row in alarm_records(watch) if row.metric == metric}


def test_sensors_that_changed_places_both_send_what_the_other_should(monkeypatch):
    watch, seen = watched("swapped"), []
    true_look = watching.look
    monkeypatch.setattr(
        watching, "look", lambda model, z, *rest: seen.append(z) or true_look(model, z, *rest)
    )
    alarm_records(watch)
    test = watch.test
    crossed = embed_all(watch.model, replace(test, frame=test.frame.flip(2)))
    straight = embed_all(watch.model, test)
    # For each camera: the validation data, the test data as they are, and those with the fault.
    assert len(seen) == 6
    for faulty in (seen[2], seen[5]):
        torch.testing.assert_close(faulty[:, FIRST:, :2], crossed[:, FIRST:, :2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(faulty[:, :FIRST], straight[:, :FIRST], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(faulty[:, :, 2:], straight[:, :, 2:], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(crossed[:, FIRST:, :2], straight[:, FIRST:, :2], atol=1e-2)


def test_where_wrong_are_the_steps_in_which_something_else_is_sent():
    test = isac_setups.data().test
    noise = watched("noise", test)
    # Noise is always something else.
    assert rates(noise, "detection_rate_where_wrong") == rates(noise, "detection_rate")
    # A camera that is frozen before a picture that stays sends what it would have sent.
    still = replace(test, frame=test.frame[:, :1].expand_as(test.frame).contiguous())
    assert rates(watched("frozen", still), "detection_rate")
    assert not rates(watched("frozen", still), "detection_rate_where_wrong")
