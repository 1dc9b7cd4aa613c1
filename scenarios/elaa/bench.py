"""Classical estimators at one operating point: tuned on validation channels, asked for test channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from channels.near_field import NearFieldConfig
from channels.visibility import VisibilityConfig
from scenarios.elaa.data import Cell, DataConfig, Sample, draw_part, draw_sample
from scenarios.elaa.dictionaries import Dictionary, dft_dictionary, polar_dictionary
from scenarios.elaa.hybrid import HybridEstimator, tune_stacked
from scenarios.elaa.jobs import default_nomp
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.linear import least_squares, tune_lmmse
from scenarios.elaa.nomp import Nomp, Paths
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.path_posterior import posterior_fields
from scenarios.elaa.pursuit import Pursuit, tune_pursuit
from scenarios.elaa.region_detection import DETECTED_SIZE, RegionDetector, fit_region_detector, restrict
from scenarios.elaa.shrinking import NOMP_SHRINK, ShrunkNomp, fit_shrink, tune_shrink
from semcom.contracts import SemcomError
from semcom.rng import Streams


@lru_cache(maxsize=4)
def polar_atoms(array: LineArray) -> Dictionary:
    """The polar dictionary of an array, made once."""
    return polar_dictionary(array)


@lru_cache(maxsize=4)
def _dft(array: LineArray) -> Dictionary:
    return dft_dictionary(array, 2.0)


def tune_polar(array: LineArray, observed: Observed, truth: torch.Tensor) -> Pursuit:
    """Matching pursuit on the polar dictionary, tuned on validation channels [N, M]."""
    return tune_pursuit(polar_atoms(array), observed, truth)


@dataclass(frozen=True)
class Bench:
    """What the estimators of one operating point are tuned on, and what they are asked for.

    target_snr_db: SNR at which the channels that are tuned on are known themselves, exactly if None.
    """

    array: NearFieldConfig
    visibility: VisibilityConfig
    data: DataConfig
    cell: Cell
    seed: int
    target_snr_db: float | None = None

    @cached_property
    def validation(self) -> Sample:
        """The channels that are tuned on."""
        sample = draw_sample(self.array, self.visibility, self.data, "validation", self.cell, self.seed)
        if self.target_snr_db is None:
            return sample
        noise = Streams(self.seed).torch_generator("elaa-noise-in-validation")
        heard = observe(sample.h, torch.ones_like(sample.visible), self.target_snr_db, noise)
        return replace(sample, h=heard.y)

    @cached_property
    def test(self) -> Sample:
        """The channels that are measured on."""
        return draw_sample(self.array, self.visibility, self.data, "test", self.cell, self.seed)

    @cached_property
    def line(self) -> LineArray:
        """The array as classical estimators know it; raises SemcomError for a planar one."""
        return LineArray.of(self.array)

    @cached_property
    def known(self) -> Observed:
        """The validation channels as estimators are given them, their mask detected if it is not known."""
        return self._masked(self.validation)

    @cached_property
    def asked(self) -> Observed:
        """The test channels as estimators are given them."""
        return self._masked(self.test)

    @cached_property
    def nomp(self) -> Nomp:
        """NOMP as its own defaults have it."""
        return default_nomp(self.array)

    @cached_property
    def paths(self) -> Paths:
        """What NOMP finds of the test channels."""
        return self.nomp.paths(self.asked)

    @cached_property
    def known_paths(self) -> Paths:
        """What NOMP finds of the validation channels."""
        return self.nomp.paths(self.known)

    @cached_property
    def detector(self) -> RegionDetector:
        """What finds the visible region where nobody tells it."""
        sample = self.validation
        pursuit = tune_polar(self.line, restrict(sample.observed, sample.visible), sample.h)
        size = getattr(self.visibility, "subarray_size", DETECTED_SIZE)
        return fit_region_detector(pursuit, sample.observed, sample.visible, sample.h, size)

    def estimate(self, method: str) -> torch.Tensor:
        """Estimates the test channels, complex64 [N, M]. Raises SemcomError for an unknown method."""
        if method == "ls":
            return least_squares(self.asked)
        if method == "lmmse":
            training = draw_part(self.array, "training", self.data.num_training, self.seed)[:, -1]
            return tune_lmmse(training, self.known, self.validation.h).estimate(self.asked)
        if method == "dft-omp":
            return self._planar().estimate(self.asked)
        if method == "polar-omp":
            return tune_polar(self.line, self.known, self.validation.h).estimate(self.asked)
        if method == "nomp":
            return self.paths.field()
        if method in ("nomp-shrink", "nomp-bound-shrink"):
            return self.shrunk(method).field(self.paths, self.asked)
        if method == "nomp-posterior":
            known = posterior_fields(self.known_paths, self.known).sum(dim=1)
            shrink = fit_shrink(known, self.known.visible, self.validation.h)
            return shrink.apply(posterior_fields(self.paths, self.asked).sum(dim=1), self.asked.visible)
        raise SemcomError(f"no estimator is called {method}")

    def stacked(self, hybrid: HybridEstimator) -> torch.Tensor:
        """Estimates the test channels by a hybrid that is believed as far as validation channels bear out."""
        tuned = tune_stacked(hybrid, self.known, self.validation.h, self.known_paths)
        return tuned.field(self.paths, self.asked)

    def shrunk(self, method: str) -> ShrunkNomp:
        """NOMP shrunk by one factor, or by the bound of its phases and the distance to what is visible."""
        if method == "nomp-shrink":
            return tune_shrink(self.nomp, self.known, self.validation.h, *NOMP_SHRINK, paths=self.known_paths)
        return tune_shrink(self.nomp, self.known, self.validation.h, paths=self.known_paths)

    def _planar(self) -> Pursuit:
        return tune_pursuit(_dft(self.line), self.known, self.validation.h)

    def _masked(self, sample: Sample) -> Observed:
        observed = sample.observed
        if self.cell.mask_known:
            return observed
        return restrict(observed, self.detector.detect(observed))
