"""The control scenario: its configuration and presets, its operating points, and how one is simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.catalogue import ChannelConfig, LinkConfig, make_channel, make_link
from channels.fading import IndoorFactoryConfig
from channels.grid import GridConfig, ResourceGrid
from channels.links.erasure import ErasureConfig
from channels.links.ideal import IdealConfig
from channels.links.nr import NrConfig
from nodes.contracts import CellOutcome, CellSpec, Receiver, Sender, Shared
from nodes.schedulers import AgeConfig, MaxSnrConfig, PeriodicConfig, RoundRobinConfig, SchedulerConfig
from nodes.simulation import simulate
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.control.camera import CameraConfig
from scenarios.control.dataset import DatasetConfig
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
from scenarios.control.models import ModelConfig
from scenarios.control.plant import PlantConfig
from scenarios.control.teacher import TeacherConfig
from scenarios.control.training import MotionModel, TrainingConfig, TrainingInputs, train_model
from scenarios.control.world import ControlWorld
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.entropy import EntropyCodedScalarCodec
from semcom.codecs.scalar import UniformScalarCodec
from semcom.contracts import Channel, Link, Record, SemcomError
from semcom.packets import model_version
from semcom.records import load_into
from semcom.rng import Streams

if TYPE_CHECKING:
    import pandas as pd

    from nodes.cluster import Cluster

SUPPORTED_SCORE = 0.74
"""A device is supported when its control score is at least this (Girgis et al., arXiv 2406.04853)."""


class SharingConfig(BaseModel):
    """How many devices share the uplink in the third result, and which of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_devices_semantic: tuple[int, ...] = Field((512, 2048), description="devices that send embeddings")
    num_devices_frames: tuple[int, ...] = Field((16, 32, 64, 128), description="devices that send raw frames")
    schedulers: tuple[str, ...] = Field(("round-robin", "max-snr", "age"), description="schedulers compared")
    methods: tuple[str, ...] = Field(("jepa", "raw-frames"), description="methods compared")
    interval_steps_semantic: int = Field(4, ge=1, description="least steps between a device's embeddings")
    interval_steps_frames: int = Field(2, ge=1, description="least steps between a device's raw frames")


class EvaluationConfig(BaseModel):
    """Which operating points the results are made of, and how long and often each is simulated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_episodes: int = Field(64, ge=1, le=65_536, description="episodes (devices) per seed and point")
    num_steps: int = Field(200, ge=2, le=100_000, description="control steps of an episode")
    group_size: int = Field(256, ge=1, description="devices batched together; part of the result's identity")
    update_interval_steps: int = Field(4, ge=1, le=1000, description="steps between updates in a sweep")
    methods: tuple[str, ...] = Field(tuple(METHODS), description="methods compared")
    interval_steps: tuple[int, ...] = Field((1, 2, 4, 8, 15), description="update intervals, in steps")
    codecs: tuple[str, ...] = Field(
        ("uniform-4", "uniform-6", "entropy-4", "entropy-8"), description="further codecs for jepa"
    )
    codec_interval_steps: tuple[int, ...] = Field((2, 4, 8), description="intervals at which they are tried")
    erasures: tuple[float, ...] = Field((0.1, 0.3), description="erasure probabilities besides none")
    erasure_methods: tuple[str, ...] = Field(
        ("jepa", "supervised", "hold-last"), description="methods that meet erasures"
    )
    event_thresholds_n: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0, 4.0), description="thresholds of jepa-event, N"
    )
    event_threshold_n: float = Field(1.0, ge=0, description="threshold of jepa-event in a sweep, N")
    horizon_steps: int = Field(15, ge=2, description="horizon of the prediction error, in steps")
    sharing: SharingConfig = SharingConfig()


class ControlConfig(BaseModel):
    """Everything that the control scenario can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plant: PlantConfig = PlantConfig()
    teacher: TeacherConfig = TeacherConfig()
    camera: CameraConfig = CameraConfig()
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    codec: CodecConfig = CodecConfig()
    link: LinkConfig = ErasureConfig(probability=0.0)
    channel: ChannelConfig = IndoorFactoryConfig()
    grid: GridConfig = GridConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


_TINY = ControlConfig(
    dataset=DatasetConfig(num_trajectories=24, num_held_out=8, num_steps=50),
    model=ModelConfig(num_filters=8, hidden_dim=32, readout_dim=16),
    training=TrainingConfig(
        num_steps=60, num_steps_actor=60, num_steps_baseline=60, batch_size=16, actor_batch_size=32,
        baseline_batch_size=64, rollout_steps=6, actor_rollout_steps=8,
    ),
    evaluation=EvaluationConfig(
        num_episodes=8, num_steps=40, interval_steps=(1, 4), codecs=("entropy-8",), codec_interval_steps=(4,),
        erasures=(0.3,), erasure_methods=("jepa",), event_thresholds_n=(1.0,), horizon_steps=8,
        sharing=SharingConfig(
            num_devices_semantic=(16,), num_devices_frames=(4,), schedulers=("round-robin", "age")
        ),
    ),
)  # fmt: skip

_PAPER = ControlConfig(
    plant=PlantConfig(),
    camera=CameraConfig(height_px=64, width_px=128, num_colors=3),
    dataset=DatasetConfig(num_trajectories=200, num_held_out=40),
    model=ModelConfig(
        embedding_dim=256, stem="conv", num_filters=128, conv_width=64, hidden_dim=1024, readout_dim=256
    ),
    training=TrainingConfig(
        num_steps=12_000, num_steps_actor=6_000, num_steps_baseline=12_000, batch_size=16, rollout_steps=15,
        distance="cosine", target="ema", covariance_weight=0.04,
    ),
    evaluation=EvaluationConfig(num_episodes=256),
)  # fmt: skip


def _inputs(config: ControlConfig) -> TrainingInputs:
    return TrainingInputs(
        config.plant, config.teacher, config.camera, config.dataset, config.model, config.training
    )


def _job(config: ControlConfig, model: str, seed: int) -> TrainingJob:
    parts = ("plant", "teacher", "camera", "dataset", "model", "training")
    told = {part: getattr(config, part).model_dump(mode="json") for part in parts}
    name = json.dumps({"trains": model, "seed": seed, "version": 1, **told}, sort_keys=True)
    return TrainingJob(model, seed, hashlib.sha256(name.encode()).hexdigest()[:16], config)


class ControlScenario:
    """Predictive remote control of a cart-pole over the air (after TS-JEPA, arXiv 2406.04853)."""

    name = "control"
    summary = "remote control of a cart-pole seen by a camera, with and without a JEPA"
    config_type = ControlConfig
    presets: Mapping[str, BaseModel] = {"tiny": _TINY, "default": ControlConfig(), "paper": _PAPER}

    def training_jobs(self, config: ControlConfig, seed: int, mode: str) -> list[TrainingJob]:
        """Lists the models that the configured methods need. Raises SemcomError for a mode but central."""
        if mode != "central":
            raise SemcomError(f"mode = {mode!r}: the control scenario trains in mode central only, so far")
        _check(config)
        used = (*config.evaluation.methods, *config.evaluation.sharing.methods)
        names = {METHODS[method].model for method in used}
        return [_job(config, name, seed) for name in ("jepa", "supervised", "autoencoder") if name in names]

    def train(self, job: TrainingJob) -> Trained:
        """Trains one model on one thread."""
        assert isinstance(job.config, ControlConfig)
        model, log = train_model(job.model, job.seed, _inputs(job.config))
        return Trained(model.state_dict(), log)

    def points(self, config: ControlConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of the three results: rate, horizon and sharing."""
        _check(config)
        told = config.evaluation
        step_ms = 1e3 * config.plant.step_s
        base: dict[str, float | int | str] = {"codec": _codec_name(config.codec), "erasure_probability": 0.0}
        points: list[Point] = []

        def add(result: str, method: str, steps: int, **axes: float | int | str) -> None:
            at: dict[str, float | int | str] = {
                "update_interval_ms": round(steps * step_ms, 6),
                **base,
                **axes,
            }
            points.extend(Point(result, method, seed, at) for seed in seeds)

        for method in told.methods:
            if METHODS[method].event_triggered:
                for threshold in told.event_thresholds_n:
                    add("rate", method, 1, event_threshold_n=threshold)
                continue
            if method == "state-feedback":
                add("rate", method, 1)
                continue
            for steps in told.interval_steps:
                add("rate", method, steps)
        for steps in told.codec_interval_steps:
            for codec in told.codecs:
                if "jepa" in told.methods:
                    add("rate", "jepa", steps, codec=codec)
        for steps in told.interval_steps:
            for erasure in told.erasures:
                for method in told.erasure_methods:
                    add("rate", method, steps, erasure_probability=erasure)
        for method in told.methods:
            if not METHODS[method].event_triggered and method != "state-feedback":
                add("horizon", method, told.horizon_steps)
        sharing = told.sharing
        for scheduler in sharing.schedulers:
            for method in sharing.methods:
                frames = METHODS[method].source == "frames"
                steps = sharing.interval_steps_frames if frames else sharing.interval_steps_semantic
                for num in sharing.num_devices_frames if frames else sharing.num_devices_semantic:
                    add("sharing", method, steps, scheduler=scheduler, num_devices=num)
        return points

    def sweep_points(self, config: ControlConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists one point for each method: the configuration's own update interval, codec and link."""
        _check(config)
        return [Point("sweep", method, seed) for method in config.evaluation.methods for seed in seeds]

    def simulate(
        self,
        config: ControlConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Simulates a batch of points, each one cell, and returns the records of each."""
        shared = _shared(config, points, models)
        cells = [_cell(config, point, shared) for point in points]
        outcomes = simulate(cells, config.evaluation.num_steps, cluster, shared=shared)
        return [
            _records(config, point, outcome, shared) for point, outcome in zip(points, outcomes, strict=True)
        ]

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws the figures of the three results."""
        from scenarios.control.results import draw_figures

        return draw_figures(records, folder)

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the tables of the three results."""
        from scenarios.control.results import make_tables

        return make_tables(records)


SCENARIO = ControlScenario()


def _check(config: ControlConfig) -> None:
    told = config.evaluation
    for key, names in (("methods", told.methods), ("sharing.methods", told.sharing.methods)):
        for name in names:
            if name not in METHODS:
                raise SemcomError(f"evaluation.{key} holds {name!r}: the methods are {', '.join(METHODS)}")
    needed = config.model.gap_steps + config.training.num_starts + config.training.rollout_steps
    if config.dataset.num_steps < needed or (
        config.dataset.num_steps < config.model.gap_steps + config.training.actor_rollout_steps + 2
    ):
        raise SemcomError(
            f"dataset.num_steps = {config.dataset.num_steps} is shorter than a training window "
            f"({needed} steps): lengthen it or shorten training.rollout_steps and actor_rollout_steps"
        )
    for codec in told.codecs:
        _codec_config(codec)


def _codec_name(codec: CodecConfig) -> str:
    return f"{codec.kind}-{codec.bits}" if codec.kind in ("uniform", "entropy") else codec.kind


def _codec_config(name: str) -> CodecConfig:
    kind, _, bits = name.partition("-")
    try:
        return CodecConfig.model_validate({"kind": kind, **({"bits": int(bits)} if bits else {})})
    except ValueError as error:
        raise SemcomError(
            f"codec {name!r} is unknown: write float32, float16, uniform-BITS or entropy-BITS, BITS 1 to 16"
        ) from error


def _setting(config: ControlConfig, point: Point) -> dict[str, Any]:
    """Resolves what a point's axes leave open from the configuration."""
    axes, told = point.axes, config.evaluation
    method = METHODS[point.method]
    steps = round(float(axes.get("update_interval_ms", 0)) / 1e3 / config.plant.step_s)
    steps = steps or (1 if point.method == "state-feedback" else told.update_interval_steps)
    if method.event_triggered:
        steps = 1
    link: LinkConfig = config.link
    if point.method in REFERENCES:
        link = IdealConfig()
    elif point.result == "sharing":
        link = NrConfig()
    elif "erasure_probability" in axes:
        link = ErasureConfig(probability=float(axes["erasure_probability"]))
    scheduler: SchedulerConfig = PeriodicConfig(interval_steps=steps)
    if "scheduler" in axes:
        kinds: dict[str, SchedulerConfig] = {
            "round-robin": RoundRobinConfig(min_interval_steps=steps),
            "max-snr": MaxSnrConfig(min_interval_steps=steps),
            "age": AgeConfig(min_interval_steps=steps, max_mean_age_steps=float(steps)),
        }
        scheduler = kinds[str(axes["scheduler"])]
    return {
        "method": method,
        "steps": steps,
        "link": link,
        "scheduler": scheduler,
        "codec": _codec_config(str(axes["codec"])) if "codec" in axes else config.codec,
        "num_devices": int(axes.get("num_devices", told.num_episodes)),
        "threshold_n": float(axes.get("event_threshold_n", told.event_threshold_n)),
    }


def _names(config: ControlConfig, point: Point) -> tuple[str, str]:
    """Names a point's model and codec among the shared objects."""
    setting = _setting(config, point)
    if setting["method"].model is None:
        return "", ""
    key = _job(config, setting["method"].model, point.seed).key
    return key, f"{key}/{_codec_name(setting['codec'])}"


def _shared(
    config: ControlConfig, points: Sequence[Point], models: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, Any]:
    """Builds the models and fitted codecs that the points need, once each."""
    shared: dict[str, Any] = {}
    for point in points:
        key, codec_key = _names(config, point)
        if not key:
            continue
        if key not in shared:
            name = METHODS[point.method].model
            model = MotionModel(_inputs(config), Streams(point.seed), with_predictor=name == "jepa")
            load_into(model, models[key], f"the checkpoint of {name}, seed {point.seed}")
            shared[key] = model.eval().requires_grad_(False)
            shared[f"{key}/version"] = model_version(model.state_dict())
        if codec_key not in shared:
            codec = make_codec(_setting(config, point)["codec"], config.model.embedding_dim)
            if isinstance(codec, UniformScalarCodec | EntropyCodedScalarCodec):
                codec.fit(shared[key].calibration)
            shared[codec_key] = codec.eval()
    return shared


def _cell(config: ControlConfig, point: Point, shared: Shared) -> CellSpec:
    setting = _setting(config, point)
    key, codec_key = _names(config, point)
    num, told = setting["num_devices"], config.evaluation
    streams = Streams(point.seed)
    is_radio = isinstance(setting["link"], NrConfig)
    return CellSpec(
        num_devices=num,
        group_size=told.group_size,
        streams=streams,
        scheduler=setting["scheduler"],
        make_world=partial(_make_world, config, streams),
        make_sender=partial(_make_sender, point.method, key, codec_key, setting["threshold_n"]),
        make_receiver=partial(_make_receiver, config, point.method, key, codec_key, num, setting["steps"]),
        make_link=partial(_make_link, setting["link"], config),
        make_channel=partial(_make_channel, config.channel, config.grid, num, told.num_steps,
                             config.plant.step_s, streams) if is_radio else None,
    )  # fmt: skip


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


def _make_sender(
    name: str, key: str, codec_key: str, threshold_n: float, shared: Shared, devices: np.ndarray
) -> Sender:
    method = METHODS[name]
    if method.source == "state":
        return StateSender()
    version = shared[f"{key}/version"]
    if method.source == "frames":
        return FrameSender(version)
    if method.event_triggered:
        return EventSender(shared[key], shared[codec_key], version, len(devices), threshold_n)
    return EmbeddingSender(shared[key], shared[codec_key], version)


def _make_receiver(
    config: ControlConfig, name: str, key: str, codec_key: str, num_devices: int, steps: int, shared: Shared
) -> Receiver:
    method = METHODS[name]
    if method.source == "state":
        roll_out = method.between == "model"
        return StateReceiver(config.plant, config.teacher, num_devices, steps, roll_out=roll_out)
    version = shared[f"{key}/version"]
    if method.source == "frames":
        camera = config.camera
        shape = (camera.num_colors, camera.height_px, camera.width_px)
        return FrameReceiver(shared[key], version, num_devices, shape)
    assert method.between != "model"
    return EmbeddingReceiver(shared[key], shared[codec_key], version, num_devices, method.between)


def _make_link(link: LinkConfig, config: ControlConfig) -> Link:
    return make_link(link, ResourceGrid(config.grid), config.plant.step_s, config.channel.tx_power_dbm)


@lru_cache(maxsize=64)
def _make_channel(
    channel: ChannelConfig,
    grid: GridConfig,
    num_devices: int,
    num_steps: int,
    step_s: float,
    streams: Streams,
) -> Channel:
    return make_channel(channel, ResourceGrid(grid), num_devices, num_steps, step_s, streams)


def _records(
    config: ControlConfig, point: Point, outcome: CellOutcome, shared: Mapping[str, Any]
) -> list[Record]:
    count, world = outcome.counters, outcome.world
    num, num_steps = len(world["alive"]), config.evaluation.num_steps
    score = world["in_band"].mean(axis=1)

    def record(metric: str, value: float, unit: str, **axes: float) -> Record:
        return Record("control", point.method, point.seed, metric, float(value), unit, num, dict(axes))

    if point.result == "horizon":
        return [
            record("nmae", value, "1", horizon_ms=1e3 * config.plant.step_s * age)
            for age, value in enumerate(_nmae_by_age(world, _setting(config, point)["steps"]))
        ]
    sent = max(1, int(count["packets_sent"].sum()))
    header, payload = int(count["header_bits"].sum()), int(count["payload_bits"].sum())
    records = [
        record("control_score", score.mean(), "1"),
        record("survival", world["alive"].mean(), "1"),
        record("uplink_bits_per_step", (header + payload) / num / num_steps, "bit"),
        record("packet_bits", (header + payload) / sent, "bit"),
        record("header_bits", header / sent, "bit"),
        record("payload_bits", payload / sent, "bit"),
        record("padding_bits", count["padding_bits"].sum() / sent, "bit"),
        record("packets_per_step", count["packets_sent"].sum() / num / num_steps, "1"),
        record("packet_loss", 1 - count["packets_delivered"].sum() / sent, "1"),
        record("packets_refused", count["packets_refused"].sum(), "1"),
    ]
    _, codec_key = _names(config, point)
    if METHODS[point.method].source == "embedding":
        key = codec_key.split("/")[0]
        entropy = shared[codec_key].entropy_bits(shared[key].calibration).mean()
        records.append(record("entropy_bits", float(entropy), "bit"))
    if point.result == "sharing" or isinstance(_setting(config, point)["link"], NrConfig):
        records += [
            record("supported_devices", (score >= SUPPORTED_SCORE).sum(), "1"),
            record(
                "age_of_information", 1e3 * config.plant.step_s * count["age_steps"].mean() / num_steps, "ms"
            ),
            record("channel_uses_per_step", count["channel_uses"].sum() / num / num_steps, "1"),
            record("airtime_per_step", count["airtime_s"].sum() / num / num_steps, "s"),
            record("energy_per_step", count["energy_j"].sum() / num / num_steps, "J"),
        ]
    return records


def _nmae_by_age(world: Mapping[str, np.ndarray], interval_steps: int) -> np.ndarray:
    """NMAE = mean |u_hat - u| / (max u - min u) over surviving episodes, by steps since the last update.

    u is the teacher's command in the true state at that step; the range is taken over the same episodes.
    """
    alive = world["alive"]
    num_steps = world["command_n"].shape[1] // interval_steps * interval_steps
    if not alive.any() or not num_steps:
        return np.full(interval_steps, np.nan)
    command = world["command_n"][alive, :num_steps]
    teacher = world["teacher_command_n"][alive, :num_steps]
    error = np.abs(command - teacher).reshape(len(command), -1, interval_steps).mean(axis=(0, 1))
    return error / max(1e-9, float(teacher.max() - teacher.min()))
