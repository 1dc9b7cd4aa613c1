"""The layers at a model's embeddings: what has to change for the latent space to be turned as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from semcom.encoders import ParallelMlpEncoder


@dataclass(frozen=True)
class LatentLayers:
    """All layers that give or read embeddings z [..., D], made of num_blocks equal parts side by side.

    outputs: give z, or a perceptron for each part of it. steps: give what is added to z. inputs: read z as
    their first D numbers. A layer that reads z and gives what is added to it is both, a step and an input.
    Target encoders count as outputs. num_blocks: parts which layers don't mix when they give z, so that each
    can be turned by itself alone.
    """

    outputs: Sequence[nn.Linear | ParallelMlpEncoder]
    steps: Sequence[nn.Linear]
    inputs: Sequence[nn.Linear]
    num_blocks: int = 1
