"""Encoders: a convolutional one that reads keypoints off a frame, perceptrons for vectors, one or many."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

# The activations of so many frames stay in a core's cache, which more than halves the time.
_FRAMES_AT_ONCE = 32


class KeypointStem(nn.Module):
    """Convolution, squared ReLU and a spatial expectation for each channel: frames to keypoints.

    a = relu(w * x + b)^2,  keypoint_c = sum_ij a_cij (x_j, y_i) / (sum_ij a_cij + epsilon).

    A keypoint moves with what its filter responds to, so positions in the scene come out nearly linearly,
    below the pixel (the idea of spatial soft-argmax: Finn et al. 2016, Deep Spatial Autoencoders; the
    square takes the place of the exponential, so that a filter that sees nothing points nowhere). Filters
    start positively biased: they answer to bright patches rather than to noise. They are good enough as
    drawn; with `trainable=False` they stay fixed and the keypoints of a data set can be computed once.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self, num_colors: int, num_filters: int, generator: torch.Generator, *, trainable: bool = False
    ) -> None:
        super().__init__()
        self.output_dim = 2 * num_filters
        size = 5
        self.convolution = nn.Conv2d(num_colors, num_filters, size, stride=2, padding=size // 2)
        weight = torch.randn(self.convolution.weight.shape, generator=generator) / size + 1 / size
        weight = weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        reach = weight.abs().sum(dim=(1, 2, 3))
        bias = -0.4 * reach * torch.rand(num_filters, generator=generator)
        with torch.no_grad():
            self.convolution.weight.copy_(weight)
            assert self.convolution.bias is not None
            self.convolution.bias.copy_(bias)
        self.convolution.requires_grad_(trainable)
        self.register_buffer("mean", torch.zeros(self.output_dim))
        self.register_buffer("deviation", torch.ones(self.output_dim))

    def keypoints(self, frame: torch.Tensor) -> torch.Tensor:
        """Maps frames [N, C, H, W] (uint8, or float in [0, 1]) to raw keypoints [N, 2 num_filters]."""
        return torch.cat([self._keypoints(part) for part in frame.split(_FRAMES_AT_ONCE)])

    def _keypoints(self, frame: torch.Tensor) -> torch.Tensor:
        if frame.dtype == torch.uint8:
            frame = frame.float() / 255
        activation = functional.relu(self.convolution(frame), inplace=True).square()
        height, width = activation.shape[-2:]
        in_row, in_column = activation.sum(dim=3), activation.sum(dim=2)
        y = in_row @ torch.linspace(-0.5, 0.5, height).to(activation)
        x = in_column @ torch.linspace(-1, 1, width).to(activation)
        return (torch.stack((x, y), dim=2) / (in_row.sum(dim=2)[..., None] + 1e-2)).flatten(1)

    @torch.no_grad()
    def calibrate(self, frame: torch.Tensor) -> None:
        """Sets the normalisation from training frames [N, C, H, W]: mean 0 and about unit deviation."""
        keypoints = self.keypoints(frame)
        self.mean.copy_(keypoints.mean(dim=0))
        # The floor keeps a filter that hardly ever moves from amplifying its noise.
        self.deviation.copy_(keypoints.std(dim=0) + 5e-3)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Maps frames [N, C, H, W] to normalised keypoints [N, 2 num_filters]."""
        return (self.keypoints(frame) - self.mean) / self.deviation


class ConvEncoder(nn.Module):
    """A small residual network for frames (He et al. 2016): [N, C, H, W] to [N, embedding_dim].

    Three stages of 64, 128 and 256 channels at `width` = 64, each halving the picture, and a linear head
    on the flattened last one (an average over space would lose where things are).
    """

    def __init__(self, num_colors: int, height: int, width_px: int, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        channels = (num_colors, width, 2 * width, 4 * width)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))
        self.residual = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for b in channels[1:])
        self.head = nn.Linear(channels[-1] * math.ceil(height / 8) * math.ceil(width_px / 8), embedding_dim)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Maps frames [N, C, H, W] (uint8, or float in [0, 1]) to embeddings [N, embedding_dim]."""
        h = frame.float() / 255 if frame.dtype == torch.uint8 else frame
        for down, residual in zip(self.down, self.residual, strict=True):
            h = functional.gelu(down(h))
            h = h + functional.gelu(residual(h))
        return self.head(h.flatten(1))


class MlpEncoder(nn.Module):
    """A linear map plus a two-layer perceptron that starts at zero: [..., input_dim] to [..., D]."""

    def __init__(self, input_dim: int, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.linear = nn.Linear(input_dim, embedding_dim)
        self.hidden = nn.Linear(input_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, embedding_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """Maps vectors [..., input_dim] to embeddings [..., D]."""
        return self.linear(vector) + self.out(functional.gelu(self.hidden(vector)))


class ParallelMlpEncoder(nn.Module):
    """R perceptrons of two hidden layers side by side, one for each sensor: [N, R, input_dim] to [N, R, D].

    They share no weights; computing them as one batch of matrices is what makes them quick.
    """

    def __init__(self, num_sensors: int, input_dim: int, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_sensors = num_sensors
        self.embedding_dim = embedding_dim
        sizes = (input_dim, hidden_dim, hidden_dim, embedding_dim)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(num_sensors, a, b) / math.sqrt(a)) for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(num_sensors, 1, b)) for b in sizes[1:])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps vectors [N, R, input_dim] to embeddings [N, R, D]."""
        h = vectors.transpose(0, 1)
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if number < last:
                h = functional.gelu(h)
        return h.transpose(0, 1)

    def of_sensor(self, vectors: torch.Tensor, sensor: int) -> torch.Tensor:
        """Maps vectors [n, input_dim] of one sensor to its embeddings [n, D]."""
        h, last = vectors, len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.addmm(bias[sensor], h, weight[sensor])
            if number < last:
                h = functional.gelu(h)
        return h
