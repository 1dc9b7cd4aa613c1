"""From what the base station believed to records: positions, numbers, occlusion, frames, bits, alarms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from analysis.alarms import FALSE_ALARM_GRID, area_under_roc, detection_at, roc_at
from analysis.sensing import (
    balanced_occlusion_accuracy,
    count_accuracy,
    localisation_error_m,
    num_present,
    occlusion_accuracy,
    ospa_m,
    psnr_db,
    ssim,
)
from channels.catalogue import uses_a_channel
from nodes.contracts import CellOutcome
from scenarios.contracts import Point
from scenarios.isac.alarm import Alarm, sensors_of_kind, spoil
from scenarios.isac.cells import Setting
from scenarios.isac.config import IsacConfig
from scenarios.isac.data import Sequences
from scenarios.isac.methods import METHODS, PRIOR
from scenarios.isac.models import CAMERA, SensingModel
from scenarios.isac.sizes import FALSE_ALARMS
from scenarios.isac.sources import load_sequences
from scenarios.isac.training import embed_all, make_model
from semcom.codecs.catalogue import make_codec
from semcom.contracts import FittedCodec, Record
from semcom.records import load_into
from semcom.rng import Streams

_MAX_SSIM_FRAMES = 200


def load_model(config: IsacConfig, seed: int, weights: Mapping[str, torch.Tensor], name: str) -> SensingModel:
    """Builds a model and fills in its weights. Raises SemcomError for weights that don't fit."""
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws starting weights from the process-wide generator, which stays where it was.
        model = make_model(config.model, load_sequences(config, seed), name)
    load_into(model, weights, f"the checkpoint of {name}, seed {seed}")
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Heard:
    """What came of one cell, and the weights of the model that its beliefs are read with."""

    config: IsacConfig
    point: Point
    setting: Setting
    outcome: CellOutcome
    weights: Mapping[str, torch.Tensor]


@torch.no_grad()
def air_records(heard: Heard) -> list[Record]:
    """Reads scenes and frames off what the base station believed, and counts what it cost."""
    config, point, setting = heard.config, heard.point, heard.setting
    method = METHODS[point.method]
    model = load_model(config, point.seed, heard.weights, method.model)
    test = load_sequences(config, point.seed).test
    first = config.evaluation.outage_step
    # A copy: what a worker is handed can't be written.
    belief = torch.tensor(heard.outcome.world["belief"]).unflatten(0, (test.num_sequences, -1))
    belief = belief[:, :, first:].transpose(1, 2)  # [U, T', S, D + 1]
    z, origin = belief[..., :-1].flatten(0, 1), belief[:, :, 0, -1]
    rows = _scene_records(point, model, z, test, first, fused=method.fill == "fuse")
    if point.result == "missing" and method.fill != "fuse":
        gone = [camera for camera in range(model.num_cameras) if camera in setting.silent]
        rows += _frame_records(point, model, z, test, first, gone or list(range(model.num_cameras)))
    rows.append(_record(point, "prior_share", float((origin == PRIOR).float().mean()), "1", origin.numel()))
    return rows + _cost_records(heard, belief.shape[0], test.num_steps)


def _record(point: Point, metric: str, value: float, unit: str, num: int, **axes: float | str) -> Record:
    return Record("isac", point.method, point.seed, metric, float(value), unit, num, dict(axes))


def _scene_records(
    point: Point, model: SensingModel, z: torch.Tensor, test: Sequences, first: int, *, fused: bool
) -> list[Record]:
    scene = model.read_fused(z) if fused else model.read(z)
    true_m = test.position_m[:, first:].flatten(0, 1).numpy()
    estimate_m, score = scene.position_m.numpy(), scene.presence.numpy()
    count, count_hat = num_present(true_m), scene.count.argmax(dim=1).numpy()
    num = test.num_sequences
    rows = [
        _record(point, "localisation_error_m", localisation_error_m(true_m, estimate_m, score), "m", num),
        _record(point, "ospa_m", float(np.mean(ospa_m(true_m, estimate_m, score, count_hat))), "m", num),
        _record(point, "count_accuracy", count_accuracy(count, count_hat), "1", num),
    ]
    visible = test.visible_share[:, first:].flatten(0, 1)
    if visible.isnan().all():
        return rows
    hidden = (scene.occlusion > 0).transpose(1, 2).numpy()
    for score in (occlusion_accuracy, balanced_occlusion_accuracy):
        rows.append(_record(point, score.__name__, score(visible.numpy(), hidden), "1", num))
    return rows


def _frame_records(
    point: Point, model: SensingModel, z: torch.Tensor, test: Sequences, first: int, cameras: list[int]
) -> list[Record]:
    """PSNR and SSIM of what the embeddings of these cameras show, against the frames as observed."""
    quality: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    rows = torch.linspace(0, len(z) - 1, min(len(z), _MAX_SSIM_FRAMES)).round().long().unique()
    for camera in cameras:
        true = test.frame[:, first:, camera].flatten(0, 1).permute(0, 2, 3, 1)
        shown = torch.cat([model.decode(part, camera) for part in z[:, camera].split(128)])
        shown = shown.permute(0, 2, 3, 1)
        quality["psnr_db"].append(psnr_db((true.float() / 255).numpy(), shown.numpy()))
        quality["ssim"].append(ssim((true[rows].float() / 255).numpy(), shown[rows].numpy()))
    return [
        _record(point, name, float(np.mean(values)), "dB" if name == "psnr_db" else "1", test.num_sequences)
        for name, values in quality.items()
    ]


def _cost_records(heard: Heard, num_rooms: int, num_steps: int) -> list[Record]:
    """Bits and losses; bits per step are those of all sensors of a room, headers and padding apart."""
    point, count = heard.point, heard.outcome.counters
    num = num_rooms * num_steps
    bits = {name: count[f"{name}_bits"].sum() / num for name in ("payload", "header", "padding")}
    rows = [_record(point, "bits_per_step", bits["payload"] + bits["header"], "bit", num)]
    rows += [_record(point, f"{name}_bits_per_step", value, "bit", num) for name, value in bits.items()]
    if sent := int(count["packets_sent"].sum()):
        loss = 1 - count["packets_delivered"].sum() / sent
        rows.append(_record(point, "packet_loss", loss, "1", sent))
    if uses_a_channel(heard.setting.link):
        rows += [
            _record(point, f"{name}_per_step", count[name].sum() / num, unit, num)
            for name, unit in (("channel_uses", "1"), ("airtime_s", "s"), ("energy_j", "J"))
        ]
    return rows


@dataclass(frozen=True)
class Watch:
    """A point of the alarm result, with the weights of the model that watches."""

    config: IsacConfig
    point: Point
    weights: Mapping[str, torch.Tensor]


@torch.no_grad()
def alarm_records(watch: Watch) -> list[Record]:
    """Injects a fault into one sensor after the other, and tells how often the alarm notices.

    Thresholds come from validation data without faults, for each sensor its own. Rates are means over the
    sensors of a kind and over the steps from the outage on. Embeddings have been through the codec.
    """
    config, point = watch.config, watch.point
    data = load_sequences(config, point.seed)
    model = load_model(config, point.seed, watch.weights, METHODS[point.method].model)
    fault, kind = str(point.axes["fault"]), str(point.axes["sensor"])
    first = config.evaluation.outage_step
    sent = {
        name: _sent(config, model, part) for name, part in (("held", data.validation), ("test", data.test))
    }
    alarm = Alarm.fit(model, config.alarm, sent["held"])
    calm, usual = alarm.energy(sent["held"]), alarm.energy(sent["test"])
    generator = Streams(point.seed).torch_generator(f"fault-{fault}-{kind}")
    found: dict[str, list[float]] = {name: [] for name in ("detection_rate", "false_alarm_rate", "auc")}
    curves = []
    sensors = sensors_of_kind(model, kind)
    for place, sensor in enumerate(sensors):
        other = sensors[(place + 1) % len(sensors)]
        z = sent["test"].clone()
        z[:, :, sensor] = _spoiled(config, model, data.test, (sensor, other), fault, generator)
        faulty = alarm.energy_of(z, sensor)[:, first:].flatten().numpy()
        normal = usual[:, first:, sensor].flatten().numpy()
        at = detection_at(calm[:, first:, sensor].flatten().numpy(), normal, faulty, FALSE_ALARMS)
        found["detection_rate"].append(at.detection_rate)
        found["false_alarm_rate"].append(at.false_alarm_rate)
        found["auc"].append(area_under_roc(normal, faulty))
        curves.append(roc_at(normal, faulty))
    num = len(sensors) * data.test.num_sequences
    rows = [_record(point, name, float(np.mean(values)), "1", num) for name, values in found.items()]
    mean_curve = np.mean(curves, axis=0)
    return rows + [
        _record(point, "roc_detection", value, "1", num, false_alarm=rate)
        for rate, value in zip(FALSE_ALARM_GRID, mean_curve, strict=True)
    ]


def _sent(config: IsacConfig, model: SensingModel, part: Sequences) -> torch.Tensor:
    """Embeddings of sequences as they arrive, [U, T, S, D]."""
    z = embed_all(model, part)
    for sensor in range(model.num_sensors):
        dim = model.dim_of(sensor)
        z[:, :, sensor, :dim] = _coded(config, model, sensor, z[:, :, sensor, :dim])
    return z


def _coded(config: IsacConfig, model: SensingModel, sensor: int, z: torch.Tensor) -> torch.Tensor:
    codec = make_codec(config.codec, model.dim_of(sensor))
    if isinstance(codec, FittedCodec):
        codec.fit(model.calibration[:, sensor, : model.dim_of(sensor)])
    return codec.eval()(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def _spoiled(
    config: IsacConfig,
    model: SensingModel,
    test: Sequences,
    sensors: tuple[int, int],
    fault: str,
    generator: torch.Generator,
) -> torch.Tensor:
    """What a sensor with a fault sends, [U, T, D]; the second one is that it is swapped with."""
    first = config.evaluation.outage_step
    if model.modality[sensors[0]] == CAMERA:
        observed, others = (test.frame[:, :, camera] for camera in sensors)
        seen = spoil(observed, others, fault, first, generator).flatten(0, 1)
        z = torch.cat([model.embed_camera(part, sensors[0]) for part in seen.split(256)])
    else:
        numbers = [sensor - model.num_cameras for sensor in sensors]
        observed, others = (test.csi[:, :, number] for number in numbers)
        seen = spoil(observed, others, fault, first, generator).flatten(0, 1)
        z = model.embed_receiver(seen, numbers[0])
    coded = _coded(config, model, sensors[0], z.unflatten(0, test.frame.shape[:2]))
    return model.padded(coded)
