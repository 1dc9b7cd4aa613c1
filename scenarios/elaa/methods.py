"""What the sub-arrays' processing units send, and what the central unit makes of what arrives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from semcom.codecs.catalogue import AnyCodec
from semcom.contracts import SemcomError


@dataclass(frozen=True)
class Patch:
    """What n sub-arrays of m elements receive: y complex64 [n, m], 0 where hidden, and their places.

    visible: bool [n, m]; noise_var: float32 [n]; sub_array: int64 [n], which part of the array each one is.
    """

    y: torch.Tensor
    visible: torch.Tensor
    noise_var: torch.Tensor
    sub_array: torch.Tensor


Embed = Callable[[Patch], torch.Tensor]
"""Maps patches to tokens, float32 [n, D]: a sub-array's encoder."""

Rebuild = Callable[[torch.Tensor], torch.Tensor]
"""Maps tokens [..., D] to what they say that was received, complex64 [..., m]."""

Fuse = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps tokens [B, L, D], 0 where none arrived, and arrived, bool [B, L], to channels complex64 [B, M]."""

Estimate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps y complex64 [B, M], 0 where unknown, and what is known, bool [B, M], to channels complex64 [B, M]."""


def raw_csi(patch: Patch) -> torch.Tensor:
    """The baseline's token, float32 [n, 2 m]: what is received itself, real and imaginary parts in turn."""
    return torch.view_as_real(patch.y).flatten(1)


def raw_values(tokens: torch.Tensor) -> torch.Tensor:
    """What the baseline's tokens [..., 2 m] say: complex64 [..., m]."""
    return torch.view_as_complex(tokens.unflatten(-1, (-1, 2)).contiguous())


@dataclass(frozen=True)
class PatchFusion:
    """Rebuilds the patches that arrived, puts them side by side and estimates from them.

    Of a sub-array that sent, every element counts as known: hidden ones within it are sent as zeros, and an
    estimate that knows better has to leave them out.
    """

    rebuild: Rebuild
    estimate: Estimate

    def __call__(self, tokens: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        """Maps tokens float32 [B, L, D] and arrived, bool [B, L], to channels complex64 [B, L m]."""
        parts = self.rebuild(tokens)
        known = arrived[:, :, None].expand(parts.shape)
        return self.estimate(torch.where(known, parts, 0).flatten(1), known.flatten(1))


class SubArraySender:
    """Sends each sub-array's token, in one packet; a sub-array that sees nothing keeps silent."""

    def __init__(self, embed: Embed, codec: AnyCodec, model_version: int) -> None:
        self.embed, self.codec, self.model_version = embed, codec, model_version
        self.codec_id = codec.codec_id

    def encode(self, step: int, rows: np.ndarray, observation: Patch) -> tuple[np.ndarray, list[bytes]]:
        """Returns those of `rows` that see at least one element, and their payloads."""
        sees = observation.visible.any(dim=1)
        if not bool(sees.any()):
            return rows[:0], []
        some = Patch(
            observation.y[sees],
            observation.visible[sees],
            observation.noise_var[sees],
            observation.sub_array[sees],
        )
        with torch.no_grad():
            return rows[sees.numpy()], self.codec.encode(self.embed(some))

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Has nothing to learn."""


class FusingReceiver:
    """The central unit: collects the tokens of a step and estimates each user's whole channel from them.

    Device k is sub-array k % L of user k // L. A token that was erased and one that was never sent are
    alike: missing. Its command to a device is its estimate of that sub-array's channel, float32 [K, 2 m],
    real and imaginary parts in turn; of a user of whom nothing arrived it is 0, a channel's mean.
    """

    def __init__(
        self, fuse: Fuse, codec: AnyCodec, model_version: int, num_users: int, num_sub_arrays: int
    ) -> None:
        self.fuse, self.codec, self.model_version = fuse, codec, model_version
        self.codec_id, self.max_payload_bits = codec.codec_id, codec.max_payload_bits()
        self.num_users, self.num_sub_arrays = num_users, num_sub_arrays
        self._clear()

    def _clear(self) -> None:
        self.tokens = torch.zeros(self.num_users, self.num_sub_arrays, self.codec.embedding_dim)
        self.arrived = torch.zeros(self.num_users, self.num_sub_arrays, dtype=torch.bool)

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Decodes the payloads of the devices `rows` and returns their information in bits."""
        user, place = np.divmod(rows, self.num_sub_arrays)
        self.tokens[user, place] = self.codec.decode(payloads)
        self.arrived[user, place] = True
        return np.asarray(self.codec.payload_entropy_bits(payloads).double().numpy())

    def command(self, step: int) -> torch.Tensor:
        """Returns the estimates, float32 [K, 2 m], and forgets the step's tokens."""
        with torch.no_grad():
            h_hat = self.fuse(self.tokens, self.arrived)
        if h_hat.shape[0] != self.num_users or h_hat.ndim != 2 or h_hat.shape[1] % self.num_sub_arrays:
            raise SemcomError(
                f"a fusion gave channels of shape {tuple(h_hat.shape)}: it has to be [{self.num_users}, M], "
                f"M a multiple of the {self.num_sub_arrays} sub-arrays"
            )
        heard = self.arrived.any(dim=1, keepdim=True)
        # Not by a product: what a fusion makes of no token at all may be NaN.
        h_hat = torch.where(heard, h_hat, 0).to(torch.complex64)
        self._clear()
        parts = h_hat.reshape(self.num_users * self.num_sub_arrays, -1)
        return torch.view_as_real(parts).flatten(1)

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Has nothing to learn: reports are not steered."""


def channels_of(command: torch.Tensor, num_sub_arrays: int) -> torch.Tensor:
    """Turns commands float32 [U L, ..., 2 m] of all devices into channels, complex64 [U, ..., L m]."""
    parts = torch.view_as_complex(command.unflatten(-1, (-1, 2)).contiguous())
    users = parts.unflatten(0, (-1, num_sub_arrays)).movedim(1, -2)
    return users.flatten(-2)
