"""The camera against geometry: mirrored, shifted, of the right area, and as noisy as it says."""

import math

import pytest
import torch

from scenarios.control.camera import CameraConfig, add_noise, render
from scenarios.control.plant import PlantConfig

PLANT, CAMERA = PlantConfig(), CameraConfig()
PIXEL_M = CAMERA.view_width_m / CAMERA.width_px


def states(*rows: tuple[float, float]) -> torch.Tensor:
    """Makes states [N, 4] at rest from pairs (x, theta)."""
    return torch.tensor([(x, 0.0, theta, 0.0) for x, theta in rows], dtype=torch.float64)


@pytest.mark.parametrize("num_colors", [1, 3])
def test_a_mirrored_plant_is_a_mirrored_picture(num_colors):
    camera = CameraConfig(num_colors=num_colors)
    left, right = render(states((-0.31, -0.2), (0.31, 0.2)), camera, PLANT)
    assert left.shape == (num_colors, 32, 64)
    torch.testing.assert_close(left.flip(-1), right, atol=1e-5, rtol=0)
    assert (left - right).abs().max() > 0.5


def test_a_plant_moved_by_pixels_is_a_picture_moved_by_pixels():
    still, moved = render(states((0.0, 0.1), (3 * PIXEL_M, 0.1)), CAMERA, PLANT)
    torch.testing.assert_close(still[..., :-3], moved[..., 3:], atol=1e-5, rtol=0)


def test_motion_below_the_pixel_shows_in_proportion():
    pictures = render(states(*((0.1 + part * PIXEL_M, 0.05) for part in (0.0, 0.1, 0.2, 0.3))), CAMERA, PLANT)
    column = torch.arange(64) + 0.5
    centre = (pictures.sum(dim=(1, 2)) * column).sum(dim=1) / pictures.sum(dim=(1, 2, 3))
    torch.testing.assert_close(centre.diff(), torch.full((3,), 0.1), atol=0.01, rtol=0)


def test_brightness_is_the_shapes_area():
    short = PlantConfig(pole_half_length_m=1e-6)
    cart, dot = 0.5 * 0.24 / PIXEL_M**2, math.pi * 0.045**2 / PIXEL_M**2
    expected = 0.55 * cart + (1 - 0.55) * dot
    assert float(render(states((0.07, 0.0)), CAMERA, short).sum()) == pytest.approx(expected, rel=0.01)


def test_rows_of_a_batch_are_independent():
    some = states((0.0, 0.0), (0.4, 0.3), (-1.1, -0.4))
    together = render(some, CAMERA, PLANT)
    for row, state in zip(together, some, strict=True):
        assert torch.equal(row, render(state[None], CAMERA, PLANT)[0])


def test_noise_has_its_deviation_and_eight_bits():
    grey = torch.full((1, 1, 200, 200), 0.5)
    noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(1))
    picture = add_noise(grey, noise, CAMERA)
    assert picture.dtype == torch.uint8
    deviation, num = float(picture.float().std()) / 255, picture.numel()
    # Rounding to 8 bits adds 1/12 of a level squared.
    expected = math.hypot(CAMERA.noise_std, 1 / 255 / math.sqrt(12))
    tolerance = 4.5 * expected / math.sqrt(2 * num)
    assert abs(deviation - expected) < tolerance
    assert abs(deviation - 10 ** (0.5 / 20) * expected) > tolerance  # the power check: 0.5 dB
    assert float(picture.float().mean()) / 255 == pytest.approx(0.5, abs=4.5 * expected / math.sqrt(num))


def test_what_is_beyond_full_scale_is_clipped():
    picture = add_noise(torch.tensor([0.0, 1.0]), torch.tensor([-9.0, 9.0]), CAMERA)
    assert picture.tolist() == [0, 255]


def test_a_raw_frame_has_eight_bits_a_pixel_and_colour():
    assert CAMERA.frame_bits() == 32 * 64 * 8
    assert CameraConfig(height_px=64, width_px=128, num_colors=3).frame_bits() == 64 * 128 * 3 * 8
