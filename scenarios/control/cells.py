"""How an operating point of the control scenario becomes a cell that can be simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from channels.catalogue import LinkConfig, make_link, shared_channel, uses_a_channel
from channels.downlink import DownlinkChannel, DownlinkConfig, make_downlink, needs_a_channel
from channels.grid import ResourceGrid
from channels.links.erasure import ErasureConfig
from channels.links.ideal import IdealConfig
from channels.links.nr import NrConfig
from nodes.contracts import CellSpec, Receiver, Sender, Shared
from nodes.process import one_thread
from nodes.schedulers import AgeConfig, MaxSnrConfig, PeriodicConfig, RoundRobinConfig, SchedulerConfig
from nodes.training.collaboration import collaborative_settings
from scenarios.contracts import Point, TrainingJob
from scenarios.control.config import ControlConfig
from scenarios.control.methods import (
    METHODS,
    REFERENCES,
    EmbeddingReceiver,
    EmbeddingSender,
    EventSender,
    FrameReceiver,
    FrameSender,
    StateReceiver,
    StateSender,
)
from scenarios.control.models import MotionModel
from scenarios.control.weighting import task_weight
from scenarios.control.world import ControlWorld
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import Channel, FittedCodec, Link
from semcom.packets import model_version
from semcom.records import load_into
from semcom.rng import Streams


@dataclass(frozen=True)
class Setting:
    """An operating point with everything filled in: two points of equal settings are the same cell.

    model_key: the training job's key, empty for the reference lines, which need no model.
    """

    method: str
    seed: int
    interval_steps: int
    link: LinkConfig
    downlink: DownlinkConfig
    scheduler: SchedulerConfig
    codec: CodecConfig
    num_devices: int
    threshold_n: float
    model_key: str

    @property
    def codec_key(self) -> str:
        """Names the codec fitted to this model among the shared objects."""
        return f"{self.model_key}/{codec_name(self.codec)}"


def training_job(config: ControlConfig, model: str, seed: int, mode: str = "central") -> TrainingJob:
    """Makes the job that trains a model; its key hashes all that the weights depend on."""
    parts = ("plant", "teacher", "camera", "dataset", "model", "training")
    told = {part: getattr(config, part).model_dump(mode="json") for part in parts}
    told |= collaborative_settings(config.collaboration, mode)
    name = json.dumps({"trains": model, "seed": seed, "version": 2, **told}, sort_keys=True)
    return TrainingJob(model, seed, hashlib.sha256(name.encode()).hexdigest()[:16], config, mode)


def resolve(config: ControlConfig, point: Point) -> Setting:
    """Fills in from the configuration what a point's axes leave open."""
    axes, told = point.axes, config.evaluation
    method = METHODS[point.method]
    steps = told.update_interval_steps
    if "update_interval_ms" in axes:
        steps = round(float(axes["update_interval_ms"]) / 1e3 / config.plant.step_s)
    if method.event_triggered or point.method == "state-feedback":
        steps = 1
    codec = config.codec
    if method.source == "embedding" and "codec" in axes:
        codec = codec_config(str(axes["codec"]))
    link: LinkConfig = config.link
    downlink = config.downlink
    if point.method in REFERENCES or point.result == "horizon":
        downlink = DownlinkConfig()
    if point.method in REFERENCES:
        link = IdealConfig()
    elif point.result == "sharing":
        link = config.link if uses_a_channel(config.link) else NrConfig()
    elif point.result == "erasure":
        link = ErasureConfig(probability=float(axes["erasure_probability"]))
    elif point.result == "horizon":
        # The age of the last update is known only where none is lost.
        link = ErasureConfig(probability=0.0)
    scheduler: SchedulerConfig = PeriodicConfig(interval_steps=steps)
    if uses_a_channel(link):
        # Devices that send in phase would starve each other of a carrier that they share.
        scheduler = RoundRobinConfig(min_interval_steps=steps)
    if "scheduler" in axes:
        kinds: dict[str, SchedulerConfig] = {
            "round-robin": RoundRobinConfig(min_interval_steps=steps),
            "max-snr": MaxSnrConfig(min_interval_steps=steps),
            "age": AgeConfig(min_interval_steps=steps, max_mean_age_steps=float(steps)),
        }
        scheduler = kinds[str(axes["scheduler"])]
    return Setting(
        method=point.method,
        seed=point.seed,
        interval_steps=steps,
        link=link,
        downlink=downlink,
        scheduler=scheduler,
        codec=codec,
        num_devices=int(axes.get("num_devices", told.num_episodes)),
        threshold_n=float(axes.get("event_threshold_n", told.event_threshold_n))
        if method.event_triggered
        else 0.0,
        model_key="" if method.model is None else training_job(config, method.model, point.seed).key,
    )


def make_shared(
    config: ControlConfig, settings: Sequence[Setting], models: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, Any]:
    """Builds the models and fitted codecs that the settings need, once each, on one thread."""
    shared: dict[str, Any] = {}
    with one_thread():
        for setting in settings:
            name, key = METHODS[setting.method].model, setting.model_key
            if name is None:
                continue
            if key not in shared:
                streams = Streams(setting.seed)
                model = MotionModel(
                    config.model, config.camera, config.plant, streams, with_predictor=name == "jepa"
                )
                load_into(model, models[key], f"the checkpoint of {name}, seed {setting.seed}")
                shared[key] = model.eval().requires_grad_(False)
                shared[f"{key}/version"] = model_version(model.state_dict())
            if setting.codec_key not in shared:
                codec = make_codec(setting.codec, config.model.embedding_dim)
                if isinstance(codec, FittedCodec):
                    weighted = setting.codec.weighting == "task"
                    codec.fit(shared[key].calibration, task_weight(shared[key]) if weighted else None)
                shared[setting.codec_key] = codec.eval()
    return shared


def make_cell(config: ControlConfig, setting: Setting) -> CellSpec:
    """Describes the cell of one setting; its parts are made from it where they run."""
    streams, told = Streams(setting.seed), config.evaluation
    radio = partial(shared_channel, config.channel, config.grid, setting.num_devices, told.num_steps,
                    config.plant.step_s, streams)  # fmt: skip
    downlink = setting.downlink
    return CellSpec(
        num_devices=setting.num_devices,
        group_size=told.group_size,
        streams=streams,
        scheduler=setting.scheduler,
        make_world=partial(_make_world, config, streams),
        make_sender=partial(_make_sender, setting),
        make_receiver=partial(_make_receiver, config, setting),
        make_link=partial(_make_link, setting.link, config),
        make_channel=radio if uses_a_channel(setting.link) else None,
        make_downlink=partial(make_downlink, downlink, config.grid, config.plant.step_s),
        make_downlink_channel=partial(_make_downlink_channel, radio, downlink.snr_offset_db)
        if needs_a_channel(downlink)
        else None,
    )


def _make_world(config: ControlConfig, streams: Streams, shared: Shared, devices: np.ndarray) -> ControlWorld:
    return ControlWorld(
        config.plant,
        config.camera,
        config.teacher,
        config.model.gap_steps,
        config.evaluation.num_steps,
        devices,
        streams,
    )


def _make_sender(setting: Setting, shared: Shared, devices: np.ndarray) -> Sender:
    method = METHODS[setting.method]
    if method.source == "state":
        return StateSender()
    model, version = shared[setting.model_key], shared[f"{setting.model_key}/version"]
    if method.source == "frames":
        return FrameSender(version)
    codec = shared[setting.codec_key]
    if method.event_triggered:
        return EventSender(model, codec, version, len(devices), setting.threshold_n)
    return EmbeddingSender(model, codec, version)


def _make_receiver(config: ControlConfig, setting: Setting, shared: Shared) -> Receiver:
    method, num_devices = METHODS[setting.method], setting.num_devices
    if method.source == "state":
        designed_for = setting.interval_steps if method.redesigned else 1
        roll_out = method.between == "model"
        return StateReceiver(config.plant, config.teacher, num_devices, designed_for, roll_out=roll_out)
    model, version = shared[setting.model_key], shared[f"{setting.model_key}/version"]
    if method.source == "frames":
        camera = config.camera
        shape = (camera.num_colors, camera.height_px, camera.width_px)
        return FrameReceiver(model, version, num_devices, shape)
    assert method.between != "model"
    return EmbeddingReceiver(model, shared[setting.codec_key], version, num_devices, method.between)


def _make_link(link: LinkConfig, config: ControlConfig) -> Link:
    return make_link(link, ResourceGrid(config.grid), config.plant.step_s, config.channel.tx_power_dbm)


def _make_downlink_channel(make_uplink: Callable[[], Channel], snr_offset_db: float) -> Channel:
    return DownlinkChannel(make_uplink(), snr_offset_db)
