"""Codecs that learn: coded size against cross-entropy, quantisers against closed forms, joint training."""

from itertools import pairwise
from math import log, log2, pi, sqrt

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from semcom.codecs.catalogue import CODECS, CodecConfig, make_codec
from semcom.codecs.entropy_model import FactorisedDensity, FactorisedQuantiser
from semcom.codecs.finite_scalar import FiniteScalarQuantiser
from semcom.codecs.vector import product_structure, residual_structure
from semcom.contracts import SemcomError


def draw_normal(num_rows: int, embedding_dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, embedding_dim, generator=torch.Generator().manual_seed(seed))


def make(kind: str, embedding_dim: int, **settings):
    return make_codec(CodecConfig(kind=kind, **settings), embedding_dim).eval()


CODED = [kind for kind in CODECS if hasattr(make(kind, 4, bits=2), "coder")]


def test_every_codec_but_the_fixed_length_ones_is_entropy_coded():
    assert set(CODECS) - set(CODED) == {"float32", "float16", "uniform", "analog"}


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("bits", [1, 3])
def test_a_long_message_takes_its_cross_entropy_and_a_packet_its_whole_bytes(kind, bits):
    codec = make(kind, 4, bits=bits)
    codec.fit(draw_normal(4000, 4, seed=1))
    z = draw_normal(-(-10_000 // codec.coder.num_symbols), 4, seed=2)
    symbols, costs = codec.quantise(z), codec.entropy_bits(z)
    assert symbols.numel() >= 10_000
    together = codec.coder.encode_together(symbols)
    ideal = float(costs.sum())
    assert ideal - 8 <= 8 * len(together) <= 1.01 * ideal + 32
    assert torch.equal(codec.coder.decode_together(together, len(z)), symbols)
    # The power check: a table that is off by a tenth of a bit a symbol is told apart.
    assert 8 * len(together) + 0.1 * symbols.numel() > 1.01 * ideal + 32
    # A packet pays for whole bytes: ceil(h / 8) bytes at most, and now and then one fewer.
    sizes = torch.tensor([8.0 * len(payload) for payload in codec.encode(z[:500])])
    assert (sizes <= 8 * ((costs[:500] + 0.1) / 8).ceil()).all()
    assert (sizes > costs[:500] - 8).all()


def test_a_long_message_of_another_length_is_refused():
    codec = make("entropy", 4, bits=3)
    codec.fit(draw_normal(400, 4, seed=1))
    payload = codec.coder.encode_together(codec.quantise(draw_normal(100, 4, seed=2)))
    for wrong, num_rows in ((payload + b"\1", 100), (payload, 5), (b"\xff" * len(payload), 100)):
        with pytest.raises(SemcomError, match="payload"):
            codec.coder.decode_together(wrong, num_rows)


# Least mean squared error of a quantiser with L levels for N(0, 1), all free (Max 1960, table I).
# The cells of tanh grow outwards faster than Max's, so the more levels, the further FSQ stays from it.
@pytest.mark.parametrize(
    ("levels", "least_error", "most_above"),
    [(2, 0.3634, 0.02), (3, 0.1902, 0.02), (4, 0.1175, 0.03), (8, 0.03454, 0.12)],
)
def test_fsq_comes_near_the_best_quantiser_of_a_gaussian(levels, least_error, most_above):
    quantiser = FiniteScalarQuantiser(1, levels)
    quantiser.fit(draw_normal(4096, 1, seed=3))
    z = draw_normal(400_000, 1, seed=4)
    error = float((quantiser.dequantise(quantiser.quantise(z)) - z).square().mean())
    assert 0.98 * least_error < error < (1 + most_above) * least_error
    # The power check: a bound that meets the embedding at the wrong size is far off.
    quantiser.scale *= 4
    quantiser.adapt(z)
    wrong = float((quantiser.dequantise(quantiser.quantise(z)) - z).square().mean())
    assert levels == 2 or wrong > (1.1 + most_above) * least_error


@pytest.mark.parametrize("levels", [2, 3, 5, 8, 12])
def test_fsq_rounds_as_the_library_does(levels):
    from vector_quantize_pytorch import FSQ

    quantiser = FiniteScalarQuantiser(3, levels)
    quantiser.fit(draw_normal(500, 3, seed=5))
    library = FSQ([levels] * 3, preserve_symmetry=True, return_indices=False)
    z = draw_normal(2000, 3, seed=6)
    bounded = (z.double() - quantiser.center) / quantiser.scale
    symbols = (library.quantize(bounded) + 1) * (levels - 1) / 2
    assert torch.equal(quantiser.quantise(z), symbols.round().long())


def test_bits_are_shared_out_as_reverse_water_filling_says():
    # theta = 0.06: variances below it get nothing, those above it 1/2 log2(variance / theta) plus what an
    # entropy-coded scalar quantiser loses, at most 1/2 log2(pi e / 6) = 0.254 bits.
    variance = torch.tensor([16.0, 4.0, 1.0, 0.25, 0.004])
    z = draw_normal(4096, 5, seed=7) * variance.sqrt()
    quantiser = FiniteScalarQuantiser(5, 4, shared_out=True)
    quantiser.fit(z)
    # Less the one that is added for symbols not seen.
    counts = (quantiser.frequencies(z) - 1).clamp(min=0).double()
    share = counts / counts.sum(dim=1, keepdim=True)
    bits = -(share * share.clamp(min=1e-12).log2()).sum(dim=1)
    assert 9.5 < float(bits.sum()) <= 10.05
    assert int(quantiser.num_levels[4]) == 1
    steps = bits[:-2] - bits[1:-1]
    # A quarter of the variance, a bit less; the loss may be anything up to 0.254, the choices are a grid.
    assert torch.allclose(steps, torch.ones_like(steps), atol=0.3)
    alike = FiniteScalarQuantiser(5, 4)
    alike.fit(z)

    def error_of(fitted: FiniteScalarQuantiser) -> float:
        return float((fitted.dequantise(fitted.quantise(z)) - z).square().sum(dim=1).mean())

    assert error_of(quantiser) < 0.35 * error_of(alike)


@pytest.mark.parametrize(
    ("embedding_dim", "bits", "product", "residual"),
    [
        (10, 1, (5, (5,)), (10, (5, 5))),
        (10, 2, (2, (4,)), (10, (7, 7, 6))),
        (10, 4, (2, (8,)), (10, (8,) * 5)),
        (16, 2, (4, (8,)), (16, (8,) * 4)),
        (7, 3, (1, (3,)), (7, (7, 7, 7))),
        (256, 1, (8, (8,)), (16, (8, 8))),
    ],
)
def test_codebooks_hold_the_bits_that_are_asked_for(embedding_dim, bits, product, residual):
    for structure, expected in ((product_structure, product), (residual_structure, residual)):
        size, stages = structure(embedding_dim, bits)
        assert (size, stages) == expected
        assert embedding_dim // size * sum(stages) == embedding_dim * bits


def test_a_codebook_uses_what_dimensions_share():
    # Points on a circle: two dimensions that are uncorrelated, and one number.
    angle = 2 * pi * torch.rand(4000, 1, generator=torch.Generator().manual_seed(8))
    z = torch.cat((angle.cos(), angle.sin()), dim=1)
    errors = {}
    for kind in ("vq", "fsq"):
        codec = make(kind, 2, bits=2)
        codec.fit(z[:3000])
        errors[kind] = float((codec(z[3000:]) - z[3000:]).square().sum(dim=1).mean())
    # 16 points, evenly on the circle: the chord's mean square to the arc of 2 pi / 16 is (pi / 16)^2 / 3.
    assert errors["vq"] < 1.3 * (pi / 16) ** 2 / 3
    assert errors["vq"] < 0.5 * errors["fsq"]


def test_each_residual_stage_lowers_the_error():
    codec = make("rvq", 6, bits=4)
    z = draw_normal(3000, 6, seed=9)
    codec.fit(z)
    symbols, books = codec.quantise(z), codec.quantiser.codewords[0]
    rest, errors = z, [float(z.square().mean())]
    for book, number in zip(books, symbols.unbind(dim=1), strict=True):
        rest = rest - book[number]
        errors.append(float(rest.square().mean()))
    assert all(after < 0.5 * before for before, after in pairwise(errors))
    torch.testing.assert_close(z - rest, codec(z))


def test_the_learned_density_rises_and_ends_at_nought_and_one():
    density = FactorisedDensity(3, torch.Generator().manual_seed(0)).double()
    for parameter in density.parameters():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    x = torch.linspace(-1e4, 1e4, 20_001, dtype=torch.float64).expand(3, -1)
    logits = density.logits(x)
    assert (logits.diff(dim=1) > 0).all()
    assert (torch.sigmoid(logits[:, 0]) < 1e-6).all()
    assert (torch.sigmoid(logits[:, -1]) > 1 - 1e-6).all()
    assert torch.allclose(density.probability(x[:, :-1], x[:, 1:]).sum(dim=1), torch.ones(3).double())


def test_the_learned_model_of_a_mixture_comes_near_its_entropy():
    # Two narrow peaks: a model of the wrong shape (a Gaussian of the same variance) pays a bit more.
    generator = torch.Generator().manual_seed(10)
    side = torch.randint(0, 2, (6000, 1), generator=generator) * 2.0 - 1
    z = side + 0.1 * torch.randn(6000, 1, generator=generator)
    codec = make("factorised", 1, bits=4)
    codec.fit(z[:4000])
    step = float(codec.quantiser._step())
    share = torch.bincount(codec.quantise(z[4000:])[:, 0]) / 2000
    entropy = -float((share * share.clamp(min=1e-12).log2()).sum())
    learned = float(codec.entropy_bits(z[4000:]).mean())
    assert entropy < learned < entropy + 0.1
    gaussian = log2(sqrt(2 * pi) / step) + 0.5 / log(2)
    assert gaussian > entropy + 1


@pytest.mark.parametrize("bits", [2, 4])
def test_learned_steps_come_near_the_rate_and_the_error_of_theory(bits):
    codec = make("factorised", 2, bits=bits)
    scales = torch.tensor([1.0, 50.0])
    codec.fit(draw_normal(4000, 2, seed=11) * scales)
    z = draw_normal(4000, 2, seed=12) * scales
    rate = float(codec.entropy_bits(z).mean())
    assert abs(rate - 2 * bits) < 0.6 * bits
    # Entropy-coded uniform scalar quantisation of a Gaussian: D = (pi e / 6) variance 2^(-2 R) at high rate.
    error = (codec(z) - z).square().mean(dim=0)
    assert float(error[1]) == pytest.approx(float(codec.quantiser._step()[1]) ** 2 / 12, rel=0.25)


def test_integers_beyond_the_table_are_clipped_to_its_ends():
    quantiser = FactorisedQuantiser(2, 3)
    z = draw_normal(2000, 2, seed=13)
    quantiser.fit(z)
    far = torch.tensor([[1e6, -1e6], [1e30, -1e30]])
    symbols = quantiser.quantise(far)
    highest = (quantiser.table > 0).sum(dim=1) - 1
    assert symbols.tolist() == [[int(highest[0]), 0]] * 2
    step = quantiser._step().detach()
    reached = quantiser.dequantise(symbols)[0]
    # One step beyond the training embeddings, give or take the rounding.
    assert float(reached[0] - z[:, 0].max()) == pytest.approx(float(step[0]), abs=0.51 * float(step[0]))
    assert float(z[:, 1].min() - reached[1]) == pytest.approx(float(step[1]), abs=0.51 * float(step[1]))


def test_a_weight_moves_the_error_to_where_it_does_not_matter():
    z = draw_normal(4000, 4, seed=14)
    direction = torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    weight = direction.T @ direction
    errors = {}
    for weighting in ("none", "task"):
        codec = make("fsq", 4, bits=2, weighting=weighting)
        codec.fit(z, weight if weighting == "task" else None)
        error = codec(z) - z
        errors[weighting] = float((error @ direction.T).square().mean())
        assert float(codec.entropy_bits(z).mean()) < 8.05
    assert errors["task"] < 0.05 * errors["none"]


def whitening_coder(source: torch.Tensor, dim: int) -> tuple[nn.Module, nn.Module]:
    """Principal components at equal variance, and back: what matters little looks as large as the rest."""
    values, vectors = torch.linalg.eigh(source.T @ source / len(source))
    basis, deviation = vectors[:, -dim:], values[-dim:].sqrt()
    encoder, decoder = nn.Linear(12, dim, bias=False), nn.Linear(dim, 12, bias=False)
    with torch.no_grad():
        encoder.weight.copy_((basis / deviation).T)
        decoder.weight.copy_(basis * deviation)
    return encoder, decoder


def trained_coder(source: torch.Tensor, dim: int) -> tuple[nn.Module, nn.Module]:
    """An autoencoder without any codec: its dimensions are correlated as it happens."""
    encoder = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, dim))
    decoder = nn.Sequential(nn.Linear(dim, 32), nn.GELU(), nn.Linear(32, 12))
    train_on(source, encoder, decoder, None, 0.0, num_steps=250)
    return encoder, decoder


def train_on(source, encoder, decoder, codec, factor: float, num_steps: int) -> None:
    """Trains for the least squared error, with the codec's own terms if there is one in between."""
    generator, rate = torch.Generator().manual_seed(17), 4e-3
    modules = [module for module in (encoder, decoder, codec) if module is not None]
    weights = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.Adam(weights, lr=rate)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / num_steps)
        batch = source[torch.randint(0, len(source), (256,), generator=generator)]
        z, terms = encoder(batch), {}
        if codec is not None:
            terms, z = codec.loss(z, generator), codec(z)
        loss = mse_loss(decoder(z), batch) + factor * sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# What is to be gained depends on what a codec can't do alone. Codebooks and learned steps put up with
# correlated dimensions, but don't know which of them matter. FSQ gives each dimension as many levels and
# gains where they are correlated: on whitened components it gains nothing.
@pytest.mark.parametrize(
    ("kind", "bits", "make_coder", "factor"),
    [
        ("vq", 1, whitening_coder, 0.1),
        ("rvq", 2, whitening_coder, 0.1),
        ("factorised", 2, whitening_coder, 0.012),
        ("fsq", 2, trained_coder, 1.0),
    ],
)
def test_training_with_the_encoder_beats_fitting_afterwards(kind, bits, make_coder, factor):
    """Both ways start from the same encoder and train for as long; the codec is inside in one of them."""
    dim, num_steps = 8, 200
    generator = torch.Generator().manual_seed(15)
    mix = torch.randn(12, 12, generator=generator) * 2.0 ** (-torch.arange(12.0)[:, None] / 2)
    source = torch.randn(5000, 12, generator=generator) @ mix
    train, held_out = source[:4000], source[4000:]
    results = {}
    for inside in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(16)  # of the networks' starting weights
            encoder, decoder = make_coder(train, dim)
        codec = make(kind, dim, bits=bits)
        if inside:
            codec.fit(encoder(train))
            train_on(train, encoder, decoder, codec.train(), factor, num_steps)
            codec.eval().adapt(encoder(train))
        else:
            train_on(train, encoder, decoder, None, 0.0, num_steps)
            codec.fit(encoder(train))
        with torch.no_grad():
            z = encoder(held_out)
            error = mse_loss(decoder(codec(z)), held_out)
        results[inside] = float(error), float(codec.entropy_bits(z).mean())
    print(kind, results)
    assert results[True][0] < 0.85 * results[False][0]
    assert results[True][1] < results[False][1] + 0.1
