"""Every encoder and predictor: shapes, independent rows, copies, gradients; and what each of them is for."""

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from scenarios.control.models import ModelConfig, MotionEncoder, SkipMlp, Window
from semcom.contracts import Encoder, Predictor
from semcom.encoders import ConvEncoder, KeypointStem, MlpEncoder
from semcom.predictors import FilmPredictor, rollout

NUM, DIM = 6, 4


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator())


def frames(num: int = NUM, num_colors: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (num, num_colors, 16, 24), generator=generator(), dtype=torch.uint8)


def randomised(module: nn.Module) -> nn.Module:
    """Fills in the weights that start at zero, from a named generator."""
    draw = generator(9)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=draw)
    return module.eval()


def motion_encoder() -> MotionEncoder:
    return randomised(MotionEncoder(5, ModelConfig(embedding_dim=DIM, gap_steps=3, readout_dim=8), 5.0))


ENCODERS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "keypoints": (lambda: KeypointStem(1, DIM // 2, generator(), trainable=True), (frames(),)),
    "conv": (lambda: randomised(ConvEncoder(3, 16, 24, DIM, 4)), (frames(num_colors=3),)),
    "mlp": (lambda: randomised(MlpEncoder(7, DIM, 8)), (vectors(NUM, 7),)),
    "actor": (lambda: randomised(SkipMlp(7, DIM, 8)), (vectors(NUM, 7),)),
    "film": (lambda: randomised(FilmPredictor(DIM, 2, 8)), (vectors(NUM, DIM), vectors(NUM, 2))),
}


@pytest.fixture(params=ENCODERS)
def case(request):
    make, inputs = ENCODERS[request.param]
    return make(), inputs


def test_shapes_and_types(case):
    model, inputs = case
    out = model(*inputs)
    assert out.shape == (NUM, DIM)
    assert out.dtype == torch.float32
    assert out.std(dim=0).min() > 0


def test_the_contracts_are_kept():
    for name in ("conv", "mlp"):
        assert isinstance(ENCODERS[name][0](), Encoder)
    assert isinstance(ENCODERS["film"][0](), Predictor)


def test_rows_of_a_batch_are_independent(case):
    model, inputs = case
    together = model(*inputs)
    for row in range(NUM):
        torch.testing.assert_close(model(*(part[row : row + 1] for part in inputs))[0], together[row])


def test_a_copy_behaves_alike(case):
    model, inputs = case
    assert torch.equal(pickle.loads(pickle.dumps(model))(*inputs), model(*inputs))


def test_the_same_seed_gives_the_same_weights_and_a_new_one_others():
    one, same, other = (KeypointStem(1, 8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.convolution.weight, same.convolution.weight)
    assert not torch.equal(one.convolution.weight, other.convolution.weight)


def test_gradients_are_finite_and_reach_every_weight(case):
    model, inputs = case
    model(*inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_keypoints_follow_a_bright_patch_pixel_by_pixel():
    stem = KeypointStem(1, 16, generator())
    picture = torch.zeros(3, 1, 32, 64)
    for row, (top, left) in enumerate(((10, 20), (10, 26), (16, 20))):
        picture[row, 0, top : top + 6, left : left + 6] = 1.0
    still, right, down = stem.keypoints(picture).unflatten(1, (16, 2))
    # Three cells of the halved picture, in coordinates over 32 columns (-1 to 1) and 16 rows (-1/2 to 1/2).
    moved = torch.tensor([[3 * 2 / 31, 3 / 15]]).expand(16, 2)
    torch.testing.assert_close(right - still, moved * torch.tensor([1.0, 0.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(down - still, moved * torch.tensor([0.0, 1.0]), atol=0.01, rtol=0)


def test_many_frames_give_what_each_gives_alone():
    stem, some = KeypointStem(1, 4, generator()), frames(70)
    torch.testing.assert_close(stem(some), torch.cat([stem(frame[None]) for frame in some]))


def test_calibrated_keypoints_have_mean_zero_and_the_stated_deviation():
    stem, some = KeypointStem(1, 4, generator()), frames(64)
    stem.calibrate(some)
    out = stem(some)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    raw = stem.keypoints(some).std(dim=0)
    torch.testing.assert_close(out.std(dim=0), raw / (raw + 5e-3))


def test_a_new_predictor_repeats_its_context_and_a_fitted_one_is_exact_on_a_linear_system():
    z, command = vectors(500, DIM), torch.randn(500, 2, generator=generator(4))
    matrix, drive = 0.3 * vectors(DIM, DIM), vectors(2, DIM)
    after = z @ matrix + command @ drive + 0.1
    predictor = FilmPredictor(DIM, 2, 8)
    assert torch.equal(predictor(z, command), z)
    unexplained = predictor.fit_linear(z, command, after)
    assert unexplained.max() < 1e-9
    torch.testing.assert_close(predictor(z, command), after, atol=1e-4, rtol=0)


def test_the_condition_changes_the_prediction_and_not_only_by_a_sum():
    predictor = randomised(FilmPredictor(DIM, 1, 16))
    z, none, some = vectors(NUM, DIM), torch.zeros(NUM, 1), torch.ones(NUM, 1)
    effect = predictor(z, some) - predictor(z, none)
    assert effect.abs().max() > 0.01
    # FiLM multiplies too: what a command does depends on where the plant is.
    assert effect.std(dim=0).max() > 0.01


def test_a_rollout_is_the_predictor_applied_again_and_again():
    predictor, z, command = randomised(FilmPredictor(DIM, 1, 8)), vectors(NUM, DIM), vectors(NUM, 3, 1)
    expected = z
    for step, rolled in enumerate(rollout(predictor, z, command)):
        expected = predictor(expected, command[:, step])
        assert torch.equal(rolled, expected)
    assert step == 2


def test_a_window_is_encoded_as_its_pairs_of_frames_are():
    encoder, features, command = motion_encoder(), vectors(2, 9, 5), vectors(2, 9, 1)
    z = encoder(Window(features, command))
    assert z.shape == (2, 9 - 3, DIM)
    for step in range(3, 9):
        past = command[:, step - 3 : step].flatten(1)
        torch.testing.assert_close(
            z[:, step - 3], encoder.combine(features[:, step], features[:, step - 3], past)
        )


def test_an_embedding_knows_nothing_of_what_comes_after():
    encoder, features, command = motion_encoder(), vectors(1, 9, 5), vectors(1, 9, 1)
    changed = Window(features.clone(), command.clone())
    changed.features[:, 6:] += 1
    changed.command[:, 5:] += 1  # the command of step 5 acts after it
    before, after = encoder(Window(features, command)), encoder(changed)
    assert torch.equal(before[:, : 6 - 3], after[:, : 6 - 3])
    assert not torch.equal(before[:, 6 - 3], after[:, 6 - 3])


def test_whitened_embeddings_are_uncorrelated_and_of_unit_deviation():
    encoder = motion_encoder()
    window = Window(vectors(40, 20, 5), vectors(40, 20, 1))
    encoder.whiten(encoder(window).detach().flatten(0, 1), floor=0.0)
    covariance = torch.cov(encoder(window).detach().flatten(0, 1).T)
    torch.testing.assert_close(covariance, torch.eye(DIM), atol=1e-3, rtol=0)
