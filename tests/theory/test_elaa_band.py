"""Several subcarriers together: a wave, its squint and its delay, found by NOMP or taken out for networks."""

import math
from dataclasses import replace

import pytest
import torch
from elaa_setups import ARRAY, MODEL, PATCH_SIZE, PATCHES, small_inputs

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import BlockVisibility
from scenarios.contracts import Point
from scenarios.elaa.band_bench import BandBench, tune_jointly
from scenarios.elaa.band_search import BandNomp, BandPaths, subcarrier_shares
from scenarios.elaa.bands import (
    BandDechirper,
    LearnedBand,
    band_window,
    draw_band_examples,
    hear_band,
    make_band_inputs,
)
from scenarios.elaa.data import DataConfig, draw_part
from scenarios.elaa.dictionaries import polar_dictionary
from scenarios.elaa.examples import ExampleConfig, training_visibilities
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.measures import _band_records
from scenarios.elaa.models import CsiModel
from scenarios.elaa.nomp import nomp_prior
from scenarios.elaa.pursuit import Pursuit, subcarrier_atoms
from scenarios.elaa.tracks import Heard
from scenarios.elaa.window_training import train_window_model
from semcom.contracts import SemcomError
from semcom.rng import Streams

WIDE = NearFieldConfig(num_elements=64, num_subcarriers=4, bandwidth_hz=2e9)
BENCH = BandBench(WIDE, BlockVisibility(), DataConfig(num_validation=24, num_test=24), 0.5, 20.0, 0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def error(h_hat: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return (h_hat - h).abs().square().sum(dim=(1, 2)) / h.abs().square().sum(dim=(1, 2))


def mean_db(method: str) -> float:
    return 10 * math.log10(float(error(BENCH.estimate(method, MODEL, {}), BENCH.asked[0]).mean()))


@pytest.mark.parametrize("synchronised", [True, False])
def test_the_frame_takes_a_wave_its_squint_and_its_delay_out(synchronised):
    config = WIDE.model_copy(update={"min_paths": 1, "max_paths": 1, "synchronised": synchronised})
    h = draw_channels(config, 20, generator()).h[:, 0]
    visible = torch.arange(64).expand(20, -1) >= 16
    heard = hear_band(h, visible, 60.0, generator(1))
    frame, turn, steadiness = BandDechirper(config)(heard)
    turned = frame.enter(h)
    # One path of one level is 1 everywhere, but for what the frame's two steps leave of its curvature.
    assert (turned - 1).abs()[:, :, 16:].max() < 0.2
    assert (turned - 1).abs().median() < 0.05
    assert torch.allclose(frame.leave(turned), h, atol=1e-5)
    assert torch.allclose(steadiness, torch.ones(20), atol=1e-3)
    if synchronised:
        assert turn.abs().max() < 0.05
    else:
        assert turn.std() > 0.5


def test_a_band_of_a_third_of_the_carrier_still_has_one_wave():
    config = NearFieldConfig(num_subcarriers=2, bandwidth_hz=8e9)
    h = draw_channels(config, 40, generator()).h[:, 0]
    heard = hear_band(h, torch.ones(40, 256, dtype=torch.bool), 10.0, generator(1))
    frame, _, _ = BandDechirper(config)(heard)
    share = frame.enter(h).mean(dim=(1, 2)).abs().square() / frame.enter(h).abs().square().mean(dim=(1, 2))
    assert share.mean() > 0.75


def test_a_channel_s_estimate_does_not_depend_on_its_batch():
    heard = BENCH.asked[1]
    nomp = BandNomp.of(WIDE)
    together = nomp.estimate(heard)
    alone = torch.cat([nomp.estimate(heard[number : number + 1]) for number in range(8)])
    assert float(error(alone, together[:8]).median()) < 1e-6
    assert float(error(alone, together[:8]).max()) < 1e-3


def test_without_the_squint_a_wave_would_not_stand_still():
    config = WIDE.model_copy(update={"min_paths": 1, "max_paths": 1})
    h = draw_channels(config, 20, generator()).h[:, 0]
    heard = hear_band(h, torch.ones(20, 64, dtype=torch.bool), 60.0, generator(1))
    frame, _, _ = BandDechirper(config)(heard)
    alone = h * frame.frame.rotation.conj()[:, None]
    assert (alone / alone.mean(dim=2, keepdim=True) - 1).abs()[:, 0].max() > 0.5


def test_a_line_numbered_from_its_other_end_has_mirrored_inputs():
    h = draw_channels(WIDE, 30, generator()).h[:, 0]
    visible = torch.arange(64).expand(30, -1) < 32
    heard = hear_band(h, visible, 30.0, generator(1))
    dechirper = BandDechirper(WIDE)
    inputs, _ = make_band_inputs(heard, dechirper, PATCHES)
    other = Heard(heard.y.flip(2), heard.visible.flip(1), heard.noise_var)
    flipped, _ = make_band_inputs(other, dechirper, PATCHES)
    mirrored = inputs.mirrored()
    assert torch.equal(mirrored.visible, flipped.visible)
    assert torch.allclose(mirrored.condition, flipped.condition, atol=0.02)
    assert (mirrored.y - flipped.y).abs().median() < 0.02


def test_nomp_over_a_band_recovers_places_and_delays_off_the_grid():
    line = LineArray.of(WIDE)
    truth = BandPaths(
        torch.tensor([[0.9 + 0.1j, 0.1 - 0.3j]] * 2),
        torch.tensor([[0.312, -0.551], [-0.123, 0.208]]),
        torch.tensor([[0.121, 0.033], [0.052, 0.177]]),
        torch.tensor([[0.3, -1.9], [-0.7, 2.8]]),
    )
    nomp = BandNomp.of(WIDE)
    h = nomp.field(truth).sum(dim=1)
    visible = torch.arange(64).expand(2, -1) < 40
    heard = Heard(torch.where(visible[:, None], h, 0), visible, torch.full((2,), 1e-5))
    assert error(nomp.estimate(heard), h).max() < 1e-3
    assert error(replace(nomp, max_paths=1).estimate(heard), h).min() > 0.02
    # Its steps stay where the truth is, and find it again from beside it.
    near = replace(truth, sine=truth.sine + 2e-3, turn=truth.turn - 0.1, gain=truth.gain * (0.9 + 0.2j))
    found, residual = nomp.refine(nomp_prior(line), near, heard, 20)
    assert (found.sine - truth.sine).abs().max() < 1e-3
    assert (found.turn - truth.turn).abs().max() < 5e-3
    assert (found.gain - truth.gain).abs().max() < 0.02
    assert residual.abs().max() < 0.05


def test_the_field_of_a_path_is_the_generator_s():
    config = WIDE.model_copy(update={"min_paths": 1, "max_paths": 1, "synchronised": False})
    made = draw_channels(config, 5, generator())
    paths = BandPaths(
        torch.ones(5, 1, dtype=torch.complex64),
        made.angle_rad[:, 0, :1].sin().float(),
        (1 / made.distance_m[:, 0, :1]).float(),
        torch.zeros(5, 1),
    )
    field = BandNomp.of(config).field(paths)[:, 0]
    turned = made.h[:, 0] * field.conj()
    assert (turned / turned.mean(dim=2, keepdim=True) - 1).abs().max() < 2e-3


def test_what_subcarriers_share_helps_and_noise_alone_is_no_path():
    ls, each, jointly, band = (mean_db(name) for name in ("ls-band", "nomp-each", "p-somp", "nomp-band"))
    assert ls == pytest.approx(10 * math.log10(0.5 + 0.5 * 0.01), abs=0.3)
    assert band < each - 2 < ls - 4
    assert jointly < ls - 4
    noise = torch.randn(20, 4, 64, dtype=torch.complex64, generator=generator())
    heard = Heard(noise, torch.ones(20, 64, dtype=torch.bool), torch.ones(20))
    assert (BandNomp.of(WIDE).estimate(heard).abs().amax(dim=(1, 2)) > 0).float().mean() <= 0.1


def test_simultaneous_pursuit_is_tuned_to_the_least_error():
    line = LineArray.of(WIDE)
    dictionary = polar_dictionary(line)
    atoms = subcarrier_atoms(line, dictionary, WIDE.offsets_hz())
    longest = Pursuit(dictionary, 6, snapshot_atoms=atoms)
    h, heard = BENCH.known
    choice = {"num_atoms": (2, 6), "stops": (0.0,), "ridges": (1.0, 1000.0)}
    tuned = tune_jointly(longest, h, heard, **choice)
    errors = {
        (num, ridge): float(error(Pursuit(dictionary, num, 0.0, ridge, atoms).estimate_jointly(
            heard.y, heard.visible, heard.noise_var), h).mean())
        for num in choice["num_atoms"]
        for ridge in choice["ridges"]
    }  # fmt: skip
    assert (tuned.num_atoms, tuned.ridge) == min(errors, key=errors.__getitem__)


def test_a_band_s_users_are_those_of_one_subcarrier_and_its_errors_are_over_all():
    alone = draw_part(WIDE.model_copy(update={"num_subcarriers": 1}), "test", 24, 0)[:, -1]
    h = BENCH.asked[0]
    assert torch.allclose(alone.abs().square().mean(), h.abs().square().mean(), rtol=0.1)
    narrow = NearFieldConfig(num_elements=64, num_subcarriers=2, bandwidth_hz=1.0)
    same = BandBench(narrow, BlockVisibility(), BENCH.data, 0.5, 20.0, 0).asked[0]
    assert (same - alone[:, None]).abs().max() < 1e-4
    guess = torch.cat((h[:, :2], 0 * h[:, 2:]), dim=1)
    rows = {row.metric: row for row in _band_records(Point("band", "ls-band", 0), h, guess, 20.0)}
    assert rows["nmse_db"].value == pytest.approx(10 * math.log10(float(error(guess, h).mean())))
    assert rows["sgcs"].value == pytest.approx(0.5)
    assert {row.num_samples for row in rows.values()} == {24}


def test_a_model_of_a_band_learns_all_of_its_subcarriers():
    examples = draw_band_examples(
        WIDE, ExampleConfig(num_examples=400), training_visibilities(PATCH_SIZE), PATCHES, Streams(0)
    )
    inputs = small_inputs(num_steps_decoder=60, num_steps_tuning=120)
    window = band_window(4)
    model, log = train_window_model(0, examples, (0,), PATCHES, inputs, window=window, name="band")
    assert {row["stage"] for row in log} >= {"jepa", "decoder", "tuning"}
    h, heard = BENCH.asked
    tuned = error(LearnedBand(model, WIDE, PATCH_SIZE).estimate(heard), h)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        blank = CsiModel(MODEL, PATCHES, window).eval()
    assert tuned.mean() < 0.6 * error(LearnedBand(blank, WIDE, PATCH_SIZE).estimate(heard), h).mean()
    assert tuned.mean() < 0.5
    by_subcarrier = (LearnedBand(model, WIDE, PATCH_SIZE).estimate(heard) - h).abs().square().mean(dim=(0, 2))
    assert by_subcarrier.max() < 2 * by_subcarrier.min()


def test_a_narrow_band_s_shares_and_what_a_frame_can_t_follow():
    assert subcarrier_shares(WIDE).sum().abs() < 1e-12
    assert float(subcarrier_shares(WIDE)[0]) == pytest.approx(-0.75e9 / 30e9)
    with pytest.raises(SemcomError, match="one subcarrier tells no delay"):
        BandDechirper(ARRAY)
    with pytest.raises(SemcomError, match="half a turn at most"):
        BandDechirper(WIDE.model_copy(update={"spacing_wavelengths": 0.7}))
    with pytest.raises(SemcomError, match="no estimator of a band is called x"):
        BENCH.estimate("x", MODEL, {})
