"""The result on alarms: faults are injected into one sensor after the other, and it is told who notices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.alarms import FALSE_ALARM_GRID, area_under_roc, detection_at, roc_at
from scenarios.contracts import Point
from scenarios.isac.alarm import (
    SCORES,
    Alarm,
    Healthy,
    calm_scores,
    expect,
    look,
    sensors_of_kind,
    spoil,
)
from scenarios.isac.config import IsacConfig
from scenarios.isac.data import Sequences
from scenarios.isac.measures import point_record
from scenarios.isac.models import CAMERA, SensingModel
from scenarios.isac.task import embed_all
from scenarios.isac.verdict import calm_combined, combined
from scenarios.isac.vocabulary import FALSE_ALARMS
from semcom.contracts import Codec, Record
from semcom.rng import Streams

_DRAWN = ("energy", "combined")
"""Scores whose ROC curves are recorded."""


@dataclass(frozen=True)
class Watch:
    """A point of the result, the model that watches, the codec of each sensor, and the data."""

    config: IsacConfig
    point: Point
    codecs: Sequence[Codec]
    model: SensingModel
    validation: Sequences
    test: Sequences


@torch.no_grad()
def alarm_records(watch: Watch) -> list[Record]:
    """Injects a fault into one sensor after the other, and tells how often each score of the alarm notices.

    Thresholds come from validation data without faults, for each sensor its own (see calm_scores). Rates are
    means over the sensors of a kind and over the steps from the outage on, in which the fault lasts; where
    wrong, of those alone in which the sensor sends something else than without the fault. Embeddings have
    been through the codec; no packet is lost.
    """
    config, point, model = watch.config, watch.point, watch.model
    fault, kind = str(point.axes["fault"]), str(point.axes["sensor"])
    first = config.evaluation.outage_step
    held, sent = (_sent(watch.codecs, model, part) for part in (watch.validation, watch.test))
    generator = Streams(point.seed).torch_generator(f"fault-{fault}-{kind}")
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    curves = defaultdict(list)
    sensors = sensors_of_kind(model, kind)
    expected_held, expected_sent = (expect(model, part, sensors) for part in (held, sent))
    crossed = _crossed(watch, held, sensors)
    for place, sensor in enumerate(sensors):
        other = sensors[(place + 1) % len(sensors)]
        z = sent.clone()
        # Of two that changed places, both send what the other one should.
        for one, its in ((sensor, other), (other, sensor)) if fault == "swapped" else ((sensor, other),):
            observed = spoil(_observed(watch.test, one), _observed(watch.test, its), fault, first, generator)
            z[:, first:, one] = _coded(watch.codecs, model, one, _embedded(model, one, observed[:, first:]))
        there = [number for number in range(len(sensors)) if number != place]
        dim = model.dim_of(sensor)
        swapped = torch.stack((crossed[:, :, place, there], crossed[:, :, there, place]), dim=2)[..., :dim]
        trained = model.calibration[:, sensor, :dim]
        healthy = Healthy(look(model, held, sensor, expected_held), swapped, trained)
        alarm = Alarm.fit(config.alarm, healthy)
        calm = _from(first, calm_scores(config.alarm, healthy))
        normal, faulty = (
            _from(first, alarm.scores(look(model, part, sensor, expected)))
            for part, expected in ((sent, expected_sent), (z, expect(model, z, sensors)))
        )
        normal["combined"], faulty["combined"] = combined(calm, normal), combined(calm, faulty)
        calm["combined"] = calm_combined(calm)
        differs = (z[:, first:, sensor] != sent[:, first:, sensor]).any(dim=-1).flatten().numpy()
        for score in SCORES:
            usual, wrong = (scores[score].flatten().numpy() for scores in (normal, faulty))
            at = detection_at(calm[score].flatten().numpy(), usual, wrong, FALSE_ALARMS)
            found[score, "detection_rate"].append(at.detection_rate)
            found[score, "false_alarm_rate"].append(at.false_alarm_rate)
            if differs.any():
                noticed = float(np.mean(wrong[differs] > at.threshold))
                found[score, "detection_rate_where_wrong"].append(noticed)
            found[score, "auc"].append(area_under_roc(usual, wrong))
            curves[score].append(roc_at(usual, wrong))
    num = len(sensors) * watch.test.num_sequences
    rows = [
        point_record(point, name, float(np.mean(values)), "1", num, score=score)
        for (score, name), values in found.items()
    ]
    for score in _DRAWN:
        for rate, value in zip(FALSE_ALARM_GRID, np.mean(curves[score], axis=0), strict=True):
            rows.append(point_record(point, "roc_detection", value, "1", num, score=score, false_alarm=rate))
    return rows


def _from(first: int, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leaves out the steps before `first`."""
    return {name: score[:, first:] for name, score in scores.items()}


def _sent(codecs: Sequence[Codec], model: SensingModel, part: Sequences) -> torch.Tensor:
    """Embeddings of sequences as they arrive, [U, T, S, D]."""
    z = embed_all(model, part)
    for sensor in range(model.num_sensors):
        z[:, :, sensor] = _coded(codecs, model, sensor, z[:, :, sensor, : model.dim_of(sensor)])
    return z


def _crossed(watch: Watch, sent: torch.Tensor, sensors: Sequence[int]) -> torch.Tensor:
    """What each of n sensors would send of the validation data in each one's place, [U, T, n, n, D].

    sent [U, T, S, D]: what they send in their own.
    """
    crossed = sent[:, :, sensors, None].repeat(1, 1, 1, len(sensors), 1)
    for row, one in enumerate(sensors):
        for column, its in enumerate(sensors):
            if one != its:
                seen = _embedded(watch.model, one, _observed(watch.validation, its))
                crossed[:, :, row, column] = _coded(watch.codecs, watch.model, one, seen)
    return crossed


def _coded(codecs: Sequence[Codec], model: SensingModel, sensor: int, z: torch.Tensor) -> torch.Tensor:
    """What arrives of a sensor's embeddings [U, T, d]: [U, T, D]."""
    return model.padded(codecs[sensor](z.flatten(0, 1)).unflatten(0, z.shape[:2]))


def _observed(part: Sequences, sensor: int) -> torch.Tensor:
    """What one sensor observes, [U, T, ...]; cameras are the first ones."""
    num_cameras = part.frame.shape[2]
    return part.frame[:, :, sensor] if sensor < num_cameras else part.csi[:, :, sensor - num_cameras]


def _embedded(model: SensingModel, sensor: int, observed: torch.Tensor) -> torch.Tensor:
    """Embeddings [U, T, d] of what one sensor observes."""
    rows = observed.flatten(0, 1)
    if model.modality[sensor] == CAMERA:
        z = torch.cat([model.embed_camera(part, sensor) for part in rows.split(256)])
    else:
        z = model.embed_receiver(rows, sensor - model.num_cameras)
    return z.unflatten(0, observed.shape[:2])
