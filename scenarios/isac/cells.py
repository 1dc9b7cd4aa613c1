"""How an operating point of the sensing scenario becomes a cell: rooms full of sensors and a base station."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from channels.catalogue import LinkConfig, make_link, shared_channel, uses_a_channel
from channels.grid import ResourceGrid
from channels.links.erasure import ErasureConfig
from nodes.contracts import CellSpec, Receiver, Sender, Shared
from nodes.schedulers import PeriodicConfig, RoundRobinConfig, SchedulerConfig
from scenarios.contracts import Point
from scenarios.isac.config import IsacConfig, JpegConfig
from scenarios.isac.data import SensingData
from scenarios.isac.jpeg import JpegCodec
from scenarios.isac.memo import Memo
from scenarios.isac.methods import METHODS, AnyCodec, SceneReceiver, SensorSender
from scenarios.isac.models import CAMERA, SensingModel
from scenarios.isac.world import SensingWorld
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import FittedCodec, Link
from semcom.packets import model_version
from semcom.rng import Streams

_JPEG_CODEC_ID = 15
"""Of packets that carry JPEG frames, and embeddings of CSI beside them: no codec of the catalogue has it."""
_MAX_FRAMES = 256
_NUM_KEPT = 512
"""Batches of frames whose embeddings a model remembers: those of a step in all cells of a seed, and more."""


@dataclass(frozen=True)
class Setting:
    """An operating point with everything filled in.

    silent: the sensors that are missing from the outage on. jpeg is None where cameras send embeddings.
    Receivers report in every receiver_interval_steps-th step, beginning with the first.
    """

    method: str
    seed: int
    silent: frozenset[int]
    codec: CodecConfig
    link: LinkConfig
    jpeg: JpegConfig | None
    receiver_interval_steps: int

    @property
    def model_key(self) -> str:
        """Names the model among the shared objects (see `model_key`)."""
        return model_key(self.method, self.seed)

    @property
    def codec_key(self) -> str:
        """Names the codecs, one for each sensor, among the shared objects."""
        model = METHODS[self.method].model
        frames = (
            f"{self.jpeg.quality}/{self.jpeg.downscale}/{self.jpeg.container}" if self.jpeg else "embedded"
        )
        return f"codecs/{self.seed}/{model}/{codec_name(self.codec)}/{frames}"


def model_key(method: str, seed: int) -> str:
    """Names the model of a method; methods that share one have the same."""
    return f"model/{seed}/{METHODS[method].model}"


def resolve(config: IsacConfig, point: Point, num_cameras: int, num_receivers: int) -> Setting:
    """Fills in from the configuration what a point's axes leave open.

    The results on what is missing, on rate and on alarms are about that alone, and their links lose nothing;
    that on loss erases. Where nothing is ever missing no packet is lost either. num_cameras, num_receivers:
    the sensors that the method's model knows.
    """
    method = METHODS[point.method]
    link: LinkConfig = config.link
    if point.result in ("missing", "receivers", "rate") or method.is_whole:
        link = ErasureConfig(probability=0.0)
    elif point.result == "loss":
        link = ErasureConfig(probability=float(point.axes["erasure_probability"]))
    cameras, receivers = range(num_cameras), range(num_cameras, num_cameras + num_receivers)
    silent: set[int] = set()
    missing = str(point.axes.get("missing", "none"))
    if method.is_whole or missing == "none":
        pass
    elif missing in ("cameras", "receivers", "all"):
        silent |= set(cameras) if missing != "receivers" else set()
        silent |= set(receivers) if missing != "cameras" else set()
    else:
        silent.add(int(missing.removeprefix("camera-")) - 1)
    if "num_receivers" in point.axes and not method.is_whole:
        # The survivors stand all around the room, whatever their number.
        number = min(int(point.axes["num_receivers"]), num_receivers)
        kept = set(np.linspace(0, num_receivers - 1, number).round().astype(int).tolist())
        silent |= {0} | {sensor for sensor in receivers if sensor - num_cameras not in kept}
    told = {name: point.axes[name] for name in JpegConfig.model_fields if name in point.axes}
    jpeg = config.jpeg.model_copy(update=told) if method.frames == "jpeg" else None
    codec = codec_config(str(point.axes["codec"])) if "codec" in point.axes else config.codec
    interval = 1 if method.is_whole else int(point.axes.get("receiver_interval", 1))
    return Setting(point.method, point.seed, frozenset(silent), codec, link, jpeg, interval)


def make_shared(
    settings: list[Setting],
    models: Mapping[str, SensingModel],
    data: Mapping[int, SensingData],
) -> dict[str, Any]:
    """Collects the models, the test data and the codecs that the settings need; models by model_key."""
    shared: dict[str, Any] = {}
    made: dict[tuple[object, ...], AnyCodec] = {}
    for setting in settings:
        model, seed = models[setting.model_key], setting.seed
        if setting.model_key not in shared:
            shared[setting.model_key] = model
            shared[f"embedded/{setting.model_key}"] = Memo(_NUM_KEPT)
            shared[f"version/{setting.model_key}"] = model_version(model.state_dict())
            shared[f"test/{seed}"] = {"frame": data[seed].test.frame, "csi": data[seed].test.csi}
        if setting.codec_key not in shared:
            names = [_codec_name(setting, model, sensor) for sensor in range(model.num_sensors)]
            for sensor, name in enumerate(names):
                if name not in made:
                    made[name] = _codec(setting, model, sensor, data[seed])
            shared[setting.codec_key] = [made[name] for name in names]
    return shared


def _codec_name(setting: Setting, model: SensingModel, sensor: int) -> tuple[object, ...]:
    """What the codec of one sensor depends on: that of frames on no model, any other on no quality."""
    if setting.jpeg and model.modality[sensor] == CAMERA:
        return setting.seed, sensor, setting.jpeg
    return setting.model_key, sensor, setting.codec


def _codec(setting: Setting, model: SensingModel, sensor: int, data: SensingData) -> AnyCodec:
    """Fits the codec of one sensor to what training data have of it."""
    if (told := setting.jpeg) and model.modality[sensor] == CAMERA:
        height, width = data.train.frame.shape[-2:]
        jpeg = JpegCodec(height, width, told.quality, told.downscale, told.container)
        if told.container == "scan":
            frames = data.train.frame[:, :, sensor].flatten(0, 1)
            every = -(-len(frames) // _MAX_FRAMES)
            jpeg.fit(frames[::every].permute(0, 2, 3, 1).numpy())
        return jpeg
    dim = model.dim_of(sensor)
    codec = make_codec(setting.codec, dim)
    if isinstance(codec, FittedCodec):
        codec.fit(model.calibration[:, sensor, :dim])
    return codec.eval()


def make_cell(config: IsacConfig, setting: Setting, data: SensingData, model: SensingModel) -> CellSpec:
    """Describes the cell of one setting: the rooms of all test sequences at the same time."""
    streams = Streams(setting.seed)
    num_rooms, num_steps = data.test.frame.shape[:2]
    num_devices = num_rooms * model.num_sensors
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
        make_world=partial(_make_world, setting),
        make_sender=partial(_make_sender, setting, config.evaluation.outage_step),
        make_receiver=partial(_make_receiver, setting, num_rooms),
        make_link=partial(_make_link, setting.link, config, data.interval_s),
        make_channel=radio if shares else None,
    )


def _make_world(setting: Setting, shared: Shared, devices: np.ndarray) -> SensingWorld:
    model, test = shared[setting.model_key], shared[f"test/{setting.seed}"]
    return SensingWorld(test["frame"], test["csi"], devices, model.num_sensors, model.embedding_dim + 1)


def _make_sender(setting: Setting, outage_step: int, shared: Shared, devices: np.ndarray) -> Sender:
    codecs = shared[setting.codec_key]
    return SensorSender(
        shared[setting.model_key],
        codecs,
        shared[f"version/{setting.model_key}"],
        _codec_id(codecs),
        setting.silent,
        outage_step,
        shared[f"embedded/{setting.model_key}"],
        setting.receiver_interval_steps,
    )


def _make_receiver(setting: Setting, num_rooms: int, shared: Shared) -> Receiver:
    codecs = shared[setting.codec_key]
    return SceneReceiver(
        shared[setting.model_key],
        codecs,
        shared[f"version/{setting.model_key}"],
        _codec_id(codecs),
        METHODS[setting.method].fill,
        num_rooms,
        shared[f"embedded/{setting.model_key}"],
    )


def _codec_id(codecs: list[AnyCodec]) -> int:
    first = codecs[0]
    return _JPEG_CODEC_ID if isinstance(first, JpegCodec) else first.codec_id


def _make_link(link: LinkConfig, config: IsacConfig, step_s: float) -> Link:
    return make_link(link, ResourceGrid(config.grid), step_s, config.channel.tx_power_dbm)
