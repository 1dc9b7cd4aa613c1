"""Single snapshots of a uniform linear array: noisy observations, views of some antennas, what they tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

from semcom.contracts import SemcomError
from semcom.rng import Streams

NUM_ANGLES = 512
"""Points of a spatial spectrum over a phase step of -pi to pi; a peak is interpolated between them."""

POWER_FLOOR = 0.3
"""Share of the noise's power that is added to a user's own before the logarithm."""

FEATURE_DIM = 5

_TINY = 1e-9


class SnapshotConfig(BaseModel):
    """What is observed of each channel: nothing but itself, or so many noisy copies."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    snr_db: float | None = Field(
        None,
        ge=-30,
        le=60,
        description="mean power over all users and antennas over the noise's; none: clean",
    )
    num_averages: int = Field(10, ge=1, le=1000, description="noisy observations of a channel, if noisy")


@dataclass(frozen=True)
class Snapshots:
    """Observations of N channels: samples complex64 [N, S, M], in which S copies differ by noise (or tone).

    The mean of |h|^2 over everything is 1 without its noise; noise_power is what the noise adds to it.
    """

    samples: torch.Tensor
    noise_power: float

    def __len__(self) -> int:
        return len(self.samples)

    def moments(self) -> torch.Tensor:
        """Returns the sample second moments R = 1/S sum_s y_s y_s^H, complex64 [N, M, M]."""
        return torch.einsum("nsm,nsk->nmk", self.samples, self.samples.conj()) / self.samples.shape[1]


def observe(csi: torch.Tensor, config: SnapshotConfig, seed: int) -> Snapshots:
    """Observes channels of one linear array: y = h / rms(h) + sqrt(noise_power) w, w ~ CN(0, 1).

    csi: complex [N, 1, M, F], tones counted as further observations. noise_power = 10^(-snr_db / 10): of all
    users the same noise, set by the mean of their powers.
    Raises SemcomError for several arrays, fewer than four antennas, values that are not finite, or no power.
    """
    if csi.dim() != 4 or csi.shape[1] != 1 or csi.shape[2] < 4:
        raise SemcomError(
            f"snapshots take CSI [N, 1, M, F] of one linear array, M of 4 or more, got {tuple(csi.shape)}"
        )
    clean = csi[:, 0].transpose(1, 2).to(torch.complex128)
    power = float(clean.abs().square().mean())
    if not math.isfinite(power) or power == 0:
        raise SemcomError(f"snapshots take CSI that is finite and not all zero, its mean power is {power}")
    clean = clean / math.sqrt(power)
    if config.snr_db is None:
        return Snapshots(clean.to(torch.complex64), 0.0)
    noise_power = 10 ** (-config.snr_db / 10)
    copies = clean.repeat(1, config.num_averages, 1)
    noise = Streams(seed).numpy_generator("snapshot-noise").standard_normal((*copies.shape, 2))
    noisy = copies + math.sqrt(noise_power / 2) * torch.view_as_complex(torch.from_numpy(noise))
    return Snapshots(noisy.to(torch.complex64), noise_power)


def draw_views(
    num_antennas: int, num_context: int, num_target: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws two disjoint sets of antennas, uniformly: indices int64 [num_context] and [num_target], sorted.

    Raises SemcomError if the array has not that many.
    """
    if num_context + num_target > num_antennas:
        raise SemcomError(
            f"views of {num_context} and {num_target} antennas don't fit into an array of {num_antennas}"
        )
    order = torch.randperm(num_antennas, generator=generator)
    return order[:num_context].sort().values, order[num_context:][:num_target].sort().values


def describe_view(moments: torch.Tensor, antennas: torch.Tensor, noise_power: float) -> torch.Tensor:
    """Describes what the antennas [V] of a linear array see: moments [N, M, M] to features [N, FEATURE_DIM].

    b(psi) = 1/V sum_(m, k in view) R_mk e^(-i (m - k) psi) is the spatial spectrum, psi its highest place, P
    the mean power of the view's antennas, both less the noise's. Features:

    0, 1: sine and cosine of the direction off broadside, psi = -pi sin(theta) at spacings of half a
    wavelength (an array doesn't tell front from back: the front is taken).
    2: log(P + POWER_FLOOR noise_power).
    3: w log(b(psi) / (V P)), the share of the power that comes from there; w = P / (P + noise_power).
    4: w times the entropy, in nats, of b at psi + 2 pi k / M, k = 0 .. M - 1, scaled to a sum of 1.
    """
    num_antennas, size = moments.shape[-1], len(antennas)
    view = moments[:, antennas][:, :, antennas]
    lags = (antennas[:, None] - antennas[None, :]).flatten() % NUM_ANGLES
    by_lag = torch.zeros(len(view), NUM_ANGLES, dtype=view.dtype)
    by_lag.index_add_(1, lags, view.flatten(1))
    spectrum = torch.fft.fft(by_lag, dim=1).real / size
    index = spectrum.argmax(dim=1, keepdim=True)
    left, peak, right = (spectrum.gather(1, (index + shift) % NUM_ANGLES) for shift in (-1, 0, 1))
    # The vertex of the parabola through the highest point and its neighbours.
    bend = (left - 2 * peak + right).clamp(max=-_TINY)
    psi = (index + 0.5 * (left - right) / bend) * (2 * math.pi / NUM_ANGLES)
    sine = 1 - torch.remainder(psi / math.pi + 1, 2)
    cosine = (1 - sine.square()).clamp(min=0).sqrt()
    floor = POWER_FLOOR * noise_power + _TINY
    power = functional.relu(view.diagonal(dim1=1, dim2=2).real.mean(dim=1, keepdim=True) - noise_power)
    share = (functional.relu(peak - noise_power) + floor) / (size * (power + floor))
    steps = (torch.arange(num_antennas) * (NUM_ANGLES / num_antennas)).round().long()
    beams = functional.relu(spectrum.gather(1, (index + steps) % NUM_ANGLES) - noise_power) + floor
    beams = beams / beams.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(beams).sum(dim=1, keepdim=True)
    weight = power / (power + noise_power + _TINY)
    features = (sine, cosine, (power + floor).log(), weight * share.log(), weight * entropy)
    return torch.cat(features, dim=1).float()
