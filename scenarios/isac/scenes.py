"""What a training is shown of its steps: frames, CSI and labels, of single steps or of two made one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from scenarios.isac.data import Sequences
from scenarios.isac.features import content_of
from scenarios.isac.jpeg import through_jpeg
from scenarios.isac.mixing import ALONE, Draw, Partners, mix_content, mix_csi, mix_labels
from scenarios.isac.models import SensingModel
from semcom.rng import Streams
from semcom.samples import Samples


class TrainingScenes:
    """The N steps of training sequences, normalised as the model's encoders take them.

    samples: the walks that steps are drawn from. jpeg_share: of the frames, comes through JPEG.
    csi_noise_std, csi_dropout: noise on the numbers that CSI becomes, and the share of them that is left out.
    """

    def __init__(
        self,
        model: SensingModel,
        train: Sequences,
        samples: Samples,
        streams: Streams,
        generator: torch.Generator,
        *,
        jpeg_share: float,
        csi_noise_std: float,
        csi_dropout: float,
    ) -> None:
        self._model, self._streams, self._generator = model, streams, generator
        self._samples, self._num_steps = samples, train.num_steps
        self._jpeg_share, self._csi_noise_std, self._csi_dropout = jpeg_share, csi_noise_std, csi_dropout
        # Colours last, as convolutions want them: content is made so, and never turned round.
        self._frame = train.frame.flatten(0, 1).permute(0, 1, 3, 4, 2).contiguous()
        self._background = model.frames.background.permute(0, 2, 3, 1).contiguous()
        self._csi = train.csi.flatten(0, 1)
        self._position_m = train.position_m.flatten(0, 1)
        self._visible = train.visible_share.flatten(0, 1).transpose(1, 2)
        self._partners = Partners(~self._position_m.isnan().any(dim=-1))

    def draw(self, num: int, mix_share: float = 0.0) -> Draw:
        """Draws steps, that share of which is mixed with another one where anybody can be."""
        number = torch.randint(0, len(self._samples) * self._num_steps, (num,), generator=self._generator)
        walk, step = number // self._num_steps, number % self._num_steps
        rows = self._samples.own[walk] * self._num_steps + step
        partner = self._partners.draw(rows, mix_share, self._generator)
        is_own = self._samples.among(partner.clamp_min(0) // self._num_steps)
        return Draw(rows, torch.where(is_own, partner, ALONE))

    def content(self, draw: Draw) -> torch.Tensor:
        """Normalised frames, [n, C, 3, H, W], colours last in memory."""
        return self._mixed(draw, lambda rows: self._frame[rows])

    def content_seen(self, draw: Draw) -> torch.Tensor:
        """The same, of which some came through JPEG: encoders are to know its artefacts."""
        if self._jpeg_share == 0:
            return self.content(draw)

        def seen(rows: torch.Tensor) -> torch.Tensor:
            chance = torch.rand(len(rows), self._model.num_cameras, generator=self._generator)
            place, camera = torch.nonzero(chance < self._jpeg_share, as_tuple=True)
            frame = self._frame[rows]
            frame[place, camera] = self._compressed[rows[place], camera]
            return frame

        return self._mixed(draw, seen)

    def numbers(self, draw: Draw) -> torch.Tensor:
        """The CSI as the encoders are shown it, [n, R, input_dim]."""
        numbers = self._numbers[draw.rows]
        if len(mixed := draw.mixed):
            csi = self._turned[draw.rows[mixed]]
            csi = mix_csi(csi, self._turned[draw.partner[mixed]], self._model.csi.mean_csi)
            numbers[mixed] = self._as_numbers(csi)
        return numbers

    def numbers_seen(self, draw: Draw) -> torch.Tensor:
        """The same with noise, and some left out."""
        numbers = self.numbers(draw)
        noise = torch.randn(numbers.shape, generator=self._generator)
        kept = torch.rand(numbers.shape, generator=self._generator) >= self._csi_dropout
        return (numbers + self._csi_noise_std * noise) * kept / (1 - self._csi_dropout)

    def labels(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions [n, P, 2], NaN for who is not there, and visible shares [n, P, C], NaN where unknown."""
        position_m, visible = self._position_m[draw.rows], self._visible[draw.rows]
        if len(mixed := draw.mixed):
            other_m = self._position_m[draw.partner[mixed]]
            position_m[mixed], visible[mixed] = mix_labels(position_m[mixed], visible[mixed], other_m)
        return position_m, visible

    @cached_property
    def _turned(self) -> torch.Tensor:
        """The CSI of all steps in the phase of its mean, [N, R, F]."""
        return self._model.csi.turned(self._csi[:, : self._model.num_receivers])

    @cached_property
    def _numbers(self) -> torch.Tensor:
        """The CSI of all steps as the encoders are shown it, [N, R, input_dim]."""
        return self._as_numbers(self._turned)

    def _as_numbers(self, csi: torch.Tensor) -> torch.Tensor:
        parts = [self._model.csi(csi[:, r], r) for r in range(self._model.num_receivers)]
        return torch.stack(parts, dim=1) if parts else torch.zeros(len(csi), 0, 1)

    @cached_property
    def _compressed(self) -> torch.Tensor:
        """All frames once through JPEG of random quality and size, uint8 [N, C, H, W, 3]."""
        # A stream of its own: a training that goes on from a checkpoint meets the same ones.
        generator = self._streams.torch_generator("jpeg-quality")
        frames = self._frame.flatten(0, 1).numpy()
        quality = torch.randint(5, 96, (len(frames),), generator=generator)
        downscale = 2 ** torch.randint(0, 3, (len(frames),), generator=generator)
        shown = through_jpeg(frames, quality.tolist(), downscale.tolist())
        return torch.from_numpy(shown).unflatten(0, self._frame.shape[:2])

    def _mixed(self, draw: Draw, frames_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        content = content_of(frames_of(draw.rows), self._background)
        if len(mixed := draw.mixed):
            other = content_of(frames_of(draw.partner[mixed]), self._background)
            one = content[mixed].movedim(-1, -3)
            content[mixed] = mix_content(one, other.movedim(-1, -3)).movedim(-3, -1)
        return content.movedim(-1, -3)
