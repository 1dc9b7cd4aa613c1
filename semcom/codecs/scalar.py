"""The uniform scalar quantiser, and the codec that sends its symbols with a fixed number of bits each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from semcom.codecs.checks import check_embeddings, check_lengths, straight_through
from semcom.codecs.range_coding import count_symbols
from semcom.contracts import SemcomError

_MAX_FIT_ROWS = 16_384
_NUM_RANGES = 64


class UniformQuantiser(nn.Module):
    """Mid-rise uniform quantiser of b bits with a range of its own for each of D dimensions.

    step = (high - low) / 2^b, symbol = clip(floor((z - low) / step), 0, 2^b - 1),
    z_hat = low + (symbol + 1/2) step. Inside the range the error is at most step / 2, and step^2 / 12
    in the mean square when the cells are small (Gersho and Gray 1992, chapter 5).
    Raises SemcomError when used before `fit`, and for embeddings that are not finite [N, D].
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, embedding_dim: int, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise SemcomError(f"bits = {bits} is out of range: a scalar quantiser takes 1 to 16")
        self.embedding_dim = self.num_symbols = embedding_dim
        self.bits = bits
        self.num_levels = self.alphabet_size = 1 << bits
        # NaN says "not fitted", and a loaded state dict replaces it: no second flag to keep in step.
        self.register_buffer("low", torch.full((embedding_dim,), torch.nan))
        self.register_buffer("high", torch.full((embedding_dim,), torch.nan))

    def fit(self, z: torch.Tensor) -> None:
        """Sets each dimension's range to the one of least mean squared error over z [N, D].

        The range shrinks from min..max towards the median, first both ends together, then each alone.
        Few bits make narrow cells worth more than rare outliers (about +-2 standard deviations for a
        Gaussian at 2 bits), many bits end near min..max: one rule serves every b. Of more than 16384
        rows, that many evenly spaced ones are measured. Raises SemcomError for no rows at all.
        """
        z = check_embeddings(z.detach(), self.embedding_dim).to(self.low.device)
        if z.shape[0] == 0:
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        lowest, highest = z.amin(dim=0), z.amax(dim=0)
        rows = torch.linspace(0, z.shape[0] - 1, min(z.shape[0], _MAX_FIT_ROWS), dtype=torch.float64)
        z = z[rows.round().long().to(z.device)]
        middle = z.median(dim=0).values
        low, high = lowest, highest
        best = self._mean_squared_error(z, low, high)
        for moved in ("both", "low", "high"):
            for index in range(1, _NUM_RANGES + 1):
                share = index / _NUM_RANGES
                tried_low = low if moved == "high" else middle + share * (lowest - middle)
                tried_high = high if moved == "low" else middle + share * (highest - middle)
                error = self._mean_squared_error(z, tried_low, tried_high)
                better = error < best
                best = torch.where(better, error, best)
                low = torch.where(better, tried_low, low)
                high = torch.where(better, tried_high, high)
        self.low.copy_(low)
        self.high.copy_(high)

    def _mean_squared_error(self, z: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        z_hat = self._levels(self._cells(z, low, high), low, high)
        return (z - z_hat).square().mean(dim=0)

    def _cells(self, z: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        step = (high - low) / self.num_levels
        # A dimension that never varied has a step of zero: its one level is the constant.
        cells = torch.where(step > 0, (z - low) / step, 0.0)
        return cells.floor().clamp(0, self.num_levels - 1)

    def _levels(self, cells: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return low + (cells + 0.5) * ((high - low) / self.num_levels)

    def check_fitted(self) -> None:
        """Raises SemcomError if `fit` was not called and no fitted state was loaded."""
        if self.low.isnan().any():
            raise SemcomError("this codec has no ranges yet: call fit(z) with training embeddings first")

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of z [N, D], int64 in 0 .. 2^b - 1."""
        self.check_fitted()
        return self._cells(check_embeddings(z, self.embedding_dim), self.low, self.high).long()

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the cells' centres of symbols [N, D], float32."""
        self.check_fitted()
        return self._levels(symbols.to(self.low), self.low, self.high)

    def adapt(self, z: torch.Tensor) -> None:
        """Fits the ranges again: nothing of it is trained with an encoder."""
        self.fit(z)

    def frequencies(self, z: torch.Tensor) -> torch.Tensor:
        """Counts the symbols of z [N, D], plus one each: int64 [D, 2^b]."""
        sizes = torch.full((self.num_symbols,), self.alphabet_size)
        return count_symbols(self.quantise(z), sizes, self.alphabet_size)

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Adds nothing to an encoder's loss."""
        return {}

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the quantised z [N, D], float32; in training mode with the gradient of z."""
        z_hat = self.dequantise(self.quantise(z))
        return straight_through(z.float(), z_hat) if self.training else z_hat


class UniformScalarCodec(nn.Module):
    """Quantises each dimension uniformly and sends b bits for it: D b bits, padded to whole bytes.

    encode: z float32 [N, D] to N payloads of ceil(D b / 8) bytes, the first dimension's most
    significant bit first, padded by zeros; decode: back to float32 [N, D]. Call `fit` first.
    Raises SemcomError before `fit`, for embeddings that are not finite [N, D], and for payloads of
    another length or with padding that is not zero.
    """

    codec_id = 3
    name = "uniform"

    def __init__(self, embedding_dim: int, bits: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.bits = bits
        self.quantiser = UniformQuantiser(embedding_dim, bits)

    def fit(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Learns the ranges from training embeddings z [N, D]; takes no weight."""
        if weight is not None:
            raise SemcomError("the uniform codec measures errors without a weight: use entropy, or drop it")
        self.quantiser.fit(z)

    def encode(self, z: torch.Tensor) -> list[bytes]:
        """Returns one payload of ceil(D b / 8) bytes for each row of z [N, D]."""
        symbols = self.quantiser.quantise(z).cpu().numpy().astype(np.uint16)
        shifts = np.arange(self.bits - 1, -1, -1, dtype=np.uint16)
        bits = ((symbols[:, :, None] >> shifts) & 1).astype(np.uint8)
        packed = np.packbits(bits.reshape(len(symbols), self.embedding_dim * self.bits), axis=1)
        return [row.tobytes() for row in packed]

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D]."""
        self.quantiser.check_fitted()
        num_bytes = self.max_payload_bits() // 8
        check_lengths(payloads, num_bytes)
        packed = np.frombuffer(b"".join(payloads), np.uint8).reshape(-1, num_bytes)
        bits = np.unpackbits(packed, axis=1)
        padded = bits[:, self.embedding_dim * self.bits :].any(axis=1)
        if padded.any():
            raise SemcomError(f"payload {int(padded.argmax())} has padding bits that are not zero")
        bits = bits[:, : self.embedding_dim * self.bits].reshape(-1, self.embedding_dim, self.bits)
        symbols = bits @ (1 << np.arange(self.bits - 1, -1, -1))
        return self.quantiser.dequantise(torch.from_numpy(symbols).to(self.quantiser.low.device))

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the payload's bits [N], since nothing is entropy coded."""
        return torch.full((z.shape[0],), float(self.max_payload_bits()), device=z.device)

    def payload_entropy_bits(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the payloads' bits [N], since nothing is entropy coded."""
        return torch.full((len(payloads),), float(self.max_payload_bits()))

    def max_payload_bits(self) -> int:
        """Returns 8 ceil(D b / 8), the bits of every payload."""
        return 8 * -(-self.embedding_dim * self.bits // 8)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the quantised z [N, D], float32; in training mode with the gradient of z."""
        return self.quantiser(z)
