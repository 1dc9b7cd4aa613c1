"""The sensing scenario's configuration and its presets."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.catalogue import (
    ChannelConfig,
    LinkConfig,
    check_channel,
    check_link,
    check_packet,
    uses_a_channel,
)
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryConfig
from channels.links.analog import AnalogConfig
from channels.links.erasure import ErasureConfig
from channels.room import Furniture, RoomConfig, check_room
from nodes.training.collaboration import CollaborationConfig
from scenarios.isac.alarm import AlarmConfig
from scenarios.isac.data import MIN_STEPS, ObservationConfig, SplitConfig, split_sequences
from scenarios.isac.jpeg import Container, JpegCodec
from scenarios.isac.methods import METHODS
from scenarios.isac.models import ModelConfig
from scenarios.isac.sizes import check_sizes
from scenarios.isac.task import TrainingConfig, TrainingInputs
from scenarios.isac.vocabulary import FAULTS, MISSING
from scenarios.recorded import RecordedData
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.names import codec_config
from semcom.contracts import SemcomError
from semcom.packets import HEADER_BITS
from semcom.rng import Streams

# Of recorded data the interval is known only when they are read; the radio is checked for this one before.
_STEP_S = 0.2

Probability = Annotated[float, Field(ge=0, le=1)]


class GeneratedData(BaseModel):
    """Pedestrians who walk about a room; each seed has its own walks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["generated"] = "generated"
    room: RoomConfig = RoomConfig()


DataConfig = Annotated[GeneratedData | RecordedData, Field(discriminator="kind")]


class JpegConfig(BaseModel):
    """How the JPEG baselines code frames where a result doesn't vary it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    quality: int = Field(40, ge=1, le=100, description="JPEG quality, as libjpeg has it")
    downscale: Literal[1, 2, 4] = Field(
        1, description="by how much frames are shrunk before, and enlarged after"
    )
    container: Container = Field(
        "scan",
        description="what is sent of a frame: only the scan, with Huffman tables fitted before, or a file",
    )


class EvaluationConfig(BaseModel):
    """Which results are made, at which operating points."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    outage_step: int = Field(
        4, ge=1, le=10_000, description="step of a sequence from which sensors are missing, and errors count"
    )
    missing: tuple[str, ...] = Field(
        tuple(name for name in MISSING if name != "all"), description=f"what is missing: {', '.join(MISSING)}"
    )
    missing_methods: tuple[str, ...] = Field(
        tuple(name for name in METHODS if not name.startswith("jpeg")),
        description="methods compared where something is missing",
    )
    erasures: tuple[Probability, ...] = Field(
        (0.0, 0.1, 0.3, 0.5), description="erasure probabilities of every packet in the loss result"
    )
    loss_methods: tuple[str, ...] = Field(
        ("inpainting", "image-only", "supervised", "masked-head", "zero-fill", "last-value"),
        description="methods that meet erasures",
    )
    num_receivers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 3, 6, 9), description="receivers that survive while the first camera is missing"
    )
    receiver_methods: tuple[str, ...] = Field(
        ("inpainting", "supervised", "masked-head"), description="methods that lose receivers"
    )
    codecs: tuple[str, ...] = Field(
        ("uniform-1", "uniform-2", "uniform-3", "uniform-4", "uniform-6"),
        description="codecs of the embeddings in the rate result",
    )
    rate_methods: tuple[str, ...] = Field(
        ("inpainting", "image-only"), description="methods of the rate result that send embeddings"
    )
    jpeg_methods: tuple[str, ...] = Field(
        ("jpeg", "jpeg-cameras"), description="methods of the rate result that send JPEG frames"
    )
    qualities: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (5, 20, 60, 95), description="JPEG qualities in the rate result"
    )
    downscales: tuple[Literal[1, 2, 4], ...] = Field(
        (1, 2), description="by how much JPEG frames are shrunk before in the rate result"
    )
    containers: tuple[Container, ...] = Field(
        ("scan",), description="what is sent of a JPEG frame in the rate result: scan, file"
    )
    faults: tuple[str, ...] = Field(tuple(FAULTS), description=f"faults: {', '.join(FAULTS)}")
    rate_receiver_intervals: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (1, 4),
        min_length=1,
        description="steps from one report of a receiver to the next in the rate result, one after the other",
    )
    group_size: int = Field(256, ge=1, description="devices batched together; part of the result's identity")


class IsacConfig(BaseModel):
    """Everything that the sensing scenario can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: DataConfig = GeneratedData()
    observation: ObservationConfig = ObservationConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    codec: CodecConfig = CodecConfig(kind="uniform", bits=4)
    jpeg: JpegConfig = JpegConfig()
    alarm: AlarmConfig = AlarmConfig()
    link: LinkConfig = ErasureConfig(probability=0.0)
    channel: ChannelConfig = IndoorFactoryConfig()
    grid: GridConfig = GridConfig()
    collaboration: CollaborationConfig = CollaborationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def step_s(self) -> float:
        """Time between two reports of a sensor: the sampling interval of the data, if it is set."""
        return self.data.room.interval_s if isinstance(self.data, GeneratedData) else _STEP_S

    def training_inputs(self) -> TrainingInputs:
        """Returns the parts that trained weights depend on, besides the data."""
        return TrainingInputs(self.model, self.training)


def check(config: IsacConfig) -> None:
    """Raises SemcomError for what one field alone doesn't show: unknown names, too few steps or sensors."""
    told = config.evaluation
    for key, values in told:
        for value in values if isinstance(values, tuple) else ():
            if values.count(value) > 1:
                raise SemcomError(f"evaluation.{key} holds {value!r} twice: name it once")
    for key, names, known in (
        ("missing", told.missing, MISSING),
        ("missing_methods", told.missing_methods, METHODS),
        ("loss_methods", told.loss_methods, METHODS),
        ("receiver_methods", told.receiver_methods, METHODS),
        ("rate_methods", told.rate_methods, METHODS),
        ("jpeg_methods", told.jpeg_methods, METHODS),
        ("faults", told.faults, FAULTS),
    ):
        for name in names:
            if name not in known:
                raise SemcomError(f"evaluation.{key} holds {name!r}: it takes {', '.join(known)}")
    for key, names, wanted in (
        ("rate_methods", told.rate_methods, "embedding"),
        ("jpeg_methods", told.jpeg_methods, "jpeg"),
    ):
        for name in names:
            if METHODS[name].frames != wanted:
                raise SemcomError(f"evaluation.{key} holds {name!r}, whose frames are not sent as {wanted}")
    for name in told.codecs:
        try:
            codec = codec_config(name)
        except SemcomError as error:
            raise SemcomError(f"evaluation.codecs: {error}") from None
        if codec.kind == "analog":
            raise SemcomError(f"codec {name!r} sends no bits to be counted: name one that does")
        if codec.weighting != "none":
            raise SemcomError(f"codec {name!r} weighs errors by a task, which isac doesn't offer")
    if config.codec.weighting != "none":
        raise SemcomError("codec.weighting = task is not offered by isac: leave it at none")
    if isinstance(config.link, AnalogConfig) or config.codec.kind == "analog":
        raise SemcomError(
            "link analog and codec analog are not offered by isac: its sensors send packets of bits"
        )
    if isinstance(config.data, RecordedData):
        _check_file(config.data.path)
    else:
        room = config.data.room
        check_room(room)
        parts = split_sequences(np.arange(room.num_sequences), config.split, Streams(0))
        length = config.split.segment_steps or room.num_steps
        if length > room.num_steps:
            raise SemcomError(
                f"split.segment_steps = {length}, and walks have {room.num_steps} steps: lower it"
            )
        if length < MIN_STEPS:
            raise SemcomError(
                f"data.room.num_steps = {length} is too short for a sequence: take {MIN_STEPS} or more"
            )
        num_validation = len(parts.validation) * (room.num_steps // length)
        check_sizes(told, num_validation, length, room.num_cameras, room.num_receivers)
    _check_radio(config)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise SemcomError(f"data.path = {path} is a folder: give the path of an HDF5 file")
    if not path.exists():
        raise SemcomError(f"data.path = {path}: there is no such file: give the path of an HDF5 file")


def _check_radio(config: IsacConfig) -> None:
    """Raises SemcomError for a carrier that can't work: its grid, its channel, packets too large for it."""
    if not uses_a_channel(config.link):
        return
    grid, step_s = ResourceGrid(config.grid), config.step_s
    check_link(config.link, grid, step_s)
    bits = 0
    with suppress(SemcomError):
        # Some codecs know it only when they are fitted.
        bits = make_codec(config.codec, config.model.camera_dim).max_payload_bits()
    if bits:
        check_packet(config.link, grid, step_s, HEADER_BITS + 8 * -(-bits // 8), "inpainting")
    for name in config.evaluation.loss_methods:
        if METHODS[name].frames == "jpeg" and isinstance(config.data, GeneratedData):
            room, told = config.data.room, config.jpeg
            size = room.frame_height_px, room.frame_width_px
            codec = JpegCodec(*size, told.quality, told.downscale, told.container)
            check_packet(config.link, grid, step_s, HEADER_BITS + 8 * codec.max_payload_bytes(), name)
    num_steps = config.data.room.num_steps if isinstance(config.data, GeneratedData) else 1
    check_channel(config.channel, grid, num_steps, step_s)


TINY = IsacConfig(
    collaboration=CollaborationConfig(num_clients=4),
    data=GeneratedData(
        room=RoomConfig(
            world="analytic", num_sequences=12, num_steps=10, num_receivers=4, num_subcarriers=8,
            frame_height_px=32, frame_width_px=48, samples_per_px=1, max_pedestrians=2,
        )
    ),
    split=SplitConfig(validation_share=0.25, test_share=0.25),
    model=ModelConfig(
        camera_dim=12, receiver_dim=4, width=8, receiver_hidden_dim=16, predictor_dim=16,
        num_lags=2, head_dim=32,
    ),
    training=TrainingConfig(
        num_steps=15, num_steps_predictor=15, num_steps_head=15, num_steps_decoder=10, batch_size=16,
        num_windows=32,
    ),
    evaluation=EvaluationConfig(
        outage_step=2, erasures=(0.0, 0.3), num_receivers=(0, 4), codecs=("uniform-4",), qualities=(5,),
        downscales=(1,), containers=("scan", "file"), missing=("none", "camera-1"),
        loss_methods=("inpainting", "last-value"), receiver_methods=("inpainting",),
    ),
)  # fmt: skip
PAPER = IsacConfig(
    data=GeneratedData(
        room=RoomConfig(
            length_m=5.8, width_m=3.5, furniture=(Furniture(centre_m=(2.9, 1.75), size_m=(0.1, 1.9, 2.1)),),
            num_sequences=300, num_steps=30, interval_s=0.2, frame_height_px=224, frame_width_px=224,
            num_subcarriers=64, max_pedestrians=2,
        )
    ),
    model=ModelConfig(camera_dim=256, receiver_dim=32, width=64, predictor_dim=1024, head_dim=512),
    training=TrainingConfig(
        num_steps=20_000, num_steps_predictor=20_000, num_steps_head=5_000, num_steps_decoder=10_000,
        batch_size=128,
    ),
    evaluation=EvaluationConfig(containers=("scan", "file")),
)  # fmt: skip
