"""The names of the ELAA scenario's methods, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One method: what it does; of a learned one the model that it needs, and which of its tensors."""

    summary: str
    model: str = ""
    prefix: str = ""

    @property
    def is_learned(self) -> bool:
        """Whether it needs a trained model."""
        return self.model != ""


ESTIMATES = ("estimate", "unknown", "noisy", "sweep")
"""Results that are estimates of the configured array itself, measured on all test channels."""

ESTIMATORS: dict[str, Method] = {
    "ls": Method("what was received, and zero elsewhere"),
    "lmmse": Method("linear MMSE with the sample covariance of training channels"),
    "dft-omp": Method("matching pursuit among plane waves"),
    "polar-omp": Method("matching pursuit among spherical waves on a grid"),
    "nomp": Method("paths off the grid, refined together"),
    "nomp-shrink": Method("the same, hidden elements shrunk by one factor"),
    "nomp-bound-shrink": Method("the same, shrunk by what the Cramer-Rao bound says of the phases"),
    "nomp-posterior": Method("the same paths, each the mean over what it may be, shrunk"),
    "supervised": Method("a transformer trained on the error alone", "supervised", "tuned."),
    "mae-frozen": Method("a masked autoencoder as it is, and a decoder", "mae", "frozen."),
    "mae": Method("the same, trained on end to end", "mae", "tuned."),
    "elaa-jepa-frozen": Method("the JEPA as it is, and a decoder", "elaa-jepa", "frozen."),
    "elaa-jepa": Method("the same, trained on end to end", "elaa-jepa", "tuned."),
    "hybrid": Method(
        "NOMP's paths and the JEPA's estimate, weighed patch by patch", "elaa-jepa", "combiner."
    ),
}
"""Estimators of the whole array from what its visible elements receive."""

FORECASTERS: dict[str, Method] = {
    "last-value": Method("the last snapshot's estimate"),
    "wiener": Method("a Wiener filter over the snapshots' estimates, each user's turn taken out"),
    "s-omp": Method("atoms common to all snapshots, whose phases go on turning"),
    "nomp-track": Method("paths off the grid, common to all snapshots, that turn and drift on"),
    "elaa-jepa-time": Method(
        "a JEPA over windows of snapshots, trained on end to end", "elaa-jepa-time", "tuned."
    ),
}

BAND: dict[str, Method] = {
    "ls-band": Method("what was received on each subcarrier, and zero elsewhere"),
    "nomp-each": Method("shrunk NOMP on each subcarrier by itself"),
    "p-somp": Method("places of the polar grid common to all subcarriers, each with its squint"),
    "nomp-band": Method("paths off the grid, with a delay, common to all subcarriers, shrunk"),
    "elaa-jepa-band": Method(
        "a JEPA whose patches hold all subcarriers, trained on end to end", "elaa-jepa-band", "tuned."
    ),
}
"""Estimators of several subcarriers together."""

FRONTHAUL: dict[str, Method] = {
    "raw-nomp": Method("what sub-arrays receive itself, and shrunk NOMP at the central unit"),
    "raw-ls": Method("the same, and zeros for what is missing"),
    "wave-nomp": Method("each sub-array's strongest wave and what it leaves, and shrunk NOMP"),
    "jepa-tokens": Method(
        "the same reports, and a JEPA that predicts those missing", "jepa-tokens", "tuned."
    ),
    "jepa-tokens-hybrid": Method(
        "the same reports, NOMP's paths and that JEPA's estimate, weighed", "jepa-tokens", "combiner."
    ),
}
"""What sub-arrays report over the fronthaul, and what the central unit makes of it."""

FEEDBACKS: dict[str, Method] = {
    "klt": Method("transform coding of the channel"),
    "klt-dechirped": Method("the strongest direction, and transform coding of what it leaves"),
    "dft-codebook": Method("beams of an oversampled DFT, amplitudes and phases"),
    "nomp-parameters": Method("the paths that NOMP found, rounded"),
    "jepa-bottleneck": Method("a JEPA's estimate through a trained bottleneck", "jepa-bottleneck"),
}

METHODS: dict[str, Method] = ESTIMATORS | FORECASTERS | BAND | FRONTHAUL | FEEDBACKS
"""All of these; no two have one name."""
