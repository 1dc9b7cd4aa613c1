"""From what the base station believed to records: positions, numbers, occlusion, frames, bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from analysis.sensing import (
    assigned_estimates,
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
from scenarios.isac.cells import Setting
from scenarios.isac.config import IsacConfig
from scenarios.isac.data import SensingData, Sequences
from scenarios.isac.heads import Scene
from scenarios.isac.methods import METHODS, PRIOR, read_scene
from scenarios.isac.models import SensingModel
from scenarios.isac.training import make_model
from semcom.contracts import Record
from semcom.records import load_into

_MAX_SSIM_FRAMES = 200


def load_model(
    config: IsacConfig, data: SensingData, point: Point, weights: Mapping[str, torch.Tensor]
) -> SensingModel:
    """Builds the model of a point's method and fills in its weights. Raises SemcomError if they don't fit."""
    name = METHODS[point.method].model
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws starting weights from the process-wide generator, which stays where it was.
        model = make_model(config.model, data, name)
    load_into(model, weights, f"the checkpoint of {name}, seed {point.seed}")
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Heard:
    """What came of one cell, the model that its beliefs are read with, and the truth."""

    config: IsacConfig
    point: Point
    setting: Setting
    outcome: CellOutcome
    model: SensingModel
    test: Sequences


@torch.no_grad()
def air_records(heard: Heard) -> list[Record]:
    """Reads scenes and frames off what the base station believed, and counts what it cost."""
    config, point, setting = heard.config, heard.point, heard.setting
    method = METHODS[point.method]
    model, test = heard.model, heard.test
    first = config.evaluation.outage_step
    # A copy: what a worker is handed can't be written.
    belief = torch.tensor(heard.outcome.world["belief"]).unflatten(0, (test.num_sequences, -1))
    belief = belief[:, :, first:].transpose(1, 2)  # [U, T', S, D + 1]
    z, origin = belief[..., :-1].flatten(0, 1), belief[:, :, 0, -1]
    rows = _scene_records(point, read_scene(model, method.fill, z), test, first)
    if point.result == "missing" and method.fill != "fuse":
        gone = [camera for camera in range(model.num_cameras) if camera in setting.silent]
        rows += _frame_records(point, model, z, test, first, gone or list(range(model.num_cameras)))
    rows.append(
        point_record(point, "prior_share", float((origin == PRIOR).float().mean()), "1", origin.numel())
    )
    return rows + _cost_records(heard, belief.shape[0], test.num_steps)


def point_record(point: Point, metric: str, value: float, unit: str, num: int, **axes: float | str) -> Record:
    """Makes a record of a point; axes: columns besides the point's own."""
    return Record("isac", point.method, point.seed, metric, float(value), unit, num, dict(axes))


def _scene_records(point: Point, scene: Scene, test: Sequences, first: int) -> list[Record]:
    true_m = test.position_m[:, first:].flatten(0, 1).numpy()
    estimate_m, score = scene.position_m.numpy(), scene.presence.numpy()
    count, count_hat = num_present(true_m), scene.count.argmax(dim=1).numpy()
    num = test.num_sequences
    rows = [
        point_record(
            point, "localisation_error_m", localisation_error_m(true_m, estimate_m, score), "m", num
        ),
        point_record(point, "ospa_m", float(np.mean(ospa_m(true_m, estimate_m, score, count_hat))), "m", num),
        point_record(point, "count_accuracy", count_accuracy(count, count_hat), "1", num),
    ]
    visible = test.visible_share[:, first:].flatten(0, 1)
    if visible.isnan().all():
        return rows
    # Of a pedestrian that estimate is asked which the localisation error holds for him.
    place = torch.from_numpy(assigned_estimates(true_m, estimate_m, score)).clamp_min(0)[..., None]
    occlusion = scene.occlusion.gather(1, place.expand(-1, -1, scene.occlusion.shape[2]))
    hidden = (occlusion > 0).transpose(1, 2).numpy()
    for told in (occlusion_accuracy, balanced_occlusion_accuracy):
        rows.append(point_record(point, told.__name__, told(visible.numpy(), hidden), "1", num))
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
        point_record(
            point, name, float(np.mean(values)), "dB" if name == "psnr_db" else "1", test.num_sequences
        )
        for name, values in quality.items()
    ]


def _cost_records(heard: Heard, num_rooms: int, num_steps: int) -> list[Record]:
    """Bits and losses; bits per step are those of all sensors of a room, headers and padding apart."""
    point, count = heard.point, heard.outcome.counters
    num = num_rooms * num_steps
    bits = {name: count[f"{name}_bits"].sum() / num for name in ("payload", "header", "padding")}
    rows = [point_record(point, "bits_per_step", bits["payload"] + bits["header"], "bit", num)]
    rows += [point_record(point, f"{name}_bits_per_step", value, "bit", num) for name, value in bits.items()]
    if sent := int(count["packets_sent"].sum()):
        loss = 1 - count["packets_delivered"].sum() / sent
        rows.append(point_record(point, "packet_loss", loss, "1", sent))
    if uses_a_channel(heard.setting.link):
        rows += [
            point_record(point, f"{name}_per_step", count[name].sum() / num, unit, num)
            for name, unit in (("channel_uses", "1"), ("airtime_s", "s"), ("energy_j", "J"))
        ]
    return rows
