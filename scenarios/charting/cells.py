"""How an operating point of the charting scenario becomes a cell: arrays that report to a central node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from channels.catalogue import LinkConfig, make_link, shared_channel, uses_a_channel
from channels.grid import ResourceGrid
from channels.links.erasure import ErasureConfig
from nodes.cluster import Cluster
from nodes.contracts import CellSpec, Receiver, Sender, Shared
from nodes.schedulers import PeriodicConfig, RoundRobinConfig, SchedulerConfig
from scenarios.charting.config import ChartingConfig
from scenarios.charting.data import ChartingData
from scenarios.charting.methods import (
    OVER_THE_AIR,
    ReportReceiver,
    ReportSender,
    Slots,
    vectors_to_send,
)
from scenarios.charting.models import ArrayModel
from scenarios.charting.world import ChartingWorld
from scenarios.contracts import Point
from semcom.codecs.catalogue import AnyCodec, CodecConfig, make_codec
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import FittedCodec, Link
from semcom.packets import model_version
from semcom.rng import Streams

_MAX_CALIBRATION = 4096


@dataclass(frozen=True)
class Setting:
    """An operating point over the air with everything filled in."""

    method: str
    seed: int
    codec: CodecConfig
    link: LinkConfig

    @property
    def codec_key(self) -> str:
        """Names the codecs, one for each array, among the shared objects."""
        return f"codecs/{self.seed}/{OVER_THE_AIR[self.method].source}/{codec_name(self.codec)}"


def resolve(config: ChartingConfig, point: Point) -> Setting:
    """Fills in from the configuration what a point's axes leave open.

    The rate result is about bits alone, and its link loses none; the loss result's erases.
    """
    link: LinkConfig = config.link
    if point.result == "rate":
        link = ErasureConfig(probability=0.0)
    elif point.result == "loss":
        link = ErasureConfig(probability=float(point.axes["erasure_probability"]))
    codec = codec_config(str(point.axes["codec"])) if "codec" in point.axes else config.codec
    return Setting(point.method, point.seed, codec, link)


def slots(config: ChartingConfig, num_arrays: int) -> Slots:
    """Returns the arrays that each device of a user reports on."""
    if config.sender == "user":
        return (tuple(range(num_arrays)),)
    return tuple((array,) for array in range(num_arrays))


def make_shared(
    config: ChartingConfig,
    settings: list[Setting],
    models: Mapping[int, ArrayModel],
    data: Mapping[int, ChartingData],
    cluster: Cluster,
) -> dict[str, Any]:
    """Collects the models, the test data and the codecs that the settings need, by seed.

    Codecs are fitted by the cluster, one for each slot: transforms of hundreds of numbers take their time.
    """
    shared: dict[str, Any] = {}
    tasks: dict[tuple[str, int], _Fit] = {}
    for setting in settings:
        seed, source = setting.seed, OVER_THE_AIR[setting.method].source
        model = models[seed]
        if f"model/{seed}" not in shared:
            shared[f"model/{seed}"] = model
            shared[f"version/{seed}"] = model_version(model.state_dict())
            test = data[seed].test
            shared[f"test/{seed}"] = {"csi": test.csi, "velocity_m_s": test.velocity_m_s}
        train = data[seed].train.csi.flatten(0, 1)
        rows = torch.linspace(0, len(train) - 1, min(len(train), _MAX_CALIBRATION)).round().long()
        for slot, arrays in enumerate(slots(config, model.num_arrays)):
            if (setting.codec_key, slot) in tasks:
                continue
            vectors = (
                model.calibration[:, arrays].flatten(1)
                if source == "embedding"
                else vectors_to_send(model, source, train[rows][:, arrays], arrays)
            )
            tasks[setting.codec_key, slot] = _Fit(setting.codec, vectors)
    for (key, _), codec in zip(tasks, cluster.map(_fitted, list(tasks.values())), strict=True):
        shared.setdefault(key, []).append(codec)
    return shared


@dataclass(frozen=True)
class _Fit:
    """A codec to be fitted, and what to: vectors [N, D]."""

    codec: CodecConfig
    vectors: torch.Tensor


def _fitted(task: _Fit) -> AnyCodec:
    codec = make_codec(task.codec, task.vectors.shape[1])
    if isinstance(codec, FittedCodec):
        codec.fit(task.vectors)
    return codec.eval()


def make_cell(config: ChartingConfig, setting: Setting, data: ChartingData) -> CellSpec:
    """Describes the cell of one setting: all test users move at the same time."""
    streams = Streams(setting.seed)
    num_users, num_steps = data.test.csi.shape[:2]
    arrays = slots(config, data.csi_shape[0])
    num_devices = num_users * len(arrays)
    radio = partial(
        shared_channel, config.channel, config.grid, num_devices, num_steps, data.interval_s, streams
    )
    shares = uses_a_channel(setting.link)
    scheduler: SchedulerConfig = RoundRobinConfig() if shares else PeriodicConfig(interval_steps=1)
    return CellSpec(
        num_devices=num_devices,
        group_size=config.evaluation.group_size,
        streams=streams,
        scheduler=scheduler,
        make_world=partial(_make_world, setting, arrays),
        make_sender=partial(_make_sender, setting, arrays),
        make_receiver=partial(_make_receiver, setting, arrays),
        make_link=partial(_make_link, setting.link, config, data.interval_s),
        make_channel=radio if shares else None,
    )


def _make_world(setting: Setting, arrays: Slots, shared: Shared, devices: np.ndarray) -> ChartingWorld:
    report_dim = len(arrays[0]) * shared[f"model/{setting.seed}"].embedding_dim
    return ChartingWorld(shared[f"test/{setting.seed}"]["csi"], devices, len(arrays), report_dim)


def _make_sender(setting: Setting, arrays: Slots, shared: Shared, devices: np.ndarray) -> Sender:
    model, version = shared[f"model/{setting.seed}"], shared[f"version/{setting.seed}"]
    source = OVER_THE_AIR[setting.method].source
    return ReportSender(model, shared[setting.codec_key], version, source, arrays)


def _make_receiver(setting: Setting, arrays: Slots, shared: Shared) -> Receiver:
    model, version = shared[f"model/{setting.seed}"], shared[f"version/{setting.seed}"]
    velocity_m_s = shared[f"test/{setting.seed}"]["velocity_m_s"]
    return ReportReceiver(
        model, shared[setting.codec_key], version, OVER_THE_AIR[setting.method], velocity_m_s, arrays
    )


def _make_link(link: LinkConfig, config: ChartingConfig, step_s: float) -> Link:
    return make_link(link, ResourceGrid(config.grid), step_s, config.channel.tx_power_dbm)
