"""What every update codec keeps to: shapes, types and bytes back and forth, and what is refused."""

import pickle

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from nodes.training.updates import (
    UPDATE_HEADER_BITS,
    Float16Update,
    Float32Update,
    QuantisedUpdate,
    TopKUpdate,
    UpdateCodec,
    UpdateCodecConfig,
)
from semcom.contracts import SemcomError

LOSSY = [
    Float16Update(),
    Float16Update(error_feedback=True),
    QuantisedUpdate(),
    QuantisedUpdate(bits=1),
    QuantisedUpdate(bits=2, block_size=7, error_feedback=True),
    QuantisedUpdate(bits=16, entropy_coding=False),
    QuantisedUpdate(bits=4, rounding="stochastic"),
    QuantisedUpdate(bits=1, rounding="stochastic", block_size=5),
    TopKUpdate(share=0.1),
    TopKUpdate(share=0.1, bits=None, error_feedback=False),
    TopKUpdate(share=1, bits=1),
    TopKUpdate(share=1, bits=None),
    TopKUpdate(share=1e-9, bits=3),
]
ALL = [Float32Update(), *LOSSY]


def make_model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(6, 5, generator=generator),
        "bias": torch.randn(6, generator=generator),
        "count": torch.tensor(seed - 2**40),
        "temperature": torch.randn((), generator=generator),
        "none": torch.zeros(0, 3),
        "mask": torch.randn(3, 3, generator=generator) > 0,
        "small": torch.randint(-128, 128, (4,), generator=generator, dtype=torch.int8),
        "bytes": torch.randint(0, 256, (2, 2), generator=generator, dtype=torch.uint8),
        "steps": torch.randint(-9, 9, (3,), generator=generator, dtype=torch.int32),
    }


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def float_names(model: dict[str, torch.Tensor]) -> list[str]:
    """In the order in which the memory holds them."""
    return sorted(name for name, tensor in model.items() if tensor.is_floating_point())


@pytest.mark.parametrize("config", ALL, ids=str)
def test_names_shapes_types_and_whole_numbers_come_back(config):
    model, reference = make_model(1), make_model(0)
    codec = UpdateCodec(config, reference)
    payload, memory = codec.encode(model, reference, codec.initial_memory(), draw())
    decoded = codec.decode(payload, reference)
    assert list(decoded) == list(model)
    for name, tensor in decoded.items():
        assert (tensor.dtype, tensor.shape) == (model[name].dtype, model[name].shape)
        if not tensor.is_floating_point():
            assert torch.equal(tensor, model[name])
    assert (memory.dtype, memory.shape) == (torch.float32, codec.initial_memory().shape)
    # Each tensor has memory of its own, as checkpoints in safetensors need it.
    addresses = [tensor.data_ptr() for tensor in decoded.values() if tensor.numel()]
    assert len(set(addresses)) == len(addresses)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in decoded.values())


@pytest.mark.parametrize("config", ALL, ids=str)
def test_the_same_input_gives_the_same_bytes_and_stays_as_it_was(config):
    model, reference = make_model(1), make_model(0)
    codec = UpdateCodec(config, reference)
    memory = codec.initial_memory() + 0.125
    first = codec.encode(model, reference, memory, draw())
    assert all(torch.equal(tensor, make_model(1)[name]) for name, tensor in model.items())
    assert all(torch.equal(tensor, make_model(0)[name]) for name, tensor in reference.items())
    assert torch.equal(memory, codec.initial_memory() + 0.125)
    # Another process has the other order of names, and a codec that was pickled.
    again = pickle.loads(pickle.dumps(UpdateCodec(config, dict(reversed(reference.items())))))
    second = again.encode(dict(reversed(model.items())), reference, memory, draw())
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("config", LOSSY, ids=str)
def test_what_was_sent_and_what_is_remembered_are_the_difference(config):
    model, reference = make_model(1), make_model(0)
    codec = UpdateCodec(config, reference)
    payload, memory = codec.encode(model, reference, codec.initial_memory(), draw())
    decoded = codec.decode(payload, reference)
    if not config.error_feedback:
        assert memory.shape == (0,)
        return
    kept = torch.cat([decoded[name].flatten() for name in float_names(model)]) + memory
    whole = torch.cat([model[name].flatten() for name in float_names(model)])
    torch.testing.assert_close(kept, whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("config", LOSSY, ids=str)
def test_a_model_that_did_not_change_comes_back_as_it_was(config):
    reference = make_model(0)
    codec = UpdateCodec(config, reference)
    payload, _ = codec.encode(reference, reference, codec.initial_memory(), draw())
    decoded = codec.decode(payload, reference)
    assert all(torch.equal(tensor, reference[name]) for name, tensor in decoded.items())


def test_errors_are_within_half_a_step():
    model, reference = make_model(1), make_model(0)
    difference = {name: model[name] - reference[name] for name in float_names(model)}
    for bits in (2, 8, 16):
        codec = UpdateCodec(QuantisedUpdate(bits=bits), reference)
        decoded = codec.decode(codec.encode(model, reference, codec.initial_memory())[0], reference)
        for name, values in difference.items():
            if values.numel():
                step = float(values.abs().max()) / (2 ** (bits - 1) - 1)
                assert float((decoded[name] - model[name]).abs().max()) <= step / 2 + 1e-6
    codec = UpdateCodec(Float16Update(), reference)
    decoded = codec.decode(codec.encode(model, reference, codec.initial_memory())[0], reference)
    for name, values in difference.items():
        error = (decoded[name] - model[name]).abs()
        assert bool((error <= 2.0**-11 * values.abs() + 1e-6).all())


def test_float32_carries_every_bit_and_looks_at_no_reference():
    bits = torch.tensor([0x7FC01234, 0x7F800000, -0x800000, -(2**31), 1, 0x7F800001], dtype=torch.int32)
    model = {"weight": bits.view(torch.float32), "count": torch.tensor(7)}
    codec = UpdateCodec(Float32Update(), model)
    payload, _ = codec.encode(model, {}, codec.initial_memory())
    assert 8 * len(payload) == UPDATE_HEADER_BITS + 6 * 32 + 64
    decoded = codec.decode(payload, {})
    assert torch.equal(decoded["weight"].view(torch.int32), bits)
    assert int(decoded["count"]) == 7


@pytest.mark.parametrize("config", LOSSY, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_lossy_codecs_refuse_numbers_that_are_not_finite(config, value):
    model, reference = make_model(1), make_model(0)
    codec = UpdateCodec(config, reference)
    model["weight"][5, 4] = value
    with pytest.raises(SemcomError, match="tensor 'weight' differs from the reference by NaN or infinity"):
        codec.encode(model, reference, codec.initial_memory(), draw())
    reference["temperature"].fill_(value)
    with pytest.raises(SemcomError, match="tensor 'temperature' differs"):
        codec.encode(make_model(1), reference, codec.initial_memory(), draw())


@pytest.mark.parametrize("config", ALL, ids=str)
def test_payloads_cut_short_or_changed_are_refused(config):
    model, reference = make_model(1), make_model(0)
    codec = UpdateCodec(config, reference)
    payload, _ = codec.encode(model, reference, codec.initial_memory(), draw())
    for length in range(len(payload)):
        with pytest.raises(SemcomError, match="truncated"):
            codec.decode(payload[:length], reference)
    for place in range(len(payload)):
        changed = bytearray(payload)
        changed[place] ^= 0x10
        with pytest.raises(SemcomError, match="another template or codec" if place < 2 else "corrupt"):
            codec.decode(bytes(changed), reference)
    with pytest.raises(SemcomError, match="corrupt"):
        codec.decode(payload + b"\0", reference)


def test_payloads_of_another_template_or_codec_are_refused():
    reference = make_model(0)
    codec = UpdateCodec(QuantisedUpdate(), reference)
    payload, _ = codec.encode(make_model(1), reference, codec.initial_memory())
    renamed = {name.replace("bias", "shift"): tensor for name, tensor in reference.items()}
    turned = {**reference, "weight": reference["weight"].T}
    for config, template in (
        (QuantisedUpdate(), renamed),
        (QuantisedUpdate(), turned),
        (QuantisedUpdate(bits=7), reference),
        (Float32Update(), reference),
    ):
        with pytest.raises(SemcomError, match="of another template or codec: give both ends the same"):
            UpdateCodec(config, template).decode(payload, template)


def test_tensors_unlike_the_template_are_refused():
    reference = make_model(0)
    codec = UpdateCodec(QuantisedUpdate(), reference)
    memory = codec.initial_memory()
    missing = {name: tensor for name, tensor in reference.items() if name != "bias"}
    with pytest.raises(SemcomError, match="the model lacks tensor 'bias'"):
        codec.encode(missing, reference, memory)
    with pytest.raises(SemcomError, match="the reference lacks tensor 'bias'"):
        codec.encode(reference, missing, memory)
    with pytest.raises(SemcomError, match="the model has a tensor 'more' that is not in the template"):
        codec.encode({**reference, "more": torch.zeros(1)}, reference, memory)
    with pytest.raises(SemcomError, match=r"'bias' of the model is torch.float32 \[7\]: the template has"):
        codec.encode({**reference, "bias": torch.zeros(7)}, reference, memory)
    with pytest.raises(SemcomError, match=r"'bias' of the model is torch.float64 \[6\]"):
        codec.encode({**reference, "bias": torch.zeros(6).double()}, reference, memory)
    payload, _ = codec.encode(reference, reference, memory)
    with pytest.raises(SemcomError, match="the reference lacks tensor 'bias'"):
        codec.decode(payload, missing)


def test_templates_memories_and_settings_that_do_not_fit_are_refused():
    reference = make_model(0)
    with pytest.raises(SemcomError, match=r"tensor 'wide' is torch.float64: convert it to float32"):
        UpdateCodec(Float32Update(), {"wide": torch.zeros(2, dtype=torch.float64)})
    with pytest.raises(SemcomError, match="without float32 numbers"):
        UpdateCodec(Float32Update(), {"count": torch.tensor(1), "none": torch.zeros(0)})
    codec = UpdateCodec(TopKUpdate(), reference)
    with pytest.raises(SemcomError, match=r"memory is torch.float32 \[0\]: begin with initial_memory\(\)"):
        codec.encode(reference, reference, torch.zeros(0))
    stochastic = UpdateCodec(QuantisedUpdate(rounding="stochastic"), reference)
    with pytest.raises(SemcomError, match="give encode a generator"):
        stochastic.encode(reference, reference, stochastic.initial_memory())
    adapter = TypeAdapter(UpdateCodecConfig)
    assert adapter.validate_python({"kind": "top-k", "share": 0.5}) == TopKUpdate(share=0.5)
    for settings in (
        {"kind": "quantised", "bits": 0},
        {"kind": "quantised", "bits": 17},
        {"kind": "quantised", "rounding": "stochastic", "error_feedback": True},
        {"kind": "top-k", "share": 0},
        {"kind": "float32", "error_feedback": True},
        {"kind": "other"},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(settings)


def test_stochastic_rounding_follows_its_generator():
    model, reference = make_model(1), make_model(0)
    codec = UpdateCodec(QuantisedUpdate(bits=3, rounding="stochastic"), reference)
    payloads = [codec.encode(model, reference, codec.initial_memory(), draw(seed))[0] for seed in (1, 1, 2)]
    assert payloads[0] == payloads[1] != payloads[2]


def test_parameters_that_are_trained_and_tensors_that_are_not_contiguous_are_taken():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    codec = UpdateCodec(Float32Update(), {"weight": weight.T})
    payload, _ = codec.encode({"weight": weight.T}, {}, codec.initial_memory())
    assert codec.decode(payload, {})["weight"].tolist() == weight.T.tolist()
