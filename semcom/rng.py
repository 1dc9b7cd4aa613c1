"""Random streams: every random number is named by what it is for, never by who draws it or when.

A stream's seed is a hash of (base seed, cell, replicate, purpose, device, step). The same number comes
out whichever actor draws it, in whatever order and however the devices are grouped, so records don't
depend on the number of workers and a restarted actor replays exactly what the dead one drew.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

_MASK = (1 << 63) - 1


def stream_seed(
    base_seed: int, purpose: str, *, cell: int = 0, replicate: int = 0, device: int = 0, step: int = 0
) -> int:
    """Returns the 63-bit seed of one stream: BLAKE2b over the stream's full name."""
    name = struct.pack("<5q", base_seed, cell, replicate, device, step) + purpose.encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") & _MASK


@dataclass(frozen=True)
class Streams:
    """The random streams of one cell in one replicate; cheap to make, to copy and to send."""

    base_seed: int
    cell: int = 0
    replicate: int = 0

    def seed(self, purpose: str, device: int = 0, step: int = 0) -> int:
        """Returns the seed of the stream with this purpose, device and step."""
        return stream_seed(
            self.base_seed, purpose, cell=self.cell, replicate=self.replicate, device=device, step=step
        )

    def substream(self, name: str) -> Streams:
        """Returns streams of the same kind that share none with these, for a part which draws alike.

        A downlink draws for the purposes, devices and steps that the uplink has drawn for; by a name of
        its own it draws other numbers.
        """
        return replace(self, base_seed=self.seed(f"substream {name}"))

    def torch_generator(self, purpose: str, device: int = 0, step: int = 0) -> torch.Generator:
        """Returns a fresh torch generator for the stream."""
        return torch.Generator().manual_seed(self.seed(purpose, device, step))

    def numpy_generator(self, purpose: str, device: int = 0, step: int = 0) -> np.random.Generator:
        """Returns a fresh numpy generator (PCG64) for the stream."""
        return np.random.Generator(np.random.PCG64(self.seed(purpose, device, step)))

    def normal(self, purpose: str, devices: Sequence[int], step: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Draws standard normal numbers, float32 [len(devices), *shape]: row i from device i's own stream."""
        rows = torch.empty((len(devices), *shape))
        generator = torch.Generator()
        for row, device in zip(rows, devices, strict=True):
            generator.manual_seed(self.seed(purpose, int(device), step))
            row.normal_(generator=generator)
        return rows

    def uniform(
        self, purpose: str, devices: Sequence[int], step: int, shape: tuple[int, ...] = ()
    ) -> torch.Tensor:
        """Draws uniform numbers on [0, 1), float64 [len(devices), *shape], like `normal`."""
        rows = torch.empty((len(devices), *shape), dtype=torch.float64)
        generator = torch.Generator()
        for index, device in enumerate(devices):
            generator.manual_seed(self.seed(purpose, int(device), step))
            rows[index].uniform_(generator=generator)
        return rows

    def indexed_uniform(self, purpose: str, devices: np.ndarray, step: int) -> np.ndarray:
        """Draws one uniform number on [0, 1) for each device, float64 [len(devices)], many at once.

        Device k's is the k-th of one sequence for this purpose and step, whoever else is asked for: cheaper
        by far than `uniform` for thousands of devices, and other numbers.
        """
        devices = np.asarray(devices, dtype=np.int64)
        sequence = self.numpy_generator(purpose, step=step).random(int(devices.max(initial=-1)) + 1)
        return sequence[devices]
