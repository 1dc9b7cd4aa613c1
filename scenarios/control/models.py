"""The networks of the control scenario: the motion encoder, the semantic actor, and the baselines' heads."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.control.camera import CameraConfig
from scenarios.control.plant import COMMAND_DIM, PlantConfig
from semcom.encoders import ConvEncoder, KeypointStem, MlpEncoder
from semcom.predictors import FilmPredictor
from semcom.rng import Streams


class ModelConfig(BaseModel):
    """Sizes of the networks; the baselines share all that they can with the JEPA."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedding_dim: int = Field(10, ge=2, le=1024, multiple_of=2, description="dimensions of an embedding")
    stem: Literal["keypoints", "conv"] = Field("keypoints", description="keypoints: fixed; conv: trained")
    num_filters: int = Field(64, ge=1, le=1024, description="filters of the keypoint stem")
    conv_width: int = Field(64, ge=4, le=256, description="channels of the conv stem's first stage")
    hidden_dim: int = Field(128, ge=8, le=4096, description="hidden units of predictor, actor and heads")
    readout: Literal["linear", "mlp"] = Field(
        "linear", description="from a frame's features to its embedding"
    )
    readout_dim: int = Field(64, ge=8, le=4096, description="hidden units of an mlp readout")
    gap_steps: int = Field(5, ge=1, le=50, description="steps between the two frames of an observation")
    rate_gain: float = Field(5.0, gt=0, description="gain of the difference of the two frames' embeddings")


class Window(NamedTuple):
    """W consecutive steps of B plants: frame features [B, W, F] and scaled commands [B, W, A]."""

    features: torch.Tensor
    command: torch.Tensor


class Observation(NamedTuple):
    """What a device knows when it sends.

    frame [B, 2, C, H, W] uint8: gap steps ago, and now. past_command [B, gap, A] in N: the commands
    applied in between, oldest first; a device knows them, it is the one that applied them.
    """

    frame: torch.Tensor
    past_command: torch.Tensor


def make_stem(model: ModelConfig, camera: CameraConfig, streams: Streams) -> tuple[nn.Module, int]:
    """Makes the stem that turns a frame into features, and tells their number."""
    if model.stem == "keypoints":
        generator = streams.torch_generator("stem")
        stem = KeypointStem(camera.num_colors, model.num_filters, generator)
        return stem, stem.output_dim
    num_features = 2 * model.num_filters
    return (
        ConvEncoder(camera.num_colors, camera.height_px, camera.width_px, num_features, model.conv_width),
        num_features,
    )


class MotionEncoder(nn.Module):
    """A Siamese encoder: z_t = [e_t, c (e_t - e_(t-g))] + C u_(t-g..t-1), then whitened.

    One frame shows positions only. The difference of two shows velocities, but late: with explicit Euler
    it is their mean over the steps before, so the commands applied since are added by a linear map. A linear
    readout e is the default: one that bends finds functions of the cart's position that are easier to predict
    than the pole's angle, and may leave that out. `whiten`
    fits an affine map on training embeddings after training, so that every dimension of z has the same
    scale, which makes them equally fine under one quantiser.
    """

    center: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, num_features: int, model: ModelConfig, command_scale_n: float) -> None:
        super().__init__()
        self.embedding_dim = model.embedding_dim
        self.gap_steps = model.gap_steps
        self.rate_gain = model.rate_gain
        self.command_scale_n = command_scale_n
        half = model.embedding_dim // 2
        self.readout = (
            nn.Linear(num_features, half)
            if model.readout == "linear"
            else MlpEncoder(num_features, half, model.readout_dim)
        )
        self.past = nn.Linear(model.gap_steps * COMMAND_DIM, model.embedding_dim, bias=False)
        nn.init.zeros_(self.past.weight)
        self.register_buffer("center", torch.zeros(model.embedding_dim))
        self.register_buffer("whitening", torch.eye(model.embedding_dim))

    def combine(self, now: torch.Tensor, before: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        """Joins two frames' features [..., F] and the scaled commands in between [..., g A]: [..., D]."""
        now, before = self.readout(now), self.readout(before)
        z = torch.cat((now, self.rate_gain * (now - before)), dim=-1) + self.past(past)
        return (z - self.center) @ self.whitening

    def forward(self, window: Window) -> torch.Tensor:
        """Maps a window of W steps to the embeddings [B, W - g, D] of its steps g, g + 1, ..."""
        gap = self.gap_steps
        embedding = self.readout(window.features)
        past = window.command.unfold(1, gap, 1)[:, : window.command.shape[1] - gap].flatten(2)
        motion = self.rate_gain * (embedding[:, gap:] - embedding[:, :-gap])
        z = torch.cat((embedding[:, gap:], motion), dim=-1) + self.past(past)
        return (z - self.center) @ self.whitening

    @torch.no_grad()
    def whiten(self, z: torch.Tensor, floor: float = 1e-4) -> None:
        """Fits the whitening on embeddings z [N, D]: V (Lambda + floor lambda_max)^(-1/2)."""
        center = z.double().mean(dim=0)
        eigenvalues, vectors = torch.linalg.eigh(torch.cov((z.double() - center).T))
        # An eigenvector's sign is arbitrary; fix it, so that the same weights always give the same z.
        vectors = vectors * torch.sign(vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)))
        scale = (eigenvalues + floor * eigenvalues[-1]).rsqrt()
        self.center.copy_(center)
        self.whitening.copy_(vectors * scale)


def stem_window(stem: nn.Module, window: Window) -> Window:
    """Replaces the frames [B, W, C, H, W'] of a window by the stem's features of them."""
    features = stem(window.features.flatten(0, 1)).unflatten(0, window.features.shape[:2])
    return Window(features, window.command)


class FrameMotionEncoder(nn.Module):
    """A stem in training and its motion encoder as one, so that a target follows both."""

    def __init__(self, stem: nn.Module, encoder: MotionEncoder) -> None:
        super().__init__()
        self.stem, self.encoder = stem, encoder

    def forward(self, window: Window) -> torch.Tensor:
        """Maps a window of frames [B, W, C, H, W'] to the embeddings [B, W - g, D]."""
        return self.encoder(stem_window(self.stem, window))


class SkipMlp(nn.Module):
    """A linear map plus a two-layer perceptron that starts at zero: [..., D] to [..., A]."""

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)
        self.mlp = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, output_dim),
        )
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Maps [..., D] to [..., A]."""
        return self.linear(z) + self.mlp(z)

    @torch.no_grad()
    def fit_linear(self, z: torch.Tensor, target: torch.Tensor) -> None:
        """Sets the linear part by least squares on z [N, D] and target [N, A]."""
        rows = torch.cat((z.double(), torch.ones(len(z), 1, dtype=torch.float64)), dim=1)
        solution = torch.linalg.lstsq(rows, target.double()).solution
        self.linear.weight.copy_(solution[:-1].T)
        self.linear.bias.copy_(solution[-1])


class MotionModel(nn.Module):
    """A stem, a motion encoder and an actor, and for the JEPA a predictor: what gets deployed.

    calibration [4096, D]: training embeddings, from which codecs learn their ranges and symbol models.
    """

    calibration: torch.Tensor

    def __init__(
        self,
        model: ModelConfig,
        camera: CameraConfig,
        plant: PlantConfig,
        streams: Streams,
        *,
        with_predictor: bool,
    ) -> None:
        super().__init__()
        self.stem, num_features = make_stem(model, camera, streams)
        self.command_scale_n = plant.max_force_n / 4
        self.encoder = MotionEncoder(num_features, model, self.command_scale_n)
        self.actor = SkipMlp(model.embedding_dim, COMMAND_DIM, model.hidden_dim)
        self.predictor = (
            FilmPredictor(model.embedding_dim, COMMAND_DIM, model.hidden_dim) if with_predictor else None
        )
        self.register_buffer("calibration", torch.zeros(4096, model.embedding_dim))


class FrameDecoder(nn.Module):
    """The autoencoder's decoder: an embedding [N, D] back to the two frames [N, 2 C H W]."""

    def __init__(self, embedding_dim: int, camera: CameraConfig, hidden_dim: int) -> None:
        super().__init__()
        num_pixels = 2 * camera.num_colors * camera.height_px * camera.width_px
        self.net = nn.Sequential(
            nn.Linear(embedding_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, 2 * hidden_dim),
            nn.GELU(),
            nn.Linear(2 * hidden_dim, num_pixels),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the frames' pixels [N, 2 C H W], full scale 1."""
        return self.net(z)
