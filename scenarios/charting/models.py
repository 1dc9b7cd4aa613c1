"""The models of the charting scenario: array encoders, a predictor that is told the velocity, a chart."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.charting.features import CsiFeatures, FeatureConfig
from semcom.encoders import ParallelMlpEncoder
from semcom.predictors import FilmPredictor

CHART_DIM = 2
VELOCITY_DIM = 2
NUM_CALIBRATION = 2048


class ModelConfig(BaseModel):
    """Sizes of the networks; the baselines that are trained have the same encoders."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedding_dim: int = Field(4, ge=1, le=1024, description="embedding of one array's CSI, dimensions")
    hidden_dim: int = Field(64, ge=1, le=4096, description="units in the hidden layers of an array's encoder")
    head_dim: int = Field(64, ge=1, le=4096, description="hidden units of the chart's head")
    predictor_dim: int = Field(64, ge=1, le=4096, description="hidden units of the predictor")


class ChartHead(nn.Module):
    """Maps the embeddings of all arrays, side by side, [..., R D] to the chart [..., 2]."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, CHART_DIM)
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the chart [..., 2] of embeddings [..., R D]."""
        return self.net(z)


class ArrayModel(nn.Module):
    """Everything that was learned from CSI: features and encoders of R arrays, the chart, the predictor.

    The state of a user is z [N, R, D], what its R arrays sent or were predicted to send. The predictor
    takes all of it one sampling interval on, under the user's velocity. scale_m: metres that a unit of the
    chart stands for where velocities were known (an arbitrary scale elsewhere); speed_m_s: of the training
    data, root mean square, which velocities are divided by. calibration [NUM_CALIBRATION, R, D]: training
    embeddings, for codecs to be fitted to.
    """

    scale_m: torch.Tensor
    speed_m_s: torch.Tensor
    calibration: torch.Tensor

    def __init__(
        self,
        model: ModelConfig,
        features: FeatureConfig,
        csi_shape: tuple[int, int, int],
        num_rows: int,
        *,
        with_predictor: bool,
    ) -> None:
        super().__init__()
        num_arrays, num_antennas, num_subcarriers = csi_shape
        self.num_arrays, self.embedding_dim = num_arrays, model.embedding_dim
        self.features = CsiFeatures(features, num_arrays, num_antennas, num_subcarriers, num_rows)
        self.encoder = ParallelMlpEncoder(
            num_arrays, self.features.output_dim, model.embedding_dim, model.hidden_dim
        )
        state_dim = num_arrays * model.embedding_dim
        self.head = ChartHead(state_dim, model.head_dim)
        self.predictor = (
            FilmPredictor(state_dim, VELOCITY_DIM, model.predictor_dim) if with_predictor else None
        )
        self.register_buffer("scale_m", torch.ones(()))
        self.register_buffer("speed_m_s", torch.ones(()))
        self.register_buffer("calibration", torch.zeros(NUM_CALIBRATION, num_arrays, model.embedding_dim))

    def embed(self, csi: torch.Tensor) -> torch.Tensor:
        """Encodes CSI, complex64 [..., R, M, F], into embeddings [..., R, D]."""
        leading = csi.shape[:-3]
        return self.encoder(self.features(csi.flatten(0, -4))).unflatten(0, leading)

    def embed_array(self, csi: torch.Tensor, array: int) -> torch.Tensor:
        """Encodes CSI of one array, complex64 [n, M, F], into its embeddings [n, D]."""
        features = self.features.project(self.features.raw_of(csi, array), array)
        return self.encoder.of_sensor(features, array)

    def chart(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the chart [..., 2] of embeddings [..., R, D]."""
        return self.head(z.flatten(-2))

    def predict(self, z: torch.Tensor, velocity_m_s: torch.Tensor) -> torch.Tensor:
        """Takes embeddings [..., R, D] one sampling interval on, under mean velocities [..., 2] in it."""
        assert self.predictor is not None
        return self.predictor(z.flatten(-2), velocity_m_s / self.speed_m_s).unflatten(-1, z.shape[-2:])


class SequenceEncoder(nn.Module):
    """Encodes features of sequences, [B, T, R, input_dim], into embeddings [B, T, R D]."""

    def __init__(self, encoder: ParallelMlpEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns embeddings [B, T, R D]."""
        return self.encoder(features.flatten(0, 1)).flatten(1).unflatten(0, features.shape[:2])
