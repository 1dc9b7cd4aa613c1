"""What the batches of a training are drawn from: all training samples, or the share of one client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from semcom.contracts import SemcomError


class Samples:
    """Training samples by their numbers, 0 to num_all - 1: trajectories, walks or channels.

    Whatever draws batches draws its samples here, so that a client's training sees the client's alone.
    """

    def __init__(
        self, num_all: int, *, label: torch.Tensor | None = None, position_m: torch.Tensor | None = None
    ) -> None:
        """label int64 [N], position_m float [N, 2]: what is known of them, to deal them out to clients by."""
        if num_all < 1:
            raise SemcomError("there are no training samples: give the data set at least one")
        self.num_all, self.label, self.position_m = num_all, label, position_m
        self._own: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of samples that are drawn from."""
        return self.num_all if self._own is None else len(self._own)

    @property
    def own(self) -> torch.Tensor:
        """The numbers of the samples that are drawn from, int64 [n]."""
        return torch.arange(self.num_all) if self._own is None else self._own

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Draws samples uniformly, with repetition: their numbers, int64 of that shape."""
        place = torch.randint(0, len(self), shape, generator=generator)
        return place if self._own is None else self._own[place]

    def among(self, numbers: torch.Tensor) -> torch.Tensor:
        """Which of the sample numbers int64 [...] are drawn from, bool [...]."""
        if self._own is None:
            return torch.ones_like(numbers, dtype=torch.bool)
        return torch.isin(numbers, self._own)

    @contextmanager
    def only(self, own: torch.Tensor) -> Iterator[None]:
        """Draws from the samples `own`, int64 [n], within the block.

        Raises SemcomError for no samples, or numbers that there aren't.
        """
        if own.ndim != 1 or not len(own):
            raise SemcomError("a share of no training samples: give each client at least one")
        if int(own.min()) < 0 or int(own.max()) >= self.num_all:
            raise SemcomError(
                f"a share holds samples {int(own.min())} to {int(own.max())} of 0 to {self.num_all - 1}"
            )
        before, self._own = self._own, own
        try:
            yield
        finally:
            self._own = before
