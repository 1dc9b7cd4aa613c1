"""Packets: eight header bytes that name a payload's device, step, model and codec, and guard it by a CRC."""

from __future__ import annotations

import binascii
import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from semcom.contracts import SemcomError

HEADER_BYTES = 8
HEADER_BITS = 8 * HEADER_BYTES
STEP_MODULUS = 1 << 12

_FIELDS = struct.Struct(">HHH")
_HEADER = struct.Struct(">HHHH")
# An initial value of zero would let a packet of nothing but zeros pass its own check.
_CRC_START = 0xFFFF


def _check(field: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise SemcomError(f"packet field {field} = {value} is out of range: it takes 0 to {largest}")


def check_device(number: int) -> None:
    """Raises SemcomError for a device's number that the header can't hold."""
    _check("device", number, 0xFFFF)


def _step_and_codec(step: int, codec_id: int) -> int:
    if step < 0:
        raise SemcomError(f"packet field step = {step} is out of range: it takes 0 or more")
    _check("codec_id", codec_id, 0xF)
    return (step % STEP_MODULUS) << 4 | codec_id


class Packet(NamedTuple):
    """One embedding on its way: who sent it, when, with which weights and codec, and its payload.

    The header is 64 bits, big-endian: device 16; step modulo 4096 in 12 and codec_id in 4;
    model_version 16; CRC-16-CCITT over the first six bytes and the payload.
    """

    device: int
    step: int
    model_version: int
    codec_id: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """Returns header and payload; raises SemcomError for a field that doesn't fit its bits."""
        _check("device", self.device, 0xFFFF)
        _check("model_version", self.model_version, 0xFFFF)
        step_and_codec = _step_and_codec(self.step, self.codec_id)
        fields = _FIELDS.pack(self.device, step_and_codec, self.model_version)
        crc = binascii.crc_hqx(self.payload, binascii.crc_hqx(fields, _CRC_START))
        return fields + crc.to_bytes(2, "big") + self.payload

    @classmethod
    def from_bytes(cls, data: bytes) -> Packet:
        """Reads a packet; its step comes back modulo 4096.

        Raises SemcomError for a truncated packet (fewer than 8 bytes) and for a corrupt one (CRC).
        """
        if len(data) < HEADER_BYTES:
            raise SemcomError(f"packet is truncated: {len(data)} bytes, the header alone has {HEADER_BYTES}")
        device, step_and_codec, version, crc = _HEADER.unpack_from(data)
        payload = data[HEADER_BYTES:]
        if binascii.crc_hqx(payload, binascii.crc_hqx(data[:6], _CRC_START)) != crc:
            raise SemcomError(f"packet of {len(data)} bytes is corrupt: its CRC does not match")
        return cls(device, step_and_codec >> 4, version, step_and_codec & 0xF, payload)


def pack_packets(
    devices: Sequence[int], step: int, model_version: int, codec_id: int, payloads: Sequence[bytes]
) -> list[bytes]:
    """Returns the packets of N devices in one step, as N calls of `Packet.to_bytes` would.

    Raises SemcomError for a field that doesn't fit its bits, or if devices and payloads differ in number.
    """
    if len(devices) != len(payloads):
        raise SemcomError(f"{len(devices)} devices with {len(payloads)} payloads: give each device one")
    _check("model_version", model_version, 0xFFFF)
    step_and_codec = _step_and_codec(step, codec_id)
    packets = []
    for device, payload in zip(devices, payloads, strict=True):
        if not 0 <= device <= 0xFFFF:
            _check("device", device, 0xFFFF)
        fields = _FIELDS.pack(device, step_and_codec, model_version)
        crc = binascii.crc_hqx(payload, binascii.crc_hqx(fields, _CRC_START))
        packets.append(fields + crc.to_bytes(2, "big") + payload)
    return packets


def model_version(state_dict: Mapping[str, torch.Tensor]) -> int:
    """Returns a 16-bit BLAKE2b hash of the weights: name, type, shape and bytes of each, by name.

    Equal weights give equal versions on every machine; different ones collide with probability 2^-16.
    """
    digest = hashlib.blake2b(digest_size=2)
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest(), "big")
