"""The charting scenario's configuration and its presets."""

from __future__ import annotations

from contextlib import suppress
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
from channels.csi_scene import CsiSceneConfig, check_csi_scene
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryConfig
from channels.links.analog import AnalogConfig
from channels.links.erasure import ErasureConfig
from nodes.training.collaboration import CollaborationConfig
from scenarios.charting.data import ObservationConfig, SplitConfig, VelocityConfig
from scenarios.charting.features import FeatureConfig
from scenarios.charting.lstm import LstmConfig
from scenarios.charting.methods import CHARTS, FORECASTS, OVER_THE_AIR
from scenarios.charting.models import ModelConfig
from scenarios.charting.sizes import check_sizes
from scenarios.charting.snapshot_baselines import BASELINES
from scenarios.charting.snapshot_training import SnapshotTrainingConfig
from scenarios.charting.task import TrainingConfig, TrainingInputs
from scenarios.recorded import RecordedData
from scenarios.splits import cut_trajectories
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.names import codec_config
from semcom.contracts import SemcomError
from semcom.packets import HEADER_BITS

# Of recorded data the interval is known only when they are read; the radio is checked for this one before.
_REPORT_INTERVAL_S = 0.05

Probability = Annotated[float, Field(ge=0, le=1)]
LookAhead = Annotated[float, Field(gt=0, le=600)]
Share = Annotated[float, Field(ge=0, le=10)]


class RayTracedData(BaseModel):
    """Users on trajectories through a scene of Sionna RT; each seed has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["ray-traced"] = "ray-traced"
    scene: CsiSceneConfig = CsiSceneConfig(radius_m=40.0, num_trajectories=70, num_steps=80)


DataConfig = Annotated[RayTracedData | RecordedData, Field(discriminator="kind")]


class EvaluationConfig(BaseModel):
    """Which results are made, at which operating points."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    charts: tuple[str, ...] = Field(tuple(CHARTS), description="charts compared")
    forecasts: tuple[str, ...] = Field(tuple(FORECASTS), description="forecasts compared")
    look_aheads_s: tuple[LookAhead, ...] = Field(
        (0.2, 0.6, 1.0, 2.0, 4.0), min_length=1, description="times that are looked ahead"
    )
    num_history: int = Field(
        16, ge=2, le=10_000, description="positions before the first from which forecasts start"
    )
    sum_rate_snr_db: float = Field(10.0, ge=-50, le=80, description="SNR of the sum rate, over one antenna")
    velocity_noise_shares: tuple[Share, ...] = Field(
        (0.1, 0.2, 0.5),
        description="errors of the velocity, as a share of the speed, that w-jepa is tried with",
    )
    without_velocity: bool = Field(True, description="tries w-jepa without any velocity, too")
    codecs: tuple[str, ...] = Field(
        ("entropy-1", "entropy-2", "entropy-3", "uniform-4", "uniform-6", "uniform-8"),
        description="codecs of the embedding in the rate result",
    )
    csi_codecs: tuple[str, ...] = Field(
        (
            "uniform-2",
            "uniform-4",
            "klt-8mean",
            "klt-32mean",
            "klt-128mean",
            "klt-256mean",
            "klt-512mean",
        ),
        description="codecs of the CSI in the rate result: quantised, and transform coded (klt)",
    )
    feature_codecs: tuple[str, ...] = Field(
        ("klt-8mean", "klt-32mean", "klt-128mean", "klt-256mean"),
        description="codecs of phase-free features in the rate result",
    )
    erasures: tuple[Probability, ...] = Field(
        (0.0, 0.1, 0.3, 0.5, 0.8), description="erasure probabilities in the loss result"
    )
    loss_methods: tuple[str, ...] = Field(("w-jepa", "hold-last"), description="methods that meet erasures")
    group_size: int = Field(256, ge=1, description="devices batched together; part of the result's identity")


class SnapshotsConfig(BaseModel):
    """What is made of recorded data without a time axis: charts of single snapshots of one linear array."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    methods: tuple[str, ...] = Field(("w-jepa", *BASELINES), description="charts compared")
    clean: bool = Field(True, description="charts the CSI as it is in the file")
    snr_db: tuple[Annotated[float, Field(ge=-30, le=60)], ...] = Field(
        (0.0,), description="SNRs at which noise is added: mean power over all users over the noise's"
    )
    num_averages: int = Field(10, ge=1, le=1000, description="noisy observations of each channel")
    codecs: tuple[str, ...] = Field(
        ("uniform-4", "uniform-8"), description="codecs of the embedding of w-jepa"
    )
    training: SnapshotTrainingConfig = SnapshotTrainingConfig()


class ChartingConfig(BaseModel):
    """Everything that the charting scenario can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: DataConfig = RayTracedData()
    observation: ObservationConfig = ObservationConfig()
    velocity: VelocityConfig = VelocityConfig()
    split: SplitConfig = SplitConfig()
    features: FeatureConfig = FeatureConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    lstm: LstmConfig = LstmConfig()
    snapshot: SnapshotsConfig = SnapshotsConfig()
    sender: Literal["array", "user"] = Field(
        "array",
        description="who reports: each array what it hears of a user, or the user what all arrays see",
    )
    codec: CodecConfig = CodecConfig(kind="uniform", bits=4)
    link: LinkConfig = ErasureConfig(probability=0.0)
    channel: ChannelConfig = IndoorFactoryConfig()
    grid: GridConfig = GridConfig()
    collaboration: CollaborationConfig = CollaborationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def report_interval_s(self) -> float:
        """Time between two reports of an array on a user: the sampling interval of the data, if it is set."""
        return self.data.scene.interval_s if isinstance(self.data, RayTracedData) else _REPORT_INTERVAL_S

    def training_inputs(self) -> TrainingInputs:
        """Returns the parts that trained weights depend on, besides the data."""
        return TrainingInputs(self.features, self.model, self.training)


def check(config: ChartingConfig) -> None:
    """Raises SemcomError for what one field alone doesn't show: unknown names, radios that can't work."""
    told = config.evaluation
    for key, names, known in (
        ("charts", told.charts, CHARTS),
        ("forecasts", told.forecasts, FORECASTS),
        ("loss_methods", told.loss_methods, OVER_THE_AIR),
    ):
        for name in names:
            if name not in known:
                raise SemcomError(f"evaluation.{key} holds {name!r}: it takes {', '.join(known)}")
    for name in config.snapshot.methods:
        if name not in ("w-jepa", *BASELINES):
            raise SemcomError(f"snapshot.methods holds {name!r}: it takes w-jepa, {', '.join(BASELINES)}")
    for name in (*config.snapshot.codecs, *told.codecs, *told.csi_codecs, *told.feature_codecs):
        codec = codec_config(name)
        if codec.weighting != "none":
            raise SemcomError(f"codec {name!r} weighs errors by a task, which charting doesn't offer")
        if codec.kind == "analog":
            raise SemcomError(f"codec {name!r} sends no bits to be counted: name one that does")
    if isinstance(config.link, AnalogConfig) != (config.codec.kind == "analog"):
        raise SemcomError(
            f"link.kind = {config.link.kind} and codec.kind = {config.codec.kind} don't go together: "
            "the link analog and the codec analog need each other"
        )
    if config.codec.weighting != "none":
        raise SemcomError("codec.weighting = task is not offered by charting: leave it at none")
    if isinstance(config.data, RayTracedData):
        scene = config.data.scene
        check_csi_scene(scene)
        if scene.positions_path is None:
            one = cut_trajectories(np.zeros(scene.num_steps, dtype=np.int64), config.split.segment_steps)
            check_sizes(config, len(one) * scene.num_trajectories, one.shape[1], scene.interval_s)
    _check_radio(config)


def _check_radio(config: ChartingConfig) -> None:
    """Raises SemcomError for a carrier that can't work: its grid, its channel, packets too large for it."""
    if not uses_a_channel(config.link):
        return
    grid, step_s = ResourceGrid(config.grid), config.report_interval_s
    check_link(config.link, grid, step_s)
    scene = config.data.scene if isinstance(config.data, RayTracedData) else None
    num_arrays = scene.num_arrays if scene and config.sender == "user" else 1
    bits = 0
    with suppress(SemcomError):
        # Some codecs know it only when they are fitted.
        bits = make_codec(config.codec, num_arrays * config.model.embedding_dim).max_payload_bits()
    if bits:
        check_packet(config.link, grid, step_s, HEADER_BITS + 8 * -(-bits // 8), "w-jepa")
    num_steps = config.split.segment_steps or (scene.num_steps if scene else 1)
    check_channel(config.channel, grid, num_steps, step_s)


TINY = ChartingConfig(
    collaboration=CollaborationConfig(num_clients=4),
    data=RayTracedData(
        scene=CsiSceneConfig(
            scene="street-canyon", num_arrays=2, num_subcarriers=16, radius_m=15.0, num_trajectories=10,
            num_steps=24, num_rays=1000, max_depth=1, diffraction=False,
        )
    ),
    features=FeatureConfig(num_taps=8, num_components=16),
    model=ModelConfig(embedding_dim=3, hidden_dim=16, head_dim=16, predictor_dim=16),
    training=TrainingConfig(
        num_steps=60, num_steps_predictor=30, num_steps_baseline=60, batch_size=8, num_pairs=16,
        rollout_steps=4, num_starts=2,
        num_dissimilarity_points=100,
    ),
    lstm=LstmConfig(hidden_dim=16, num_steps=60),
    evaluation=EvaluationConfig(
        look_aheads_s=(0.2, 1.0), num_history=4, velocity_noise_shares=(0.2,), codecs=("uniform-4",),
        csi_codecs=("klt-64mean",), feature_codecs=("klt-64mean",), erasures=(0.3,),
    ),
)  # fmt: skip
PAPER = ChartingConfig(
    data=RayTracedData(scene=CsiSceneConfig(num_trajectories=400, num_rays=100_000, num_subcarriers=256)),
    model=ModelConfig(embedding_dim=16, hidden_dim=256, head_dim=256, predictor_dim=256),
    training=TrainingConfig(num_steps=20_000, num_steps_baseline=20_000, batch_size=64, num_pairs=512),
)
