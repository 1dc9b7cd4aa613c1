"""Where single snapshots place users by direction and received power: the dissimilarity that charts fit."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field


class RangeConfig(BaseModel):
    """How far users are taken to be from what their powers tell; found on the one recorded file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share_weight: float = Field(1.0, ge=0, le=10, description="taken off log power for each log share")
    entropy_weight: float = Field(0.3, ge=0, le=10, description="added to log power for each nat of entropy")
    curvature: float = Field(0.136, ge=0, le=1, description="how much less a loss of power counts far away")
    taper: float = Field(0.227, ge=0, le=0.4, description="how much less it counts off broadside")
    deviation: float = Field(0.34, gt=0, le=2, description="deviation of the log range over all users")
    angle_scale: float = Field(1.25, gt=0, le=2, description="angles of the chart over angles of arrival")


def polar_places(features: torch.Tensor, config: RangeConfig) -> torch.Tensor:
    """Places users by direction and received power: features [N, FEATURE_DIM] of all antennas to [N, 2].

    u = -(log P - share_weight log share + entropy_weight entropy), standardised over the users: where the
    direct path faded against the paths around it, its share is less and the entropy more, which makes up for
    the power it lost. log range = deviation times the standardised u (1 - taper theta^2) - curvature u^2: of
    what is very weak, or seen from the side, more is fading and less is distance. The angle is angle_scale
    theta, theta that of arrival. Centred, of unit deviation; distances between these places are the
    dissimilarity that the chart is trained on.
    """
    theta = torch.atan2(features[:, 0], features[:, 1])
    level = features[:, 2] - config.share_weight * features[:, 3] + config.entropy_weight * features[:, 4]
    loss = -_standardised(level)
    log_range = _standardised(loss * (1 - config.taper * theta.square()) - config.curvature * loss.square())
    distance = torch.exp(config.deviation * log_range)
    angle = config.angle_scale * theta
    places = torch.stack((distance * angle.cos(), distance * angle.sin()), dim=1)
    return (places - places.mean(dim=0)) / places.std().clamp(min=1e-6)


def _standardised(value: torch.Tensor) -> torch.Tensor:
    return (value - value.mean()) / value.std().clamp(min=1e-6)
