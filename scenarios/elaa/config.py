"""The ELAA scenario's configuration and its presets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
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
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryConfig
from channels.links.analog import AnalogConfig
from channels.links.erasure import ErasureConfig
from channels.near_field import NearFieldConfig, check_near_field
from channels.visibility import BlockVisibility, VisibilityConfig, draw_visibility
from nodes.training.collaboration import CollaborationConfig
from scenarios.elaa.bottleneck import BottleneckConfig
from scenarios.elaa.data import DataConfig, visibility_of
from scenarios.elaa.examples import TRAINING_SHARES, ExampleConfig
from scenarios.elaa.limits import check_band, check_paths, check_polar, check_shares
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import ModelConfig
from scenarios.elaa.patches import Patches
from scenarios.elaa.region_detection import DETECTED_SIZE
from scenarios.elaa.reports import report_of
from scenarios.elaa.task import TrainingConfig
from scenarios.elaa.vocabulary import BAND, ESTIMATES, ESTIMATORS, FEEDBACKS, FORECASTERS, FRONTHAUL, Method
from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.names import codec_config
from semcom.contracts import SemcomError
from semcom.packets import HEADER_BITS
from semcom.rng import Streams

Share = Annotated[float, Field(gt=0, le=1)]
Decibels = Annotated[float, Field(ge=-40, le=60)]


def _classical(methods: Mapping[str, Method]) -> tuple[str, ...]:
    return tuple(name for name, method in methods.items() if not method.is_learned)


Axes = Mapping[str, float | int | str]
"""What an operating point is at, by name."""


class EvaluationConfig(BaseModel):
    """Which results are made, at which operating points."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shares: tuple[Share, ...] = Field((1.0, 0.75, 0.5, 0.25), description="visible shares of the array")
    snrs_db: tuple[Decibels, ...] = Field((0.0, 10.0, 20.0), description="SNRs of a visible element's pilot")
    methods: tuple[str, ...] = Field(tuple(ESTIMATORS), description="estimators compared at each of these")
    unknown_methods: tuple[str, ...] = Field(
        ("lmmse", "polar-omp", "nomp-shrink", "nomp-bound-shrink", "elaa-jepa", "hybrid"),
        description="estimators compared where the mask is not known, and detected first",
    )
    unknown_shares: tuple[Share, ...] = Field((0.5, 0.25), description="visible shares where it is not known")
    unknown_snr_db: Decibels = Field(10.0, description="SNR where the mask is not known")
    noisy_targets_snr_db: Decibels | None = Field(
        None, description="SNR of training channels in the result `noisy`; without it there is none"
    )
    noisy_methods: tuple[str, ...] = Field(
        ("elaa-jepa", "hybrid"), description="learned estimators that are trained on noisy channels too"
    )
    array_sizes: tuple[Annotated[int, Field(ge=16, le=4096)], ...] = Field(
        (64, 128, 256, 512), description="elements of the arrays in the size result"
    )
    size_methods: tuple[str, ...] = Field(
        ("ls", "lmmse", "nomp-shrink", "nomp-bound-shrink"), description="estimators of the size result"
    )
    size_share: Share = Field(0.5, description="visible share in the size result")
    size_snr_db: Decibels = Field(10.0, description="SNR in the size result")
    look_aheads: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = Field(
        (0, 1, 2, 4, 8), description="snapshots ahead that are predicted"
    )
    num_history: int = Field(3, ge=2, le=16, description="snapshots that predictions look at")
    forecasters: tuple[str, ...] = Field(_classical(FORECASTERS), description="predictors over time")
    ahead_shares: tuple[Share, ...] = Field((1.0, 0.5), description="visible shares in the look-ahead result")
    ahead_snr_db: Decibels = Field(10.0, description="SNR in the look-ahead result")
    num_subcarriers: int = Field(
        8, ge=2, le=256, description="subcarriers of array.bandwidth_hz in the band result"
    )
    band_methods: tuple[str, ...] = Field((), description="estimators of several subcarriers together")
    band_shares: tuple[Share, ...] = Field((1.0, 0.5, 0.25), description="visible shares in the band result")
    band_snr_db: Decibels = Field(10.0, description="SNR in the band result")
    feedback_bits: tuple[Annotated[int, Field(ge=24, le=65_536)], ...] = Field(
        (32, 128, 512), description="coded bits of an estimate in the feedback result"
    )
    feedbacks: tuple[str, ...] = Field(
        ("klt-dechirped", "dft-codebook", "nomp-parameters"), description="ways to code an estimate"
    )
    feedback_shares: tuple[Share, ...] = Field((1.0,), description="visible shares in the feedback result")
    feedback_snr_db: Decibels = Field(20.0, description="SNR in the feedback result")
    air_methods: tuple[str, ...] = Field(_classical(FRONTHAUL), description="reports over the fronthaul")
    air_codecs: tuple[str, ...] = Field(
        ("klt-24mean", "klt-48mean", "uniform-4"), description="codecs of the reports where no packet is lost"
    )
    erasures: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.1, 0.3), description="erasure probabilities of every report"
    )
    air_share: Share = Field(0.75, description="visible share over the fronthaul")
    air_snr_db: Decibels = Field(10.0, description="SNR over the fronthaul")
    group_size: int = Field(1024, ge=1, description="devices batched together; part of the result's identity")


class ElaaConfig(BaseModel):
    """Everything that the ELAA scenario can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    array: NearFieldConfig = NearFieldConfig()
    visibility: VisibilityConfig = BlockVisibility()
    visible_share: Share = Field(0.5, description="visible share of the array in a sweep")
    snr_db: Decibels = Field(10.0, description="SNR of a visible element's pilot in a sweep")
    data: DataConfig = DataConfig()
    examples: ExampleConfig = ExampleConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    bottleneck: BottleneckConfig = BottleneckConfig()
    training_shares: tuple[Share, ...] = Field(
        TRAINING_SHARES,
        min_length=1,
        description="visible shares of training channels; one that is named twice is drawn twice as often",
    )
    subarray_size: int = Field(16, ge=1, le=4096, description="elements of a sub-array's processing unit")
    report_interval_s: float = Field(5e-3, gt=0, le=10, description="time from report to report")
    codec: CodecConfig = CodecConfig(kind="uniform", bits=4)
    link: LinkConfig = ErasureConfig(probability=0.0)
    channel: ChannelConfig = IndoorFactoryConfig()
    grid: GridConfig = GridConfig()
    collaboration: CollaborationConfig = CollaborationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def check(config: ElaaConfig) -> None:
    """Raises SemcomError for what one field alone doesn't show: unknown names, sizes that don't fit."""
    told = config.evaluation
    for key, values in told:
        for value in values if isinstance(values, tuple) else ():
            if values.count(value) > 1:
                raise SemcomError(f"evaluation.{key} holds {value!r} twice: name it once")
    for key, names, known in (
        ("methods", told.methods, ESTIMATORS),
        ("unknown_methods", told.unknown_methods, ESTIMATORS),
        ("size_methods", told.size_methods, ESTIMATORS),
        ("noisy_methods", told.noisy_methods, _learned()),
        ("forecasters", told.forecasters, FORECASTERS),
        ("band_methods", told.band_methods, BAND),
        ("feedbacks", told.feedbacks, FEEDBACKS),
        ("air_methods", told.air_methods, FRONTHAUL),
    ):
        for name in names:
            if name not in known:
                raise SemcomError(f"evaluation.{key} holds {name!r}: it takes {', '.join(known)}")
    check_near_field(config.array)
    if config.array.num_elements < 2:
        raise SemcomError("array.num_elements = 1: a part of an array takes two elements or more, take 256")
    LineArray.of(config.array)
    if config.array.num_subcarriers != 1 or config.array.num_snapshots != 1:
        raise SemcomError(
            "array.num_subcarriers and array.num_snapshots have to be 1: elaa takes them from "
            "evaluation.num_subcarriers, evaluation.num_history and evaluation.look_aheads"
        )
    Patches(config.array, config.model.patch_size)
    for size in told.array_sizes:
        check_near_field(sized(config.array, size))
        if any(ESTIMATORS[name].is_learned for name in told.size_methods):
            try:
                Patches(sized(config.array, size), config.model.patch_size)
            except SemcomError as error:
                raise SemcomError(f"evaluation.array_sizes: {error}") from None
    check_near_field(moving(config))
    if config.examples.min_snr_db > config.examples.max_snr_db:
        raise SemcomError(
            f"examples.min_snr_db = {config.examples.min_snr_db:g} is above examples.max_snr_db = "
            f"{config.examples.max_snr_db:g}: lower it"
        )
    for key in ("dim", "predictor_dim", "combiner_dim"):
        if (width := getattr(config.model, key)) % config.model.num_heads:
            raise SemcomError(
                f"model.{key} = {width} can't be divided among model.num_heads = {config.model.num_heads}: "
                "take a multiple"
            )
        if width % 2:
            raise SemcomError(f"model.{key} = {width} is odd: positions need an even number, take another")
    if config.bottleneck.last_step >= config.bottleneck.first_step:
        raise SemcomError(
            f"bottleneck.last_step = {config.bottleneck.last_step:g} is not below bottleneck.first_step = "
            f"{config.bottleneck.first_step:g}, the coarsest: lower it"
        )
    if isinstance(config.visibility, BlockVisibility):
        size = config.visibility.subarray_size
        for elements in (config.array.num_elements, *told.array_sizes):
            if elements % size:
                raise SemcomError(
                    f"visibility.subarray_size = {size} doesn't divide {elements} elements: change it, "
                    "array.num_elements or evaluation.array_sizes"
                )
    for elements in (config.array.num_elements, *told.array_sizes):
        check_paths(sized(config.array, elements))
    if "polar-omp" in told.methods:
        check_polar("polar-omp in evaluation.methods", config.array)
    # Nothing is named by the shares of training, so that they may be any.
    trained = {config.array.num_elements}
    if any(ESTIMATORS[name].is_learned for name in told.size_methods):
        trained |= set(told.array_sizes)
    for size, share in itertools.product(sorted(trained), config.training_shares):
        at_share = visibility_of(config.visibility, share)
        generator = Streams(0).torch_generator("elaa-check")
        try:
            draw_visibility(at_share, sized(config.array, size), 1, generator)
        except SemcomError as error:
            raise SemcomError(f"training_shares, at {size} elements: {error}") from None
    _check_fronthaul(config)


def check_results(config: ElaaConfig) -> None:
    """Raises SemcomError for what the results of a run ask for, and a sweep does not: shares, searches."""
    told, visibility, array = config.evaluation, config.visibility, config.array
    for key, shares, methods in (
        ("shares", told.shares, told.methods),
        ("unknown_shares", told.unknown_shares, told.unknown_methods),
        ("ahead_shares", told.ahead_shares, told.forecasters),
        ("band_shares", told.band_shares, told.band_methods),
        ("air_share", (told.air_share,), told.air_methods),
        ("feedback_shares", told.feedback_shares, told.feedbacks),
    ):
        if methods:
            check_shares(visibility, config.array, f"evaluation.{key}", shares)
    for size in told.array_sizes if told.size_methods else ():
        check_shares(visibility, sized(config.array, size), "evaluation.size_share", (told.size_share,))
    if told.unknown_methods and told.unknown_shares:
        check_polar("evaluation.unknown_shares, whose mask is detected,", array)
        if array.num_elements % (size := getattr(config.visibility, "subarray_size", DETECTED_SIZE)):
            raise SemcomError(
                f"evaluation.unknown_shares: masks are detected by sub-arrays of {size}, which don't divide "
                f"array.num_elements = {array.num_elements}: change it, or set evaluation.unknown_methods=[]"
            )
    if "s-omp" in told.forecasters and told.look_aheads and told.ahead_shares:
        check_polar("s-omp in evaluation.forecasters", array)
    if told.band_methods and told.band_shares:
        check_band(told.band_methods, banded(config), config.examples.num_examples)
    if "polar-omp" in told.size_methods:
        for elements in told.array_sizes:
            check_polar("polar-omp in evaluation.size_methods", sized(array, elements))


def _learned() -> list[str]:
    return [name for name, method in ESTIMATORS.items() if method.is_learned]


def _check_fronthaul(config: ElaaConfig) -> None:
    """Raises SemcomError for reports that can't be made or sent."""
    told = config.evaluation
    if config.array.num_elements % config.subarray_size:
        raise SemcomError(
            f"subarray_size = {config.subarray_size} doesn't divide array.num_elements = "
            f"{config.array.num_elements}: take a divisor"
        )
    if isinstance(config.link, AnalogConfig) or config.codec.kind == "analog":
        raise SemcomError("link analog and codec analog are not offered by elaa: reports are packets of bits")
    for key, codec in (
        ("codec", config.codec),
        *(("evaluation.air_codecs", _named(n)) for n in told.air_codecs),
    ):
        if codec.weighting != "none" or codec.kind == "analog":
            raise SemcomError(f"{key}: errors weighted by a task and analog symbols are not offered by elaa")
    if not uses_a_channel(config.link):
        return
    grid, step_s = ResourceGrid(config.grid), config.report_interval_s
    check_link(config.link, grid, step_s)
    for dim in {report_of(name).dim(config.subarray_size) for name in told.air_methods}:
        bits = 0
        with suppress(SemcomError):
            # Some codecs know it only when they are fitted.
            bits = make_codec(config.codec, dim).max_payload_bits()
        if bits:
            check_packet(config.link, grid, step_s, HEADER_BITS + 8 * -(-bits // 8), "a sub-array")
    check_channel(config.channel, grid, 1, step_s)


def _named(name: str) -> CodecConfig:
    try:
        return codec_config(name)
    except SemcomError as error:
        raise SemcomError(f"evaluation.air_codecs: {error}") from None


def sized(array: NearFieldConfig, num_elements: int) -> NearFieldConfig:
    """The array with another number of elements."""
    return array.model_copy(update={"num_elements": num_elements})


def trained_for(config: ElaaConfig, result: str, axes: Axes) -> ElaaConfig:
    """The configuration that a result's models are trained with: on noisy channels, at another size."""
    if result == "noisy":
        told = config.examples.model_copy(update={"target_snr_db": config.evaluation.noisy_targets_snr_db})
        return config.model_copy(update={"examples": told})
    if result == "size":
        return config.model_copy(update={"array": sized(config.array, int(axes["num_elements"]))})
    return config


def measured_on(config: ElaaConfig, result: str) -> ElaaConfig:
    """The configuration that a result is measured with: all but estimates on fewer test channels."""
    if result in ESTIMATES:
        return config
    return config.model_copy(update={"data": config.data.of_others()})


def banded(config: ElaaConfig) -> NearFieldConfig:
    """The array with as many subcarriers as the band result has."""
    return config.array.model_copy(update={"num_subcarriers": config.evaluation.num_subcarriers})


def moving(config: ElaaConfig) -> NearFieldConfig:
    """The array with as many snapshots as the look-ahead result needs."""
    told = config.evaluation
    num = told.num_history + max(told.look_aheads, default=0)
    return config.array.model_copy(update={"num_snapshots": num})
