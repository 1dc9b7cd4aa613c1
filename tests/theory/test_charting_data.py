"""What the charting scenario's models see: noise, velocities, delay taps and features, against theory."""

from dataclasses import replace

import charting_setups
import numpy as np
import pytest
import torch

from channels.csi_dataset import CsiDataset
from scenarios.charting.data import (
    ObservationConfig,
    SplitConfig,
    VelocityConfig,
    add_noise,
    make_sequences,
    mean_velocity,
    split_trajectories,
)
from scenarios.charting.features import CsiFeatures, FeatureConfig, antenna_products, delay_taps
from scenarios.splits import cut_trajectories
from semcom.contracts import SemcomError
from semcom.rng import Streams

ARRAYS = charting_setups.trajectories()
DATASET = CsiDataset(
    csi=ARRAYS["csi"].reshape(len(ARRAYS["csi"]), 2, 4, -1).astype(np.complex64),
    position_m=ARRAYS["position_m"],
    trajectory=ARRAYS["trajectory"],
    time_s=ARRAYS["time_s"],
    velocity_m_s=np.pad(ARRAYS["velocity_m_s"], ((0, 0), (0, 1))),
    num_rows=2,
)


def complex_normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.view_as_complex(torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed)))


def test_noise_has_the_power_that_the_snr_says_whatever_the_signal_is():
    num, snr_db = 200_000, 7.0
    csi = complex_normal(num, 1, 1, 1) * torch.linspace(0, 3, num)[:, None, None, None]
    noise = add_noise(csi, snr_db, torch.Generator().manual_seed(1)) - csi
    found_db = 10 * np.log10(float(csi.abs().square().mean() / noise.abs().square().mean()))
    # |n|^2 is exponential: its mean over n samples deviates by 1 / sqrt n.
    tolerance_db = 4.5 * 10 / np.log(10) / num**0.5
    assert abs(found_db - snr_db) < tolerance_db < 0.5 / 2  # the power check: 0.5 dB would be seen
    faint, strong = noise[: num // 2].abs().square().mean(), noise[num // 2 :].abs().square().mean()
    assert float(faint / strong) == pytest.approx(1, abs=4.5 * 2 / num**0.5)
    assert float(noise.real.square().mean() / noise.imag.square().mean()) == pytest.approx(1, abs=0.02)


def test_velocity_noise_errs_by_its_share_of_the_speed():
    split, clean, shares = SplitConfig(), ObservationConfig(snr_db=None), []
    for seed in range(8):
        known, noisy = (
            make_sequences(DATASET, split, clean, VelocityConfig(noise_share=share), Streams(seed)).train
            for share in (0.0, 0.2)
        )
        error = (noisy.velocity_m_s - known.velocity_m_s).norm(dim=-1)
        shares.append(error / known.velocity_m_s.norm(dim=-1))
    # The square of error / (0.2 |v|) is exponential, of mean one.
    found = torch.stack(shares).square() / 0.2**2
    tolerance = 4.5 / found.numel() ** 0.5
    assert abs(float(found.mean()) - 1) < tolerance < 1.1**2 - 1  # the power check: a tenth would be seen


def test_velocities_carry_a_position_to_the_next_one_whatever_their_source():
    rows = cut_trajectories(DATASET.trajectory, None)
    step_m = np.diff(DATASET.position_m[rows][..., :2], axis=1)
    for source in ("recorded", "positions"):
        known = mean_velocity(DATASET, rows, source, charting_setups.INTERVAL_S)
        np.testing.assert_allclose(known[:, :-1] * charting_setups.INTERVAL_S, step_m, atol=1e-9)
        np.testing.assert_array_equal(known[:, -1], known[:, -2])
    # Under constant acceleration the mean of two recorded velocities is exact, and neither of them is.
    time_s = np.arange(4.0)
    curve = CsiDataset(
        csi=np.ones((4, 1, 1, 1), np.complex64),
        position_m=np.stack([time_s**2, 3 * time_s, 0 * time_s], axis=1),
        velocity_m_s=np.stack([2 * time_s, 3 + 0 * time_s, 0 * time_s], axis=1),
        trajectory=np.zeros(4, np.int64),
        time_s=time_s,
    )
    known = mean_velocity(curve, np.arange(4)[None], "recorded", 1.0)
    np.testing.assert_allclose(known[0], [[1, 3], [3, 3], [5, 3], [5, 3]])
    assert mean_velocity(curve, np.arange(4)[None], "none", 1.0) is None


def test_no_test_position_stands_in_another_part_and_rows_keep_together():
    data = make_sequences(
        DATASET, SplitConfig(), ObservationConfig(snr_db=None), VelocityConfig(), Streams(3)
    )
    places = {
        part: {tuple(row) for row in getattr(data, part).position_m.flatten(0, 1).tolist()}
        for part in ("train", "validation", "test")
    }
    assert sum(map(len, places.values())) == len(set.union(*places.values())) == len(DATASET)
    assert (data.train.num_trajectories, data.validation.num_trajectories, data.test.num_trajectories) == (
        9,
        1,
        2,
    )
    row = next(
        i for i, at in enumerate(DATASET.position_m) if np.allclose(at[:2], data.test.position_m[1, 5])
    )
    assert torch.equal(data.test.csi[1, 5], torch.from_numpy(DATASET.csi[row]))
    assert (data.interval_s, data.num_rows, data.csi_shape) == (pytest.approx(0.2), 2, (2, 4, 8))


def test_segments_by_hand():
    trajectory = np.array([3] * 7 + [1] * 4 + [9] * 3)
    assert cut_trajectories(trajectory, 3).tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9], [11, 12, 13]]
    with pytest.raises(SemcomError, match="3 to 7 positions: give split"):
        cut_trajectories(trajectory, None)
    with pytest.raises(SemcomError, match="segment_steps = 8, the longest trajectory has 7"):
        cut_trajectories(trajectory, 8)


def test_velocities_that_are_not_there_are_asked_for_in_vain():
    """They are not taken for unknown in silence: records would call them exact."""
    without = CsiDataset(DATASET.csi, DATASET.position_m, DATASET.trajectory, DATASET.time_s)
    with pytest.raises(SemcomError, match=r"velocity\.source = recorded, and the data have no velocity_m_s"):
        make_sequences(without, SplitConfig(), ObservationConfig(), VelocityConfig(), Streams(0))
    made = make_sequences(
        without, SplitConfig(), ObservationConfig(), VelocityConfig(source="positions"), Streams(0)
    )
    assert made.knows_velocity


def test_a_path_at_a_whole_delay_is_one_tap():
    num, bandwidth_hz = 16, 40e6
    frequency_hz = (torch.arange(num, dtype=torch.float64) + 0.5) * bandwidth_hz / num - bandwidth_hz / 2
    for tap in (0, 3, 9):
        path = torch.exp(-2j * torch.pi * frequency_hz * tap / bandwidth_hz).to(torch.complex64)
        power = delay_taps(path, 12).abs().square()
        assert len(power) == 12
        # Of unit amplitude at every subcarrier: all its power in one tap.
        assert float(power[tap]) == pytest.approx(num, rel=1e-5)
        assert float(power.sum()) == pytest.approx(num, rel=1e-5)
    assert len(delay_taps(path, 64)) == num


@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 1), (1, 4), (4, 1), (2, 3), (3, 2)])
def test_antenna_products_are_the_double_sum(num_rows, num_columns):
    taps = complex_normal(2, num_rows * num_columns, 3)
    grid = taps.reshape(2, num_rows, num_columns, 3)
    expected = []
    for down in range(num_rows):
        for right in range(1 - num_columns, num_columns):
            if down == 0 and right < 0:
                continue
            total = torch.zeros(2, 3, dtype=torch.complex64)
            for m in range(num_rows - down):
                for n in range(num_columns):
                    if 0 <= n + right < num_columns:
                        total += grid[:, m + down, n + right] * grid[:, m, n].conj()
            expected.append(total)
    found = antenna_products(taps, num_rows)
    # All lags up to their sign, 0 among them.
    assert found.shape[-1] == ((2 * num_rows - 1) * (2 * num_columns - 1) + 1) // 2
    torch.testing.assert_close(found, torch.stack(expected, dim=-1), atol=1e-5, rtol=1e-5)


@pytest.fixture(params=["invariant", "calibrated"])
def features(request) -> CsiFeatures:
    made = CsiFeatures(FeatureConfig(num_taps=8, num_components=48, phase=request.param), 2, 4, 8, 2)
    made.calibrate(torch.from_numpy(DATASET.csi))
    return made


def test_features_know_no_phase_but_angle_and_delay(features):
    csi = torch.from_numpy(DATASET.csi[::20])
    seen = features(csi)
    turned = torch.exp(1j * torch.linspace(0, 6, 2 * len(csi)).reshape(-1, 2, 1, 1)) * csi
    torch.testing.assert_close(features(turned), seen, atol=2e-3, rtol=1e-3)
    # A path from elsewhere turns the antennas against each other, a later one the subcarriers.
    angle = csi * torch.exp(1j * torch.tensor([0.0, 0.5, 0.0, 0.5]))[:, None]
    delay = csi * torch.exp(-2j * torch.pi * torch.arange(8) * 0.25 / 8)
    for moved in (angle, delay):
        assert float((features(moved) - seen).norm(dim=-1).min()) > 0.1


def test_features_are_components_of_unit_deviation_on_training_data(features):
    seen = features(torch.from_numpy(DATASET.csi)).transpose(0, 1).double()
    for of_array in seen:
        covariance = of_array.T @ of_array / len(of_array)
        scale = covariance.diagonal()
        assert float(scale.max()) == pytest.approx(1, abs=1e-3)
        # The faintest ones are left smaller than that, and none is blown up.
        assert float(scale.min()) < 0.5
        assert (scale < 1.001).all()
        assert float((covariance - scale.diag()).abs().max()) < 1e-3
        assert float(of_array.mean(dim=0).abs().max()) < 1e-3


def test_features_of_one_array_are_those_of_the_batch(features):
    csi = torch.from_numpy(DATASET.csi[::37])
    for array in (0, 1):
        alone = features.project(features.raw_of(csi[:, array], array), array)
        torch.testing.assert_close(alone, features(csi)[:, array], atol=1e-4, rtol=1e-4)


def test_blocks_are_held_out_whole_with_a_guard_around_them():
    generator = torch.Generator().manual_seed(5)
    middle_m = 40 * torch.rand(80, 1, 2, generator=generator)
    position_m = (middle_m + torch.linspace(-2, 2, 9)[None, :, None]).numpy()
    split = SplitConfig(validation_share=0.2, test_share=0.2, block_m=10.0, guard_m=3.0)
    parts = split_trajectories(position_m, np.arange(80), split, Streams(2))

    block = np.floor((position_m[:, 4] - position_m[:, 4].min(axis=0)) / 10).astype(int)
    blocks = [{tuple(block[row]) for row in part} for part in (parts.train, parts.validation, parts.test)]
    assert len(set().union(*blocks)) == sum(len(part) for part in blocks)

    held_out = position_m[np.concatenate([parts.validation, parts.test])].reshape(-1, 1, 2)

    def nearest_m(rows):
        return np.linalg.norm(position_m[rows].reshape(1, -1, 2) - held_out, axis=-1).min()

    assert nearest_m(parts.train) > 3.0
    # Without the guard some come nearer: the positions are dense enough to tell.
    unguarded = split.model_copy(update={"guard_m": 0.0})
    assert nearest_m(split_trajectories(position_m, np.arange(80), unguarded, Streams(2)).train) < 3.0
    with pytest.raises(SemcomError, match="guard_m"):
        split_trajectories(position_m, np.arange(80), split.model_copy(update={"guard_m": 100.0}), Streams(2))


def test_pieces_of_one_journey_stay_together():
    for seed in range(4):
        data = make_sequences(
            DATASET, SplitConfig(segment_steps=6), ObservationConfig(), VelocityConfig(), Streams(seed)
        )
        place_of = {tuple(place): walk for place, walk in zip(
            DATASET.position_m[:, :2].astype(np.float32).tolist(), DATASET.trajectory.tolist(), strict=True
        )}  # fmt: skip
        walks = [
            {place_of[tuple(place)] for place in part.position_m.reshape(-1, 2).tolist()}
            for part in (data.train, data.validation, data.test)
        ]
        assert len(set().union(*walks)) == sum(len(part) for part in walks)


def test_uneven_times_are_refused_with_their_place():
    assert DATASET.time_s is not None
    for late_s, refused in ((0.2, False), (0.4, True)):
        # In units of the interval; from position 40 on, which lies in the midst of a trajectory.
        step_s = DATASET.time_s[1] - DATASET.time_s[0]
        walk = (DATASET.trajectory == DATASET.trajectory[40]) & (np.arange(len(DATASET)) >= 40)
        uneven = replace(DATASET, time_s=DATASET.time_s + late_s * step_s * walk)
        arguments = (uneven, SplitConfig(), ObservationConfig(), VelocityConfig(), Streams(0))
        if refused:
            with pytest.raises(SemcomError, match=r"time_s is uneven: .* after position 39"):
                make_sequences(*arguments)
        else:
            make_sequences(*arguments)
