"""Snapshots of a linear array: noise of the stated power, disjoint views, known fields, published figures."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from scenarios.charting.snapshot import FEATURE_DIM, SnapshotConfig, describe_view, draw_views, observe
from scenarios.charting.snapshot_baselines import polar_chart, snapshot_baseline
from scenarios.charting.snapshot_training import SnapshotTrainingConfig, train_snapshot
from semcom.contracts import SemcomError

REAL_FILE = Path(__file__).parents[3] / "shared" / "data" / "quadriga_uma_los.h5"
HALF_DB = 10**0.05
NUM_ANTENNAS = 32


def line_of_sight(num_users: int, exponent: float, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Plane waves from users in a sector, power r^-exponent: CSI [N, 1, M, 1] and position [N, 2]."""
    generator = np.random.default_rng(seed)
    distance = generator.uniform(50, 400, num_users)
    angle = generator.uniform(-1.2, 1.2, num_users)
    phase = -np.pi * np.arange(NUM_ANTENNAS) * np.sin(angle)[:, None]
    csi = distance[:, None] ** (-exponent / 2) * np.exp(
        1j * (phase + generator.uniform(0, 6, (num_users, 1)))
    )
    position = np.stack((distance * np.cos(angle), distance * np.sin(angle)), axis=1)
    return torch.from_numpy(csi)[:, None, :, None], position


def white(num_users: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_users, 1, NUM_ANTENNAS, 1, dtype=torch.complex128, generator=generator)


def scores(position: np.ndarray, chart: np.ndarray) -> tuple[float, float]:
    num = len(position) // 20
    return (
        trustworthiness(position, chart, n_neighbors=num),
        trustworthiness(chart, position, n_neighbors=num),
    )


def recorded() -> tuple[torch.Tensor, np.ndarray]:
    with h5py.File(REAL_FILE) as file:
        return torch.from_numpy(file["csi"][:])[:, None], file["position_m"][:]


def test_noise_has_the_power_that_the_mean_over_users_sets():
    # Powers of users a hundredfold apart: the noise is the same for all of them.
    csi = white(400) * torch.logspace(-1, 1, 400)[:, None, None, None] * 1e-5
    clean = observe(csi, SnapshotConfig(), 0).samples
    assert clean.abs().square().mean().item() == pytest.approx(1, rel=1e-5)
    noisy = observe(csi, SnapshotConfig(snr_db=3.0, num_averages=10), 1)
    assert noisy.samples.shape == (400, 10, NUM_ANTENNAS)
    assert noisy.noise_power == pytest.approx(10**-0.3)
    noise = (noisy.samples - clean).abs().square().double()
    for part in (noise[:200], noise[200:], noise[:, 0], noise[:, -1]):
        # |w|^2 is exponential: its deviation is its mean.
        tolerance = 4.5 / math.sqrt(part.numel())
        assert abs(part.mean().item() / 10**-0.3 - 1) < tolerance
        assert abs(part.mean().item() * HALF_DB / 10**-0.3 - 1) > tolerance  # the power check


def test_averages_are_independent_and_named_by_the_seed():
    config = SnapshotConfig(snr_db=0.0, num_averages=2)
    one, again, other = (observe(white(500), config, seed).samples for seed in (1, 1, 2))
    assert torch.equal(one, again)
    noise = one - observe(white(500), SnapshotConfig(), 0).samples
    unlike = one - other
    for a, b in ((noise[:, 0], noise[:, 1]), (noise[:, 0], unlike[:, 1])):
        correlation = (a * b.conj()).mean().abs().item()
        assert correlation < 4.5 * math.sqrt(2 / a.numel())


def test_views_are_disjoint_and_every_antenna_is_as_often_in_each():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(2, NUM_ANTENNAS)
    num_draws = 2000
    for _ in range(num_draws):
        views = draw_views(NUM_ANTENNAS, 16, 8, generator)
        assert [len(view) for view in views] == [16, 8]
        assert len(set(torch.cat(views).tolist())) == 24
        for count, view in zip(counts, views, strict=True):
            count[view] += 1
    for count, share in zip(counts, (0.5, 0.25), strict=True):
        tolerance = 4.5 * math.sqrt(share * (1 - share) / num_draws)
        assert (count / num_draws - share).abs().max() < tolerance
    with pytest.raises(SemcomError, match="views of 20 and 13 antennas don't fit"):
        draw_views(NUM_ANTENNAS, 20, 13, generator)


def test_a_view_tells_nothing_of_other_antennas():
    context, target = draw_views(NUM_ANTENNAS, 16, 16, torch.Generator().manual_seed(3))
    csi = white(50)
    changed = csi.clone()
    changed[:, :, target] = white(50, seed=1)[:, :, target]
    moments, others = (
        torch.einsum("nm,nk->nmk", h[:, 0, :, 0], h[:, 0, :, 0].conj()) for h in (csi, changed)
    )
    assert torch.equal(describe_view(moments, context, 0.0), describe_view(others, context, 0.0))
    assert not torch.equal(describe_view(moments, target, 0.0), describe_view(others, target, 0.0))


@pytest.mark.parametrize("num_seen", [8, 16, 32])
def test_any_view_of_a_plane_wave_tells_its_direction_and_power(num_seen):
    csi, position = line_of_sight(300, exponent=4.0)
    snapshots = observe(csi, SnapshotConfig(), 0)
    antennas, _ = draw_views(NUM_ANTENNAS, num_seen, 0, torch.Generator().manual_seed(num_seen))
    features = describe_view(snapshots.moments(), antennas, 0.0).numpy()
    assert features.shape == (300, FEATURE_DIM)
    distance = np.linalg.norm(position, axis=1)
    np.testing.assert_allclose(features[:, 0], position[:, 1] / distance, atol=5e-3)
    np.testing.assert_allclose(features[:, 1], position[:, 0] / distance, atol=1.5e-2)
    level = -4 * np.log(distance)
    np.testing.assert_allclose(features[:, 2] - features[0, 2], level - level[0], atol=1e-3)
    np.testing.assert_allclose(features[:, 3], 0, atol=2e-2)
    if num_seen == NUM_ANTENNAS:
        assert features[:, 4].max() < 0.3  # one beam of 32 holds nearly all; of equal beams it is 3.5


def test_without_learning_a_line_of_sight_is_placed_exactly():
    csi, position = line_of_sight(200, exponent=4.0)
    chart = polar_chart(observe(csi, SnapshotConfig(), 0))
    scale = (chart * position).sum() / (chart * chart).sum()
    np.testing.assert_allclose(scale * chart, position, atol=1e-2)
    # The power check: another exponent bends it.
    bent = polar_chart(observe(csi, SnapshotConfig(), 0), exponent=3.5)
    assert np.abs((bent * position).sum() / (bent * bent).sum() * bent - position).max() > 10


def test_what_is_not_a_snapshot_of_one_array_is_refused():
    for csi in (white(4)[:, :, :3], white(4).repeat(1, 2, 1, 1), white(4)[..., 0]):
        with pytest.raises(SemcomError, match="one linear array"):
            observe(csi, SnapshotConfig(), 0)
    for factor in (0.0, math.nan):
        with pytest.raises(SemcomError, match="finite and not all zero"):
            observe(white(4) * factor, SnapshotConfig(), 0)
    with pytest.raises(SemcomError, match="baseline 'umap' is unknown"):
        snapshot_baseline("umap", observe(white(200), SnapshotConfig(), 0), 0)
    with pytest.raises(SemcomError, match="99 snapshots are too few"):
        snapshot_baseline("isomap", observe(white(99), SnapshotConfig(), 0), 0)
    with pytest.raises(SemcomError, match="fewer than a batch"):
        train_snapshot(observe(white(99), SnapshotConfig(), 0), 0, SnapshotTrainingConfig())


def test_a_chart_is_learned_repeats_by_its_seed_and_survives_a_copy_of_z():
    csi, position = line_of_sight(300, exponent=4.0)
    snapshots = observe(csi, SnapshotConfig(), 0)
    config = SnapshotTrainingConfig(num_steps=150, batch_size=64, num_view_pairs=4, embedding_dim=6)
    (model, log), (again, _), (other, _) = (train_snapshot(snapshots, seed, config) for seed in (1, 1, 2))
    z = model.encode(snapshots.moments())
    assert z.shape == (300, 6)
    assert torch.equal(z, again.encode(snapshots.moments()))
    assert not torch.equal(z, other.encode(snapshots.moments()))
    assert min(scores(position, model.chart(z.clone()).numpy())) > 0.95
    assert log[-1]["rank_me"] > 2


@pytest.mark.skipif(not REAL_FILE.exists(), reason="the recorded file is not part of the repository")
@pytest.mark.parametrize(
    ("name", "clean", "noisy"),
    [
        ("pca", (0.866, 0.945), (0.849, 0.869)),
        ("isomap", (0.872, 0.952), (0.862, 0.865)),
        ("no-learning", (0.932, 0.943), (0.886, 0.916)),
    ],
)
def test_charts_of_the_recorded_file_reproduce_the_published_figures(name, clean, noisy):
    csi, position = recorded()
    found = scores(position, snapshot_baseline(name, observe(csi, SnapshotConfig(), 0), 0))
    np.testing.assert_allclose(found, clean, atol=5e-3)
    # Noise moves a figure by up to 0.005 from seed to seed: the mean of two.
    noisy_snapshots = [observe(csi, SnapshotConfig(snr_db=0.0), seed) for seed in range(2)]
    found = [scores(position, snapshot_baseline(name, snapshots, 0)) for snapshots in noisy_snapshots]
    np.testing.assert_allclose(np.mean(found, axis=0), noisy, atol=5e-3)
