"""What an array receives of a channel: noisy values at its visible elements, nothing at the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semcom.contracts import SemcomError


@dataclass(frozen=True)
class Observed:
    """Pilots of N channels at M elements.

    y: complex64 [N, M], 0 where hidden. visible: bool [N, M]. noise_var: float32 [N], that of an element.
    """

    y: torch.Tensor
    visible: torch.Tensor
    noise_var: torch.Tensor

    def __len__(self) -> int:
        """Number of channels N."""
        return len(self.y)

    def __getitem__(self, rows: slice | torch.Tensor) -> Observed:
        """Those of some rows: a slice, indices or a mask."""
        return Observed(self.y[rows], self.visible[rows], self.noise_var[rows])


def observe(
    h: torch.Tensor, visible: torch.Tensor, snr_db: float | torch.Tensor, generator: torch.Generator
) -> Observed:
    """Adds noise and hides what isn't visible: y = v (h + n), n ~ CN(0, 10^(-SNR / 10)).

    h: complex64 [N, M], of mean power 1, so that the SNR is one of a visible element; visible: bool [N, M];
    snr_db: one for all or float [N]. Raises SemcomError for shapes that don't match, an SNR that is not
    finite, a channel that is not, and a channel of which no element is visible.
    """
    if h.ndim != 2 or visible.shape != h.shape:
        raise SemcomError(
            f"channels {tuple(h.shape)} and visible elements {tuple(visible.shape)} don't match: both are "
            "[channels, elements]"
        )
    if not h.is_complex() or visible.dtype != torch.bool:
        raise SemcomError(
            f"channels of {h.dtype} and visible elements of {visible.dtype}: they have to be complex and bool"
        )
    level_db = torch.as_tensor(snr_db, dtype=torch.float64)
    if level_db.ndim > 1 or (level_db.ndim == 1 and len(level_db) != len(h)):
        raise SemcomError(f"SNRs {tuple(level_db.shape)} for {len(h)} channels: give one, or one for each")
    if not torch.isfinite(level_db).all():
        raise SemcomError("the SNR of a pilot has to be finite: take 40 dB or more where there is no noise")
    check_visible(visible)
    if not torch.isfinite(torch.view_as_real(h)).all():
        raise SemcomError("a channel to observe is not finite: look at what generated it")
    noise_var = (10 ** (-level_db / 10)).expand(len(h)).float()
    # Drawn for hidden elements as well, so that what one sees doesn't hang on what others see.
    noise = torch.randn(h.shape, dtype=torch.complex64, generator=generator) * noise_var.sqrt()[:, None]
    return Observed(torch.where(visible, h + noise, 0).to(torch.complex64), visible, noise_var.contiguous())


def check_visible(visible: torch.Tensor) -> None:
    """Raises SemcomError unless each channel has a visible element; visible: bool [N, M]."""
    blind = ~visible.any(dim=-1)
    if bool(blind.any()):
        row = int(blind.nonzero()[0, 0])
        raise SemcomError(
            f"channel {row} has no visible element ({int(blind.sum())} of {len(blind)}): an estimate "
            "needs one, so raise the visible share"
        )
