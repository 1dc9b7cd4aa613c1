"""The models of the sensing scenario: encoders, the cross-modal predictor, heads and decoders."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from scenarios.isac.features import CsiNormaliser, FrameNormaliser
from scenarios.isac.heads import Scene, SceneHead
from semcom.contracts import SemcomError
from semcom.encoders import MlpEncoder, ParallelMlpEncoder
from semcom.set_predictor import SetPredictor

NUM_CALIBRATION = 2048
CAMERA, RECEIVER = 0, 1


class ModelConfig(BaseModel):
    """Sizes of the networks; those of the baselines that are trained are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    camera_dim: int = Field(24, ge=1, le=4096, description="embedding of a frame, dimensions")
    receiver_dim: int = Field(4, ge=1, le=4096, description="embedding of a receiver's CSI, dimensions")
    width: int = Field(32, ge=1, le=1024, description="channels of the frame encoder's first layer")
    num_maps: int = Field(16, ge=1, le=1024, description="maps that the frame encoder divides a frame among")
    num_taps: int = Field(32, ge=1, le=4096, description="delay taps of the CSI that its encoder is shown")
    receiver_hidden_dim: int = Field(64, ge=1, le=4096, description="hidden units of a CSI encoder")
    predictor_dim: int = Field(256, ge=1, le=8192, description="hidden units of the predictor")
    num_lags: int = Field(
        8, ge=1, le=100, description="steps that the predictor looks at, the present one included"
    )
    head_dim: int = Field(128, ge=1, le=8192, description="hidden units of the heads")


class FrameEncoder(nn.Module):
    """Convolutions that divide a frame among maps, and where each map's part is: [n, 3, H, W] to [n, D].

    On a grid of 4 x 4 pixels a softmax over maps assigns each place to the maps, one of which stands for the
    background and is left out. Of each other map p: the root of its mean; under p, the means of x and y and
    their deviations (spatial soft-argmax: Finn et al. 2016; see semcom.encoders.KeypointStem). A linear map
    and a perceptron turn them into the embedding. Maps compete for places, so that each comes to follow one
    thing; and weights that look at every place alike make hundreds of different frames enough.
    """

    def __init__(self, embedding_dim: int, width: int, num_maps: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.logits = nn.Conv2d(width, num_maps + 1, 3, padding=1)
        with torch.no_grad():
            self.logits.weight.mul_(8)
            assert self.logits.bias is not None
            self.logits.bias.zero_()[0] = 3.0
        self.head = MlpEncoder(5 * num_maps, embedding_dim, 4 * width)
        self.normalise = nn.BatchNorm1d(5 * num_maps, affine=False)

    def forward(self, content: torch.Tensor) -> torch.Tensor:
        """Maps normalised frames to embeddings [n, D]."""
        h = functional.relu(self.patches(content.contiguous(memory_format=torch.channels_last)))
        share = torch.softmax(self.logits(h), dim=1)[:, 1:]
        return self.head(self.normalise(soft_moments(share)))


def soft_moments(share: torch.Tensor) -> torch.Tensor:
    """Strength, mean place and spread of maps [n, M, H, W] >= 0, x and y from -1 to 1: [n, 5 M]."""
    height, width = share.shape[-2:]
    in_row, in_column = share.sum(dim=3), share.sum(dim=2)
    total = in_row.sum(dim=2)
    parts = [(total / (height * width) + 1e-4).sqrt()]
    for along, size in ((in_row, height), (in_column, width)):
        at = torch.linspace(-1, 1, size).to(share)
        mean = along @ at / (total + 0.3)
        square = along @ at.square() / (total + 0.3)
        parts += [mean, (square - mean.square()).clamp_min(0).add(1e-4).sqrt()]
    return torch.cat(parts, dim=1)


class FrameDecoder(nn.Module):
    """The way back: a linear map and three layers that enlarge: [n, D] to normalised frames [n, 3, H, W]."""

    def __init__(self, height: int, width_px: int, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.size = (height, width_px)
        self.grid = (-(-height // 16), -(-width_px // 16))
        self.first = nn.Linear(embedding_dim, 2 * width * self.grid[0] * self.grid[1])
        self.up = nn.ModuleList(
            (
                nn.Conv2d(2 * width, 2 * width, 3, padding=1),
                nn.Conv2d(2 * width, width, 3, padding=1),
                nn.Conv2d(width, 48, 3, padding=1),
            )
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Maps embeddings [n, D] to what they show of the frame."""
        h = functional.gelu(self.first(z)).unflatten(1, (-1, *self.grid))
        h = h.contiguous(memory_format=torch.channels_last)
        h = functional.gelu(self.up[0](functional.interpolate(h, scale_factor=2)))
        h = functional.gelu(self.up[1](functional.interpolate(h, scale_factor=2)))
        # Each place of the last grid becomes a patch of 4 x 4 pixels.
        frame = functional.pixel_shuffle(self.up[2](h), 4)
        return frame[..., : self.size[0], : self.size[1]]


class SensingModel(nn.Module):
    """Everything that was learned of a room with C cameras and R receivers, S = C + R sensors.

    A step's state is z [N, S, D], D the larger of the two embedding sizes, cameras first; the receivers'
    embeddings are filled up with zeros. calibration [NUM_CALIBRATION, S, D]: training embeddings, for codecs
    to be fitted to. mean [S, D]: of training embeddings.
    """

    calibration: torch.Tensor
    mean: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        frame_size: tuple[int, int],
        num_cameras: int,
        num_receivers: int,
        num_subcarriers: int,
        num_pedestrians: int,
        *,
        with_fusion: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_cameras, self.num_receivers = num_cameras, num_receivers
        self.num_sensors = num_cameras + num_receivers
        self.modality = (CAMERA,) * num_cameras + (RECEIVER,) * num_receivers
        self.dims = (config.camera_dim, config.receiver_dim)
        self.embedding_dim = max(self.dims)
        self.frames = FrameNormaliser(num_cameras, *frame_size)
        self.csi = CsiNormaliser(num_receivers, num_subcarriers, config.num_taps)
        self.camera_encoder = FrameEncoder(config.camera_dim, config.width, config.num_maps)
        self.receiver_encoder = ParallelMlpEncoder(
            num_receivers, self.csi.output_dim, config.receiver_dim, config.receiver_hidden_dim
        )
        dims = [self.dims[modality] for modality in self.modality]
        self.predictor = SetPredictor(dims, config.num_lags, config.predictor_dim)
        sizes = (self.num_sensors * self.embedding_dim, config.head_dim, num_pedestrians, num_cameras)
        self.head = SceneHead(*sizes)
        if with_fusion:
            self.fusion = SetPredictor(dims, config.num_lags, config.predictor_dim)
            self.fusion_head = SceneHead(*sizes)
            self.fill_head = SceneHead(*sizes)
        self.decoder = FrameDecoder(*frame_size, config.camera_dim, config.width)
        self.register_buffer(
            "calibration", torch.zeros(NUM_CALIBRATION, self.num_sensors, self.embedding_dim)
        )
        self.register_buffer("mean", torch.zeros(self.num_sensors, self.embedding_dim))

    def dim_of(self, sensor: int) -> int:
        """Dimensions of a sensor's embedding."""
        return self.dims[self.modality[sensor]]

    def padded(self, z: torch.Tensor) -> torch.Tensor:
        """Fills embeddings [..., d] up with zeros to [..., D]."""
        return functional.pad(z, (0, self.embedding_dim - z.shape[-1]))

    def embed_camera(self, frame: torch.Tensor, camera: int) -> torch.Tensor:
        """Encodes frames of one camera, uint8 [n, 3, H, W], into [n, camera_dim].

        Raises SemcomError for frames of another size or type.
        """
        wanted = tuple(self.frames.background.shape[1:])
        if frame.dtype != torch.uint8 or frame.ndim != 4 or frame.shape[1:] != wanted:
            raise SemcomError(
                f"frames of camera {camera + 1} have type {frame.dtype} and shape {list(frame.shape)}: this "
                f"model takes torch.uint8 [n, {', '.join(map(str, wanted))}]"
            )
        return self.camera_encoder(self.frames(frame, camera))

    def embed_receiver(self, csi: torch.Tensor, receiver: int) -> torch.Tensor:
        """Encodes CSI of one receiver, complex64 [n, F], into [n, receiver_dim].

        Raises SemcomError for CSI of another size or type, and where it holds NaN or infinity.
        """
        num_subcarriers = self.csi.mean_csi.shape[1]
        if not csi.is_complex() or csi.ndim != 2 or csi.shape[1] != num_subcarriers:
            raise SemcomError(
                f"CSI of receiver {receiver + 1} has type {csi.dtype} and shape {list(csi.shape)}: this "
                f"model takes torch.complex64 [n, {num_subcarriers}]"
            )
        broken = ~csi.isfinite().all(dim=1)
        if bool(broken.any()):
            raise SemcomError(
                f"CSI of receiver {receiver + 1} holds NaN or infinity in row {int(broken.int().argmax())}: "
                "let the receiver send nothing in that step, and it is inpainted"
            )
        return self.receiver_encoder.of_sensor(self.csi(csi, receiver), receiver)

    def embed(self, frame: torch.Tensor, csi: torch.Tensor) -> torch.Tensor:
        """Encodes what all sensors observe, [N, C, 3, H, W] and [N, R, F], into z [N, S, D]."""
        parts = [self.embed_camera(frame[:, camera], camera) for camera in range(self.num_cameras)]
        parts += [self.embed_receiver(csi[:, number], number) for number in range(self.num_receivers)]
        return torch.stack([self.padded(part) for part in parts], dim=1)

    def read(self, z: torch.Tensor) -> Scene:
        """Reads the scene off completed embeddings z [N, S, D]."""
        return self.head(z)

    def read_fused(self, z: torch.Tensor) -> Scene:
        """Reads the scene off embeddings completed by `fusion`, z [N, S, D]."""
        return self.fusion_head(z)

    def read_filled(self, z: torch.Tensor) -> Scene:
        """Reads the scene off embeddings filled up by zeros, means or last values, z [N, S, D]."""
        return self.fill_head(z)

    def decode(self, z: torch.Tensor, camera: int) -> torch.Tensor:
        """Shows what embeddings of one camera hold, [n, D]: frames [n, 3, H, W], values from 0 to 1."""
        content = self.decoder(z[:, : self.config.camera_dim])
        return self.frames.frame_of(content, camera).clamp(0, 1)
