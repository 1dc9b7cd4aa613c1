"""The settings of federated training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nodes.training.aggregation import AggregationConfig, FedAvg
from nodes.training.broadcast import BroadcastConfig
from nodes.training.faults import FaultConfig
from nodes.training.screening import ScreeningConfig
from nodes.training.updates import Float32Update, UpdateCodecConfig
from nodes.transfer import TransferConfig


class FederatedConfig(BaseModel):
    """How clients train together: who takes part, what they send, and what the base station makes of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    local_steps: int = Field(5, ge=1, le=1_000_000, description="training steps of a client in a round")
    participation: float = Field(1.0, gt=0, le=1, description="share of the clients that a round asks")
    sharing: Literal["all", "predictor", "nothing"] = Field(
        "all",
        description="what is federated: all; all but encoders and target encoders, which stay each client's "
        "own; or nothing, each client trains alone",
    )
    initialisation: Literal["shared", "own"] = Field(
        "shared", description="clients start from the same random weights, or each from its own"
    )
    alignment: Literal["none", "procrustes"] = Field(
        "none", description="whether clients turn their latent spaces onto each other before they send"
    )
    alignment_rounds: int | None = Field(
        None, ge=1, description="every so many rounds; in the first of a stage alone if not given"
    )
    strategy: AggregationConfig = FedAvg()
    broadcast: BroadcastConfig = BroadcastConfig()
    update: UpdateCodecConfig = Float32Update()
    screening: ScreeningConfig = ScreeningConfig()
    optimizer_state: Literal["kept", "reset"] = Field(
        "kept", description="what becomes of a client's moments from round to round"
    )
    faults: FaultConfig = FaultConfig()
    transfer: TransferConfig = TransferConfig(segment_bytes=1500)

    @model_validator(mode="after")
    def _check(self) -> FederatedConfig:
        if self.alignment != "none" and self.sharing == "nothing":
            raise ValueError("alignment = procrustes with sharing = nothing: there is nothing to align for")
        if self.broadcast.missed == "refuse" and self.participation < 1:
            raise ValueError("broadcast.missed = refuse: with participation < 1 clients miss versions anyway")
        return self

    @property
    def is_personal(self) -> bool:
        """Whether each client runs a training of its own: see nodes.training.personal."""
        return self.sharing != "all" or self.initialisation == "own"
