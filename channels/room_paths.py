"""The paths of an empty room: images of its transmitter, and what walls and furniture leave of a wave."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.room import RoomConfig
from channels.room_materials import permittivity, slab
from channels.room_rays import crossings

WALLS, FLOOR, CEILING = ("plasterboard", 0.1), ("concrete", 0.2), ("concrete", 0.2)
"""Materials of the room, by their names in ITU-R P.2040, and how thick they are."""

PANEL_M = 0.02
"""Furniture is hollow: panels of its material on all sides."""

_BOTH = (True, False)
_Bounce = tuple[float, int, int]


@dataclass(frozen=True)
class Paths:
    """N paths to each of R receivers, and the straight legs of all, path by path.

    gain: complex128 [R, N]; length_m: float64 [R, N]; start_m, end_m: float64 [L, 3], the legs within the
    room; share: [L, 2], what part of the path is behind at a leg's start and its end; path: int64 [L], from
    0 to R N - 1; first: int64 [R N], each path's first leg.
    """

    gain: np.ndarray
    length_m: np.ndarray
    start_m: np.ndarray
    end_m: np.ndarray
    share: np.ndarray
    path: np.ndarray
    first: np.ndarray


def image_paths(config: RoomConfig) -> Paths:
    """Paths over up to max_depth walls, one for each image of the transmitter (Allen and Berkley 1979).

        a = lambda / (4 pi d) (e_r . R_n ... R_1 e_t) prod(panels of furniture)

    e_t and e_r are the directions of the field of vertical antennas without a pattern, and R a reflection
    at a layer: of the field across the plane of incidence, and of that within it.
    """
    extent, transmitter_m = (config.length_m, config.width_m, config.height_m), config.transmitter_m()
    depth, receiver_m = config.max_depth, config.receivers_m()
    orders = np.array(
        [order for order in product(range(-depth, depth + 1), repeat=3) if np.abs(order).sum() <= depth]
    )
    orders = orders[np.argsort(np.abs(orders).sum(axis=1), kind="stable")]
    image_m = orders * extent + np.where(orders % 2 == 1, extent - transmitter_m, transmitter_m)
    way_m = receiver_m[:, None] - image_m
    length_m = np.linalg.norm(way_m, axis=-1)
    layers = _layers(config, np.abs(way_m) / length_m[..., None])
    kept = np.empty(length_m.shape, dtype=np.complex128)
    start, end, share, path = [], [], [], []
    for number, (receiver, image) in enumerate(np.ndindex(kept.shape)):
        bounces = _bounces(orders[image], image_m[image], way_m[receiver, image], extent)
        unit = way_m[receiver, image] / length_m[receiver, image]
        of_path = {side: both[:, receiver, image] for side, both in layers.items()}
        kept[receiver, image] = _reflected(unit, bounces, of_path)
        # A line through an edge of the room crosses two planes at once.
        cuts = [0.0, *(cut for cut, _, _ in bounces), 1.0]
        cuts = [cut for cut, after in pairwise([*cuts, 2.0]) if after - cut > 1e-9]
        place_m = image_m[image] + np.array(cuts)[:, None] * way_m[receiver, image]
        place_m = extent - np.abs(place_m % (2 * np.array(extent)) - extent)
        start.append(place_m[:-1])
        end.append(place_m[1:])
        share.append(np.stack([cuts[:-1], cuts[1:]], axis=1))
        path += [number] * (len(cuts) - 1)
    first = np.flatnonzero(np.diff(path, prepend=-1))
    start_m, end_m, between = (np.concatenate(part) for part in (start, end, share))
    through = np.multiply.reduceat(through_furniture(config, start_m, end_m), first)
    wavelength_m = SPEED_OF_LIGHT_M_PER_S / config.carrier_hz
    gain = wavelength_m / (4 * np.pi * length_m) * kept * through.reshape(kept.shape)
    return Paths(gain, length_m, start_m, end_m, between, np.array(path), first)


def through_furniture(config: RoomConfig, start_m: np.ndarray, end_m: np.ndarray) -> np.ndarray:
    """What furniture leaves of the field on legs [..., 3], complex128 [...]: a panel on each side met.

    At upright sides the field is taken to be across the plane of incidence, on top within it.
    """
    way_m = end_m - start_m
    direction = np.abs(way_m) / np.linalg.norm(way_m, axis=-1, keepdims=True)
    kept = np.ones(way_m.shape[:-1], dtype=np.complex128)
    for box in config.furniture:
        eta = permittivity(box.material, config.carrier_hz)
        low_m = np.array([*(np.array(box.centre_m) - np.array(box.size_m[:2]) / 2), 0.0])
        enters, leaves = crossings(start_m, way_m, low_m, low_m + np.array(box.size_m))
        entry, exit_ = enters.max(axis=-1), leaves.min(axis=-1)
        for at, axis in ((entry, enters.argmax(axis=-1)), (exit_, leaves.argmin(axis=-1))):
            met = np.nonzero((entry < exit_) & (at > 0) & (at < 1))
            cosine = direction[(*met, axis[met])]
            across, within = (
                slab(cosine, eta, PANEL_M, config.carrier_hz, across=is_across)[1] for is_across in _BOTH
            )
            # The path counts air where the panel is.
            air = np.exp(2j * np.pi * config.carrier_hz / SPEED_OF_LIGHT_M_PER_S * PANEL_M * cosine)
            kept[met] *= np.where(axis[met] < 2, across, within) * air
    return kept


def _layers(config: RoomConfig, cosine: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Reflections across and within the plane of incidence, [2, R, N], by axis and side (0 low, 1 high)."""
    layers = {}
    for axis, side in product(range(3), range(2)):
        material, thickness_m = WALLS if axis < 2 else (FLOOR, CEILING)[side]
        eta = permittivity(material, config.carrier_hz)
        both = [
            slab(cosine[..., axis], eta, thickness_m, config.carrier_hz, across=is_across)
            for is_across in _BOTH
        ]
        layers[axis, side] = np.stack([back for back, _ in both])
    return layers


def _bounces(
    order: np.ndarray, image_m: np.ndarray, way_m: np.ndarray, extent: tuple[float, float, float]
) -> list[_Bounce]:
    """Where a path meets walls: part of the way, axis and side, in turn."""
    bounces = []
    for axis in range(3):
        planes = range(1, order[axis] + 1) if order[axis] > 0 else range(order[axis] + 1, 1)
        cuts = (np.array(planes) * extent[axis] - image_m[axis]) / way_m[axis]
        bounces += [(float(cut), axis, plane % 2) for cut, plane in zip(cuts, planes, strict=True)]
    return sorted(bounces)


def _reflected(
    arriving: np.ndarray, bounces: list[_Bounce], layers: dict[tuple[int, int], np.ndarray]
) -> complex:
    """What a vertical antenna receives of another's field after reflections; the last leg's direction [3]."""
    direction = arriving.copy()
    for _, axis, _ in bounces:
        direction[axis] *= -1
    field = _upright(direction).astype(np.complex128)
    for _, axis, side in bounces:
        normal = np.eye(3)[axis]
        perpendicular = np.cross(direction, normal)
        size = np.linalg.norm(perpendicular)
        # Head on, any direction along the wall will do.
        perpendicular = perpendicular / size if size > 1e-9 else np.roll(normal, 1)
        before = np.cross(direction, perpendicular)
        direction[axis] *= -1
        after = np.cross(direction, perpendicular)
        across, within = layers[axis, side]
        field = across * (field @ perpendicular) * perpendicular + within * (field @ before) * after
    return complex(field @ _upright(-direction))


def _upright(direction: np.ndarray) -> np.ndarray:
    """The direction of a vertical antenna's field, that of growing zenith angles: unit vectors [3]."""
    x, y, z = direction
    flat = np.hypot(x, y)
    return np.array([z * x / flat, z * y / flat, -flat]) if flat > 1e-9 else np.array([z, 0.0, 0.0])
