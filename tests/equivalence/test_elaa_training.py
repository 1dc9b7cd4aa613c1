"""Trainings of learned ELAA estimates: resumed equals uninterrupted, the target follows, frozen is frozen."""

from dataclasses import replace

import pytest
import torch
from elaa_setups import ARRAY, MODEL, PATCH_SIZE, PATCHES, draw_some, small_inputs

import semcom.train
from channels.visibility import BlockVisibility
from scenarios.elaa.bench import Bench
from scenarios.elaa.data import Cell, DataConfig
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner, tune_stacked
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import CsiModel
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.path_inputs import make_path_inputs
from scenarios.elaa.path_posterior import posterior_fields
from scenarios.elaa.task import CellLevels
from scenarios.elaa.training import MODELS, train_combiner, train_model
from semcom.distances import DISTANCES
from semcom.patch_jepa import PatchJepa
from semcom.regularizers import VicReg
from semcom.targets import EmaTarget
from semcom.train import Central


def _same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_training_equals_an_uninterrupted_one(name, tmp_path, monkeypatch):
    examples = draw_some()
    whole = train_model(name, 0, examples, PATCHES, small_inputs())
    again = train_model(name, 1, examples, PATCHES, small_inputs())
    assert not _same(whole.tuned.state_dict(), again.tuned.state_dict())

    class StopError(Exception):
        pass

    save = semcom.train.save_state

    def save_and_stop(path, training, log):
        save(path, training, log)
        if path.stem in ("tuning", "supervised"):
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(semcom.train, "save_state", save_and_stop)
        with pytest.raises(StopError):
            train_model(name, 0, examples, PATCHES, small_inputs(), Central(tmp_path))
    resumed = train_model(name, 0, examples, PATCHES, small_inputs(), Central(tmp_path))
    assert _same(whole.tuned.state_dict(), resumed.tuned.state_dict())
    assert [row["stage"] for row in whole.log] == [row["stage"] for row in resumed.log]


def test_a_frozen_models_encoder_is_the_pretrained_one_and_tuning_moves_it():
    trained = train_model("jepa", 0, draw_some(), PATCHES, small_inputs())
    longer = train_model("jepa", 0, draw_some(), PATCHES, small_inputs(num_steps_decoder=20))
    assert trained.frozen is not None
    assert longer.frozen is not None
    assert _same(trained.frozen.encoder.state_dict(), longer.frozen.encoder.state_dict())
    assert not _same(trained.frozen.decoder.state_dict(), longer.frozen.decoder.state_dict())
    assert not _same(trained.frozen.encoder.state_dict(), trained.tuned.encoder.state_dict())
    diagnosis = next(row for row in trained.log if row["stage"] == "diagnosis")
    assert 1 <= diagnosis["rank_me_context"] <= 16


def test_the_loss_is_that_of_the_wanted_tokens_and_the_target_follows_the_encoder():
    torch.manual_seed(0)
    encoder = torch.nn.Linear(3, 4)
    target = EmaTarget(encoder, 0.5, 0.5)
    jepa = PatchJepa(
        encoder, lambda context, _: context + 1, VicReg(2.0, 0.1), DISTANCES["l2"], target=target
    )
    generator = torch.Generator().manual_seed(1)
    observed, whole = torch.randn(2, 6, 5, 3, generator=generator)
    visible = torch.rand(6, 4, generator=generator) < 0.7
    wanted = ~visible
    terms = jepa.loss(observed, whole, visible, wanted, generator)
    error = (encoder(observed)[:, :4] + 1 - encoder(whole)[:, :4]).square().mean(dim=2)
    torch.testing.assert_close(terms["prediction"], error[wanted].mean())
    regulariser = VicReg(2.0, 0.1)(encoder(observed)[:, :4][visible])["total"]
    torch.testing.assert_close(terms["total"], error[wanted].mean() + regulariser)
    before = target.encoder.weight.clone()
    with torch.no_grad():
        encoder.weight.add_(1.0)
    jepa.update_target(0)
    torch.testing.assert_close(target.encoder.weight, before + 0.5)
    terms["total"].backward()
    assert all(parameter.grad is None for parameter in target.parameters())


def test_the_combiner_resumes_and_starts_from_the_expected_field(tmp_path):
    examples = draw_some()
    line = LineArray.of(ARRAY)
    nomp = Nomp(line, nomp_prior(line), max_paths=3)
    paths = nomp.paths(examples.observed)
    model = train_model("supervised", 0, examples, PATCHES, small_inputs()).tuned
    combiner, log = train_combiner(0, model, paths, examples, PATCHES, small_inputs(), Central(tmp_path))
    resumed, _ = train_combiner(0, model, paths, examples, PATCHES, small_inputs(), Central(tmp_path))
    assert _same(combiner.state_dict(), resumed.state_dict())
    assert log[-1]["stage"] == "combiner"
    estimator = HybridEstimator(model, combiner, nomp, ARRAY, PATCH_SIZE)
    # After so few steps it is still near the field of the paths, each the mean over what it may be.
    estimate = estimator.estimate(examples.observed)
    expected = posterior_fields(paths, examples.observed).sum(dim=1)
    assert float((estimate - expected).abs().square().mean() / expected.abs().square().mean()) < 0.05
    assert torch.equal(estimate, estimator.estimate(examples.observed, paths))


def test_a_hybrid_is_believed_no_further_than_validation_bears_out():
    bench = Bench(ARRAY, BlockVisibility(subarray_size=8), DataConfig(num_validation=60), Cell(0.5, 10.0), 0)
    inputs = small_inputs()
    model, combiner = CsiModel(inputs.model, PATCHES), PathCombiner(inputs.model, PATCHES.num_patches)
    hybrid = HybridEstimator(model.eval(), combiner.eval(), bench.nomp, ARRAY, PATCH_SIZE)
    truth, seen, paths = bench.validation.h, bench.known.visible, bench.known_paths
    base = bench.shrunk("nomp-shrink").field(paths, bench.known)

    def error(h_hat: torch.Tensor) -> float:
        return float(((h_hat - truth).abs().square().sum(dim=1) / truth.abs().square().sum(dim=1)).mean())

    # As started it is nearly the mean over what the paths may be; then the untrained network's estimate.
    for bias in (-5.0, 5.0):
        torch.nn.init.constant_(combiner.mixing.bias, bias)
        tuned = tune_stacked(hybrid, bench.known, truth, paths)
        alone = hybrid.estimate(bench.known, paths)
        stacked = tuned.field(paths, bench.known)
        assert error(stacked) <= min(error(base), error(alone)) * (1 + 1e-6)
        f = tuned.change.factor
        torch.testing.assert_close(stacked, base + torch.where(seen, f[0], f[1]) * (alone - base))
        torch.testing.assert_close(tuned.estimate(bench.asked), bench.stacked(hybrid))
        assert (f > 0.3).all() if bias < 0 else (f < 0.1).all()


def test_what_is_tuned_where_targets_are_noisy_is_tuned_on_noisy_ones():
    data, visibility = DataConfig(num_validation=400, num_test=4), BlockVisibility(subarray_size=8)
    clean, noisy = (Bench(ARRAY, visibility, data, Cell(0.5, 10.0), 0, told) for told in (None, 10.0))
    assert torch.equal(clean.validation.observed.y, noisy.validation.observed.y)
    assert torch.equal(clean.test.h, noisy.test.h)
    noise = noisy.validation.h - clean.validation.h
    assert float(noise.abs().square().mean()) == pytest.approx(0.1, rel=0.05)
    # What is tuned on noisy channels is unmoved by noise that has nothing in common with the pilots'.
    heard = clean.validation.observed
    pilots = (heard.y - clean.validation.h)[heard.visible]
    common = (pilots.conj() * noise[heard.visible]).mean()
    assert float(common.abs()) < 4.5 * 0.1 / heard.visible.sum().sqrt()


def test_levels_bring_errors_of_all_cells_to_one():
    levels = CellLevels(momentum=0.5)
    cell = torch.tensor([0, 0, 3])
    for _ in range(40):
        loss = levels(torch.tensor([1e-3, 3e-3, 0.5]), cell)
    torch.testing.assert_close(levels.level[[0, 3]], torch.tensor([2e-3, 0.5]))
    assert float(levels.level[1]) == 1.0
    torch.testing.assert_close(loss, torch.tensor(1.0))


def test_levels_of_noisy_targets_are_between_an_estimates_own_error_and_all_of_it():
    levels = CellLevels(torch.tensor([0.5, 0.101, 0.1]), momentum=1.0, num_cells=3, noise=0.1)
    weight = [1 / float(levels(torch.ones(1), torch.tensor([cell]))) for cell in range(3)]
    # An error that is next to nothing beside the noise is taken for a hundredth of it.
    expected = [0.4**0.75 * 0.5**0.25, 0.00101**0.75 * 0.101**0.25, 0.001**0.75 * 0.1**0.25]
    assert weight == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("target_snr_db", [0.0, 10.0])
def test_examples_know_the_noise_in_their_targets(target_snr_db):
    noisy, clean = draw_some(target_snr_db=target_snr_db), draw_some()
    assert clean.noise_share == 0
    assert torch.equal(noisy.inputs.y, clean.inputs.y)
    noise = (noisy.clean - clean.clean).square().sum(dim=(1, 2)) * clean.frame.scale.square()
    energy = noisy.clean.square().sum(dim=(1, 2)) * clean.frame.scale.square()
    assert float(noise.mean() / energy.mean()) == pytest.approx(noisy.noise_share, rel=0.1)


def test_every_stage_on_errors_heeds_the_noise_in_its_targets():
    noisy, inputs = draw_some(target_snr_db=10.0), small_inputs()
    untold = replace(noisy, noise_share=0.0)
    for name in ("mae", "supervised"):
        told, other = (train_model(name, 0, each, PATCHES, inputs) for each in (noisy, untold))
        assert not _same(told.tuned.state_dict(), other.tuned.state_dict())
        if told.frozen is not None:
            assert not _same(told.frozen.encoder.state_dict(), other.frozen.encoder.state_dict())
    # A JEPA's pretraining compares tokens, and knows no such errors.
    told, other = (train_model("jepa", 0, each, PATCHES, inputs) for each in (noisy, untold))
    assert _same(told.frozen.encoder.state_dict(), other.frozen.encoder.state_dict())
    line = LineArray.of(ARRAY)
    paths = Nomp(line, nomp_prior(line)).paths(noisy.observed)
    (one, _), (two, _) = (
        train_combiner(0, told.tuned, paths, each, PATCHES, inputs) for each in (noisy, untold)
    )
    assert not _same(one.state_dict(), two.state_dict())


def test_paths_that_are_sure_stay_as_they_were_found():
    examples = draw_some(num=24, seed=4)
    line = LineArray.of(ARRAY)
    paths = Nomp(line, nomp_prior(line)).paths(examples.observed)
    learned = torch.zeros_like(examples.clean)
    inputs = make_path_inputs(examples.observed, examples.frame, examples.inputs, learned, PATCHES, paths)
    torch.manual_seed(0)
    combiner = PathCombiner(MODEL, PATCHES.num_patches)
    with torch.no_grad():
        combiner.mixing.bias.fill_(-30)
        combiner.factor.weight.mul_(50)
        sure, unsure = (
            combiner(replace(inputs, variance=torch.full_like(inputs.variance, variance)))
            for variance in (0.0, 1.0)
        )
    torch.testing.assert_close(sure, inputs.mean(), rtol=1e-4, atol=1e-4)
    assert float((unsure - inputs.mean()).abs().max()) > 0.1
