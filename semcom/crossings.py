"""Where a JEPA may be cut: the places at which embeddings pass from devices to a base station and back."""

from __future__ import annotations

from torch import nn


class ToStation(nn.Identity):
    """Embeddings pass here on their way to the predictor."""


class ToDevice(nn.Identity):
    """Predictions pass here on their way to the loss."""
