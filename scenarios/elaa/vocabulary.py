"""The names of the ELAA scenario's methods, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "pursuit", "paths", "learned"]


@dataclass(frozen=True)
class Method:
    """One estimator: its kind and what it does; of a learned one the model, and which of its tensors."""

    kind: Kind
    summary: str
    model: str = ""
    prefix: str = ""


ESTIMATORS: dict[str, Method] = {
    "ls": Method("linear", "what was received, and zero elsewhere"),
    "lmmse": Method("linear", "linear MMSE with the sample covariance of training channels"),
    "dft-omp": Method("pursuit", "matching pursuit among plane waves"),
    "polar-omp": Method("pursuit", "matching pursuit among spherical waves on a grid"),
    "nomp": Method("paths", "paths off the grid, refined together"),
    "nomp-shrink": Method("paths", "the same, hidden elements shrunk by one factor"),
    "nomp-bound-shrink": Method("paths", "the same, shrunk by what the Cramer-Rao bound says of the phases"),
    "supervised": Method("learned", "a transformer trained on the error alone", "supervised", "tuned."),
    "mae-frozen": Method("learned", "a masked autoencoder as it is, and a decoder", "mae", "frozen."),
    "mae": Method("learned", "the same, trained on end to end", "mae", "tuned."),
    "elaa-jepa-frozen": Method("learned", "the JEPA as it is, and a decoder", "elaa-jepa", "frozen."),
    "elaa-jepa": Method("learned", "the same, trained on end to end", "elaa-jepa", "tuned."),
    "hybrid": Method(
        "learned", "NOMP's paths and the JEPA's estimate, weighed patch by patch", "elaa-jepa", "combiner."
    ),
}
"""Estimators of the whole array from what its visible elements receive."""

FORECASTERS: dict[str, str] = {
    "last-value": "the last snapshot's estimate",
    "wiener": "a Wiener filter over the snapshots' estimates",
    "s-omp": "atoms common to all snapshots, whose phases go on turning",
}

FRONTHAUL: dict[str, str] = {
    "raw-nomp": "what sub-arrays receive itself, and shrunk NOMP at the central unit",
    "raw-ls": "the same, and zeros for what is missing",
}
"""What sub-arrays report over the fronthaul, and what the central unit makes of it."""

FEEDBACKS: dict[str, str] = {
    "klt": "transform coding of the channel",
    "klt-dechirped": "the strongest direction, and transform coding of what it leaves",
    "dft-codebook": "beams of an oversampled DFT, amplitudes and phases",
    "nomp-parameters": "the paths that NOMP found, rounded",
}
