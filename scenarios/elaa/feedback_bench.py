"""Estimates sent in a number of bits: what an array found of a channel, coded for a central unit."""

from __future__ import annotations

import torch

from scenarios.elaa.bench import Bench
from scenarios.elaa.data import draw_part
from scenarios.elaa.feedback_codebook import BeamFeedback, fit_beam_feedback
from scenarios.elaa.feedback_path_fit import fit_path_codec
from scenarios.elaa.feedback_paths import Paths
from scenarios.elaa.feedback_transform import CsiFeedback, fit_dechirped_klt_feedback, fit_klt_feedback
from scenarios.elaa.nomp import Paths as FoundPaths
from semcom.contracts import SemcomError

_MOST_TRAINING = 4000


def code(bench: Bench, method: str, bits: int) -> tuple[torch.Tensor, list[bytes]]:
    """Codes the test channels' estimates: what the other end decodes, complex64 [N, M], and the payloads.

    Transforms and codebooks are fitted to clean training channels and code NOMP's shrunk estimate; paths are
    NOMP's own, their codec fitted to those of validation channels.
    """
    if method == "nomp-parameters":
        codec = fit_path_codec(bench.line, _plain(bench.nomp.paths(bench.known)), bits)
        payloads = codec.encode(_plain(bench.paths))
        return codec.decode(payloads), payloads
    num = min(bench.data.num_training, _MOST_TRAINING)
    training = draw_part(bench.array, "training", bench.data.num_training, bench.seed)[:num, -1]
    feedback: CsiFeedback | BeamFeedback
    if method == "klt":
        feedback = fit_klt_feedback(training, bits)
    elif method == "klt-dechirped":
        feedback = fit_dechirped_klt_feedback(bench.line, training, bits)
    elif method == "dft-codebook":
        feedback = fit_beam_feedback(training, bits)
    else:
        raise SemcomError(f"no feedback is called {method}")
    payloads = feedback.encode(bench.estimate("nomp-bound-shrink"))
    return feedback.decode(payloads), payloads


def _plain(paths: FoundPaths) -> Paths:
    return Paths(paths.gain, paths.sine.double(), paths.inverse_m.double())
