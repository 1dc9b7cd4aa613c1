"""How an operating point of the fronthaul becomes a cell: sub-arrays that report to a central unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from channels.catalogue import LinkConfig, make_link, shared_channel, uses_a_channel
from channels.grid import ResourceGrid
from channels.links.erasure import ErasureConfig
from nodes.contracts import CellSpec, Receiver, Sender, Shared
from nodes.process import one_thread
from nodes.schedulers import PeriodicConfig, RoundRobinConfig, SchedulerConfig
from scenarios.contracts import Point
from scenarios.elaa.bench import Bench
from scenarios.elaa.config import ElaaConfig
from scenarios.elaa.data import Cell
from scenarios.elaa.hybrid import HybridEstimator, tune_stacked
from scenarios.elaa.jobs import Trained
from scenarios.elaa.methods import (
    Embed,
    Estimate,
    FusingReceiver,
    Patch,
    PatchFusion,
    SubArraySender,
)
from scenarios.elaa.observations import Observed
from scenarios.elaa.reports import report_of
from scenarios.elaa.shrinking import tune_shrink
from scenarios.elaa.vocabulary import METHODS
from scenarios.elaa.world import SubArrayWorld
from semcom.codecs.catalogue import AnyCodec, CodecConfig, make_codec
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import FittedCodec, Link
from semcom.rng import Streams

if TYPE_CHECKING:
    from nodes.cluster import Cluster

Weights = Mapping[str, Mapping[str, torch.Tensor]]
NUM_STEPS = 1
_VERSION = 1


@dataclass(frozen=True)
class Setting:
    """An operating point over the fronthaul with everything filled in."""

    method: str
    seed: int
    codec: CodecConfig
    link: LinkConfig

    @property
    def key(self) -> str:
        """Names what senders and receivers need, among the shared objects."""
        return f"{self.method}/{self.seed}/{codec_name(self.codec)}/{self.loss:g}"

    @property
    def loss(self) -> float:
        """The share of reports that is lost, as far as it is known beforehand."""
        return self.link.probability if isinstance(self.link, ErasureConfig) else 0.0


def resolve(config: ElaaConfig, point: Point) -> Setting:
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


def air_bench(config: ElaaConfig, seed: int) -> Bench:
    """The channels that the fronthaul's users have."""
    told = config.evaluation
    return Bench(config.array, config.visibility, config.data, Cell(told.air_share, told.air_snr_db), seed)


class Estimator(Protocol):
    """Estimates channels complex64 [N, M] of what was observed."""

    def estimate(self, observed: Observed) -> torch.Tensor: ...


@dataclass(frozen=True)
class EstimateAtTheCentre:
    """Estimates from the patches that arrived, as estimators elsewhere do from what is visible.

    visible: bool [B, M], the mask, which the central unit knows as estimators elsewhere do: what a sub-array
    sends of hidden elements is no observation of zeros. noise_var: float32 [B].
    """

    estimator: Estimator
    visible: torch.Tensor
    noise_var: torch.Tensor

    def __call__(self, y: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """See methods.Estimate. Rows without anything known are 0."""
        known = known & self.visible
        h_hat = torch.zeros_like(y)
        some = known.any(dim=1)
        if bool(some.any()):
            h_hat[some] = self.estimator.estimate(
                Observed(torch.where(known, y, 0)[some], known[some], self.noise_var[some])
            )
        return h_hat


def zero_fill(y: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """What arrived, and zeros for what did not: see methods.Estimate."""
    return torch.where(known, y, 0)


def make_shared(
    config: ElaaConfig, settings: Sequence[Setting], weights: Mapping[Setting, Weights], cluster: Cluster
) -> dict[str, Any]:
    """Collects what the settings' senders, receivers and worlds need, by seed and codec.

    Codecs are fitted to the reports of validation channels, and classical estimators are tuned on these as
    they are when rounded, and lost where the link is known to lose them. weights: of each setting, the
    tensors of the models that its method needs, by their names.
    """
    shared: dict[str, Any] = {}
    for seed in dict.fromkeys(setting.seed for setting in settings):
        with one_thread():
            asked = air_bench(config, seed).asked
        shared[f"pilots/{seed}"] = {
            "y": asked.y[:, None],
            "visible": asked.visible[:, None],
            "noise_var": asked.noise_var[:, None],
        }
    by_key = {setting.key: (setting, weights.get(setting, {})) for setting in settings}
    sides = cluster.map(partial(_make_sides, config), list(by_key.values()))
    return shared | dict(zip(by_key, sides, strict=True))


def _make_sides(config: ElaaConfig, asked: tuple[Setting, Weights]) -> dict[str, Any]:
    """Makes what one setting's senders and receiver need."""
    setting, weights = asked
    size, told, bench = config.subarray_size, METHODS[setting.method], air_bench(config, setting.seed)
    report = report_of(setting.method)
    y, seen = bench.known.y.unflatten(1, (-1, size)), bench.known.visible.unflatten(1, (-1, size))
    sends = seen.any(dim=2)
    user, place = sends.nonzero(as_tuple=True)
    tokens = report.embed(Patch(y[sends], seen[sends], bench.known.noise_var[user], place))
    codec = make_codec(setting.codec, tokens.shape[1])
    if isinstance(codec, FittedCodec):
        codec.fit(tokens)
    codec = codec.eval()
    estimate: Estimate = zero_fill
    if setting.method != "raw-ls":
        rebuilt = torch.zeros_like(y)
        rebuilt[sends] = torch.where(seen[sends], report.rebuild(codec(tokens)), 0)
        # Coarse rounding takes noise away with the signal: what is left is measured, not added.
        truth = bench.validation.h.unflatten(1, (-1, size))
        noise_var = (rebuilt - truth)[seen].abs().square().mean()
        arrived = _arrived(sends, setting)[:, :, None].expand(seen.shape)
        known = (seen & arrived).flatten(1)
        y_rx = torch.where(known, rebuilt.flatten(1), 0)
        some = known.any(dim=1)
        heard = Observed(y_rx[some], known[some], noise_var.expand(int(some.sum())))
        estimator: Estimator
        if told.is_learned:
            where = f"the checkpoint of {told.model}, seed {setting.seed}"
            learned = Trained(config.model, config.array, weights[told.model], where).estimator(told.prefix)
            estimator = learned
            if isinstance(learned, HybridEstimator):
                # What learned from noisy channels has no others to be tuned on.
                target = replace(bench, target_snr_db=config.examples.target_snr_db).validation.h
                estimator = tune_stacked(learned, heard, target[some])
        else:
            estimator = tune_shrink(bench.nomp, heard, bench.validation.h[some])
        estimate = EstimateAtTheCentre(estimator, bench.asked.visible, noise_var.expand(len(bench.asked)))
    fuse = PatchFusion(report.rebuild, estimate)
    return {"codec": codec, "embed": report.embed, "fuse": fuse, "version": _VERSION}


def _arrived(sends: torch.Tensor, setting: Setting) -> torch.Tensor:
    """Which validation reports are not lost, bool [N, L]; all of them where they would all be."""
    generator = Streams(setting.seed).torch_generator("elaa-air-validation")
    arrived = sends & (torch.rand(sends.shape, generator=generator) >= setting.loss)
    return arrived if bool(arrived.any()) else sends


def make_cell(config: ElaaConfig, setting: Setting) -> CellSpec:
    """Describes the cell of one setting: the sub-arrays of all test users report at the same time."""
    streams = Streams(setting.seed)
    num_sub_arrays = config.array.num_elements // config.subarray_size
    num_devices = config.data.num_test * num_sub_arrays
    shares = uses_a_channel(setting.link)
    scheduler: SchedulerConfig = RoundRobinConfig() if shares else PeriodicConfig(interval_steps=1)
    radio = partial(
        shared_channel, config.channel, config.grid, num_devices, NUM_STEPS, config.report_interval_s, streams
    )
    return CellSpec(
        num_devices=num_devices,
        group_size=config.evaluation.group_size,
        streams=streams,
        scheduler=scheduler,
        make_world=partial(_make_world, setting, num_sub_arrays),
        make_sender=partial(_make_sender, setting),
        make_receiver=partial(_make_receiver, setting, config.data.num_test, num_sub_arrays),
        make_link=partial(_make_link, setting.link, config),
        make_channel=radio if shares else None,
    )


def _make_world(setting: Setting, num_sub_arrays: int, shared: Shared, devices: np.ndarray) -> SubArrayWorld:
    pilots: Mapping[str, torch.Tensor] = shared[f"pilots/{setting.seed}"]
    return SubArrayWorld(pilots["y"], pilots["visible"], pilots["noise_var"], devices, num_sub_arrays)


def _make_sender(setting: Setting, shared: Shared, devices: np.ndarray) -> Sender:
    parts = shared[setting.key]
    embed: Embed = parts["embed"]
    return SubArraySender(embed, parts["codec"], parts["version"])


def _make_receiver(setting: Setting, num_users: int, num_sub_arrays: int, shared: Shared) -> Receiver:
    parts = shared[setting.key]
    codec: AnyCodec = parts["codec"]
    return FusingReceiver(parts["fuse"], codec, parts["version"], num_users, num_sub_arrays)


def _make_link(link: LinkConfig, config: ElaaConfig) -> Link:
    return make_link(link, ResourceGrid(config.grid), config.report_interval_s, config.channel.tx_power_dbm)
