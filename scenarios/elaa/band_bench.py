"""Estimates of a wide band at one operating point: what they are tuned on, what they are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VisibilityConfig
from scenarios.elaa.band_search import BandNomp, subcarrier_shares
from scenarios.elaa.bands import hear_band
from scenarios.elaa.bench import polar_atoms
from scenarios.elaa.data import PER_STEP, DataConfig, Part, draw_visible
from scenarios.elaa.jobs import Trained, default_nomp
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import ModelConfig
from scenarios.elaa.observations import Observed
from scenarios.elaa.pursuit import Pursuit, subcarrier_atoms
from scenarios.elaa.shrinking import NOMP_SHRINK, fit_shrink, tune_shrink
from scenarios.elaa.tracks import Heard
from scenarios.elaa.vocabulary import BAND
from semcom.contracts import SemcomError
from semcom.rng import Streams

NUM_ATOMS, STOPS, RIDGES = (2, 3, 4, 6, 8, 12, 16), (0.0, 1.0, 1.2), (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What simultaneous pursuit is tuned among."""


@lru_cache(maxsize=2)
def _atoms(array: NearFieldConfig) -> torch.Tensor:
    """The polar dictionary's places on each subcarrier, complex64 [F, A, M]."""
    line = LineArray.of(array)
    return subcarrier_atoms(line, polar_atoms(line), array.offsets_hz())


@lru_cache(maxsize=4)
def draw_band(array: NearFieldConfig, part: Part, num: int, seed: int) -> torch.Tensor:
    """Draws the channels of one part of a seed's data on all subcarriers, complex64 [N, F, M]."""
    generator = Streams(seed).torch_generator(f"elaa-channels-{part}")
    return draw_channels(array, num, generator).h[:, 0]


@dataclass(frozen=True)
class BandBench:
    """One visible share and SNR of an array of several subcarriers."""

    array: NearFieldConfig
    visibility: VisibilityConfig
    data: DataConfig
    visible_share: float
    snr_db: float
    seed: int

    @cached_property
    def known(self) -> tuple[torch.Tensor, Heard]:
        """The validation channels complex64 [N, F, M], and what is received of them."""
        return self._draw("validation", self.data.num_validation)

    @cached_property
    def asked(self) -> tuple[torch.Tensor, Heard]:
        """The test channels, and what is received of them."""
        return self._draw("test", self.data.num_test)

    def _draw(self, part: Part, num: int) -> tuple[torch.Tensor, Heard]:
        h = draw_band(self.array, part, num, self.seed)
        visible = draw_visible(self.array, self.visibility, part, num, self.visible_share, self.seed)
        device, step = round(PER_STEP * self.visible_share), round(PER_STEP * self.snr_db)
        noise = Streams(self.seed).torch_generator(f"elaa-band-{part}", device, step)
        return h, hear_band(h, visible, self.snr_db, noise)

    def estimate(
        self, method: str, model: ModelConfig, weights: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> torch.Tensor:
        """Estimates the test channels, complex64 [N, F, M]. Raises SemcomError for an unknown method."""
        heard = self.asked[1]
        if method in BAND and BAND[method].is_learned:
            name = BAND[method].model
            where = f"the checkpoint of {name}, seed {self.seed}"
            return Trained(model, self.array, weights[name], where).band(heard)
        if method == "ls-band":
            return heard.y
        if method == "nomp-each":
            return torch.stack([self._alone(number) for number in range(heard.y.shape[1])], dim=1)
        if method == "p-somp":
            pursuit, (_, known) = tune_jointly(self._longest, *self.known), self.known
            of_known = pursuit.estimate_jointly(known.y, known.visible, known.noise_var)
            of_asked = pursuit.estimate_jointly(heard.y, heard.visible, heard.noise_var)
            return self._shrunk(of_known, of_asked)
        if method == "nomp-band":
            nomp = BandNomp.of(self.array)
            return self._shrunk(nomp.estimate(self.known[1]), nomp.estimate(heard))
        raise SemcomError(f"no estimator of a band is called {method}")

    @property
    def _longest(self) -> Pursuit:
        dictionary = polar_atoms(LineArray.of(self.array))
        num = min(max(NUM_ATOMS), len(dictionary))
        return Pursuit(dictionary, num, snapshot_atoms=_atoms(self.array))

    def _alone(self, number: int) -> torch.Tensor:
        """Shrunk NOMP on one subcarrier, whose wavelength it knows."""
        ratio = 1 + float(subcarrier_shares(self.array)[number])
        there = {
            "carrier_hz": self.array.carrier_hz * ratio,
            "spacing_wavelengths": self.array.spacing_wavelengths * ratio,
            "num_subcarriers": 1,
        }
        nomp = default_nomp(self.array.model_copy(update=there))
        h, heard = self.known
        shrunk = tune_shrink(nomp, _subcarrier(heard, number), h[:, number], *NOMP_SHRINK)
        return shrunk.estimate(_subcarrier(self.asked[1], number))

    def _shrunk(self, known: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Estimates times one factor for what is visible and one for what is hidden, fitted to `known`."""
        (h, heard), num = self.known, asked.shape[1]
        visible = heard.visible.repeat_interleave(num, dim=0)
        power = h.abs().square().sum(dim=(1, 2)).repeat_interleave(num)
        shrink = fit_shrink(known.flatten(0, 1), visible, h.flatten(0, 1), NOMP_SHRINK[1], power)
        seen = self.asked[1].visible.repeat_interleave(num, dim=0)
        return shrink.apply(asked.flatten(0, 1), seen).unflatten(0, (-1, num))


def _subcarrier(heard: Heard, number: int) -> Observed:
    return Observed(heard.y[:, number].contiguous(), heard.visible, heard.noise_var)


def tune_jointly(
    longest: Pursuit,
    truth: torch.Tensor,
    heard: Heard,
    num_atoms: Sequence[int] = NUM_ATOMS,
    stops: Sequence[float] = STOPS,
    ridges: Sequence[float] = RIDGES,
) -> Pursuit:
    """Chooses the atoms, stop and ridge of a simultaneous pursuit that are best on validation channels.

    longest: the pursuit with as many atoms as any; truth: complex64 [N, F, M]. The best ones have the least
    mean |h_hat - h|^2 / |h|^2 over the band.
    """
    support, energy = longest.choose(heard.y, heard.visible)
    power = truth.abs().square().sum(dim=(1, 2))
    best, least = longest, math.inf
    for num, stop in itertools.product(num_atoms, stops):
        if num > longest.num_atoms:
            continue
        for ridge in ridges:
            pursuit = replace(longest, num_atoms=num, stop=stop, ridge=ridge)
            sparse = pursuit.refit(heard.y, heard.visible, heard.noise_var, support, energy)
            error = (pursuit.field(sparse) - truth).abs().square().sum(dim=(1, 2))
            if float((error / power).mean()) < least:
                best, least = pursuit, float((error / power).mean())
    return best
