"""What is read off the base station's beliefs, worked by hand: errors, frames, occlusion, bits."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import isac_setups
import numpy as np
import pytest
import torch

from channels.links.nr import NrConfig
from nodes.base_station import COUNTERS
from nodes.contracts import CellOutcome
from scenarios.contracts import Point
from scenarios.isac.cells import resolve
from scenarios.isac.data import Sequences
from scenarios.isac.heads import Scene
from scenarios.isac.measures import Heard, air_records
from scenarios.isac.methods import ARRIVED, INPAINTED, PRIOR

NUM_ROOMS, NUM_STEPS, NUM_SENSORS, FIRST = 2, 5, 3, 2


@dataclass
class HandModel:
    """Embeddings [room, step, sensor, offset in metres]: scenes are read off by what the head is worth."""

    num_cameras: int = 2
    num_receivers: int = 1
    asked: list[str] = field(default_factory=list)

    def _scene(self, head: str, z: torch.Tensor) -> Scene:
        self.asked.append(head)
        position_m = torch.zeros(len(z), 2, 2)
        position_m[:, 0, 0] = z[:, 0, 3]
        position_m[:, 1] = torch.tensor([3.0, 3.0])
        # Place 0 is hidden from camera 1 alone, place 1 from camera 2 alone.
        occlusion = torch.tensor([[5.0, -5.0], [-5.0, 5.0]]).expand(len(z), -1, -1)
        presence = torch.tensor([2.0, 1.0]).expand(len(z), -1)
        return Scene(position_m, presence, occlusion, torch.tensor([0.0, 0, 9]).expand(len(z), -1))

    def read(self, z: torch.Tensor) -> Scene:
        return self._scene("predict", z)

    def read_fused(self, z: torch.Tensor) -> Scene:
        return self._scene("fuse", z)

    def read_filled(self, z: torch.Tensor) -> Scene:
        return self._scene("filled", z)

    def decode(self, z: torch.Tensor, camera: int) -> torch.Tensor:
        """Shows 0.5 and a tenth more for each camera: that of the embedding and that which is asked for."""
        level = 0.5 + 0.1 * z[:, 2] + 0.1 * camera
        return level[:, None, None, None].expand(-1, 3, 12, 12)


def beliefs(origin: float = ARRIVED) -> np.ndarray:
    """What is believed, [U S, T, D + 1]: the offset is 1 m before the outage, and 0.25 m from then on."""
    z = torch.zeros(NUM_ROOMS, NUM_SENSORS, NUM_STEPS, 5)
    z[..., 0] = torch.arange(NUM_ROOMS)[:, None, None]
    z[..., 1] = torch.arange(NUM_STEPS)
    z[..., 2] = torch.arange(NUM_SENSORS)[:, None]
    z[..., 3] = torch.where(torch.arange(NUM_STEPS) < FIRST, 1.0, 0.25)
    z[..., 4] = origin
    return z.flatten(0, 1).numpy()


def truth() -> Sequences:
    """Frames of camera 1 are of level 0.5 to the nearest byte, those of camera 2 a little above 0.7."""
    frame = torch.empty(NUM_ROOMS, NUM_STEPS, 2, 3, 12, 12, dtype=torch.uint8)
    frame[:, :, 0], frame[:, :, 1] = 128, 181
    position_m = torch.tensor([[0.0, 0.0], [3.0, 3.0]]).expand(NUM_ROOMS, NUM_STEPS, 2, 2)
    # [camera, pedestrian]: as the heads have it, but that both cameras see the second one.
    share = torch.tensor([[0.1, 0.9], [0.8, 0.6]]).expand(NUM_ROOMS, NUM_STEPS, 2, 2)
    csi = torch.zeros(NUM_ROOMS, NUM_STEPS, 1, 4, dtype=torch.complex64)
    return Sequences(frame, csi, position_m, share)


def measured(
    method: str, missing: str, belief: np.ndarray, **other: Any
) -> tuple[dict[str, float], HandModel]:
    model, config = HandModel(), isac_setups.changed("evaluation", outage_step=FIRST)
    point = Point("missing", method, 0, {"missing": missing})
    setting = resolve(config, point, 2, 1)
    counters = {name: np.zeros(NUM_ROOMS * NUM_SENSORS) for name in COUNTERS} | other.pop("counters", {})
    setting = SimpleNamespace(**{**vars(setting), **other})
    heard: Any = Heard(config, point, setting, CellOutcome(counters, {"belief": belief}), model, truth())
    return {row.metric: row.value for row in air_records(heard)}, model


def test_errors_count_from_the_outage_on():
    found, _ = measured("inpainting", "camera-1", beliefs())
    # One of two is 0.25 m off.
    assert found["localisation_error_m"] == pytest.approx(0.125)
    assert found["ospa_m"] == pytest.approx(0.125)
    assert found["count_accuracy"] == 1


def test_occlusion_is_told_of_each_pedestrian_and_camera():
    found, _ = measured("inpainting", "none", beliefs())
    # Right but for the second pedestrian and the second camera, of which both are visible there.
    assert found["occlusion_accuracy"] == pytest.approx(3 / 4)
    assert found["balanced_occlusion_accuracy"] == pytest.approx((1 + 2 / 3) / 2)


def test_nothing_hangs_on_which_place_of_the_labels_a_pedestrian_has(monkeypatch):
    found, _ = measured("inpainting", "none", beliefs())
    test = truth()
    turned = replace(test, position_m=test.position_m.flip(2), visible_share=test.visible_share.flip(3))
    monkeypatch.setattr(sys.modules[__name__], "truth", lambda: turned)
    assert measured("inpainting", "none", beliefs())[0] == found


def decibels(*differences: float) -> float:
    return float(np.mean([-20 * np.log10(abs(difference)) for difference in differences]))


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        # The decoder shows 0.5 for the first camera and 0.7 for the second, if each gets its own embedding.
        ("camera-1", decibels(128 / 255 - 0.5)),
        ("camera-2", decibels(181 / 255 - 0.7)),
        ("cameras", decibels(128 / 255 - 0.5, 181 / 255 - 0.7)),
        ("none", decibels(128 / 255 - 0.5, 181 / 255 - 0.7)),
    ],
)
def test_frames_are_those_of_the_cameras_that_are_missing_or_else_of_all(missing, expected):
    found, _ = measured("inpainting", missing, beliefs())
    assert found["psnr_db"] == pytest.approx(expected, rel=1e-4)
    assert decibels(0.1) < 0.6 * expected  # the power check: another camera's frame or embedding


@pytest.mark.parametrize(
    ("method", "head"),
    [("inpainting", "predict"), ("supervised", "predict"), ("masked-head", "fuse"), ("zero-fill", "filled"),
     ("mean-fill", "filled"), ("last-value", "filled")],
)  # fmt: skip
def test_scenes_are_read_by_the_heads_that_know_what_was_filled_in(method, head):
    found, model = measured(method, "camera-1", beliefs())
    assert model.asked == [head]
    # The decoder knows no embedding that was made for labels alone.
    assert ("psnr_db" in found) == (head != "fuse")


def test_the_share_of_the_prior_is_that_of_steps_in_which_nothing_arrived():
    assert measured("inpainting", "all", beliefs(INPAINTED))[0]["prior_share"] == 0
    belief = beliefs(INPAINTED)
    # Room 1 in the last step of the three that count, and a step before them.
    belief[NUM_SENSORS:, NUM_STEPS - 1, -1] = belief[NUM_SENSORS:, 0, -1] = PRIOR
    assert measured("inpainting", "all", belief)[0]["prior_share"] == pytest.approx(1 / 6)


def test_costs_are_counted_to_the_bit_of_all_sensors_of_a_room_and_all_steps():
    counters = {
        "packets_sent": np.array([5, 5, 5, 5, 5, 0]),
        "packets_delivered": np.array([5, 5, 0, 5, 5, 0]),
        "payload_bits": np.array([100, 100, 20, 100, 100, 0]),
        "header_bits": 64 * np.array([5, 5, 5, 5, 5, 0]),
        "padding_bits": np.array([7, 0, 0, 3, 0, 0]),
        "channel_uses": np.array([50, 0, 0, 0, 0, 0]),
        "airtime_s": np.array([0.0, 0.2, 0, 0, 0, 0]),
        "energy_j": np.array([0.0, 0, 0, 0, 0, 4]),
    }
    found, _ = measured("inpainting", "none", beliefs(), counters=counters)
    expected = {
        "payload_bits_per_step": 42.0,
        "header_bits_per_step": 160.0,
        "padding_bits_per_step": 1.0,
        "bits_per_step": 202.0,
        "packet_loss": 0.2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "energy_j_per_step" not in found
    on_nr, _ = measured("inpainting", "none", beliefs(), counters=counters, link=NrConfig())
    expected = {"channel_uses_per_step": 5.0, "airtime_s_per_step": 0.02, "energy_j_per_step": 0.4}
    assert {name: on_nr[name] for name in expected} == pytest.approx(expected)
