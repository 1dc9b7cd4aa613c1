"""What every codec of the catalogue keeps to, whatever its bits."""

import copy
import pickle
import random

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from semcom.codecs.catalogue import CODECS, CodecConfig, make_codec
from semcom.contracts import Codec, FittedCodec, SemcomError

EMBEDDING_DIM = 5
BITS = {
    "float32": (8,),
    "float16": (8,),
    "analog": (8,),
    "uniform": (1, 3, 8, 12, 16),
    "entropy": (1, 3, 8, 12, 16),
}
CASES = [
    (kind, bits, weighting)
    for kind in CODECS
    for weighting in ("none", "task")
    for bits in (BITS.get(kind, (1, 6)) if weighting == "none" else (3,))
    if weighting == "none" or kind not in ("float32", "float16", "uniform")
]
QUANTISED = [kind for kind in CODECS if not kind.startswith("float")]
CODED = [kind for kind in QUANTISED if kind not in ("uniform", "analog")]
"""The codecs with payloads of different lengths."""


def embeddings(num_rows: int, seed: int) -> torch.Tensor:
    """Rows of different scales and offsets per dimension, one of them constant."""
    z = torch.randn(num_rows, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed))
    return z * torch.tensor([1.0, 0.01, 30.0, 0.0, 2.0]) + torch.tensor([0.0, 5.0, -100.0, 0.3, 0.0])


def weight_of(weighting: str) -> torch.Tensor | None:
    """A weight of rank two, as a task's may be."""
    directions = torch.tensor([[1.0, 2.0, 0.0, -1.0, 0.5], [0.0, 30.0, 0.1, 0.0, 1.0]])
    return None if weighting == "none" else directions.T @ directions


def fit(codec, weighting: str, z: torch.Tensor) -> None:
    if isinstance(codec, FittedCodec):
        codec.fit(z, weight_of(weighting))


def make(kind: str, bits: int, weighting: str = "none", *, fitted: bool = True):
    codec = make_codec(CodecConfig(kind=kind, bits=bits, weighting=weighting), EMBEDDING_DIM).eval()
    if fitted:
        fit(codec, weighting, embeddings(1000, seed=1))
    return codec


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)), scope="module")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def codec(case):
    return make(*case)


def test_the_catalogue_and_the_configuration_name_the_same_codecs():
    assert CodecConfig(kind="entropy") == CodecConfig(kind="entropy", bits=8)
    made = [make_codec(CodecConfig(kind=kind), EMBEDDING_DIM) for kind in CODECS]
    assert [codec.name for codec in made] == list(CODECS)
    assert len({codec.codec_id for codec in made}) == len(CODECS)
    assert all(0 <= codec.codec_id <= 15 for codec in made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "jpeg"},
        {"bits": 0},
        {"bits": 17},
        {"bit": 8},
        {"bits": 9, "kind": "fsq"},
        {"bits": 16, "kind": "vq"},
        {"levels": 3},
        {"levels": 257, "kind": "fsq"},
        {"weighting": "task", "kind": "uniform"},
        {"num_symbols": 3, "kind": "uniform"},
        {"training_snr_db": 3.0},
    ],
)
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CodecConfig(**wrong)


def test_it_keeps_the_contract_of_a_codec(codec):
    assert isinstance(codec, Codec)
    assert codec.embedding_dim == EMBEDDING_DIM


def test_forward_in_eval_mode_is_decode_of_encode_bit_for_bit(codec):
    # Ten times the training data's spread, so that clipping is met too.
    z = torch.cat([embeddings(64, seed=2), 10 * embeddings(64, seed=3)])
    payloads = codec.encode(z)
    z_rx = codec.decode(payloads)
    assert all(type(payload) is bytes for payload in payloads)
    assert (z_rx.shape, z_rx.dtype) == (z.shape, torch.float32)
    assert torch.equal(codec(z).view(torch.int32), z_rx.view(torch.int32))
    assert codec.encode(z) == payloads


def test_sizes_keep_to_what_is_announced(case, codec):
    kind, bits, _ = case
    z = torch.cat([embeddings(64, seed=2), 10 * embeddings(64, seed=3)])
    sizes = torch.tensor([8 * len(payload) for payload in codec.encode(z)])
    assert sizes.max() <= codec.max_payload_bits()
    assert codec.entropy_bits(z).shape == (len(z),)
    assert torch.equal(codec.payload_entropy_bits(codec.encode(z)), codec.entropy_bits(z))
    if kind not in CODED:
        exact = {"float32": 160, "float16": 80, "uniform": 8 * -(-5 * bits // 8), "analog": 3 * 64}[kind]
        assert codec.max_payload_bits() == exact
        assert sizes.tolist() == [exact] * len(z)
        # Numbers are no bits.
        assert codec.entropy_bits(z).tolist() == [0 if kind == "analog" else exact] * len(z)


def test_rows_of_a_batch_are_independent(codec):
    z = embeddings(32, seed=4)
    payloads = codec.encode(z)
    assert [codec.encode(row[None])[0] for row in z] == payloads
    assert torch.equal(torch.cat([codec(row[None]) for row in z]), codec(z))
    assert torch.equal(torch.cat([codec.decode([payload]) for payload in payloads]), codec.decode(payloads))
    assert torch.equal(codec.entropy_bits(z[3:4]), codec.entropy_bits(z)[3:4])


def test_a_batch_of_none_is_coded(codec):
    z = torch.zeros(0, EMBEDDING_DIM)
    assert codec.encode(z) == []
    assert codec.decode([]).shape == codec(z).shape == z.shape


@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_copy_behaves_alike(codec, duplicate):
    z = embeddings(16, seed=5)
    payloads = codec.encode(z)
    twin = duplicate(codec)
    assert twin.encode(z) == payloads
    assert torch.equal(twin.decode(payloads), codec.decode(payloads))


def test_a_saved_codec_behaves_alike(case, codec, tmp_path):
    z = embeddings(16, seed=5)
    safetensors.torch.save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    twin = make(*case, fitted=False)
    # Fitted to something else and used, so that nothing of the former state may be left.
    fit(twin, case[2], 3 * embeddings(50, seed=6))
    twin.encode(z)
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "codec.safetensors"))
    assert twin.encode(z) == codec.encode(z)
    assert torch.equal(twin.decode(codec.encode(z)), codec(z))
    assert torch.equal(twin.entropy_bits(z), codec.entropy_bits(z))
    assert twin.max_payload_bits() == codec.max_payload_bits()


def test_gradients_pass_straight_through_in_training_mode(codec):
    codec = copy.deepcopy(codec).train()
    z = embeddings(8, seed=7).requires_grad_()
    weights = torch.arange(8.0 * EMBEDDING_DIM).reshape(8, EMBEDDING_DIM)
    z_hat = codec(z)
    (weights * z_hat).sum().backward()
    tolerance = 1e-4 if codec.name == "analog" else 0.0
    # The analog codec's map is no quantiser with a gradient made up, but one and its inverse.
    torch.testing.assert_close(z.grad, weights, rtol=tolerance, atol=100 * tolerance)
    torch.testing.assert_close(z_hat.detach(), codec.eval()(z.detach()))


def test_payloads_of_a_wrong_length_are_refused(codec):
    payload = codec.encode(embeddings(1, seed=8))[0]
    too_long = payload + bytes(codec.max_payload_bits() // 8 + 1 - len(payload))
    with pytest.raises(SemcomError, match="payload 1 has"):
        codec.decode([payload, too_long])
    with pytest.raises(SemcomError, match="payload 1 "):
        codec.decode([payload, payload + b"\0"])
    if codec.name not in CODED:  # a prefix of an entropy-coded payload can be another embedding's payload
        with pytest.raises(SemcomError, match="payload 0 has"):
            codec.decode([payload[:-1]])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_embeddings_that_are_no_numbers_are_refused(codec, bad):
    z = embeddings(6, seed=9)
    z[2, 1] = z[4, 0] = bad
    for use in (codec.encode, codec):
        with pytest.raises(SemcomError, match="row 2 "):
            use(z)


@pytest.mark.parametrize("shape", [(3, EMBEDDING_DIM + 1), (EMBEDDING_DIM,)])
def test_embeddings_of_another_shape_are_refused(codec, shape):
    for use in (codec.encode, codec):
        with pytest.raises(SemcomError, match=r"takes \[N, 5\]"):
            use(torch.zeros(shape))


@pytest.mark.parametrize("kind", QUANTISED)
def test_use_before_fit_is_refused(kind):
    codec = make(kind, 4, fitted=False)
    assert isinstance(codec, FittedCodec)
    z = embeddings(2, seed=1)
    for use in (codec.encode, codec, codec.train(), lambda _: codec.decode([b"\0\0\0"])):
        with pytest.raises(SemcomError, match=r"call fit\(z\)"):
            use(z)
    with pytest.raises(SemcomError, match="at least one row"):
        codec.fit(z[:0])


def test_padding_that_is_not_zero_is_refused():
    codec = make("uniform", 3)
    payload = codec.encode(embeddings(1, seed=1))[0]
    with pytest.raises(SemcomError, match="padding"):
        codec.decode([payload[:-1] + bytes([payload[-1] | 1])])


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_floating_payloads_that_are_no_numbers_are_refused(kind):
    codec = make(kind, 8)
    with pytest.raises(SemcomError, match="payload 0 holds NaN"):
        codec.decode([b"\xff" * (codec.max_payload_bits() // 8)])


def test_float16_clamps_to_its_largest_number():
    codec = make_codec(CodecConfig(kind="float16"), 3).eval()
    assert codec(torch.tensor([[1e6, -1e6, 65519.0]])).tolist() == [[65504.0, -65504.0, 65504.0]]


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("bits", [1, 8])
def test_every_entropy_coded_payload_is_made_by_exactly_one_message(kind, bits):
    # All strings of two bytes: those that decode come back from encode, the others are refused.
    codec = make_codec(CodecConfig(kind=kind, bits=bits), 3).eval()
    codec.fit(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)))
    num_refused = 0
    for number in range(0, 65536, 97):
        payload = number.to_bytes(2, "big")
        try:
            codec.decode([payload])
        except SemcomError:
            num_refused += 1
        else:
            # Not of encode(decode(...)): residual stages may round a codeword's own place otherwise.
            assert codec.coder.encode(codec.coder.decode([payload])) == [payload]
    assert num_refused > 0


def process_wide_numpy_state() -> bytes:
    return np.random.get_state()[1].tobytes()  # noqa: NPY002 (it is the old one that must not be touched)


def test_fitting_is_the_same_each_time_and_touches_no_process_wide_random_state(case, codec):
    torch.manual_seed(5)
    python, numpy, state = random.getstate(), process_wide_numpy_state(), torch.get_rng_state()
    twin = make(*case)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python
    assert process_wide_numpy_state() == numpy
    assert twin.state_dict().keys() == codec.state_dict().keys()
    for name, tensor in codec.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", CODED)
def test_a_weight_is_taken_where_it_is_due_and_nowhere_else(kind):
    z = embeddings(100, seed=1)
    with pytest.raises(SemcomError, match="without a weight"):
        make(kind, 3, fitted=False).fit(z, weight_of("task"))
    for wrong in (None, torch.eye(4), torch.full((EMBEDDING_DIM, EMBEDDING_DIM), torch.nan)):
        with pytest.raises(SemcomError, match="needs a finite weight"):
            make(kind, 3, "task", fitted=False).fit(z, wrong)


@pytest.mark.parametrize("kind", CODED)
def test_the_terms_of_the_loss_are_finite_and_so_are_their_gradients(kind):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    z = embeddings(64, seed=7).requires_grad_()
    codec = make(kind, 3).train()
    terms = codec.loss(z, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    names = {"entropy": [], "klt": [], "factorised": ["rate_bits"]}.get(kind, ["commitment"])
    assert list(terms) == names
    if names:
        sum(terms.values()).backward()
        assert torch.isfinite(z.grad).all()
        assert z.grad.abs().max() > 0
    codec.adapt(z.detach())
    assert torch.equal(codec.eval()(z.detach()), codec.decode(codec.encode(z.detach())))


def test_a_batch_of_one_row_fits_a_codec(case):
    codec = make(*case, fitted=False)
    z = embeddings(1, seed=4)
    fit(codec, case[2], z)
    assert torch.isfinite(codec(z)).all()
    assert torch.equal(codec.decode(codec.encode(z)), codec(z))
