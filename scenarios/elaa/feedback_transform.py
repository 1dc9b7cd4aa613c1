"""Feedback of a channel by transform coding, with and without its strongest direction sent beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from scenarios.elaa.line_array import LineArray
from scenarios.elaa.wavefronts import WavefrontGrid, wavefront_grid
from semcom.codecs.checks import check_embeddings
from semcom.codecs.entropy import EntropyCodec
from semcom.codecs.range_coding import count_symbols
from semcom.codecs.transform import TransformQuantiser
from semcom.contracts import SemcomError

_WHOLE_BYTES_BITS = 2.0
_HELD_OUT = 8
_NUM_FITS = 3

GRIDS = ((256, 4, 8), (1024, 16, 16))
"""Numbers of sines, rings and phases that a wavefront is told by: 13 bits, and 18."""


class CsiFeedback:
    """A codec of real vectors, for channels: complex64 [N, M] as float32 [N, 2 M], real and imaginary parts.

    turned: `fit` sees each channel a second time, times j, so that the transform knows that a channel's
    phase is uniform. Phase and power are sent like all else, so that the NMSE counts them.
    """

    def __init__(self, codec: EntropyCodec, *, turned: bool) -> None:
        self.codec, self.turned = codec.eval(), turned
        self.codec_id, self.name = codec.codec_id, codec.name

    def fit(self, h: torch.Tensor) -> None:
        """Learns transform, steps and probabilities from training channels [N, M]."""
        self.codec.fit(_real(torch.cat([h, 1j * h]) if self.turned else h))

    def encode(self, h: torch.Tensor) -> list[bytes]:
        """Returns one payload for each of the channels [N, M]."""
        return self.codec.encode(_real(h))

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the channels, complex64 [N, M]. Raises SemcomError for payloads `encode` never makes."""
        return _complex(self.codec.decode(payloads))

    def entropy_bits(self, h: torch.Tensor) -> torch.Tensor:
        """Returns the information in each channel's payload under the learned probabilities, bits [N]."""
        return self.codec.entropy_bits(_real(h))

    def max_payload_bits(self) -> int:
        """Returns the bits that no payload exceeds."""
        return self.codec.max_payload_bits()

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """Returns decode(encode(h)), without the bytes."""
        return _complex(self.codec(_real(h)))


def fit_klt_feedback(h: torch.Tensor, mean_bits: float, held_out: torch.Tensor | None = None) -> CsiFeedback:
    """Karhunen-Loeve transform coding of the channel as it is; mean_bits on channels not fitted to.

    h: complex64 [N, M], training channels. held_out: complex64 [V, M], others, as they will be coded, which
    only measure what payloads take; every eighth of h if None.
    """
    return _fit_to(h, mean_bits, [TransformQuantiser(2 * h.shape[1], mean_bits)], held_out, turned=True)


def fit_dechirped_klt_feedback(
    array: LineArray,
    h: torch.Tensor,
    mean_bits: float,
    grids: Sequence[tuple[int, int, int]] = GRIDS,
    held_out: torch.Tensor | None = None,
) -> CsiFeedback:
    """Transform coding of what the strongest direction leaves (see `DechirpedTransform`).

    held_out: as in `fit_klt_feedback`. grids: numbers of sines, rings and phases that are tried; the one with
    the least NMSE is taken.
    """
    quantisers = [DechirpedTransform(wavefront_grid(array, *grid), mean_bits) for grid in grids]
    return _fit_to(h, mean_bits, quantisers, held_out, turned=False)


def _fit_to(
    h: torch.Tensor,
    mean_bits: float,
    quantisers: Sequence[TransformQuantiser] | Sequence[DechirpedTransform],
    held_out: torch.Tensor | None,
    *,
    turned: bool,
) -> CsiFeedback:
    """Fits the best quantiser so that held-out channels take mean_bits on average, whole bytes and all.

    A transform of hundreds of numbers is fitted to its training channels closer than to others, which then
    cost another number of bits.
    """
    target = mean_bits - _WHOLE_BYTES_BITS
    if target <= 0:
        raise SemcomError(f"mean_bits {mean_bits:g} is too few for transform coding: take more than 2")
    if len(h) < _HELD_OUT:
        raise SemcomError(
            f"transform coding can't be fitted on {len(h)} channels: give it {_HELD_OUT} or more"
        )
    kept = h
    if held_out is None:
        held_out, kept = h[::_HELD_OUT], h[torch.arange(len(h)) % _HELD_OUT != 0]
    power = held_out.abs().square().sum(dim=1)
    name, codec_id = ("klt", 10) if turned else ("klt-dechirped", 12)
    best: tuple[float, CsiFeedback] | None = None
    refusal: SemcomError | None = None
    for quantiser in quantisers:
        codec = EntropyCodec(name, codec_id, quantiser.embedding_dim, quantiser)
        feedback = CsiFeedback(codec, turned=turned)
        bits = target
        try:
            for _ in range(_NUM_FITS):
                quantiser.mean_bits = bits
                feedback.fit(kept)
                spent = sum(8 * len(payload) for payload in feedback.encode(held_out)) / len(held_out)
                bits *= target / max(spent - _WHOLE_BYTES_BITS, 1.0)
        except SemcomError as error:
            refusal = error
            continue
        error_share = (feedback(held_out) - held_out).abs().square().sum(dim=1) / power
        if best is None or float(error_share.mean()) < best[0]:
            best = float(error_share.mean()), feedback
    if best is None:
        raise refusal or SemcomError("no grid to try: give at least one")
    return best[1]


class DechirpedTransform(nn.Module):
    """Takes the wavefront of the strongest direction off a channel, and transform codes what is left.

    h = e^(j phi) a(s, k) c, the wavefront on a grid (see `WavefrontGrid`). c, with the error of the rounded
    phase still in it, goes through `TransformQuantiser`: its mean is the direct path's, which costs nothing.
    The four parts are coded in one message under learned frequencies, mean_bits in all.
    Quantises real vectors z float32 [N, 2 M], real and imaginary parts in turn.
    """

    def __init__(self, grid: WavefrontGrid, mean_bits: float) -> None:
        super().__init__()
        self.grid, self.mean_bits = grid, mean_bits
        self.embedding_dim = 2 * grid.array.num_elements
        self.transform = TransformQuantiser(self.embedding_dim, mean_bits)
        self.num_symbols = 3 + self.embedding_dim
        self.alphabet_size = max(*grid.sizes, self.transform.alphabet_size)

    def _split(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The three symbols of the wavefront, int64 [N, 3], and what is left, float32 [N, 2 M]."""
        head, rest = self.grid.split(_complex(check_embeddings(z, self.embedding_dim)))
        return head, _real(rest)

    def _split_training(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        head, rest = self.grid.split_training(_complex(check_embeddings(z.detach(), self.embedding_dim)))
        return head, _real(rest)

    def fit(self, z: torch.Tensor) -> None:
        """Learns the transform of what is left, at the bits that the wavefronts leave."""
        head, rest = self._split_training(z)
        if not len(rest):
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        frequency = self._head_frequencies(head).double()
        share = frequency / frequency.sum(dim=1, keepdim=True)
        spent = float(-share[torch.arange(3), head].log2().sum(dim=1).mean())
        if self.mean_bits <= spent:
            raise SemcomError(
                f"mean_bits {self.mean_bits:.1f} is too few: the wavefront alone takes {spent:.1f}; make "
                "num_sines, num_rings or num_phases smaller"
            )
        self.transform.mean_bits = self.mean_bits - spent
        self.transform.fit(rest)

    def adapt(self, z: torch.Tensor) -> None:
        """Keeps transform and step; what symbols stand for is learned anew."""
        self.transform.adapt(self._split(z.detach())[1])

    def check_fitted(self) -> None:
        """Raises SemcomError if `fit` was not called and no fitted state was loaded."""
        self.transform.check_fitted()

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of z [N, 2 M], int64 [N, 3 + 2 M]: sine, ring, phase, coefficients."""
        self.check_fitted()
        head, rest = self._split(z)
        return torch.cat([head, self.transform.quantise(rest)], dim=1)

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the vectors that symbols [N, 3 + 2 M] stand for, float32 [N, 2 M]."""
        rest = _complex(self.transform.dequantise(symbols[:, 3:]))
        return _real(rest * self.grid.wavefronts(symbols[:, :3]))

    def _head_frequencies(self, head: torch.Tensor) -> torch.Tensor:
        return count_symbols(head, torch.tensor(self.grid.sizes), self.alphabet_size)

    def frequencies(self, z: torch.Tensor) -> torch.Tensor:
        """Counts the symbols of z [N, 2 M], plus one each: int64 [3 + 2 M, A]."""
        head, rest = self._split_training(z)
        counts = self.transform.frequencies(rest)
        padded = torch.nn.functional.pad(counts, (0, self.alphabet_size - counts.shape[1]))
        return torch.cat([self._head_frequencies(head), padded])

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Adds nothing: the transform is fitted, not trained."""
        return {}


def _real(h: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(h.to(torch.complex64).resolve_conj()).flatten(1)


def _complex(z: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(z.float().unflatten(1, (-1, 2)).contiguous())
