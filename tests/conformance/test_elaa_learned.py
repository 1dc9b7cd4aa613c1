"""Learned estimates of the ELAA scenario: what reaches them, what they leave out, how their frames turn."""

import pytest
import torch
from elaa_setups import ARRAY, MODEL, PATCH_SIZE, PATCHES, draw_some

from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa import features
from scenarios.elaa.features import Dechirper
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner
from scenarios.elaa.inputs import make_inputs, mirror_patches, to_numbers, to_values
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import CsiModel, LearnedEstimator
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.patches import Patches
from scenarios.elaa.path_inputs import make_path_inputs
from scenarios.elaa.wave_search import AtomSearch, WaveSearch
from semcom.contracts import SemcomError
from semcom.masks import mask_token_blocks, mask_tokens
from semcom.vit import Transformer, gather_tokens, scatter_tokens, visible_first


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _model():
    torch.manual_seed(1)
    return CsiModel(MODEL, PATCHES).eval()


def _estimators():
    nomp = Nomp(LineArray.of(ARRAY), nomp_prior(LineArray.of(ARRAY)), max_paths=3)
    combiner = PathCombiner(MODEL, PATCHES.num_patches).eval()
    return (
        LearnedEstimator(_model(), ARRAY, PATCH_SIZE),
        HybridEstimator(_model(), combiner, nomp, ARRAY, PATCH_SIZE),
    )


def _observed(num=12, hidden=slice(16, 40)):
    h = draw_channels(ARRAY, num, _generator(2)).h[:, 0, 0]
    visible = torch.ones(num, ARRAY.num_elements, dtype=torch.bool)
    visible[:, hidden] = False
    return h, visible


@pytest.mark.parametrize("number", [0, 1])
def test_estimates_have_the_arrays_shape_and_follow_what_is_observed(number):
    h, visible = _observed()
    observed = observe(h, visible, 10.0, _generator(3))
    estimate = _estimators()[number].estimate(observed)
    assert estimate.shape == h.shape
    assert estimate.dtype == torch.complex64
    # The phase of all elements and the scale turn the estimate alike.
    turned = Observed(2j * observed.y, observed.visible, 4 * observed.noise_var)
    if number == 0:
        torch.testing.assert_close(_estimators()[0].estimate(turned), 2j * estimate, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_hidden_elements_never_influence_the_estimate(number):
    h, visible = _observed()
    other = torch.where(visible, h, h.flip(0) + 3)
    estimator = _estimators()[number]
    first = estimator.estimate(observe(h, visible, 10.0, _generator(3)))
    second = estimator.estimate(observe(other, visible, 10.0, _generator(3)))
    assert torch.equal(first, second)
    seen = torch.where(visible, h + 0.1, h)
    assert not torch.equal(first, estimator.estimate(observe(seen, visible, 10.0, _generator(3))))


def test_hidden_patches_do_not_reach_the_context_encoder():
    h, visible = _observed()
    inputs, _ = make_inputs(observe(h, visible, 10.0, _generator(3)), Dechirper(ARRAY), PATCHES)
    model = _model()
    context = model.encoder(inputs)
    assert not bool(context[:, :-1][~inputs.visible].any())
    filled = inputs.y.clone()
    filled[~inputs.visible] = 5.0
    inputs_filled = type(inputs)(filled, inputs.there, inputs.visible, inputs.condition)
    assert torch.equal(model.encoder(inputs_filled), context)
    filled[:, 0] = 5.0
    assert not torch.equal(model.encoder(inputs_filled), context)


def test_rows_with_other_numbers_of_visible_patches_change_nothing():
    h, visible = _observed()
    visible[0, 8:] = False
    inputs, _ = make_inputs(observe(h, visible, 10.0, _generator(3)), Dechirper(ARRAY), PATCHES)
    model = _model()
    torch.testing.assert_close(model(inputs)[:1], model(inputs[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(inputs)[1:], model(inputs[1:]), rtol=1e-4, atol=1e-5)


def test_the_frame_is_left_exactly_as_it_was_entered():
    h, visible = _observed()
    observed = observe(h, visible, 10.0, _generator(3))
    frame = Dechirper(ARRAY)(observed)
    torch.testing.assert_close(frame.restore(frame.turn(h)), h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(frame.rotation.abs(), torch.ones_like(h.real))
    power = frame.turn(observed.y).abs().square().sum(dim=1) / visible.sum(dim=1)
    torch.testing.assert_close(power, torch.ones_like(power))


def test_a_lone_path_turns_to_one_at_every_element(monkeypatch):
    one_path = NearFieldConfig(num_elements=64, min_paths=1, max_paths=1)
    h = draw_channels(one_path, 50, _generator(5)).h[:, 0, 0]
    observed = observe(h, torch.ones(h.shape, dtype=torch.bool), 60.0, _generator(6))
    turned = Dechirper(one_path)(observed).turn(h)
    assert float((turned - 1).abs().square().mean()) < 3e-3
    # Without the refinement within the grid's cell the turned channel is not 1 to that.
    monkeypatch.setattr(features, "_NEWTON_STEPS", 0)
    assert float((Dechirper(one_path)(observed).turn(h) - 1).abs().square().mean()) > 3e-3


@pytest.mark.parametrize("hidden", [slice(0, 0), slice(16, 40)])
@pytest.mark.parametrize("num_elements", [64, 96, 75])
def test_the_wave_that_is_found_is_as_strong_as_the_best_of_all_atoms(num_elements, hidden):
    array = NearFieldConfig(num_elements=num_elements)
    h = draw_channels(array, 200, _generator(7)).h[:, 0, 0]
    visible = torch.ones(h.shape, dtype=torch.bool)
    visible[:, hidden] = False
    observed = observe(h, visible, 10.0, _generator(8))
    fine = AtomSearch(array, oversampling=4.0, num_rings=20)
    atom, _ = fine(observed.y, torch.zeros(200))
    power = observed.y.abs().square().sum(dim=1) * visible.sum(dim=1)
    best = (atom.conj() * observed.y).sum(dim=1).abs().square() / power
    frame = Dechirper(array)(observed)
    found = (frame.rotation.conj() * observed.y).sum(dim=1).abs().square() / power
    torch.testing.assert_close(frame.condition[:, 4], found, rtol=1e-3, atol=1e-4)
    assert float((found - best).mean()) > -0.002
    assert float((found > best - 0.03).float().mean()) > 0.95
    # A grid of one distance and no refinement doesn't reach it.
    coarse, _ = WaveSearch(array, 1.0, 1)(observed.y, torch.zeros(200))
    poor = (coarse.conj() * observed.y).sum(dim=1).abs().square() / power
    assert float((poor - best).mean()) < -0.02


def test_planes_and_wide_spacings_search_all_atoms():
    for array in (
        NearFieldConfig(num_elements=64, num_rows=8),
        NearFieldConfig(num_elements=32, spacing_wavelengths=1.0),
    ):
        h = draw_channels(array, 6, _generator(2)).h[:, 0, 0]
        observed = observe(h, torch.ones(h.shape, dtype=torch.bool), 20.0, _generator(3))
        frame = Dechirper(array)(observed)
        assert float(frame.condition[:, 4].min()) > 0.3
        torch.testing.assert_close(frame.restore(frame.turn(h)), h, rtol=1e-5, atol=1e-6)


def test_patches_join_to_what_was_split_on_lines_and_planes():
    for config in (ARRAY, NearFieldConfig(num_elements=256, num_rows=16)):
        patches = Patches(config, 16)
        values = torch.arange(config.num_elements, dtype=torch.float32).expand(3, -1)
        assert torch.equal(patches.join(patches.split(values)), values)
    # A square of a plane: four elements of each of four rows.
    assert patches.index[0].tolist() == [r * 16 + c for r in range(4) for c in range(4)]
    with pytest.raises(SemcomError, match="24: patches don't fill"):
        Patches(ARRAY, 24)


def test_mirrored_inputs_are_those_of_the_mirrored_array():
    h, visible = _observed()
    observed = observe(h, visible, 20.0, _generator(3))
    flipped = Observed(observed.y.flip(1), visible.flip(1), observed.noise_var)
    inputs, frame = make_inputs(observed, Dechirper(ARRAY), PATCHES)
    other, other_frame = make_inputs(flipped, Dechirper(ARRAY), PATCHES)
    mirrored = inputs.mirrored()
    torch.testing.assert_close(mirrored.y, other.y, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(mirrored.condition, other.condition, rtol=1e-2, atol=1e-2)
    clean, other_clean = (
        to_numbers(PATCHES.split(each)) for each in (frame.turn(h), other_frame.turn(h.flip(1)))
    )
    torch.testing.assert_close(mirror_patches(clean), other_clean, rtol=1e-2, atol=2e-2)


def test_a_hybrids_network_answers_the_same_from_either_end_of_the_line():
    h, visible = _observed()
    observed = observe(h, visible, 10.0, _generator(3))
    hybrid = _estimators()[1]
    inputs, frame = make_inputs(observed, Dechirper(ARRAY), PATCHES)
    paths = hybrid.nomp.paths(observed)
    with torch.no_grad():
        described = make_path_inputs(observed, frame, inputs, hybrid.model(inputs), PATCHES, paths)
        answer, other = hybrid._combine(described), hybrid._combine(described.mirrored())
        by_itself = hybrid.combiner(described) - mirror_patches(hybrid.combiner(described.mirrored()))
    torch.testing.assert_close(mirror_patches(other), answer)
    assert by_itself.abs().max() > 1e-3
    whole = frame.restore(PATCHES.join(to_values(answer)))
    torch.testing.assert_close(hybrid.estimate(observed, paths), whole, atol=1e-5, rtol=1e-4)


def test_numbers_and_values_are_the_same():
    values = torch.randn(2, 3, 4, dtype=torch.complex64, generator=_generator())
    assert torch.equal(to_values(to_numbers(values)), values)


def test_tokens_that_are_not_present_are_not_attended_to():
    torch.manual_seed(0)
    body = Transformer(8, 2, 2)
    tokens = torch.randn(3, 5, 8, generator=_generator())
    present = torch.tensor([[True, True, True, False, False]]).expand(3, -1)
    torch.testing.assert_close(body(tokens, present)[:, :3], body(tokens[:, :3]))
    with pytest.raises(SemcomError, match="can't be divided among 3 heads"):
        Transformer(8, 1, 3)


def test_gathered_tokens_are_scattered_back_to_their_places():
    visible = torch.tensor([[True, False, True, False], [False, True, False, False]])
    tokens = torch.randn(2, 4, 3, generator=_generator())
    index, present = visible_first(visible)
    assert index.shape == (2, 2)
    back = scatter_tokens(gather_tokens(tokens, index), index, present, tokens.shape[1])
    assert torch.equal(back, torch.where(visible[:, :, None], tokens, 0))


def test_masks_hide_their_share_and_leave_a_token():
    hidden = mask_tokens(4000, 16, 0.0, 1.0, _generator())
    assert bool((~hidden).any(dim=1).all())
    # Uniform on 0 to 1, of standard deviation 0.29 from row to row.
    assert abs(float(hidden.float().mean()) - 0.5) < 4.5 * 0.29 / 4000**0.5 + 0.02
    block = mask_token_blocks(500, 1, 16, 1, 0.25, 0.25, _generator())
    assert bool((block.sum(dim=1) == 4).all())
    assert bool((block[:, 1:] != block[:, :-1]).sum(dim=1).le(2).all())
    whole = mask_token_blocks(50, 4, 4, 2, 1.0, 1.0, _generator())
    assert bool((whole.sum(dim=1) == 15).all())


@pytest.mark.parametrize("source", ["visibility", "blocks", "random"])
def test_examples_of_every_mask_source_keep_their_targets(source):
    examples = draw_some(64, mask_source=source)
    assert bool(examples.inputs.visible.any(dim=1).all())
    assert not bool(examples.inputs.visible.all())
    # Where the array sees, what is observed is the target and noise of the level that is told.
    error = (to_values(examples.inputs.y) - to_values(examples.clean)).abs().square()
    there = examples.inputs.there > 0
    noise = (error * there).sum(dim=(1, 2)) / there.sum(dim=(1, 2)) / examples.frame.noise_var
    assert abs(float(noise.mean()) - 1) < 0.1
