"""What the trained bottleneck keeps to: real bytes, each channel's its own, and no others taken."""

import copy
import pickle

import elaa_bottleneck_setups as setups
import pytest
import torch
from elaa_setups import ARRAY, small_inputs

from scenarios.elaa.bottleneck_codec import RateControl
from scenarios.elaa.bottleneck_training import make_bottleneck
from scenarios.elaa.observations import Observed
from semcom.contracts import SemcomError


@pytest.fixture(scope="module")
def feedback():
    return setups.feedback()


@pytest.fixture(scope="module")
def observed():
    return setups.observed()


@pytest.fixture(scope="module")
def payloads(feedback, observed):
    return feedback.encode(observed)


def test_the_same_channels_make_the_same_bytes_and_a_copy_of_the_codec_too(feedback, observed, payloads):
    assert all(type(payload) is bytes for payload in payloads)
    assert feedback.encode(observed) == payloads
    assert pickle.loads(pickle.dumps(feedback)).encode(observed[:5]) == payloads[:5]
    received = feedback.decode(payloads)
    assert (received.shape, received.dtype) == (observed.y.shape, torch.complex64)
    assert torch.isfinite(torch.view_as_real(received)).all()
    assert feedback.decode([]).shape == (0, ARRAY.num_elements)
    assert feedback.encode(observed[:0]) == []


def test_rows_are_independent(feedback, observed, payloads):
    assert feedback.encode(observed[20:30]) == payloads[20:30]
    assert [feedback.encode(observed[i : i + 1])[0] for i in range(10)] == payloads[:10]
    alone = torch.cat([feedback.decode([payload]) for payload in payloads[:10]])
    assert torch.equal(alone, feedback.decode(payloads)[:10])


def test_it_spends_what_it_is_given_on_channels_that_it_has_not_seen(feedback):
    sizes = torch.tensor([8.0 * len(payload) for payload in feedback.encode(setups.observed(80, seed=21))])
    deviation = float(sizes.std()) * (1 / 80 + 1 / 60) ** 0.5
    assert abs(float(sizes.mean()) - setups.MEAN_BITS) < 4.5 * deviation + 1
    assert float(sizes.max()) <= feedback.max_payload_bits()


def test_more_bits_are_a_higher_level():
    levels = [setups.feedback(bits).level for bits in (40, setups.MEAN_BITS)]
    assert levels == sorted(levels)
    assert levels[0] < levels[-1]


def test_what_it_never_makes_is_refused_in_one_line(feedback, payloads):
    """Cut or flipped bytes are either another message of this codec, to the last byte, or refused."""
    wrong = [payload[:-1] for payload in payloads] + [payload[:3] for payload in payloads]
    wrong += [bytes([payload[0] ^ 0x5A]) + payload[1:] for payload in payloads]
    told = []
    for payload in wrong:
        try:
            symbols = feedback.coder.decode([payload])
        except SemcomError as error:
            told.append(str(error))
        else:
            assert feedback.coder.encode(symbols) == [payload]
    assert told
    assert not any("\n" in line for line in told)
    for more in (b"\0", b"\x55" * 4000):
        with pytest.raises(SemcomError, match="payload 1"):
            feedback.decode([payloads[0], payloads[1] + more])


def test_bits_that_are_too_few_and_channels_that_are_no_numbers_are_refused(feedback, observed):
    with pytest.raises(SemcomError, match="mean_bits 5 is too few"):
        setups.feedback(5)
    y = observed.y.clone()
    y[1, 0] = torch.nan
    with pytest.raises(SemcomError, match="NaN"):
        feedback.encode(Observed(y, observed.visible, observed.noise_var))


def test_more_bits_than_it_can_use_are_no_error():
    most = setups.feedback(60_000)
    sizes = [8 * len(payload) for payload in most.encode(setups.observed(5))]
    assert setups.MEAN_BITS < max(sizes) < 60_000


def test_making_a_model_leaves_the_random_state_and_seeds_differ():
    state = torch.random.get_rng_state()
    models = [make_bottleneck(small_inputs(), setups.TOLD, ARRAY, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.embed.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_gradients_reach_every_weight_that_is_used():
    model = copy.deepcopy(setups.trained()).requires_grad_(True)
    looked = setups.feedback().look(setups.observed(4))
    z = looked[1].clone().requires_grad_(True)
    place = torch.zeros(4, 2)
    z_hat = model.round(z, 0.8)
    bits = model.bits(z_hat, 0.8).mean()
    (model.synthesise(z_hat, place, 0.8).square().mean() + bits).backward()
    for tensor in (z, model.synthesis_change, model.embed_band.weight):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert bool((tensor.grad != 0).any())


def test_a_held_out_set_of_one_channel_is_enough():
    assert RateControl(setups.trained(), ARRAY, setups.observed(1)).feedback(80).level >= -1
