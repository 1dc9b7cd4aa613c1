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
from scenarios.elaa.vocabulary import FEEDBACKS
from semcom.contracts import SemcomError

_MOST_TRAINING = 4000


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
    def _known_paths(self) -> Paths:
        return _plain(self.bench.known_paths)

    @cached_property
    def _control(self) -> RateControl:
        name, bench = FEEDBACKS["jepa-bottleneck"].model, self.bench
        where = f"the checkpoint of {name}, seed {bench.seed}"
        model = trained_bottleneck(self.config, bench.seed, self.weights[name], where)
        return RateControl(model, bench.array, bench.known)

    def code(self, method: str, bits: int) -> tuple[torch.Tensor, list[bytes]]:
        """Codes the test channels: what the other end decodes, complex64 [N, M], and the payloads.

        Transforms and codebooks are fitted to clean training channels and code NOMP's shrunk estimate; paths
        are NOMP's own, their codec fitted to those of validation channels. The bottleneck codes what is
        observed; its rate is set on validation channels.
        """
        bench = self.bench
        if method == "nomp-parameters":
            codec = fit_path_codec(bench.line, self._known_paths, bits)
            payloads = codec.encode(_plain(bench.paths))
            return codec.decode(payloads), payloads
        if method == "jepa-bottleneck":
            bottleneck = self._control.feedback(bits)
            payloads = bottleneck.encode(bench.asked)
            return bottleneck.decode(payloads), payloads
        feedback: CsiFeedback | BeamFeedback
        if method == "klt":
            feedback = fit_klt_feedback(self._training, bits)
        elif method == "klt-dechirped":
            feedback = fit_dechirped_klt_feedback(bench.line, self._training, bits)
        elif method == "dft-codebook":
            feedback = fit_beam_feedback(self._training, bits)
        else:
            raise SemcomError(f"no feedback is called {method}")
        payloads = feedback.encode(self._estimate)
        return feedback.decode(payloads), payloads


def _plain(paths: FoundPaths) -> Paths:
    return Paths(paths.gain, paths.sine.double(), paths.inverse_m.double())
