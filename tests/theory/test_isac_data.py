"""What sensors of a room observe, and how its walks are held out: noise, phases, whole sequences."""

import isac_setups
import numpy as np
import pytest
import torch

from channels.sensing_dataset import SensingDataset
from scenarios.isac.data import ObservationConfig, SplitConfig, make_sequences, observe_csi, observe_frames
from semcom.contracts import SemcomError
from semcom.rng import Streams

CLEAN = ObservationConfig(csi_snr_db=None, random_phase=False, camera_noise_std=0)


def dataset(num_sequences: int, num_steps: int) -> SensingDataset:
    """A data set whose frames, CSI and positions tell the sequence and the step."""
    num = num_sequences * num_steps
    sequence, step = np.divmod(np.arange(num), num_steps)
    return SensingDataset(
        frame=np.broadcast_to(sequence[:, None, None, None, None], (num, 2, 16, 16, 3)).astype(np.uint8),
        csi=np.broadcast_to((sequence + 1j * step)[:, None, None], (num, 3, 4)).astype(np.complex64),
        position_m=np.stack([sequence, step], axis=1)[:, None].astype(np.float32),
        sequence=sequence,
        time_s=0.5 * step,
        visible_share=None,
        carrier_hz=None,
        bandwidth_hz=None,
    )


def test_noise_on_csi_is_as_far_below_the_mean_power_of_all_as_told():
    num = 60_000
    csi = torch.full((num, 2, 4), 1.0 + 0j, dtype=torch.complex64)
    csi[:, 1] *= 3  # the mean power of all is 5
    told = ObservationConfig(csi_snr_db=10.0, random_phase=False)
    noise = (observe_csi(csi, told, Streams(1)) - csi).numpy()
    for part in (noise.real, noise.imag):
        variance = part.var(axis=(0, 2))
        sigma = 0.25 * np.sqrt(2 / (4 * num))
        assert (np.abs(variance - 0.25) < 4.5 * sigma).all()
        assert (np.abs(variance - 0.25 * 10**0.05) > 4.5 * sigma).all()  # the power check: 0.5 dB


def test_each_csi_has_one_unknown_phase_and_keeps_all_else():
    num = 20_000
    csi = torch.polar(torch.ones(num, 2, 3), torch.tensor([0.1, 1.5, -2.0]).expand(num, 2, 3))
    turned = observe_csi(csi, CLEAN.model_copy(update={"random_phase": True}), Streams(1))
    turn = turned / csi
    torch.testing.assert_close(turn, turn[..., :1].expand_as(turn))
    torch.testing.assert_close(turned.abs(), csi.abs())
    # Even over the circle, and another one for each receiver: the first moments are 0.
    assert abs(turn[..., 0].mean(dim=0)).max() < 4.5 / np.sqrt(num)
    assert abs((turn[:, 0, 0] * turn[:, 1, 0].conj()).mean()) < 4.5 / np.sqrt(num)


def test_noise_of_a_camera_is_a_share_of_full_scale_and_the_colours_come_first():
    frame = torch.zeros(40, 2, 64, 48, 3, dtype=torch.uint8)
    frame[:, :, :, :, 0], frame[:, :, :, :, 1], frame[:, :, :, :, 2] = 100, 120, 140
    seen = observe_frames(frame, CLEAN.model_copy(update={"camera_noise_std": 0.04}), Streams(1)).double()
    assert seen.shape == (40, 2, 3, 64, 48)
    noise = seen - torch.tensor([100.0, 120, 140])[:, None, None]
    # Rounded to whole numbers.
    deviation = np.sqrt((0.04 * 255) ** 2 + 1 / 12)
    sigma = deviation / np.sqrt(2 * noise.numel())
    assert abs(float(noise.std()) - deviation) < 4.5 * sigma
    assert abs(float(noise.std()) - 1.02 * deviation) > 4.5 * sigma
    assert abs(float(noise.mean())) < 4.5 * deviation / np.sqrt(noise.numel())
    assert torch.equal(observe_frames(frame, CLEAN, Streams(1)), frame.permute(0, 1, 4, 2, 3))


def test_noise_and_split_are_those_of_the_seed():
    data = isac_setups.recording()
    made = SensingDataset(**data, visible_share=None, carrier_hz=None, bandwidth_hz=None)
    split = SplitConfig(validation_share=0.25, test_share=0.25)
    one, same, other = (
        make_sequences(made, split, ObservationConfig(), Streams(seed)).test for seed in (1, 1, 2)
    )
    for name in ("csi", "frame"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("segment_steps", [None, 4])
def test_pieces_of_a_sequence_stay_together_and_observations_with_their_labels(segment_steps):
    split = SplitConfig(validation_share=0.2, test_share=0.3, segment_steps=segment_steps)
    data = make_sequences(dataset(20, 12), split, CLEAN, Streams(3))
    held = []
    for part in (data.train, data.validation, data.test):
        sequence, step = part.position_m[..., 0, 0], part.position_m[..., 0, 1]
        assert torch.equal(part.frame[..., 0, 0, 0, 0].float(), sequence)
        assert torch.equal(part.csi[..., 0, 0], torch.complex(sequence, step))
        # A piece is of one sequence, its steps one after the other.
        assert torch.equal(sequence, sequence[:, :1].expand_as(sequence))
        assert bool((step.diff(dim=1) == 1).all())
        held.append(set(sequence[:, 0].tolist()))
        assert part.num_steps == (segment_steps or 12)
    assert [len(numbers) for numbers in held] == [10, 4, 6]
    assert len(set.union(*held)) == 20
    assert data.interval_s == 0.5


@pytest.mark.parametrize(("num", "told"), [(1, "is 1 sequence"), (2, "are 2 sequences")])
def test_too_few_sequences_are_refused_with_the_remedy(num, told):
    with pytest.raises(SemcomError, match=rf"there {told}, and training.*raise data\.room\.num_sequences"):
        make_sequences(dataset(num, 12), SplitConfig(segment_steps=4), CLEAN, Streams(0))
