"""The settings of split training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nodes.training.cut import Shape, TargetPlace
from nodes.training.updates import QuantisedUpdate, UpdateCodecConfig
from nodes.transfer import TransferConfig


class SplitConfig(BaseModel):
    """Who trains with the base station, where the model is cut, and how what crosses is coded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    turn_steps: int = Field(2, ge=1, le=1_000_000, description="training steps of a device's turn")
    participation: float = Field(1.0, gt=0, le=1, description="share of the devices that a round asks")
    encoders: Literal["relay", "average"] = Field(
        "relay",
        description="relay: the encoder goes from one device to the next; average: copies are averaged",
    )
    moments: Literal["handed-over", "kept"] = Field(
        "handed-over",
        description="relay: the optimiser's moments of the encoder go with it, or every device keeps its own",
    )
    average_rounds: int = Field(1, ge=1, le=1_000_000, description="rounds after which copies are averaged")
    shape: Shape = Field("straight", description="u: labels and losses stay with the devices")
    target: TargetPlace = Field("device", description="where target embeddings are computed")
    embedding: UpdateCodecConfig = QuantisedUpdate(bits=8)
    gradient: UpdateCodecConfig = QuantisedUpdate(bits=8)
    encoder: UpdateCodecConfig = QuantisedUpdate(bits=8)
    dropout_probability: float = Field(
        0.0, ge=0, le=1, description="probability that a device misses its turn in a round"
    )
    step_s: float = Field(0.01, gt=0, le=3600, description="time that a training step takes to compute")
    transfer: TransferConfig = TransferConfig(segment_bytes=1500)

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if self.shape == "u" and self.target == "station":
            raise ValueError("shape = u keeps losses with the devices: it needs target = device")
        for name in ("embedding", "gradient", "encoder"):
            if getattr(getattr(self, name), "error_feedback", False):
                raise ValueError(
                    f"{name}.error_feedback = true: a message knows nothing of the last one, set it to false"
                )
        return self
