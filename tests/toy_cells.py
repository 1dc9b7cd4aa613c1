"""Toy cells for the tests of nodes/: a noisy scalar plant, a linear encoder, and a predicting receiver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from channels.links.erasure import ErasureConfig, ErasureLink
from nodes.contracts import CellSpec
from nodes.schedulers import PeriodicConfig, SchedulerConfig
from semcom.contracts import Delivery, Link, RadioState, SemcomError
from semcom.packets import model_version
from semcom.rng import Streams

GAIN, DIM = 1.05, 6
PAYLOAD_BITS = 32 * DIM
CODEC_ID = 1


def toy_model(seed: int = 1) -> nn.Module:
    """An encoder 1 -> DIM whose first dimension is the state itself."""
    model = nn.Linear(1, DIM)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.weight.normal_(generator=generator)
        model.weight[0], model.bias[0] = 1.0, 0.0
    return model.eval()


class ToyWorld:
    """x(t + 1) = GAIN x(t) + u(t) + noise, for every device of the group."""

    def __init__(self, streams: Streams, devices: np.ndarray) -> None:
        self.streams, self.devices = streams, devices.tolist()
        self.x = streams.normal("start", self.devices, 0, (1,))
        self.cost = torch.zeros(len(devices))

    def observe(self, step: int, rows: np.ndarray) -> torch.Tensor:
        return self.x[rows]

    def advance(self, step: int, command: torch.Tensor) -> None:
        self.x = GAIN * self.x + command + 0.1 * self.streams.normal("noise", self.devices, step, (1,))
        self.cost += self.x[:, 0].square()

    def outcome(self) -> dict[str, np.ndarray]:
        return {"x": self.x[:, 0].numpy(), "cost": self.cost.numpy()}


class ToySender:
    """Sends the embedding in single precision, if the state is at least `threshold` in size."""

    codec_id = CODEC_ID

    def __init__(self, model: nn.Module, threshold: float = 0.0) -> None:
        self.model, self.threshold = model, threshold
        self.model_version = model_version(model.state_dict())
        self.num_told = 0

    def encode(self, step: int, rows: np.ndarray, observation: Any) -> tuple[np.ndarray, list[bytes]]:
        urgent = (observation[:, 0].abs() >= self.threshold).numpy()
        z = self.model(observation[urgent]).numpy()
        return rows[urgent], [row.tobytes() for row in z]

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        self.num_told += 1


class ToyReceiver:
    """Drives the state to zero, from what arrived or else from its own prediction."""

    codec_id = CODEC_ID
    max_payload_bits = PAYLOAD_BITS

    def __init__(self, model: nn.Module, num_devices: int) -> None:
        self.model = model
        self.model_version = model_version(model.state_dict())
        self.x_hat = torch.zeros(num_devices, 1)

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        z = np.stack([np.frombuffer(payload, dtype=np.float32) for payload in payloads])
        self.x_hat[rows] = torch.from_numpy(z[:, :1].copy())
        return np.full(len(rows), PAYLOAD_BITS - 0.5)

    def command(self, step: int) -> torch.Tensor:
        return -0.9 * self.x_hat

    def applied(self, step: int, command: torch.Tensor) -> None:
        self.x_hat = GAIN * self.x_hat + command


class ToyChannel:
    """Exponential SINR on two resource blocks."""

    def __init__(self, num_devices: int, streams: Streams) -> None:
        self.num_devices, self._streams = num_devices, streams

    def sinr(self, step: int) -> np.ndarray:
        uniform = self._streams.uniform("sinr", range(self.num_devices), step, (2,)).numpy()
        return (-8 * np.log1p(-uniform)).astype(np.float32)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        raise AssertionError("the toy link asks for no response")


class ToyLink:
    """A shared carrier of `capacity_bits` x log2(1 + SINR) bits; every packet that fits arrives."""

    name = "toy"

    def __init__(self, capacity_bits: float) -> None:
        self.capacity_bits = capacity_bits

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        assert sinr is not None
        return packet_bits / (self.capacity_bits * np.log2(1 + sinr.mean(axis=1, dtype=np.float64)))

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery:
        sinr = None if radio is None else radio.sinr
        num_bits = np.array([8 * len(packet) for packet in packets])
        share = np.array([self.resource_share(sinr, int(n), 0)[i] for i, n in enumerate(num_bits)])
        assert share.sum() <= 1 + 1e-9, "the scheduler granted more than a step holds"
        return Delivery(
            ok=np.ones(len(packets), dtype=bool),
            sent=np.ones(len(packets), dtype=bool),
            payloads=list(packets),
            channel_uses=num_bits // 2,
            airtime_s=share * 1e-3,
            energy_j=share * 1e-5,
            padding_bits=np.full(len(packets), 3),
            bits=num_bits,
        )


def make_world(streams: Streams, shared: Mapping[str, Any], devices: np.ndarray) -> ToyWorld:
    return ToyWorld(streams, devices)


def make_sender(threshold: float, shared: Mapping[str, Any], devices: np.ndarray) -> ToySender:
    return ToySender(shared["model"], threshold)


def make_receiver(num_devices: int, shared: Mapping[str, Any]) -> ToyReceiver:
    return ToyReceiver(shared["model"], num_devices)


def make_erasure_link(probability: float) -> Link:
    return ErasureLink(ErasureConfig(probability=probability))


def toy_cell(
    number: int,
    num_devices: int = 12,
    group_size: int = 5,
    scheduler: SchedulerConfig | None = None,
    erasure_probability: float = 0.3,
    threshold: float = 0.0,
) -> CellSpec:
    """A cell whose devices have links of their own; with a scheduler, one that shares a ToyLink."""
    streams = Streams(base_seed=5, cell=number)
    dedicated = scheduler is None
    return CellSpec(
        num_devices=num_devices,
        group_size=group_size,
        streams=streams,
        scheduler=scheduler or PeriodicConfig(interval_steps=2, staggered=True),
        make_world=partial(make_world, streams),
        make_sender=partial(make_sender, threshold),
        make_receiver=partial(make_receiver, num_devices),
        make_link=partial(make_erasure_link, erasure_probability) if dedicated else partial(ToyLink, 500.0),
        make_channel=None if dedicated else partial(ToyChannel, num_devices, streams),
    )


def refusing_link() -> Link:
    raise SemcomError("this link can't be made: choose another")


def threads_and_square(number: int) -> tuple[int, int]:
    return torch.get_num_threads(), number * number


def mendable(bits: int) -> int:
    raise SemcomError(f"bits = {bits} is out of range: it takes 2 or more")


def fail(number: int) -> float:
    return number / 0
