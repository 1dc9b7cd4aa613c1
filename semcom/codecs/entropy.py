"""The entropy-coded codec: a quantiser's symbols, range coded into as few bytes as they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from semcom.codecs.checks import check_embeddings, straight_through
from semcom.codecs.metric import ErrorMetric
from semcom.codecs.range_coding import SymbolCoder


class Quantiser(Protocol):
    """Maps embeddings z [N, D] to symbols, int64 [N, S] in 0 .. A - 1, and back.

    fit: learns from embeddings from scratch, the same thing each time. adapt: after training with an
    encoder, keeps what was trained and takes the rest from embeddings. frequencies: a whole number for
    each symbol at each place, int [S, A], that its probability is proportional to. loss: named terms to
    add to an encoder's loss when the two are trained together; generator: its random numbers.
    """

    num_symbols: int
    alphabet_size: int

    def fit(self, z: torch.Tensor) -> None: ...

    def adapt(self, z: torch.Tensor) -> None: ...

    def check_fitted(self) -> None: ...

    def quantise(self, z: torch.Tensor) -> torch.Tensor: ...

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor: ...

    def frequencies(self, z: torch.Tensor) -> torch.Tensor: ...

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]: ...


class EntropyCodec(nn.Module):
    """Quantises an embedding and range codes the symbols, each packet on its own (see `SymbolCoder`).

    There are two ways to use it. After the encoder: `fit(z)` on calibration embeddings. With the encoder:
    `fit(z)` to start with, then in training mode `codec(z)`, which passes gradients straight through, and
    the terms of `loss(z, generator)` on top of the task's loss; `adapt(z)` when training has ended.
    weighted: errors are measured under a weight that `fit` is given (see `ErrorMetric`).

    encode: z float32 [N, D] to N payloads of different lengths; decode: back to float32 [N, D]. Raises
    SemcomError before `fit`, for embeddings that are not finite [N, D], and for payloads that encode
    never makes.
    """

    def __init__(
        self, name: str, codec_id: int, embedding_dim: int, quantiser: Quantiser, *, weighted: bool = False
    ) -> None:
        super().__init__()
        self.name, self.codec_id = name, codec_id
        self.embedding_dim = embedding_dim
        self.metric = ErrorMetric(embedding_dim, weighted=weighted)
        self.quantiser = quantiser
        self.coder = SymbolCoder(quantiser.num_symbols, quantiser.alphabet_size)

    def _mapped(self, z: torch.Tensor) -> torch.Tensor:
        return self.metric.apply_to(check_embeddings(z, self.embedding_dim))

    def fit(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Learns the quantiser and the symbols' probabilities from embeddings z [N, D], from scratch.

        weight [D, D]: of the errors, for a weighted codec. No process-wide random state is touched.
        """
        z = check_embeddings(z.detach(), self.embedding_dim)
        self.metric.fit(z, weight)
        y = self.metric.apply_to(z)
        self.quantiser.fit(y)
        self.coder.set_frequencies(self.quantiser.frequencies(y))

    def adapt(self, z: torch.Tensor) -> None:
        """Keeps what was trained with the encoder, and learns the probabilities anew from z [N, D]."""
        y = self._mapped(z.detach())
        self.quantiser.check_fitted()
        self.quantiser.adapt(y)
        self.coder.set_frequencies(self.quantiser.frequencies(y))

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns what z [N, D] adds to an encoder's loss, by name; empty where there is nothing to add.

        commitment: mean squared distance of z from its codeword, which also moves the codewords towards z;
        rate_bits: mean bits of an embedding under the learned entropy model, differentiable. Both want
        a factor of the caller's choice.
        """
        self.quantiser.check_fitted()
        return self.quantiser.loss(self._mapped(z), generator)

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of z [N, D], int64 [N, S]."""
        return self.quantiser.quantise(self._mapped(z.detach()))

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings that symbols [N, S] stand for, float32 [N, D]."""
        return self.metric.invert(self.quantiser.dequantise(symbols))

    def encode(self, z: torch.Tensor) -> list[bytes]:
        """Returns one payload for each row of z [N, D]: the shortest that decodes to its symbols."""
        return self.coder.encode(self.quantise(z))

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D]."""
        self.quantiser.check_fitted()
        return self.dequantise(self.coder.decode(payloads))

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the cross-entropy of each row's symbols under the codec's model, bits, float64 [N]."""
        return self.coder.cost_bits(self.quantise(z))

    def payload_entropy_bits(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the cross-entropy of the symbols in each payload, bits, float64 [N].

        It is not that of the decoded embeddings: residual stages may round a codeword's own place otherwise.
        """
        return self.coder.cost_bits(self.coder.decode_unchecked(payloads))

    def max_payload_bits(self) -> int:
        """Returns the bits that no payload exceeds: every symbol the least likely one."""
        self.quantiser.check_fitted()
        return self.coder.max_payload_bits()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the quantised z [N, D], float32; in training mode with the gradient of z."""
        z_hat = self.dequantise(self.quantise(z))
        return straight_through(z.float(), z_hat) if self.training else z_hat
