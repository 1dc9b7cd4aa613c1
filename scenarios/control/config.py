"""The control scenario's configuration and its presets."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from channels.catalogue import (
    ChannelConfig,
    LinkConfig,
    check_channel,
    check_link,
    check_packet,
    uses_a_channel,
)
from channels.downlink import DownlinkConfig, check_downlink, needs_a_channel
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryConfig
from channels.links.analog import AnalogConfig
from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig
from nodes.schedulers import SCHEDULERS
from nodes.training.collaboration import CollaborationConfig
from scenarios.control.camera import CameraConfig
from scenarios.control.dataset import DatasetConfig
from scenarios.control.methods import METHODS, REFERENCES, frame_payload_bits
from scenarios.control.models import ModelConfig
from scenarios.control.plant import PlantConfig
from scenarios.control.teacher import TeacherConfig
from scenarios.control.training import TrainingConfig, TrainingInputs
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.names import codec_config
from semcom.contracts import SemcomError
from semcom.packets import HEADER_BITS

Interval = Annotated[int, Field(ge=1, le=1000)]
Probability = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NumDevices = Annotated[int, Field(ge=1, le=65_536)]


class SharingConfig(BaseModel):
    """How many devices share the uplink in the third result, and which of them.

    The link is `nr`: that of the configuration if it is one, else with its default settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_devices_semantic: tuple[NumDevices, ...] = Field(
        (256, 2560), description="devices that send embeddings"
    )
    num_devices_frames: tuple[NumDevices, ...] = Field(
        (128, 160, 192), description="devices that send raw frames"
    )
    schedulers: tuple[str, ...] = Field(("round-robin", "max-snr", "age"), description="schedulers compared")
    methods: tuple[str, ...] = Field(("jepa", "raw-frames"), description="methods compared")
    interval_steps_semantic: int = Field(4, ge=1, description="least steps between a device's embeddings")
    interval_steps_frames: int = Field(4, ge=1, description="least steps between a device's raw frames")


class EvaluationConfig(BaseModel):
    """Which operating points the results are made of, and how long and often each is simulated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_episodes: int = Field(64, ge=1, le=65_536, description="episodes (devices) per seed and point")
    num_steps: int = Field(200, ge=2, le=100_000, description="control steps of an episode")
    group_size: int = Field(256, ge=1, description="devices batched together; part of the result's identity")
    update_interval_steps: int = Field(4, ge=1, le=1000, description="steps between updates in a sweep")
    methods: tuple[str, ...] = Field(tuple(METHODS), description="methods compared")
    interval_steps: tuple[Interval, ...] = Field(
        (1, 2, 4, 6, 8, 15), description="update intervals, in steps"
    )
    codecs: tuple[str, ...] = Field(
        ("uniform-4", "uniform-6", "uniform-8", "entropy-4", "entropy-6", "entropy-8"),
        description="codecs that jepa is tried with",
    )
    codec_interval_steps: tuple[Interval, ...] = Field(
        (2, 4, 8), description="intervals at which they are tried"
    )
    erasures: tuple[Probability, ...] = Field((0.0, 0.1, 0.3), description="erasure probabilities")
    erasure_interval_steps: tuple[Interval, ...] = Field(
        (1, 2, 4, 8, 15), description="intervals at which they are tried"
    )
    erasure_methods: tuple[str, ...] = Field(
        ("jepa", "supervised", "hold-last"), description="methods that meet erasures"
    )
    event_thresholds_n: tuple[Threshold, ...] = Field(
        (0.5, 1.0, 2.0, 4.0), description="thresholds of jepa-event, N"
    )
    event_threshold_n: Threshold = Field(1.0, description="threshold of jepa-event in a sweep, N")
    horizon_steps: tuple[Interval, ...] = Field(
        (4, 15), description="update intervals over which the prediction error is followed, in steps"
    )
    sharing: SharingConfig = SharingConfig()


class ControlConfig(BaseModel):
    """Everything that the control scenario can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    downlink: DownlinkConfig = DownlinkConfig()
    collaboration: CollaborationConfig = CollaborationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def training_inputs(self) -> TrainingInputs:
        """Returns the parts that trained weights depend on."""
        return TrainingInputs(self.plant, self.teacher, self.camera, self.dataset, self.model, self.training)


TINY = ControlConfig(
    collaboration=CollaborationConfig(num_clients=4),
    dataset=DatasetConfig(num_trajectories=24, num_held_out=8, num_steps=50),
    model=ModelConfig(num_filters=8, hidden_dim=32, readout_dim=16),
    training=TrainingConfig(
        num_steps=60, num_steps_actor=60, num_steps_baseline=60, batch_size=16, actor_batch_size=32,
        baseline_batch_size=64, rollout_steps=6, actor_rollout_steps=8,
    ),
    evaluation=EvaluationConfig(
        num_episodes=8, num_steps=40, interval_steps=(1, 4), codecs=("entropy-8",), codec_interval_steps=(4,),
        erasures=(0.0, 0.3), erasure_interval_steps=(1, 4), erasure_methods=("jepa",),
        event_thresholds_n=(1.0,), horizon_steps=(4, 8),
        sharing=SharingConfig(
            num_devices_semantic=(16,), num_devices_frames=(4,), schedulers=("round-robin", "age")
        ),
    ),
)  # fmt: skip

PAPER = ControlConfig(
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


def check(config: ControlConfig) -> None:
    """Raises SemcomError for what one field alone doesn't show: unknown names, windows that don't fit."""
    told = config.evaluation
    of_keys = {
        "methods": told.methods,
        "erasure_methods": told.erasure_methods,
        "sharing.methods": told.sharing.methods,
    }
    for key, names in of_keys.items():
        # The reference lines have perfect links, whatever is configured.
        known = [name for name in METHODS if key == "methods" or name not in REFERENCES]
        for name in names:
            if name not in known:
                raise SemcomError(f"evaluation.{key} holds {name!r}: it takes {', '.join(known)}")
    shared = [name for name in SCHEDULERS if name != "periodic"]
    for name in told.sharing.schedulers:
        if name not in shared:
            raise SemcomError(f"evaluation.sharing.schedulers holds {name!r}: it takes {', '.join(shared)}")
    if not told.methods:
        raise SemcomError(f"evaluation.methods is empty: name one of {', '.join(METHODS)}")
    intervals = {
        "update_interval_steps": (told.update_interval_steps,),
        "interval_steps": told.interval_steps,
        "codec_interval_steps": told.codec_interval_steps,
        "erasure_interval_steps": told.erasure_interval_steps,
        "horizon_steps": told.horizon_steps,
    }
    for key, steps in intervals.items():
        if max(steps, default=0) > told.num_steps:
            raise SemcomError(
                f"evaluation.{key} = {max(steps)} is longer than an episode of evaluation.num_steps = "
                f"{told.num_steps}: shorten it or lengthen the episode"
            )
    needed = config.model.gap_steps + config.training.num_starts + config.training.rollout_steps
    if config.dataset.num_steps < needed or (
        config.dataset.num_steps < config.model.gap_steps + config.training.actor_rollout_steps + 2
    ):
        raise SemcomError(
            f"dataset.num_steps = {config.dataset.num_steps} is shorter than a training window "
            f"({needed} steps): lengthen it or shorten training.rollout_steps and actor_rollout_steps"
        )
    for codec in told.codecs:
        codec_config(codec)
    _check_radio(config)


def _check_radio(config: ControlConfig) -> None:
    """Raises SemcomError for a carrier that can't work: its grid, its channel, packets too large for it."""
    grid, step_s, told = ResourceGrid(config.grid), config.plant.step_s, config.evaluation
    check_link(config.link, grid, step_s)
    check_downlink(config.downlink, config.grid, step_s)
    if isinstance(config.link, AnalogConfig) and config.codec.kind != "analog":
        raise SemcomError(
            f"link.kind = analog carries numbers, and codec.kind = {config.codec.kind} makes bits: "
            "set codec.kind=analog"
        )
    over_the_carrier = told.methods if uses_a_channel(config.link) else ()
    if told.sharing.schedulers:
        over_the_carrier += told.sharing.methods
    carrier = config.link if uses_a_channel(config.link) else NrConfig()
    for method in dict.fromkeys(over_the_carrier):
        if not can_carry(carrier, method, config.codec):
            continue
        if method not in REFERENCES and (bits := _payload_bits(config, method)) is not None:
            check_link(carrier, grid, step_s)
            check_packet(carrier, grid, step_s, HEADER_BITS + 8 * -(-bits // 8), method)
    # The last, since a ray-traced scene is loaded for it, or a recording read.
    if uses_a_channel(config.link) or needs_a_channel(config.downlink) or told.sharing.schedulers:
        check_channel(config.channel, grid, told.num_steps, step_s)


def can_carry(link: LinkConfig, method: str, codec: CodecConfig) -> bool:
    """Whether a link carries what a method sends: the analog one nothing but numbers."""
    return not isinstance(link, AnalogConfig) or (
        METHODS[method].source == "embedding" and codec.kind == "analog"
    )


def _payload_bits(config: ControlConfig, method: str) -> int | None:
    """The longest payload of a method; None with a codec that knows it only when it is fitted."""
    if METHODS[method].source == "frames":
        camera = config.camera
        return frame_payload_bits((camera.num_colors, camera.height_px, camera.width_px))
    with suppress(SemcomError):
        return make_codec(config.codec, config.model.embedding_dim).max_payload_bits()
    return None
