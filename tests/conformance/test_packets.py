"""Packets: what goes in comes out, and nothing damaged is taken for whole."""

import pytest
import torch

from semcom.contracts import SemcomError
from semcom.packets import HEADER_BITS, Packet, model_version, pack_packets

PACKET = Packet(device=0xABCD, step=1234, model_version=0xFFFF, codec_id=15, payload=b"\x00\x81\xff\x00")


def test_a_packet_comes_back_as_it_went_out():
    data = PACKET.to_bytes()
    assert 8 * (len(data) - len(PACKET.payload)) == HEADER_BITS == 64
    assert Packet.from_bytes(data) == PACKET


def test_the_header_has_the_documented_layout():
    data = Packet(device=0x0102, step=0x345, model_version=0x0708, codec_id=6, payload=b"").to_bytes()
    assert data[:6] == bytes([0x01, 0x02, 0x34, 0x56, 0x07, 0x08])
    assert Packet.from_bytes(data).payload == b""


def test_the_crc_is_crc_16_ccitt():
    # The catalogued check value of CRC-16/IBM-3740 (polynomial 1021, start FFFF) for "123456789".
    fields_and_payload = b"123456789"
    packet = Packet(0x3132, 0x333, 0x3536, 4, b"789")
    assert packet.to_bytes()[:6] == fields_and_payload[:6]
    assert packet.to_bytes()[6:8] == bytes([0x29, 0xB1])


def test_the_step_comes_back_modulo_4096():
    assert Packet.from_bytes(PACKET._replace(step=3 * 4096 + 7).to_bytes()).step == 7


def test_every_single_flipped_bit_is_refused():
    data = PACKET.to_bytes()
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(SemcomError, match="corrupt"):
            Packet.from_bytes(bytes(damaged))


def test_truncated_and_blank_packets_are_refused():
    data = PACKET.to_bytes()
    for length in range(len(data)):
        with pytest.raises(SemcomError, match="truncated" if length < 8 else "corrupt"):
            Packet.from_bytes(data[:length])
    with pytest.raises(SemcomError, match="corrupt"):
        Packet.from_bytes(bytes(12))


@pytest.mark.parametrize(
    ("field", "value", "limits"),
    [
        ("device", 65536, "0 to 65535"),
        ("device", -1, "0 to 65535"),
        ("model_version", 65536, "0 to 65535"),
        ("codec_id", 16, "0 to 15"),
        ("step", -1, "0 or more"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field, value, limits):
    with pytest.raises(SemcomError, match=f"{field} = {value} .*{limits}"):
        PACKET._replace(**{field: value}).to_bytes()
    fields = PACKET._replace(**{field: value})
    with pytest.raises(SemcomError, match=f"{field} = {value} .*{limits}"):
        pack_packets([fields.device], fields.step, fields.model_version, fields.codec_id, [b"x"])


def test_packing_a_batch_equals_packing_each():
    payloads = [b"", b"a", b"bc"]
    batch = pack_packets([3, 1, 65535], 5000, 9, 2, payloads)
    assert batch == [
        Packet(device, 5000, 9, 2, payload).to_bytes()
        for device, payload in zip([3, 1, 65535], payloads, strict=True)
    ]
    with pytest.raises(SemcomError, match="3 devices with 1 payloads"):
        pack_packets([1, 2, 3], 0, 0, 0, [b""])


def test_the_model_version_follows_the_weights_and_nothing_else():
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0)}
    version = model_version(weights)
    assert 0 <= version <= 0xFFFF
    assert version == model_version({"b": weights["b"].clone(), "a": weights["a"].T.contiguous().T})
    others = [
        {**weights, "a": weights["a"] + 1},
        {**weights, "a": weights["a"].reshape(3, 2)},
        {**weights, "b": weights["b"].double()},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert version not in {model_version(other) for other in others}
