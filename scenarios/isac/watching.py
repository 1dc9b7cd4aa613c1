"""The result on alarms: faults are injected into one sensor after the other, and it is told who notices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.alarms import FALSE_ALARM_GRID, area_under_roc, detection_at, roc_at
from scenarios.contracts import Point
from scenarios.isac.alarm import SCORES, Alarm, calm_scores, combined, look, sensors_of_kind, spoil
from scenarios.isac.config import IsacConfig
from scenarios.isac.data import Sequences
from scenarios.isac.measures import point_record
from scenarios.isac.models import CAMERA, SensingModel
from scenarios.isac.task import embed_all
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
    means over the sensors of a kind and over the steps from the outage on, in which the fault lasts.
    Embeddings have been through the codec; no packet is lost.
    """
    config, point, model = watch.config, watch.point, watch.model
    fault, kind = str(point.axes["fault"]), str(point.axes["sensor"])
    first = config.evaluation.outage_step
    held, sent = (_sent(watch.codecs, model, part) for part in (watch.validation, watch.test))
    generator = Streams(point.seed).torch_generator(f"fault-{fault}-{kind}")
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    curves = defaultdict(list)
    sensors = sensors_of_kind(model, kind)
    for place, sensor in enumerate(sensors):
        other = sensors[(place + 1) % len(sensors)]
        z = sent.clone()
        # Of two that changed places, both send what the other one should.
        for one, its in ((sensor, other), (other, sensor)) if fault == "swapped" else ((sensor, other),):
            observed = spoil(_observed(watch.test, one), _observed(watch.test, its), fault, first, generator)
            z[:, :, one] = _coded(watch.codecs, model, one, _embedded(model, one, observed))
        view, trained = look(model, held, sensor), model.calibration[:, sensor, : model.dim_of(sensor)]
        alarm = Alarm.fit(config.alarm, view, trained)
        calm = _from(first, calm_scores(config.alarm, view, trained))
        normal, faulty = (_from(first, alarm.scores(look(model, part, sensor))) for part in (sent, z))
        normal["combined"], faulty["combined"] = combined(calm, normal), combined(calm, faulty)
        calm["combined"] = combined(calm)
        for score in SCORES:
            usual, wrong = (scores[score].flatten().numpy() for scores in (normal, faulty))
            at = detection_at(calm[score].flatten().numpy(), usual, wrong, FALSE_ALARMS)
            found[score, "detection_rate"].append(at.detection_rate)
            found[score, "false_alarm_rate"].append(at.false_alarm_rate)
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
