"""What encoders are shown: frames less their background, and CSI less what an empty room's would be."""

from __future__ import annotations

import torch
from torch import nn

# So much of a frame's brightness is taken as one unit.
_FRAME_SCALE = 0.15


class FrameNormaliser(nn.Module):
    """Takes a camera's background, the median of training frames, from its frames.

    background: float32 [C, 3, height, width], values from 0 to 1.
    """

    background: torch.Tensor

    def __init__(self, num_cameras: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("background", torch.zeros(num_cameras, 3, height, width))

    @torch.no_grad()
    def calibrate(self, frame: torch.Tensor) -> None:
        """Finds the background from training frames, uint8 [N, C, 3, height, width]."""
        self.background.copy_(frame.median(dim=0).values.float() / 255)

    def forward(self, frame: torch.Tensor, camera: int) -> torch.Tensor:
        """Maps frames of one camera, uint8 [n, 3, height, width], to what stands before its background."""
        return content_of(frame, self.background[camera])

    def frame_of(self, content: torch.Tensor, camera: int) -> torch.Tensor:
        """Puts what stands before the background back there: values about 0 to 1."""
        return self.background[camera] + _FRAME_SCALE * content


def content_of(frame: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """What stands before the background [...] of frames, uint8 [n, ...]: float32 of the same shape."""
    return frame.float().div_(255).sub_(background).div_(_FRAME_SCALE)


class CsiNormaliser(nn.Module):
    """Turns CSI into real numbers that say what changed in the room, and where from the delays.

    h is turned in phase until it fits the mean CSI m best, by <m, h> / |<m, h>|, since receivers don't know
    theirs. Of h and of the difference h - m the magnitudes of the first delay taps are taken, in dB: the
    inverse Fourier transform over the subcarriers under a Hann window, at half the spacing of their
    resolution. Phases are left out: they turn within millimetres, taps change within metres. Each number has
    mean 0 and deviation 1 over the training data. m is the leading eigenvector of the training CSI's
    covariance, by its mean strength, which no phase disturbs.
    """

    mean_csi: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    window: torch.Tensor

    def __init__(self, num_receivers: int, num_subcarriers: int, num_taps: int) -> None:
        super().__init__()
        self.num_taps = min(num_taps, 2 * num_subcarriers)
        self.output_dim = 2 * self.num_taps
        shape = (num_receivers, num_subcarriers)
        self.register_buffer("mean_csi", torch.zeros(*shape, dtype=torch.complex64))
        self.register_buffer("mean", torch.zeros(num_receivers, self.output_dim))
        self.register_buffer("deviation", torch.ones(num_receivers, self.output_dim))
        window = torch.hann_window(num_subcarriers + 2, periodic=False)[1:-1]
        self.register_buffer("window", window / window.sum(), persistent=False)

    @torch.no_grad()
    def calibrate(self, csi: torch.Tensor) -> None:
        """Fits to training CSI, complex64 [N, R, F]."""
        if not csi.shape[1]:
            return
        rows = csi.transpose(0, 1).to(torch.complex128)
        strength, vectors = torch.linalg.eigh(rows.mT @ rows.conj() / max(1, len(csi)))
        self.mean_csi.copy_(vectors[..., -1] * strength[:, -1:].sqrt())
        for receiver in range(csi.shape[1]):
            raw = self._raw(csi[:, receiver], receiver)
            self.mean[receiver] = raw.mean(dim=0)
            self.deviation[receiver] = raw.std(dim=0).clamp_min(1e-6)

    def forward(self, csi: torch.Tensor, receiver: int) -> torch.Tensor:
        """Maps CSI of one receiver, complex64 [n, F], to its numbers, float32 [n, output_dim]."""
        return (self._raw(csi, receiver) - self.mean[receiver]) / self.deviation[receiver]

    def turned(self, csi: torch.Tensor) -> torch.Tensor:
        """Turns CSI of all receivers, complex64 [n, R, F], in phase until it fits its mean."""
        return _turned(csi, self.mean_csi)

    def _raw(self, csi: torch.Tensor, receiver: int) -> torch.Tensor:
        mean = self.mean_csi[receiver]
        size = mean.abs().square().mean().sqrt().clamp_min(1e-20)
        turned = _turned(csi, mean)
        both = torch.stack((turned, turned - mean), dim=-2) / size * self.window
        # Twice as many points as subcarriers: taps at half the resolution's spacing.
        taps = torch.fft.ifft(both, n=2 * both.shape[-1], dim=-1, norm="forward")[..., : self.num_taps]
        return (taps.abs() + 1e-3).log10().flatten(-2)


def _turned(csi: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    along = (csi * mean.conj()).sum(dim=-1, keepdim=True)
    return csi * (along.conj() / along.abs().clamp_min(1e-30))
