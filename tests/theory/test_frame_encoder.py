"""What the frame encoder sees, worked by hand: backgrounds, soft keypoints, JPEG's artefacts."""

import copy

import isac_setups
import numpy as np
import pytest
import torch

from scenarios.isac.features import FrameNormaliser
from scenarios.isac.jpeg import JpegCodec, through_jpeg
from scenarios.isac.models import FrameEncoder, soft_moments


def test_moments_of_a_map_are_its_strength_place_and_spread():
    share = torch.zeros(1, 2, 5, 9)
    share[0, 0, 1, 6] = 100.0
    share[0, 1, 0, 0] = share[0, 1, 4, 8] = 100.0
    strength, y, y_spread, x, x_spread = soft_moments(share)[0].unflatten(0, (5, 2))
    assert strength.tolist() == pytest.approx([(100 / 45) ** 0.5, (200 / 45) ** 0.5], rel=1e-3)
    # Rows at -1, -0.5, 0, 0.5, 1 and columns at steps of a quarter.
    assert y.tolist() == pytest.approx([-0.5, 0.0], abs=5e-3)
    assert x.tolist() == pytest.approx([0.5, 0.0], abs=5e-3)
    assert y_spread.tolist() == pytest.approx([0.0, 1.0], abs=0.04)
    assert x_spread.tolist() == pytest.approx([0.0, 1.0], abs=0.04)


def test_an_empty_map_points_to_the_middle():
    assert soft_moments(torch.zeros(1, 1, 4, 4))[0, [1, 3]].tolist() == [0, 0]


def test_the_background_is_the_median_of_each_camera():
    frame = torch.full((5, 2, 3, 8, 8), 100, dtype=torch.uint8)
    frame[:, 1] = 50
    frame[2:4, 0, :, 2:4, 2:4] = 255  # in two of five frames somebody stands there
    frames = FrameNormaliser(2, 8, 8)
    frames.calibrate(frame)
    content = frames(frame[:, 0], 0)
    assert content[0].abs().max() < 1e-6
    assert content[2, 0, 2, 2].item() > 1
    assert frames(frame[:, 1], 1).abs().max() < 1e-6
    torch.testing.assert_close(frames.frame_of(content, 0), frame[:, 0].float() / 255)


def test_embeddings_follow_what_moves_and_rows_are_independent():
    torch.manual_seed(0)
    encoder = FrameEncoder(6, 8, 4).eval()
    content = torch.zeros(3, 3, 32, 48)
    content[1, 0, 8:16, 8:16] = 3.0
    content[2, 0, 8:16, 32:40] = 3.0
    z = encoder(content)
    assert z.shape == (3, 6)
    assert (z[1] - z[2]).norm() > 1e-3
    torch.testing.assert_close(encoder(content[1:2])[0], z[1], atol=1e-5, rtol=1e-4)


def test_each_camera_s_frame_is_decoded_before_its_own_background():
    model = copy.deepcopy(isac_setups.model())
    model.frames.background[0], model.frames.background[1] = 0.4, 0.7
    with torch.no_grad():
        model.decoder.up[-1].weight.zero_()
        model.decoder.up[-1].bias.fill_(0.2 / 0.15)
    z = torch.zeros(3, model.embedding_dim)
    for camera, level in ((0, 0.6), (1, 0.9)):
        shown = model.decode(z, camera)
        torch.testing.assert_close(shown, torch.full_like(shown, level))


def test_jpeg_leaves_less_at_a_lower_quality():
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    error = [
        np.abs(through_jpeg(frames, [quality] * 2, [1, 1]).astype(float) - frames).mean()
        for quality in (95, 20)
    ]
    assert 0 < error[0] < error[1]
    mixed = through_jpeg(frames, [95, 20], [1, 1])
    assert np.array_equal(mixed[0], through_jpeg(frames, [95, 95], [1, 2])[0])
    assert np.array_equal(mixed[1], through_jpeg(frames, [20, 20], [4, 1])[1])


@pytest.mark.parametrize(("quality", "downscale"), [(30, 1), (30, 2), (80, 4)])
def test_training_meets_what_the_jpeg_methods_show(quality, downscale):
    frames = isac_setups.data().train.frame[0, :3, 0].permute(0, 2, 3, 1).numpy()
    codec = JpegCodec(*frames.shape[1:3], quality, downscale)
    shown = through_jpeg(frames, [quality] * 3, [downscale] * 3)
    np.testing.assert_array_equal(codec.decode(codec.encode(frames)), shown)
