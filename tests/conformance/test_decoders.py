"""Whatever bytes arrive, every decoder of the catalogue refuses them or makes finite embeddings of them."""

from functools import cache

import numpy as np
import pytest
import torch

from semcom.codecs.catalogue import CODECS, CodecConfig, make_codec
from semcom.contracts import FittedCodec, SemcomError
from semcom.packets import HEADER_BYTES, Packet

EMBEDDING_DIM = 6
NUM_PAYLOADS = 600
MEGABYTE = 1 << 20


def embeddings(num_rows: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed))


CASES = [(kind, bits) for kind in CODECS for bits in ((2,) if kind.startswith("float") else (2, 5))]


@cache
def fitted(kind: str, bits: int):
    codec = make_codec(CodecConfig(kind=kind, bits=bits), EMBEDDING_DIM).eval()
    if isinstance(codec, FittedCodec):
        codec.fit(embeddings(200, seed=1))
    return codec


def damaged(real: list[bytes], rng: np.random.Generator, max_bytes: int):
    """Random bytes up to a little over the longest payload; real ones cut, grown, and with flipped bits."""
    yield from (b"", b"\0", b"\xff" * max_bytes, b"\xff" * (max_bytes + 1), b"\0" * max_bytes)
    for number in range(NUM_PAYLOADS):
        payload = real[number % len(real)]
        match number % 4:
            case 0:
                yield rng.bytes(int(rng.integers(0, max_bytes + 3)))
            case 1:
                yield payload[: int(rng.integers(0, len(payload) + 1))]
            case 2:
                flipped = bytearray(payload)
                for bit in rng.integers(0, 8 * len(payload), size=int(rng.integers(1, 4))) if payload else ():
                    flipped[bit // 8] ^= 1 << (bit % 8)
                yield bytes(flipped)
            case 3:
                yield payload + rng.bytes(int(rng.integers(1, 5)))


def decodes(codec, payload: bytes) -> bool:
    """Whether the payload was decoded; what was must be a finite embedding."""
    try:
        z = codec.decode([payload])
    except SemcomError:
        return False
    assert (z.shape, z.dtype) == ((1, EMBEDDING_DIM), torch.float32)
    assert torch.isfinite(z).all()
    return True


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_a_decoder_survives_whatever_arrives(kind, bits):
    codec, rng = fitted(kind, bits), np.random.default_rng(0)
    real = codec.encode(embeddings(50, seed=2))
    max_bytes = codec.max_payload_bits() // 8
    outcomes = [decodes(codec, payload) for payload in damaged(real, rng, max_bytes)]
    # Both happen, or one of the two paths was not tried at all.
    assert any(outcomes)
    assert not all(outcomes)


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_a_huge_payload_is_refused_for_its_length(kind, bits):
    codec = fitted(kind, bits)
    for payload in (bytes(MEGABYTE), b"\xff" * MEGABYTE):
        with pytest.raises(SemcomError, match=f"payload 0 has {MEGABYTE} bytes"):
            codec.decode([payload])


def test_a_packet_survives_whatever_arrives():
    rng = np.random.default_rng(0)
    real = [Packet(device, 7, 1234, 3, rng.bytes(5)).to_bytes() for device in range(20)]
    num_read = 0
    for data in [*damaged(real, rng, HEADER_BYTES + 8), bytes(MEGABYTE), *real]:
        try:
            packet = Packet.from_bytes(data)
        except SemcomError:
            continue
        num_read += 1
        assert packet.to_bytes() == data
    assert num_read >= len(real)
