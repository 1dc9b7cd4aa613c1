"""Feedback by a codebook of beams: one DFT beam, or a few of one orthogonal group with their coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from semcom.contracts import SemcomError

_NUM_TUNED = 512
_AMPLITUDE_RANGE_DB = 24.0
_FINENESS = ((2, 2), (2, 3), (3, 3), (3, 4), (4, 4), (4, 5))
"""Bits of a coefficient's amplitude and phase that are tried; eType-II has 3 and 4, its reference 4."""


@dataclass(frozen=True)
class BeamBits:
    """How the bits of a report are shared out: `num_beams` beams of `oversampling` groups of DFT beams.

    amplitude, phase: of every coefficient relative to the strongest one's. gain: of that one's level in dB;
    its phase has one bit more than the others.
    """

    num_beams: int
    amplitude: int
    phase: int
    gain: int = 4
    oversampling: int = 4

    def widths(self, num_elements: int) -> list[int]:
        """Bits of the fields in their order: group, beams, the strongest, its level and phase, the others."""
        others = self.num_beams - 1
        return [
            _width(self.oversampling),
            _width(math.comb(num_elements, self.num_beams)),
            _width(self.num_beams),
            self.gain,
            self.phase + 1,
            *[self.amplitude, self.phase] * others,
        ]

    def total(self, num_elements: int) -> int:
        """Bits of a report on a line of num_elements elements."""
        return sum(self.widths(num_elements))


class BeamFeedback:
    """Writes a channel as a sum of L orthogonal DFT beams, all reports of the same length.

    h_hat = sum_l c_l b_l, b_l = exp(j 2 pi n (m_l + q / O) / M), q one of O groups, m_l one of M beams of it:
    the group and the L beams that hold the most energy, c_l = b_l^H h / M. Sent are q; the beams, as the rank
    of their set; which is the strongest, its level in steps of equal dB over what training channels have, and
    its phase; for each other one its level below the strongest, in steps of 24 / 2^b dB (1.5 dB with 4 bits,
    3 dB with 3, as the standard's), the last one of which is 0, and its phase, uniform. L = 1 is the DFT
    codebook. Fields: 3GPP TS 38.214, 5.2.2.2.5 (enhanced type II), without its frequency and polarisation.
    Payloads are fields, most significant bit first, padded to whole bytes by zeros.
    """

    codec_id = 13
    name = "beams"

    def __init__(self, num_elements: int, bits: BeamBits) -> None:
        if not 1 <= bits.num_beams <= num_elements:
            raise SemcomError(f"num_beams {bits.num_beams} is not from 1 to the {num_elements} elements")
        if min(bits.amplitude, bits.phase, bits.gain, bits.oversampling) < 1:
            raise SemcomError(f"{bits}: every field takes at least one bit")
        self.num_elements, self.bits = num_elements, bits
        self.low_db, self.step_db = math.nan, math.nan

    def fit(self, h: torch.Tensor) -> None:
        """Learns the range of the strongest coefficient's level from training channels [N, M]."""
        _, _, coefficients = self._beams(_checked(h, self.num_elements))
        level_db = 20 * coefficients.abs().amax(dim=1).clamp_min(1e-12).log10().double()
        if not len(level_db):
            raise SemcomError("a codebook's levels can't be learned from no channels: give it at least one")
        ends = torch.tensor([0.005, 0.995], dtype=torch.float64)
        low, high = torch.quantile(level_db[:: max(1, len(level_db) // 10_000)], ends).tolist()
        self.step_db = max(high - low, 1e-6) / (1 << self.bits.gain)
        self.low_db = low + self.step_db / 2

    def payload_bits(self) -> int:
        """Bits of every payload: those of the fields, in whole bytes."""
        return 8 * -(-self.bits.total(self.num_elements) // 8)

    def max_payload_bits(self) -> int:
        """Returns the bits of every payload."""
        return self.payload_bits()

    def _turn(self, group: torch.Tensor) -> torch.Tensor:
        number = torch.arange(self.num_elements, dtype=torch.float64)
        angle = 2 * torch.pi * number * group[..., None] / (self.bits.oversampling * self.num_elements)
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)

    def _beams(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Group [N], beams in rising order [N, L] and their coefficients, complex64 [N, L]."""
        groups = torch.arange(self.bits.oversampling)
        spectrum = torch.fft.fft(h[:, None] * self._turn(groups).conj(), dim=2) / self.num_elements
        energy, beam = spectrum.abs().square().topk(self.bits.num_beams, dim=2)
        group = energy.sum(dim=2).argmax(dim=1)
        rows = torch.arange(len(h))
        chosen = beam[rows, group].sort(dim=1).values
        return group, chosen, spectrum[rows, group].gather(1, chosen)

    def quantise(self, h: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of channels [N, M], int64 [N, 2 + L + 2 + 2 (L - 1)]: see `dequantise`."""
        if math.isnan(self.low_db):
            raise SemcomError("this codebook has no levels yet: call fit(h) with training channels first")
        group, beam, coefficient = self._beams(_checked(h, self.num_elements))
        bits = self.bits
        strongest = coefficient.abs().argmax(dim=1, keepdim=True)
        reference = coefficient.gather(1, strongest)
        level_db = 20 * reference.abs().clamp_min(1e-12).log10()
        level = ((level_db - self.low_db) / self.step_db).round().clamp(0, (1 << bits.gain) - 1).long()
        turn = _phase_symbol(torch.angle(reference), bits.phase + 1)
        # Told relative to what the receiver takes the strongest to be.
        relative = coefficient / self._reference(level, turn)
        others = self._others(strongest)
        relative = relative.gather(1, others)
        last = (1 << bits.amplitude) - 1
        below_db = -20 * relative.abs().clamp_min(1e-12).log10()
        steps = (below_db / self._amplitude_step_db()).round().clamp(0, last).long()
        phases = _phase_symbol(torch.angle(relative), bits.phase)
        pairs = torch.stack([steps, phases], dim=2).flatten(1)
        return torch.cat([group[:, None], beam, strongest, level, turn, pairs], dim=1)

    def _amplitude_step_db(self) -> float:
        return _AMPLITUDE_RANGE_DB / (1 << self.bits.amplitude)

    def _reference(self, level: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        amplitude = 10 ** ((self.low_db + self.step_db * level.double()) / 20)
        angle = turn.double() * (2 * torch.pi / (1 << (self.bits.phase + 1)))
        return torch.polar(amplitude, angle).to(torch.complex64)

    def _others(self, strongest: torch.Tensor) -> torch.Tensor:
        number = torch.arange(self.bits.num_beams - 1)
        return number + (number >= strongest)

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the channels, complex64 [N, M], of q, m_1 .. m_L, strongest, level, phase and pairs."""
        bits, num_beams = self.bits, self.bits.num_beams
        group, beam = symbols[:, 0], symbols[:, 1 : 1 + num_beams]
        strongest, level, turn = (symbols[:, 1 + num_beams + i : 2 + num_beams + i] for i in range(3))
        steps, phases = symbols[:, 4 + num_beams :].unflatten(1, (num_beams - 1, 2)).unbind(dim=2)
        amplitude = 10 ** (-self._amplitude_step_db() * steps.double() / 20)
        amplitude = torch.where(steps == (1 << bits.amplitude) - 1, 0, amplitude)
        relative = torch.polar(amplitude, phases.double() * (2 * torch.pi / (1 << bits.phase)))
        reference = self._reference(level, turn)
        coefficient = torch.zeros(len(symbols), num_beams, dtype=torch.complex64)
        coefficient.scatter_(1, strongest, reference)
        coefficient.scatter_(1, self._others(strongest), relative.to(torch.complex64) * reference)
        spectrum = torch.zeros(len(symbols), self.num_elements, dtype=torch.complex64)
        spectrum.scatter_(1, beam, coefficient)
        if not len(symbols):  # The Fourier transform refuses a batch of none.
            return spectrum
        return torch.fft.ifft(spectrum, dim=1) * self.num_elements * self._turn(group)

    def encode(self, h: torch.Tensor) -> list[bytes]:
        """Returns one payload for each of the channels [N, M]."""
        widths, num_beams = self.bits.widths(self.num_elements), self.bits.num_beams
        payloads = []
        for row in self.quantise(h).tolist() if len(h) else []:
            values = [row[0], _rank(row[1 : 1 + num_beams]), *row[1 + num_beams :]]
            number = 0
            for value, width in zip(values, widths, strict=True):
                number = number << width | value
            num_bits = self.payload_bits()
            payloads.append((number << num_bits - sum(widths)).to_bytes(num_bits // 8, "big"))
        return payloads

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the channels, complex64 [N, M]. Raises SemcomError for payloads `encode` never makes."""
        rows = [self._read(index, payload) for index, payload in enumerate(payloads)]
        num_symbols = self.bits.num_beams + 4 + 2 * (self.bits.num_beams - 1)
        return self.dequantise(torch.tensor(rows, dtype=torch.int64).reshape(len(rows), num_symbols))

    def _read(self, index: int, payload: bytes) -> list[int]:
        num_bits, widths = self.payload_bits(), self.bits.widths(self.num_elements)
        if 8 * len(payload) != num_bits:
            raise SemcomError(f"payload {index} has {len(payload)} bytes: this codec makes {num_bits // 8}")
        number, values = int.from_bytes(payload, "big"), []
        padding = num_bits - sum(widths)
        if number & (1 << padding) - 1:
            raise SemcomError(f"payload {index} has padding bits that are not zero")
        number >>= padding
        for width in reversed(widths):
            values.append(number & (1 << width) - 1)
            number >>= width
        group, rank, strongest, *rest = reversed(values)
        bits = self.bits
        num_sets = math.comb(self.num_elements, bits.num_beams)
        if group >= bits.oversampling or rank >= num_sets or strongest >= bits.num_beams:
            raise SemcomError(
                f"payload {index} names a beam that there is not: this codec can't have made it"
            )
        return [group, *_set_of(rank, bits.num_beams, self.num_elements), strongest, *rest]

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """Returns decode(encode(h)), without the bytes."""
        return self.dequantise(self.quantise(h))


def fit_beam_feedback(h: torch.Tensor, max_bits: int, num_beams: int | None = None) -> BeamFeedback:
    """Returns the codebook of at most max_bits, in whole bytes, with the least NMSE on training channels.

    h: complex64 [N, M]; num_beams: as many as max_bits allow if None, for each fineness of coefficients that
    is tried. Raises SemcomError where not even one beam fits.
    """
    num_elements = h.shape[1]
    some = h[:_NUM_TUNED]
    power = some.abs().square().sum(dim=1)
    best: tuple[float, BeamFeedback] | None = None
    for amplitude, phase in _FINENESS:
        counts = range(1, num_elements + 1) if num_beams is None else [num_beams]
        fitting = [
            bits
            for count in counts
            if 8 * -(-(bits := BeamBits(count, amplitude, phase)).total(num_elements) // 8) <= max_bits
        ]
        if not fitting:
            continue
        feedback = BeamFeedback(num_elements, max(fitting, key=lambda bits: bits.num_beams))
        feedback.fit(h)
        error = float(((feedback(some) - some).abs().square().sum(dim=1) / power).mean())
        if best is None or error < best[0]:
            best = error, feedback
    if best is None:
        raise SemcomError(f"max_bits {max_bits} is too few for a beam of {num_elements}: take 24 or more")
    return best[1]


def _width(num_values: int) -> int:
    return (num_values - 1).bit_length()


def _phase_symbol(angle: torch.Tensor, bits: int) -> torch.Tensor:
    return (angle.double() / (2 * torch.pi) * (1 << bits)).round().long() % (1 << bits)


def _rank(beams: list[int]) -> int:
    """The place of a rising set among those of its size, by the combinatorial number system."""
    return sum(math.comb(beam, place + 1) for place, beam in enumerate(beams))


def _set_of(rank: int, num_beams: int, num_elements: int) -> list[int]:
    beams, beam = [], num_elements
    for size in range(num_beams, 0, -1):
        beam -= 1
        while math.comb(beam, size) > rank:
            beam -= 1
        rank -= math.comb(beam, size)
        beams.append(beam)
    return beams[::-1]


def _checked(h: torch.Tensor, num_elements: int) -> torch.Tensor:
    if h.ndim != 2 or h.shape[1] != num_elements or not h.is_complex():
        raise SemcomError(f"channels of {h.dtype} {tuple(h.shape)} have to be complex [N, {num_elements}]")
    finite = torch.isfinite(torch.view_as_real(h.resolve_conj())).all(dim=2).all(dim=1)
    if not finite.all():
        raise SemcomError(f"channel {int((~finite).nonzero()[0])} holds NaN or infinity: it can't be sent")
    return h.to(torch.complex64)
