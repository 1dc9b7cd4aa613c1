"""Feedback of a channel as its paths: gains, angles and distances, in steps that their errors deserve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scenarios.elaa.feedback_prior import Cells, FloatArray, IntArray, Prior
from scenarios.elaa.line_array import LineArray
from semcom.codecs.interval_coding import IntervalReader, IntervalWriter
from semcom.contracts import SemcomError


@dataclass(frozen=True)
class Paths:
    """Paths of N channels: h = sum_p gain_p a(sine_p, inverse_m_p), as `LineArray.response`.

    gain: complex64 [N, P], 0 where there is no path; sine, inverse_m: float64 [N, P].
    """

    gain: torch.Tensor
    sine: torch.Tensor
    inverse_m: torch.Tensor

    def sorted(self, max_paths: int) -> Paths:
        """The strongest paths of each channel, the strongest first, no more than max_paths."""
        order = self.gain.abs().argsort(dim=1, descending=True, stable=True)[:, :max_paths]
        return Paths(*(part.gather(1, order) for part in (self.gain, self.sine, self.inverse_m)))

    def channels(self, array: LineArray) -> torch.Tensor:
        """The channels that the paths make, complex64 [N, M]."""
        h = torch.zeros(len(self.gain), array.num_elements, dtype=torch.complex64)
        for path in range(self.gain.shape[1]):
            response = array.response(self.sine[:, path], self.inverse_m[:, path])
            h += self.gain[:, path, None] * response
        return h


@dataclass(frozen=True)
class PathSteps:
    """How finely paths are rounded; the first in amplitude per element, the others factors on what follows.

    threshold: paths below so many steps of amplitude are left out.
    """

    size: float
    threshold: float = 2.0
    amplitude: float = 1.0
    phase: float = 1.0
    sine: float = 1.0
    inverse: float = 1.0


class PathCodec:
    """Rounds the parameters of paths and codes them under the distributions that training paths have.

    An error of a parameter x turns element n's phase by e_n = dx d(phase_n)/dx and costs |g|^2 mean e_n^2
    of an element's power: what the Fisher information 2 M |g|^2 mean (d(phase_n)/dx)^2 / noise says. Steps
    that cost alike, whatever the parameter, spend bits best at high rates (Gersho and Gray 1992, chapter 8):
    size for an amplitude |g|, size / |g| for a phase, size / (|g| (2 pi/lambda) rms(d)) for a sine, and
    size / (|g| (pi/lambda) (1 - s^2) std(d^2)) for an inverse distance, whose common phase the path's own
    makes up for. Strong paths are so told finely and weak ones coarsely or not at all. A path's phase is
    fitted anew to what its rounded direction and the paths before it leave of the channel.

    A message is the paths, the strongest first: amplitude (at most the one before; 0 ends the message), sine,
    inverse distance, phase. Each is coded in exact arithmetic (`IntervalWriter`) under a table that follows
    from the symbols before it. `fit_path_codec` makes one for a number of bits.
    """

    codec_id = 11
    name = "paths"

    def __init__(self, array: LineArray, max_paths: int, steps: PathSteps, paths: Paths) -> None:
        """Learns the distributions from paths [N, P] of training channels."""
        self.array, self.max_paths, self.steps = array, max_paths, steps
        ordered = _checked(paths).sorted(max_paths)
        amplitude = ordered.gain.abs().double().numpy()
        there = amplitude > 0
        if not there.any():
            raise SemcomError("paths can't be learned from channels without any: give it some training paths")
        # What the strongest is, then what each is of the one before it.
        self._amplitudes = [Prior(np.append(amplitude[:, 0], 0))]
        for rank in range(1, amplitude.shape[1]):
            before = there[:, rank - 1]
            ratio = amplitude[before, rank] / amplitude[before, rank - 1]
            self._amplitudes.append(Prior(np.concatenate([ratio, [0.0, 1.0]])))
        self.max_paths = len(self._amplitudes)
        self._sine = Prior(ordered.sine.numpy()[there], -array.max_sine, array.max_sine)
        nearest, farthest = 1 / array.min_distance_m, 1 / array.max_distance_m
        self._inverse = Prior(ordered.inverse_m.numpy()[there], farthest, nearest)
        turn = 2 * np.pi / array.wavelength_m
        place_m = array.place_m.numpy()
        self._sine_slope = max(turn * float(np.sqrt(np.mean(place_m**2))), 1e-9)
        self._inverse_slope = max(turn / 2 * float(np.std(place_m**2)), 1e-9)

    def with_steps(self, steps: PathSteps) -> PathCodec:
        """The same distributions with other steps."""
        other = object.__new__(PathCodec)
        other.__dict__.update(self.__dict__, steps=steps)
        return other

    def _amplitude_cells(self, rank: int, cell: IntArray, amplitude: FloatArray) -> tuple[Cells, FloatArray]:
        """Cells of amplitudes over a scale; cell, amplitude: those of the path before."""
        steps, prior = self.steps, self._amplitudes[rank]
        step = steps.size * steps.amplitude
        scale = np.ones(len(cell)) if rank == 0 else np.maximum(amplitude, 1e-300)
        top = max(1, int(np.ceil(prior.high / step - steps.threshold)))
        num = np.full(len(cell), top + 1) if rank == 0 else cell + 1
        high = np.maximum(prior.high, (steps.threshold + top) * step) if rank == 0 else 1.0
        whole = np.full(len(cell), float(high))
        return Cells(prior, 0 * scale, steps.threshold * step / scale, step / scale, whole, num), scale

    def _sine_cells(self, amplitude: FloatArray) -> Cells:
        size = self.steps.size * self.steps.sine
        return Cells.even(self._sine, size / (amplitude * self._sine_slope))

    def _inverse_cells(self, amplitude: FloatArray, sine: FloatArray) -> Cells:
        size = self.steps.size * self.steps.inverse
        slope = self._inverse_slope * np.maximum(1 - sine**2, 1e-3)
        return Cells.even(self._inverse, size / (amplitude * slope))

    def _num_phases(self, amplitude: FloatArray) -> IntArray:
        size = self.steps.size * self.steps.phase
        return np.maximum(np.ceil(2 * np.pi * amplitude / size), 1).astype(np.int64)

    def quantise(self, paths: Paths) -> tuple[IntArray, FloatArray]:
        """Returns the symbols of paths [N, P], int64 [N, max_paths, 4], and what each path's cost, bits [N].

        The symbols of a path that is not there are 0.
        """
        symbols, bits = self._directions(paths)
        return self._with_phases(paths, symbols), bits

    def _directions(self, paths: Paths) -> tuple[IntArray, FloatArray]:
        ordered = _checked(paths).sorted(self.max_paths)
        true_amplitude = ordered.gain.abs().double().numpy()
        sines, inverses = ordered.sine.numpy(), ordered.inverse_m.numpy()
        num = len(sines)
        symbols = np.zeros((num, self.max_paths, 4), dtype=np.int64)
        bits, going = np.zeros(num), np.ones(num, dtype=bool)
        cell, amplitude = np.zeros(num, dtype=np.int64), np.zeros(num)
        for rank in range(min(self.max_paths, sines.shape[1])):
            cells, scale = self._amplitude_cells(rank, cell, amplitude)
            cell = np.where(going, cells.symbols(true_amplitude[:, rank] / scale), 0)
            bits += np.where(going, cells.cost_bits(cell), 0)
            amplitude = cells.values(cell) * scale
            going = going & (cell > 0)
            known = np.where(going, amplitude, 1.0)
            sine_cells = self._sine_cells(known)
            sine_cell = sine_cells.symbols(sines[:, rank])
            inverse_cells = self._inverse_cells(known, sine_cells.values(sine_cell))
            inverse_cell = inverse_cells.symbols(inverses[:, rank])
            cost = sine_cells.cost_bits(sine_cell) + inverse_cells.cost_bits(inverse_cell)
            bits += np.where(going, cost + np.log2(self._num_phases(known)), 0)
            chosen = np.stack([cell, sine_cell, inverse_cell, 0 * cell], axis=1)
            symbols[:, rank] = np.where(going[:, None], chosen, 0)
        return symbols, bits

    def _with_phases(self, paths: Paths, symbols: IntArray) -> IntArray:
        """Fits the phases one after the other to what is left of the channel."""
        symbols = symbols.copy()
        rounded = self.paths_of(symbols)
        left = paths.channels(self.array)
        ordered = paths.sorted(self.max_paths)
        later = Paths(ordered.gain, ordered.sine, ordered.inverse_m)
        others = later.channels(self.array)
        for rank in range(min(self.max_paths, ordered.gain.shape[1])):
            own = Paths(*(part[:, rank : rank + 1] for part in (later.gain, later.sine, later.inverse_m)))
            others = others - own.channels(self.array)
            response = self.array.response(rounded.sine[:, rank], rounded.inverse_m[:, rank])
            inner = ((left - others) * response.conj()).mean(dim=1)
            amplitude = rounded.gain[:, rank].abs().double().numpy()
            num_phases = self._num_phases(amplitude)
            turns = torch.angle(inner).double().numpy() / (2 * np.pi)
            phase = np.round(turns * num_phases).astype(np.int64) % num_phases
            symbols[:, rank, 3] = np.where(amplitude > 0, phase, 0)
            gain = amplitude * np.exp(2j * np.pi * symbols[:, rank, 3] / num_phases)
            left = left - torch.from_numpy(gain).to(torch.complex64)[:, None] * response
        return symbols

    def paths_of(self, symbols: IntArray) -> Paths:
        """Returns the paths that symbols int64 [N, max_paths, 4] stand for."""
        num = len(symbols)
        gain = np.zeros((num, self.max_paths), dtype=np.complex128)
        sine, inverse = np.zeros((num, self.max_paths)), np.zeros((num, self.max_paths))
        cell, amplitude = np.zeros(num, dtype=np.int64), np.zeros(num)
        for rank in range(self.max_paths):
            cells, scale = self._amplitude_cells(rank, cell, amplitude)
            cell = symbols[:, rank, 0]
            amplitude = cells.values(cell) * scale
            there = cell > 0
            known = np.where(there, amplitude, 1.0)
            at_sine = self._sine_cells(known).values(symbols[:, rank, 1])
            at_inverse = self._inverse_cells(known, at_sine).values(symbols[:, rank, 2])
            phase = 2j * np.pi * symbols[:, rank, 3] / self._num_phases(known)
            gain[:, rank] = np.where(there, amplitude * np.exp(phase), 0)
            sine[:, rank], inverse[:, rank] = np.where(there, at_sine, 0), np.where(there, at_inverse, 0)
        return Paths(
            torch.from_numpy(gain).to(torch.complex64), torch.from_numpy(sine), torch.from_numpy(inverse)
        )

    def encode(self, paths: Paths) -> list[bytes]:
        """Returns one payload for each of N channels: the fewest bytes that its paths decode from."""
        return self._written(self.quantise(paths)[0])

    def _written(self, symbols: IntArray) -> list[bytes]:
        writers = [IntervalWriter() for _ in symbols]
        self._pass(symbols, writers)
        return [writer.payload() for writer in writers]

    def decode_paths(self, payloads: Sequence[bytes]) -> Paths:
        """Returns the paths, [N, max_paths]. Raises SemcomError for payloads that `encode` never makes."""
        symbols = np.zeros((len(payloads), self.max_paths, 4), dtype=np.int64)
        self._pass(symbols, [IntervalReader(payload) for payload in payloads])
        for index, (payload, made) in enumerate(zip(payloads, self._written(symbols), strict=True)):
            if payload != made:
                raise SemcomError(f"payload {index} is not what this codec makes of the paths in it")
        return self.paths_of(symbols)

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the channels, complex64 [N, M]."""
        return self.decode_paths(payloads).channels(self.array)

    def _pass(self, symbols: IntArray, coders: Sequence[IntervalWriter] | Sequence[IntervalReader]) -> None:
        """Writes all symbols, or reads them into `symbols`: one walk for both, so that they can't differ."""
        num = len(symbols)
        going = np.ones(num, dtype=bool)
        cell, amplitude = np.zeros(num, dtype=np.int64), np.zeros(num)
        for rank in range(self.max_paths):
            cells, scale = self._amplitude_cells(rank, cell, amplitude)
            _code(coders, symbols[:, rank, 0], going, cells)
            cell = symbols[:, rank, 0]
            amplitude = cells.values(cell) * scale
            going = going & (cell > 0)
            known = np.where(going, amplitude, 1.0)
            sine_cells = self._sine_cells(known)
            _code(coders, symbols[:, rank, 1], going, sine_cells)
            inverse_cells = self._inverse_cells(known, sine_cells.values(symbols[:, rank, 1]))
            _code(coders, symbols[:, rank, 2], going, inverse_cells)
            _code(coders, symbols[:, rank, 3], going, self._num_phases(known))

    def entropy_bits(self, paths: Paths) -> torch.Tensor:
        """Returns the information in each channel's payload under the distributions, bits, float64 [N]."""
        return torch.from_numpy(self._directions(paths)[1])

    def __call__(self, paths: Paths) -> torch.Tensor:
        """Returns the channels that the central unit ends up with, complex64 [N, M]."""
        return self.paths_of(self.quantise(paths)[0]).channels(self.array)


def _code(
    coders: Sequence[IntervalWriter] | Sequence[IntervalReader],
    symbols: IntArray,
    going: np.ndarray,
    alphabet: Cells | IntArray,
) -> None:
    for row in np.flatnonzero(going).tolist():
        coder = coders[row]
        if isinstance(alphabet, Cells):
            if isinstance(coder, IntervalWriter):
                coder.write(int(symbols[row]), alphabet.table(row))
            else:
                symbols[row] = coder.read(alphabet.table(row))
        elif isinstance(coder, IntervalWriter):
            coder.write_uniform(int(symbols[row]), int(alphabet[row]))
        else:
            symbols[row] = coder.read_uniform(int(alphabet[row]))


def _checked(paths: Paths) -> Paths:
    shape = paths.gain.shape
    if len(shape) != 2 or paths.sine.shape != shape or paths.inverse_m.shape != shape:
        raise SemcomError(
            f"gains {tuple(shape)}, sines {tuple(paths.sine.shape)} and inverse distances "
            f"{tuple(paths.inverse_m.shape)} of paths have to be [N, P] alike"
        )
    for part in (torch.view_as_real(paths.gain), paths.sine, paths.inverse_m):
        if not torch.isfinite(part).all():
            raise SemcomError("paths hold NaN or infinity: only finite ones can be sent")
    return Paths(paths.gain, paths.sine.double(), paths.inverse_m.double())
