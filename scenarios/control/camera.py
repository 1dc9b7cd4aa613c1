"""The camera: renders cart-poles as anti-aliased frames, many at once, with sensor noise."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field

from scenarios.control.plant import PlantConfig


class CameraConfig(BaseModel):
    """The camera's picture: size, colours, field of view and noise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    height_px: int = Field(32, ge=8, le=512, description="rows of a frame")
    width_px: int = Field(64, ge=8, le=512, description="columns of a frame")
    num_colors: int = Field(1, ge=1, le=3, description="1: grayscale, 3: RGB")
    view_width_m: float = Field(2.4, gt=0, description="width of the field of view in m")
    noise_std: float = Field(0.02, ge=0, lt=1, description="sensor noise per pixel, full scale 1")

    def frame_bits(self) -> int:
        """Bits of one raw frame at 8 bits a pixel and colour."""
        return self.height_px * self.width_px * self.num_colors * 8


# Brightness of background, cart and pole in each colour; grayscale takes the first column.
_COLORS = ((0.0, 0.10, 0.15), (0.55, 0.20, 0.80), (1.0, 0.85, 0.25))
_CART_HALF_WIDTH_M, _CART_HALF_HEIGHT_M, _POLE_HALF_WIDTH_M = 0.25, 0.12, 0.045


def render(state: torch.Tensor, camera: CameraConfig, plant: PlantConfig) -> torch.Tensor:
    """Renders states [N, 4] to noiseless frames [N, C, H, W] in [0, 1], float32.

    Coverage is min(1, max(0, 1/2 - distance)) with the signed distance to each shape in pixels, which
    makes brightness a smooth function of the state: sub-pixel motion is visible, as it is to a lens.
    """
    # All lengths in pixels; what depends on x or y alone is computed before the two are joined.
    pixel_m = camera.view_width_m / camera.width_px
    column = torch.arange(camera.width_px) + 0.5 - camera.width_px / 2
    height = camera.height_px - 0.5 - torch.arange(camera.height_px) - 0.22 * camera.height_px
    x, theta = state[:, 0].float()[:, None, None] / pixel_m, state[:, 2].float()[:, None, None]
    dx, dy = column[None, None, :] - x, height[None, :, None]
    cart_cover = torch.minimum(
        _cover(dx.abs() - _CART_HALF_WIDTH_M / pixel_m), _cover(dy.abs() - _CART_HALF_HEIGHT_M / pixel_m)
    )
    sin, cos = torch.sin(theta), torch.cos(theta)
    along = (dx * sin + dy * cos).clamp_(0, 2 * plant.pole_half_length_m / pixel_m)
    from_pole = torch.addcmul(dx, along, sin, value=-1)
    from_pole = from_pole.hypot_(torch.addcmul(dy, along, cos, value=-1))
    pole_cover = _cover(from_pole.sub_(_POLE_HALF_WIDTH_M / pixel_m))[:, None]
    background, cart_color, pole_color = (
        torch.tensor(shade[: camera.num_colors]).view(1, -1, 1, 1) for shade in _COLORS
    )
    frame = torch.lerp(background, cart_color, cart_cover[:, None])
    return torch.lerp(frame, pole_color, pole_cover)


def _cover(distance_px: torch.Tensor) -> torch.Tensor:
    """Share of a pixel that a shape covers whose edge is that far away, negative inside."""
    return (0.5 - distance_px).clamp_(0, 1)


def add_noise(frame: torch.Tensor, noise: torch.Tensor, camera: CameraConfig) -> torch.Tensor:
    """Adds sensor noise (standard normal, of the frame's shape) and digitises to 8 bits: uint8."""
    noisy = torch.add(frame, noise, alpha=camera.noise_std)
    return noisy.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
