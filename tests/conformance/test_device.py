"""A group of devices applies the downlink, then observes, encodes and sends for those that are granted."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from toy_cells import ToySender, ToyWorld, toy_cell, toy_model

from nodes.contracts import Downlink
from nodes.device import DeviceGroup
from semcom.packets import Packet
from semcom.rng import Streams

NUM_DEVICES = 10
DEVICES = np.arange(3, 7)


class Recorder:
    """World and sender in one, which write down what they are asked."""

    codec_id, model_version = 2, 99

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def observe(self, step: int, rows: np.ndarray) -> str:
        self.calls.append(("observe", step, rows.tolist()))
        return f"seen at {step}"

    def encode(self, step: int, rows: np.ndarray, observation: Any) -> tuple[np.ndarray, list[bytes]]:
        self.calls.append(("encode", step, rows.tolist(), observation))
        return rows[1:], [bytes([row]) for row in rows[1:].tolist()]

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        self.calls.append(("feedback", step, delivered.tolist(), command.flatten().tolist()))

    def advance(self, step: int, command: torch.Tensor) -> None:
        self.calls.append(("advance", step, command.flatten().tolist()))

    def outcome(self) -> dict[str, np.ndarray]:
        return {"id": np.arange(len(DEVICES))}


def downlink(granted: Sequence[int], command: bool = True) -> Downlink:
    delivered = np.zeros(NUM_DEVICES, dtype=bool)
    delivered[4] = True
    commands = torch.arange(float(NUM_DEVICES))[:, None] if command else None
    return Downlink(commands, delivered, np.array(granted, dtype=np.int64))


def test_a_step_in_its_order():
    recorder = Recorder()
    group = DeviceGroup(DEVICES, recorder, recorder)
    uplink = group.step(8, downlink([9, 6, 0, 3, 5]))
    assert recorder.calls == [
        ("feedback", 7, [False, True, False, False], [3.0, 4.0, 5.0, 6.0]),
        ("advance", 7, [3.0, 4.0, 5.0, 6.0]),
        ("observe", 8, [0, 2, 3]),
        ("encode", 8, [0, 2, 3], "seen at 8"),
    ]
    # The sender left row 0 out.
    assert uplink.devices.tolist() == [5, 6]
    assert [Packet.from_bytes(data) for data in uplink.packets] == [
        Packet(device=5, step=8, model_version=99, codec_id=2, payload=b"\x02"),
        Packet(device=6, step=8, model_version=99, codec_id=2, payload=b"\x03"),
    ]


def test_before_the_first_step_there_is_no_command_to_apply():
    recorder = Recorder()
    DeviceGroup(DEVICES, recorder, recorder).step(0, downlink([4], command=False))
    assert [call[0] for call in recorder.calls] == ["observe", "encode"]


def test_nobody_granted_means_nothing_observed():
    recorder = Recorder()
    uplink = DeviceGroup(DEVICES, recorder, recorder).step(1, downlink([0, 9]))
    assert [call[0] for call in recorder.calls] == ["feedback", "advance"]
    assert uplink.devices.size == len(uplink.packets) == 0


def test_the_last_downlink_is_applied_before_the_outcome():
    recorder = Recorder()
    outcome = DeviceGroup(DEVICES, recorder, recorder).finish(5, downlink([]))
    assert [call[:2] for call in recorder.calls] == [("feedback", 4), ("advance", 4)]
    np.testing.assert_array_equal(outcome["id"], [0, 1, 2, 3])


def test_a_device_that_keeps_its_commands_leaves_the_base_station_s_alone():
    class Spoiler(Recorder):
        def advance(self, step: int, command: torch.Tensor) -> None:
            command.zero_()

    spoiler, down = Spoiler(), downlink([])
    DeviceGroup(DEVICES, spoiler, spoiler).step(1, down)
    assert down.command is not None
    torch.testing.assert_close(down.command[:, 0], torch.arange(float(NUM_DEVICES)))


def test_a_downlink_survives_pickling():
    down = downlink([4, 2])
    back = pickle.loads(pickle.dumps(down))
    torch.testing.assert_close(back.command, down.command)
    np.testing.assert_array_equal(back.delivered, down.delivered)
    np.testing.assert_array_equal(back.granted, down.granted)
    assert pickle.loads(pickle.dumps(downlink([], command=False))).command is None


def test_a_restored_group_goes_on_as_the_first_one():
    def group() -> DeviceGroup:
        return DeviceGroup(DEVICES, ToyWorld(Streams(1), DEVICES), ToySender(toy_model()))

    with torch.no_grad():
        one, other = group(), group()
        for step in range(3):
            one.step(step, downlink([4], command=step > 0))
        other.load(pickle.loads(pickle.dumps(one.state())))
        for step in range(3, 6):
            assert one.step(step, downlink([5])).packets == other.step(step, downlink([5])).packets
        left, right = one.finish(6, downlink([])), other.finish(6, downlink([]))
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_groups_cover_the_cell_and_are_no_larger_than_asked():
    groups = toy_cell(0, num_devices=12, group_size=5).groups()
    assert [group.tolist() for group in groups] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert [len(group) for group in toy_cell(0, num_devices=4, group_size=9).groups()] == [4]
