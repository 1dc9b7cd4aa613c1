"""Windows of training data as the encoders take them, and all data embedded at once."""

from __future__ import annotations

import torch

from scenarios.control.dataset import Trajectories
from scenarios.control.models import MotionModel, Window, stem_window
from semcom.samples import Samples


def _features(model: MotionModel, data: Trajectories) -> torch.Tensor:
    """Returns the stem's features [N, T, F] of every frame; only a fixed stem may be run ahead like this."""
    with torch.no_grad():
        return torch.stack([model.stem(frames) for frames in data.frame])


class Batches:
    """Draws windows of features (or of frames, where the stem is still trained) with their commands."""

    def __init__(self, model: MotionModel, data: Trajectories) -> None:
        self.model = model
        self.is_fixed = not any(p.requires_grad for p in model.stem.parameters())
        self.source = _features(model, data) if self.is_fixed else data.frame
        self.command = data.command / model.command_scale_n
        self.teacher_command = data.teacher_command / model.command_scale_n
        self.frame = data.frame
        self.samples = Samples(len(data.frame))

    def indices(
        self, size: int, length: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws `size` windows of `length` steps: trajectory [size, 1] and step [size, length] indices."""
        row = self.samples.draw((size, 1), generator)
        start = torch.randint(0, self.source.shape[1] - length + 1, (size, 1), generator=generator)
        return row, start + torch.arange(length)

    def raw_window(self, row: torch.Tensor, step: torch.Tensor) -> Window:
        """Returns the indexed windows: features of a fixed stem, or frames for one that is still trained."""
        return Window(self.source[row, step], self.command[row, step])

    def window(self, row: torch.Tensor, step: torch.Tensor) -> Window:
        """Returns the features and commands of the indexed windows."""
        window = self.raw_window(row, step)
        return window if self.is_fixed else stem_window(self.model.stem, window)

    @torch.no_grad()
    def embed_all(self) -> torch.Tensor:
        """Returns the embeddings [N, T - gap, D] of all trajectories."""
        steps = torch.arange(self.source.shape[1])[None]
        return torch.cat(
            [self.model.encoder(self.window(torch.tensor([[n]]), steps)) for n in range(len(self.source))]
        )
