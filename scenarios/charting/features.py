"""What the encoders see of the CSI: delay taps, made independent of the phase, and their components."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

# Of the median power of a tap: fainter ones are noise, and have no phase to be told.
_POWER_FLOOR = 1e-3
# Of the first component's deviation: fainter components are not blown up to full scale.
_LEAST_DEVIATION = 0.03


class FeatureConfig(BaseModel):
    """How CSI becomes the vector that an array's encoder sees."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_taps: int = Field(32, ge=1, le=4096, description="delay taps kept, the earliest first")
    phase: Literal["invariant", "calibrated"] = Field(
        "invariant",
        description="invariant: products of antennas, tap by tap; calibrated: the taps themselves, turned so "
        "that the first antenna's strongest one is real",
    )
    num_components: int = Field(
        128, ge=1, le=4096, description="principal components of the features of an array"
    )


def delay_taps(csi: torch.Tensor, num_taps: int) -> torch.Tensor:
    """Turns CSI over subcarriers into delay taps: h_l = 1 / sqrt(F) sum_f H_f exp(j 2 pi f l / F).

    csi: complex64 [..., F], lowest subcarrier first; returns complex64 [..., min(num_taps, F)]. Tap l holds
    what arrives around the delay l / bandwidth; the carrier's place in the band only turns its phase.
    """
    return torch.fft.ifft(csi, norm="ortho")[..., :num_taps]


def antenna_products(taps: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Returns what an array sees, tap by tap, without its phase: products of antennas, summed by their lag.

    r_l(i, k) = sum_mn h_l(m + i, n + k) h_l(m, n)^*, for all lags that differ by more than their sign.
    taps: complex64 [..., M, L], the antennas in num_rows rows; returns complex64 [..., L, number of lags].
    """
    num_columns = taps.shape[-2] // num_rows
    grid = taps.unflatten(-2, (num_rows, num_columns))
    products = []
    for down in range(num_rows):
        for right in range(0 if down == 0 else 1 - num_columns, num_columns):
            ahead = grid[..., down:, max(right, 0) : num_columns + min(right, 0), :]
            behind = grid[..., : num_rows - down, max(-right, 0) : num_columns - max(right, 0), :]
            products.append((ahead * behind.conj()).sum(dim=(-3, -2)))
    return torch.stack(products, dim=-1)


class CsiFeatures(nn.Module):
    """Maps CSI [N, R, M, F] to features [N, R, num_components]: calibrated on training data, then fixed.

    With phase = invariant, products r of antennas (see `antenna_products`) are divided by sqrt(p + p_0), p
    the power of their tap: they grow as amplitudes do, which keeps faint taps visible. Real and imaginary
    parts are centred and projected on their principal components, array by array, scaled to unit deviation.
    """

    power: torch.Tensor
    mean: torch.Tensor
    projection: torch.Tensor

    def __init__(
        self, config: FeatureConfig, num_arrays: int, num_antennas: int, num_subcarriers: int, num_rows: int
    ) -> None:
        super().__init__()
        self.config = config
        self.num_rows, self.num_antennas = num_rows, num_antennas
        self.num_taps = num_taps = min(config.num_taps, num_subcarriers)
        num_columns = num_antennas // num_rows
        num_lags = num_columns + (num_rows - 1) * (2 * num_columns - 1)
        size = 2 * num_taps * (num_lags if config.phase == "invariant" else num_antennas)
        self.output_dim = min(config.num_components, size)
        self.register_buffer("power", torch.ones(num_arrays))
        self.register_buffer("mean", torch.zeros(num_arrays, size))
        self.register_buffer("projection", torch.zeros(num_arrays, size, self.output_dim))

    def taps_of(self, csi: torch.Tensor, array: int) -> torch.Tensor:
        """Returns the taps of one array's CSI [n, M, F], scaled to a median power of 1: [n, M, L]."""
        return delay_taps(csi, self.num_taps) / self.power[array].sqrt()

    def raw_of(self, csi: torch.Tensor, array: int) -> torch.Tensor:
        """Returns the features of one array's CSI [n, M, F] before they are projected, float32 [n, size]."""
        return self.raw_of_taps(self.taps_of(csi, array))

    def raw_of_taps(self, taps: torch.Tensor) -> torch.Tensor:
        """Returns the features of scaled taps, complex64 [..., M, L], not yet projected: [..., size]."""
        if self.config.phase == "calibrated":
            first = taps[..., 0, :]
            strongest = first.gather(-1, first.abs().argmax(dim=-1, keepdim=True))
            turned = taps * (strongest.conj() / strongest.abs().clamp_min(1e-20))[..., None]
            return torch.view_as_real(turned).flatten(-3)
        power = taps.abs().square().sum(dim=-2)
        products = antenna_products(taps, self.num_rows) / (power + _POWER_FLOOR).sqrt()[..., None]
        return torch.view_as_real(products).flatten(-3)

    @torch.no_grad()
    def calibrate(self, csi: torch.Tensor) -> None:
        """Learns scales, means and principal components from training CSI [N, R, M, F]."""
        taps = delay_taps(csi, self.config.num_taps)
        # Without noise most taps may be empty, and tell nothing of the others' scale.
        power = taps.abs().square().sum(dim=-2).transpose(0, 1).flatten(1)
        median = torch.stack(
            [row[row > 0].median() if (row > 0).any() else row.new_ones(()) for row in power]
        )
        self.power.copy_(median)
        raw = self.raw_of_taps(self.scaled_taps(csi))
        self.mean.copy_(raw.mean(dim=0))
        for array in range(raw.shape[1]):
            centred = (raw[:, array] - self.mean[array]).double()
            values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
            order = values.argsort(descending=True)[: self.output_dim]
            vectors = vectors[:, order]
            # An eigenvector's sign is arbitrary: the same data are to give the same features.
            vectors = vectors * torch.sign(vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)))
            deviation = values[order].clamp_min(0).sqrt()
            least = (_LEAST_DEVIATION * deviation[0]).clamp_min(1e-12)
            self.projection[array].copy_(vectors / torch.maximum(deviation, least))

    def forward(self, csi: torch.Tensor) -> torch.Tensor:
        """Maps CSI, complex64 [N, R, M, F], to features, float32 [N, R, output_dim]."""
        return self.of_taps(self.scaled_taps(csi))

    def scaled_taps(self, csi: torch.Tensor) -> torch.Tensor:
        """Returns the taps of CSI [..., R, M, F], scaled to a median power of 1 at each array."""
        return delay_taps(csi, self.num_taps) / self.power.sqrt()[:, None, None]

    def of_taps(self, taps: torch.Tensor) -> torch.Tensor:
        """Maps scaled taps, complex64 [N, R, M, L], to features, float32 [N, R, output_dim]."""
        centred = self.raw_of_taps(taps) - self.mean
        return torch.bmm(centred.transpose(0, 1), self.projection).transpose(0, 1)

    def project(self, raw: torch.Tensor, array: int) -> torch.Tensor:
        """Maps one array's features before projection, [n, size], to features [n, output_dim]."""
        return (raw - self.mean[array]) @ self.projection[array]
