"""What a room that is sensed by radio and cameras is to hold: walls, furniture, devices, people who walk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from semcom.contracts import SemcomError

Metres = Annotated[float, Field(ge=0, le=100)]
Extent = Annotated[float, Field(gt=0, le=100)]


class Shape(NamedTuple):
    """A body that stands upright: an elliptic column, wider than deep, with a head on top."""

    height_m: float
    width_m: float
    depth_m: float


SHAPES: dict[str, Shape] = {
    "tall": Shape(1.85, 0.46, 0.28),
    "stout": Shape(1.70, 0.56, 0.38),
    "small": Shape(1.45, 0.38, 0.24),
}
"""Bodies by name; pedestrian p of a room has shape p of RoomConfig.shapes."""

COLOURS = ((0.75, 0.16, 0.14), (0.13, 0.42, 0.72), (0.85, 0.66, 0.13))
"""Clothes of pedestrians 0, 1 and 2: linear red, green, blue."""

MAX_PEDESTRIANS = len(COLOURS)


class BodyMaterial(BaseModel):
    """What bodies are to the radio: by default dry skin at 6.5 GHz (Gabriel et al. 1996, Cole-Cole)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    relative_permittivity: float = Field(34.5, ge=1, le=200, description="real part of the permittivity")
    conductivity_s_per_m: float = Field(4.34, ge=0, le=100, description="conductivity")
    scattering_coefficient: float = Field(
        1.0,
        ge=0,
        le=1,
        description="ray-traced: share of the reflected amplitude that is scattered, not mirrored",
    )


class Furniture(BaseModel):
    """A box on the floor: it hides what is behind it from cameras, and little of it from the radio."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    centre_m: tuple[Metres, Metres] = Field(description="x, y of its middle")
    size_m: tuple[Extent, Extent, Extent] = Field(description="its extent along x, along y, and its height")
    material: Literal["wood", "plasterboard", "glass", "metal", "chipboard"] = Field(
        "chipboard", description="material, as ITU-R P.2040 has it"
    )


class RoomConfig(BaseModel):
    """A room with one transmitter, CSI receivers along its walls, cameras at opposite walls, and pedestrians.

    x runs along the length and y along the width, from a corner of the floor; z upwards. Times, sizes and
    the radio are those of the data set that is made of it: num_sequences walks of num_steps steps each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    world: Literal["ray-traced", "analytic"] = Field(
        "ray-traced",
        description="Sionna RT and Mitsuba on one scene, or images of the transmitter and a pinhole camera",
    )
    length_m: float = Field(6.0, ge=2, le=30, description="extent along x")
    width_m: float = Field(4.0, ge=2, le=30, description="extent along y")
    height_m: float = Field(2.8, ge=2, le=10, description="height")
    furniture: tuple[Furniture, ...] = Field(
        (Furniture(centre_m=(3.0, 2.0), size_m=(0.1, 2.2, 2.1)),),
        description="boxes on the floor; by default a partition that each camera sees from its side",
    )
    num_receivers: int = Field(9, ge=1, le=64, description="CSI receivers, spread evenly along the walls")
    device_height_m: float = Field(1.1, ge=0.1, le=10, description="height of transmitter and receivers")
    carrier_hz: float = Field(6.5e9, ge=1e9, le=40e9, description="carrier frequency")
    bandwidth_hz: float = Field(320e6, ge=1e6, le=1e9, description="bandwidth that the subcarriers divide")
    num_subcarriers: int = Field(64, ge=1, le=4096, description="subcarriers, the centres of equal parts")
    max_depth: int = Field(
        2,
        ge=0,
        le=5,
        description="most reflections of a path; ray-traced: reflections and panels of furniture passed",
    )
    diffraction: bool = Field(False, description="ray-traced: one diffraction at an edge")
    num_rays: int = Field(10_000, ge=1000, le=1_000_000, description="ray-traced: rays that look for paths")
    num_cameras: int = Field(2, ge=1, le=2, description="cameras: one at x = 0, one at the wall opposite")
    camera_height_m: float = Field(2.2, ge=0.5, le=10, description="height of the cameras")
    camera_pitch_deg: float = Field(18.0, ge=0, le=80, description="how far cameras look down")
    field_of_view_deg: float = Field(84.0, ge=20, le=120, description="horizontal field of view")
    frame_height_px: int = Field(64, ge=16, le=1024, description="height of a frame")
    frame_width_px: int = Field(96, ge=16, le=1024, description="width of a frame")
    samples_per_px: int = Field(4, ge=1, le=256, description="rays through each pixel")
    max_pedestrians: int = Field(3, ge=1, le=MAX_PEDESTRIANS, description="most pedestrians at a time")
    shapes: tuple[Literal["tall", "stout", "small"], ...] = Field(
        ("tall", "stout", "small"), description="shapes of the pedestrians"
    )
    body: BodyMaterial = BodyMaterial()
    speed_m_s: float = Field(0.9, gt=0, le=3, description="mean speed of a pedestrian")
    num_sequences: int = Field(250, ge=1, le=100_000, description="walks of a data set")
    num_steps: int = Field(12, ge=1, le=10_000, description="time steps of a walk")
    interval_s: float = Field(0.4, ge=1e-3, le=10, description="time from step to step")

    def transmitter_m(self) -> np.ndarray:
        """Place of the transmitter, float64 [3]: in the middle of the wall y = 0, 0.1 m from it."""
        return np.array([self.length_m / 2, 0.1, self.device_height_m])

    def receivers_m(self) -> np.ndarray:
        """Places of the receivers, float64 [R, 3]: equal steps along the walls, 0.1 m from them.

        They divide the way around the room from the transmitter back to it into R + 1 parts.
        """
        length, width = self.length_m - 0.2, self.width_m - 0.2
        around = 2 * (length + width)
        corners = np.array([[0, 0], [length, 0], [length, width], [0, width], [0, 0]])
        reached = np.array([0, length, length + width, 2 * length + width, around])
        way = (length / 2 + around * np.arange(1, self.num_receivers + 1) / (self.num_receivers + 1)) % around
        x, y = (np.interp(way, reached, corners[:, axis]) for axis in range(2))
        return np.stack([x + 0.1, y + 0.1, np.full(self.num_receivers, self.device_height_m)], axis=1)

    def cameras_m(self) -> np.ndarray:
        """Places of the cameras, float64 [C, 3]: in the middle of the walls x = 0 and x = length_m."""
        x = np.array([0.05, self.length_m - 0.05])[: self.num_cameras]
        middle, height = np.full_like(x, self.width_m / 2), np.full_like(x, self.camera_height_m)
        return np.stack([x, middle, height], axis=1)

    def looks(self) -> np.ndarray:
        """Directions in which the cameras look, unit vectors, float64 [C, 3]."""
        down = np.deg2rad(self.camera_pitch_deg)
        forward = np.array([1.0, -1.0])[: self.num_cameras]
        zero = np.zeros_like(forward)
        return np.stack([forward * np.cos(down), zero, zero - np.sin(down)], axis=1)


def check_room(config: RoomConfig) -> None:
    """Raises SemcomError for what one field alone doesn't show: things that don't fit into the room."""
    for name in ("device_height_m", "camera_height_m"):
        if getattr(config, name) >= config.height_m:
            raise SemcomError(
                f"{name} = {getattr(config, name):g} is above the ceiling, {config.height_m:g} m: lower it"
            )
    if len(config.shapes) < config.max_pedestrians:
        raise SemcomError(
            f"max_pedestrians = {config.max_pedestrians}, and shapes names {len(config.shapes)}: add some"
        )
    tallest = max(SHAPES[name].height_m for name in config.shapes)
    if tallest >= config.height_m:
        raise SemcomError(f"height_m = {config.height_m:g} is below a pedestrian of {tallest:g} m: raise it")
    for number, box in enumerate(config.furniture):
        for axis, (extent, name) in enumerate(((config.length_m, "length_m"), (config.width_m, "width_m"))):
            low = box.centre_m[axis] - box.size_m[axis] / 2
            high = box.centre_m[axis] + box.size_m[axis] / 2
            if low < 0 or high > extent:
                raise SemcomError(
                    f"furniture[{number}] reaches from {low:g} to {high:g} m, outside the room of "
                    f"{name} = {extent:g}: move it, or make it smaller"
                )
        if box.size_m[2] >= config.height_m:
            raise SemcomError(
                f"furniture[{number}] is {box.size_m[2]:g} m high, the room height_m = {config.height_m:g}: "
                "lower it"
            )


@dataclass(frozen=True)
class Walk:
    """Where up to P pedestrians are in T time steps.

    position_m: float64 [T, P, 2], x and y of the column's axis; heading_rad: float64 [T, P], where they
    face: 0 along x, counter-clockwise. Both are NaN throughout for those who are not there.
    """

    position_m: np.ndarray
    heading_rad: np.ndarray


class RoomWorld(Protocol):
    """Turns walks into what the sensors of a room measure, without noise."""

    def csi(self, walk: Walk) -> np.ndarray:
        """Channels from the transmitter to R receivers in T steps, complex64 [T, R, F].

        H[f] = sum_p a_p exp(-j 2 pi (f_c + f) tau_p), f the centres of F equal parts of the bandwidth.
        """
        ...

    def frames(self, walk: Walk) -> tuple[np.ndarray, np.ndarray]:
        """What C cameras see: uint8 [T, C, height, width, 3], and the visible share of each body [T, C, P].

        The share, float32 from 0 to 1, is that of the pixels that the body would cover in the frame if
        nothing stood in front of it; 0 where that is none, NaN for who is not there.
        """
        ...
