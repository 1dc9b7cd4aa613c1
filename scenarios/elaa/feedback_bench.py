"""Estimates sent in a number of bits: what an array found of a channel, coded for a central unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from scenarios.elaa.bench import Bench
from scenarios.elaa.bottleneck_codec import RateControl
from scenarios.elaa.config import ElaaConfig
from scenarios.elaa.data import draw_part
from scenarios.elaa.feedback_codebook import BeamFeedback, fit_beam_feedback
from scenarios.elaa.feedback_path_fit import fit_path_codec
from scenarios.elaa.feedback_paths import Paths
from scenarios.elaa.feedback_transform import CsiFeedback, fit_dechirped_klt_feedback, fit_klt_feedback
from scenarios.elaa.jobs import trained_bottleneck
from scenarios.elaa.nomp import Paths as FoundPaths
from scenarios.elaa.observations import Observed
from scenarios.elaa.path_refinement import PathSet
from scenarios.elaa.vocabulary import FEEDBACKS
from semcom.contracts import SemcomError

_MOST_TRAINING = 4000
_GAIN_VAR = 0.1


@dataclass(frozen=True)
class FeedbackBench:
    """One operating point at which estimates are coded, for any number of bits: what all of these share.

    weights: the trained tensors that methods need, by their models' names.
    """

    bench: Bench
    config: ElaaConfig
    weights: Mapping[str, Mapping[str, torch.Tensor]]

    @cached_property
    def _training(self) -> torch.Tensor:
        bench = self.bench
        num = min(bench.data.num_training, _MOST_TRAINING)
        return draw_part(bench.array, "training", bench.data.num_training, bench.seed)[:num, -1]

    @cached_property
    def _estimate(self) -> torch.Tensor:
        return self.bench.estimate("nomp-bound-shrink")

    @cached_property
    def _known_estimate(self) -> torch.Tensor:
        return self.bench.shrunk("nomp-bound-shrink").field(self.bench.known_paths, self.bench.known)

    @cached_property
    def _known_paths(self) -> Paths:
        return _shrunk(self.bench.known_paths, self._known_estimate, self.bench.known)

    @cached_property
    def _control(self) -> RateControl:
        name, bench = FEEDBACKS["jepa-bottleneck"].model, self.bench
        where = f"the checkpoint of {name}, seed {bench.seed}"
        model = trained_bottleneck(self.config, bench.seed, self.weights[name], where)
        return RateControl(model, bench.array, bench.known)

    def code(self, method: str, bits: int) -> tuple[torch.Tensor, list[bytes]]:
        """Codes the test channels: what the other end decodes, complex64 [N, M], and the payloads.

        Transforms and codebooks are fitted to clean training channels and code NOMP's shrunk estimate; paths
        are NOMP's own, with the gains that come nearest to that, their codec fitted to those of validation
        channels. The bottleneck codes what is observed. All rates are set on validation channels.
        """
        bench = self.bench
        if method == "nomp-parameters":
            codec = fit_path_codec(bench.line, self._known_paths, bits)
            payloads = codec.encode(_shrunk(bench.paths, self._estimate, bench.asked))
            return codec.decode(payloads), payloads
        if method == "jepa-bottleneck":
            bottleneck = self._control.feedback(bits)
            payloads = bottleneck.encode(bench.asked)
            return bottleneck.decode(payloads), payloads
        feedback: CsiFeedback | BeamFeedback
        if method == "klt":
            feedback = fit_klt_feedback(self._training, bits, self._known_estimate)
        elif method == "klt-dechirped":
            feedback = fit_dechirped_klt_feedback(
                bench.line, self._training, bits, held_out=self._known_estimate
            )
        elif method == "dft-codebook":
            feedback = fit_beam_feedback(self._training, bits)
        else:
            raise SemcomError(f"no feedback is called {method}")
        payloads = feedback.encode(self._estimate)
        return feedback.decode(payloads), payloads


def _shrunk(paths: FoundPaths, estimate: torch.Tensor, observed: Observed) -> Paths:
    """Paths with the gains whose field is nearest to a shrunk estimate of it, complex64 [N, M].

    Least squares, with the ridge that NOMP's own gains have.
    """
    present = paths.gain.abs() > 0
    unit = PathSet(present.to(torch.complex64), paths.sine, paths.inverse_m).waves(paths.array).field
    ridge = torch.where(present, observed.noise_var[:, None] / _GAIN_VAR, 1.0)
    gram = unit.conj() @ unit.mT + torch.diag_embed(ridge)
    gain = torch.linalg.solve(gram, (unit.conj() @ estimate[..., None])[..., 0])
    return Paths(torch.where(present, gain, 0), paths.sine.double(), paths.inverse_m.double())
