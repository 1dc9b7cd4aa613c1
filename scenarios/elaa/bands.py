"""Subcarriers of a wide band as a network sees them: one wave, its squint and its delay taken out of all.

Shapes: N channels, F subcarriers, M elements; a `Heard` holds them where it has snapshots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VisibilityConfig
from scenarios.elaa.band_search import subcarrier_shares
from scenarios.elaa.examples import ExampleConfig, cells, draw_visible
from scenarios.elaa.features import Dechirper, Frame
from scenarios.elaa.inputs import to_numbers, to_values
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import CsiModel, Window
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.patches import Patches
from scenarios.elaa.tracks import Heard, times
from scenarios.elaa.window_examples import VALUES_AT_ONCE, WindowExamples
from scenarios.elaa.windows import NUM_MORE, WindowInputs, side_by_side, steady_turn
from semcom.contracts import SemcomError
from semcom.rng import Streams

_ROWS_AT_ONCE = 256


def band_window(num_subcarriers: int) -> Window:
    """The sizes of a model of a band, which tells all subcarriers."""
    return Window(num_subcarriers, NUM_MORE, 0, num_subcarriers)


@dataclass(frozen=True)
class BandFrame:
    """What N channels are turned by on each subcarrier: frame's wave, with its squint, and its delay.

    rotation: complex64 [N, F, M] of modulus one; scale: that of `frame`.
    """

    frame: Frame
    rotation: torch.Tensor

    def enter(self, h: torch.Tensor) -> torch.Tensor:
        """Takes channels complex64 [N, F, M] into the frame."""
        return h * self.rotation.conj() / self.frame.scale[:, None, None]

    def leave(self, turned: torch.Tensor) -> torch.Tensor:
        """Takes channels complex64 [N, F, M] back out of the frame."""
        return turned * self.rotation * self.frame.scale[:, None, None]


class BandDechirper:
    """Finds the strongest path on all subcarriers: its wave, how that squints, how its phase turns.

    A subcarrier m in the middle tells a first wave; turned back to it by squint, and by the turn from
    subcarrier to subcarrier, the mean of all, of an F-th of the noise, tells the final one. A wave's squint
    on subcarrier f is its phase along the line, unwrapped from element to element, times f / f_m - 1.
    """

    def __init__(self, array: NearFieldConfig) -> None:
        """Raises SemcomError for a single subcarrier, several rows, or elements too far apart."""
        if array.num_subcarriers < 2:
            raise SemcomError("one subcarrier tells no delay: give two or more")
        if array.num_rows != 1 or array.spacing_wavelengths * LineArray.of(array).max_sine > 0.5:
            raise SemcomError(
                f"array.num_rows = {array.num_rows} and array.spacing_wavelengths = "
                f"{array.spacing_wavelengths:g}: a band's waves are followed from element to element of one "
                "line, half a turn at most: take 1 row and 0.5"
            )
        self.dechirp = Dechirper(array)
        ratio = 1 + subcarrier_shares(array)
        self.middle = array.num_subcarriers // 2
        self.squint = (ratio / ratio[self.middle] - 1).float()
        self.place = torch.arange(array.num_subcarriers) - (array.num_subcarriers - 1) / 2

    def __call__(self, heard: Heard) -> tuple[BandFrame, torch.Tensor, torch.Tensor]:
        """The frames of N channels; the turn float32 [N] in rad, and its steadiness float32 [N]."""
        first = self.dechirp(Observed(heard.y[:, self.middle], heard.visible, heard.noise_var))
        squint = self._squint(first.rotation)
        turn, _ = steady_turn(heard.y, first.rotation[:, None] * squint)
        mean = (heard.y * (squint * self._delay(turn)).conj()).mean(dim=1)
        frame = self.dechirp(Observed(mean, heard.visible, heard.noise_var / len(self.squint)))
        wave = frame.rotation[:, None] * self._squint(frame.rotation)
        turn, steadiness = steady_turn(heard.y, wave)
        return BandFrame(frame, wave * self._delay(turn)), turn, steadiness

    def _squint(self, rotation: torch.Tensor) -> torch.Tensor:
        step = (rotation[:, 1:] * rotation[:, :-1].conj()).angle().double()
        phase = torch.cat((torch.zeros(len(step), 1), step.cumsum(dim=1)), dim=1)
        about = phase - phase[:, [(phase.shape[1] - 1) // 2, phase.shape[1] // 2]].mean(dim=1, keepdim=True)
        angle = about.float()[:, None] * self.squint[:, None]
        return torch.complex(angle.cos(), angle.sin())

    def _delay(self, turn: torch.Tensor) -> torch.Tensor:
        return torch.polar(torch.ones(()), turn[:, None] * self.place)[..., None]


def make_band_inputs(
    heard: Heard, dechirper: BandDechirper, patches: Patches
) -> tuple[WindowInputs, BandFrame]:
    """Turns subcarriers into a network's inputs, and the frame that takes estimates back."""
    found, turn, steadiness = dechirper(heard)
    turned = torch.where(heard.visible[:, None], found.enter(heard.y), 0)
    there = patches.split(heard.visible)
    inputs = WindowInputs(
        side_by_side(to_numbers(patches.split(turned))),
        there.float(),
        there.any(dim=2),
        torch.cat((found.frame.condition, torch.stack((turn, steadiness), dim=1)), dim=1),
        torch.zeros(len(heard), 0),
    )
    return inputs, found


def hear_band(
    h: torch.Tensor, visible: torch.Tensor, snr_db: float | torch.Tensor, generator: torch.Generator
) -> Heard:
    """Pilots of channels complex64 [N, F, M] on all subcarriers: see `observations.observe`."""
    each = [observe(one, visible, snr_db, generator) for one in h.unbind(dim=1)]
    return Heard(torch.stack([one.y for one in each], dim=1), visible, each[0].noise_var)


def draw_band_examples(
    array: NearFieldConfig,
    config: ExampleConfig,
    visibilities: Sequence[VisibilityConfig],
    patches: Patches,
    streams: Streams,
) -> WindowExamples:
    """Draws training examples as examples.draw_examples, of all subcarriers of the array."""
    generator = streams.torch_generator("elaa band examples")
    at_once = max(1, VALUES_AT_ONCE // (array.num_elements * array.num_subcarriers))
    dechirper = BandDechirper(array)
    inputs, clean, cell = [], [], []
    for begin in range(0, config.num_examples, at_once):
        num = min(at_once, config.num_examples - begin)
        h = draw_channels(array, num, generator).h[:, 0]
        visible = draw_visible(array, config.mask_source, visibilities, patches, num, generator)
        share = torch.rand(num, generator=generator)
        snr_db = config.min_snr_db + (config.max_snr_db - config.min_snr_db) * share
        heard = hear_band(h, visible, snr_db, generator)
        shown, frame = make_band_inputs(heard, dechirper, patches)
        goal = h
        if config.target_snr_db is not None:
            goal = hear_band(h, torch.ones_like(visible), config.target_snr_db, generator).y
        inputs.append(shown)
        clean.append(to_numbers(patches.split(frame.enter(goal))))
        cell.append(cells(Observed(heard.y[:, 0], visible, heard.noise_var)))
    whole = WindowInputs(
        *(torch.cat([getattr(part, each.name) for part in inputs]) for each in fields(WindowInputs))
    )
    order = whole.visible.sum(dim=1).argsort(stable=True)
    time = times(array.num_subcarriers).long()
    return WindowExamples(whole, torch.cat(clean), time, torch.cat(cell), order, array.num_subcarriers)


class LearnedBand:
    """A trained model of bands as an estimator: what is received on all subcarriers to all channels."""

    def __init__(self, model: CsiModel, array: NearFieldConfig, patch_size: int) -> None:
        self.model = model
        self.patches = Patches(array, patch_size)
        self.dechirper = BandDechirper(array)

    @torch.no_grad()
    def estimate(self, heard: Heard) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, F, M]."""
        parts = []
        for some in (heard[at : at + _ROWS_AT_ONCE] for at in range(0, len(heard), _ROWS_AT_ONCE)):
            inputs, frame = make_band_inputs(some, self.dechirper, self.patches)
            told = to_values(self.model(inputs)).unflatten(2, (-1, self.patches.patch_size))
            parts.append(frame.leave(self.patches.join(told.transpose(1, 2))))
        return torch.cat(parts)
