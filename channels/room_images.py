"""The radio of a room by images of the transmitter, with bodies that shadow and reflect."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.response import frequency_response, resource_block_centres_hz
from channels.room import SHAPES, RoomConfig, Walk
from channels.room_bodies import mirror, strip
from channels.room_materials import body_permittivity, permittivity, reflection, slab
from channels.room_rays import crossings

WALLS, FLOOR, CEILING = ("plasterboard", 0.1), ("concrete", 0.2), ("concrete", 0.2)
"""Materials of the room, by their names in ITU-R P.2040, and how thick they are."""

PANEL_M = 0.02
"""Furniture is hollow: panels of its material on all sides."""

COLUMN = 0.8
"""Share of a body's height that its column reaches to for the radio; above are shoulders and head."""

_LEGS_AT_ONCE = 200_000


@dataclass(frozen=True)
class _Legs:
    """Straight legs of the R * N paths, in their order, path by path.

    start_m, end_m: float64 [L, 3] within the room; share: [L, 2], what part of the path's length is behind
    at its start and its end; path: int64 [L]; first: int64 [R * N], each path's first leg.
    """

    start_m: np.ndarray
    end_m: np.ndarray
    share: np.ndarray
    path: np.ndarray
    first: np.ndarray


class ImageRadio:
    """CSI of an empty room's paths, as bodies and furniture change them.

    Each image of the transmitter in up to max_depth walls is a path of length d to the receiver,

        a = lambda / (4 pi d) prod(reflections) prod(furniture) prod(bodies),   tau = d / c

    (Allen and Berkley 1979). Walls, floor and ceiling reflect as layers do: walls with the field across the
    plane of incidence, floor and ceiling with the field within it, as is exact for vertical antennas and
    paths that bend in one plane alone; antennas have no pattern. Furniture dims a leg by a panel for each
    side that it goes through, and does nothing else.

    A body takes from a leg what an absorbing screen of its width across the leg would, by Kirchhoff's
    integral (see `strip`; Rampa et al. 2015 compare it with measurements):

        1 - strip(left edge, right edge) strip(sole, top)

    And with max_depth > 0 it reflects like a convex cylinder of its material (geometrical optics; McNamara
    et al. 1990, section 3.3), with r Fresnel's coefficient, rho the radius of curvature at the point that
    reflects by the angle theta, d1 and d2 the ways from there to transmitter and receiver:

        a = lambda / (4 pi) r strip(sole, top) / sqrt((d1 + d2) (d1 + d2 + 2 d1 d2 / (rho cos(theta))))

    dimmed by furniture and other bodies.
    """

    def __init__(self, config: RoomConfig) -> None:
        self._config = config
        self._wavelength_m = SPEED_OF_LIGHT_M_PER_S / config.carrier_hz
        centres_hz = resource_block_centres_hz(config.num_subcarriers, config.bandwidth_hz)
        self._frequency_hz = config.carrier_hz + centres_hz
        self._shapes = np.array([SHAPES[name] for name in config.shapes[: config.max_pedestrians]])
        self._transmitter_m, self._receiver_m = config.transmitter_m(), config.receivers_m()
        self._legs, self.gain, self.delay_s = self._paths()
        self._length_m = self.delay_s * SPEED_OF_LIGHT_M_PER_S
        phase = -2j * np.pi * self.delay_s[..., None] * self._frequency_hz
        self._phasor = self.gain[..., None] * np.exp(phase)

    def csi(self, walk: Walk) -> np.ndarray:
        """See RoomWorld.csi."""
        num_steps = len(walk.position_m)
        size = max(1, _LEGS_AT_ONCE // (len(self._legs.path) * walk.position_m.shape[1]))
        parts = [
            self._some(walk.position_m[start : start + size], walk.heading_rad[start : start + size])
            for start in range(0, num_steps, size)
        ]
        return np.concatenate(parts).astype(np.complex64)

    def _some(self, position_m: np.ndarray, heading_rad: np.ndarray) -> np.ndarray:
        """Channels in some of the steps, complex128 [T, R, F]."""
        legs, (num_receivers, num_paths) = self._legs, self.gain.shape
        length_m = self._length_m.ravel()[legs.path]
        kept = self._shadows(legs.start_m, legs.end_m, legs.share, length_m, position_m, heading_rad)
        factor = np.multiply.reduceat(kept.prod(axis=2), legs.first, axis=1)
        factor = factor.reshape(-1, num_receivers, num_paths).transpose(1, 0, 2)
        response = (factor @ self._phasor).transpose(1, 0, 2)
        if self._config.max_depth:
            response = response + self._mirrored(position_m, heading_rad)
        return response

    def _paths(self) -> tuple[_Legs, np.ndarray, np.ndarray]:
        """The legs, and gains and delays of N paths to R receivers, complex128 and float64 [R, N]."""
        config = self._config
        extent = np.array([config.length_m, config.width_m, config.height_m])
        depth = config.max_depth
        orders = np.array(
            [order for order in product(range(-depth, depth + 1), repeat=3) if np.abs(order).sum() <= depth]
        )
        orders = orders[np.argsort(np.abs(orders).sum(axis=1), kind="stable")]
        flipped = orders % 2 == 1
        image_m = orders * extent + np.where(flipped, extent - self._transmitter_m, self._transmitter_m)
        way_m = self._receiver_m[:, None] - image_m
        length_m = np.linalg.norm(way_m, axis=-1)
        cosine = np.abs(way_m) / length_m[..., None]
        gain = self._wavelength_m / (4 * np.pi * length_m) * self._reflections(orders, cosine)
        legs = _legs(orders, image_m, self._receiver_m, extent)
        through = self._furniture(legs.start_m, legs.end_m)
        gain = gain * np.multiply.reduceat(through, legs.first).reshape(gain.shape)
        return legs, gain, length_m / SPEED_OF_LIGHT_M_PER_S

    def _reflections(self, orders: np.ndarray, cosine: np.ndarray) -> np.ndarray:
        """The product of each path's reflections, complex128 [R, N]."""
        carrier_hz = self._config.carrier_hz
        product_of = np.ones(cosine.shape[:2], dtype=np.complex128)
        # Seen from above the ceiling the first mirror is the ceiling, from below the floor; then in turn.
        above, below = np.maximum(orders[:, 2], 0), np.maximum(-orders[:, 2], 0)
        for (material, thickness_m), axis, number in (
            (WALLS, 0, np.abs(orders[:, 0])),
            (WALLS, 1, np.abs(orders[:, 1])),
            (CEILING, 2, (above + 1) // 2 + below // 2),
            (FLOOR, 2, above // 2 + (below + 1) // 2),
        ):
            eta = permittivity(material, carrier_hz)
            single, _ = slab(cosine[..., axis], eta, thickness_m, carrier_hz, across=axis < 2)
            product_of *= single**number
        return product_of

    def _furniture(self, start_m: np.ndarray, end_m: np.ndarray) -> np.ndarray:
        """What furniture leaves of the field on legs [..., 3], complex128 [...]: a panel on each side met."""
        way_m = end_m - start_m
        direction = np.abs(way_m) / np.linalg.norm(way_m, axis=-1, keepdims=True)
        kept = np.ones(way_m.shape[:-1], dtype=np.complex128)
        for box in self._config.furniture:
            eta = permittivity(box.material, self._config.carrier_hz)
            low = np.array([*(np.array(box.centre_m) - np.array(box.size_m[:2]) / 2), 0.0])
            enters, leaves = crossings(start_m, way_m, low, low + np.array(box.size_m))
            entry, exit_ = enters.max(axis=-1), leaves.min(axis=-1)
            for at, axis in ((entry, enters.argmax(axis=-1)), (exit_, leaves.argmin(axis=-1))):
                met = np.nonzero((entry < exit_) & (at > 0) & (at < 1))
                cosine = direction[(*met, axis[met])]
                kept[met] *= np.where(
                    axis[met] < 2,
                    self._panel(cosine, eta, across=True),
                    self._panel(cosine, eta, across=False),
                )
        return kept

    def _panel(self, cosine: np.ndarray, eta: complex, *, across: bool) -> np.ndarray:
        _, through = slab(cosine, eta, PANEL_M, self._config.carrier_hz, across=across)
        # The path counts air where the panel is.
        return np.asarray(through * np.exp(2j * np.pi / self._wavelength_m * PANEL_M * cosine))

    def _shadows(
        self,
        start_m: np.ndarray,
        end_m: np.ndarray,
        share: np.ndarray,
        length_m: np.ndarray,
        position_m: np.ndarray,
        heading_rad: np.ndarray,
    ) -> np.ndarray:
        """What each body leaves of the field on legs [(T,) L, 3] of paths length_m long: [T, L, P]."""
        way_m = end_m - start_m
        flat_m = np.linalg.norm(way_m[..., :2], axis=-1)
        unit = way_m[..., :2] / np.maximum(flat_m, 1e-9)[..., None]
        to_x = position_m[:, None, :, 0] - start_m[..., None, 0]
        to_y = position_m[:, None, :, 1] - start_m[..., None, 1]
        ux, uy = unit[..., None, 0], unit[..., None, 1]
        along = (to_x * ux + to_y * uy) / np.maximum(flat_m, 1e-9)[..., None]
        aside_m = to_x * uy - to_y * ux
        beside = np.nonzero((along > 0) & (along < 1))
        along, aside_m, body = along[beside], aside_m[beside], beside[2]

        def there(values: np.ndarray) -> np.ndarray:
            """Values of the legs, [(T,) L], where bodies are beside them."""
            return np.asarray(np.broadcast_to(values, kept.shape[:2])[beside[:2]])

        kept = np.ones((len(position_m), start_m.shape[-2], len(self._shapes)), dtype=np.complex128)
        part = there(share[..., 0]) + along * there(share[..., 1] - share[..., 0])
        part = part.clip(1e-6, 1 - 1e-6)
        level = there(flat_m / np.hypot(flat_m, way_m[..., 2]))
        height_m = there(start_m[..., 2]) + along * there(way_m[..., 2])
        heading = heading_rad[beside[0], body]
        across = np.cos(heading) * there(unit[..., 1]) - np.sin(heading) * there(unit[..., 0])
        width, depth, top_m = (self._shapes[body, of] for of in (1, 2, 0))
        half_m = np.sqrt((depth / 2 * across) ** 2 + (width / 2) ** 2 * (1 - across**2))
        bend = np.sqrt(2 / (self._wavelength_m * there(length_m) * part * (1 - part)))
        hidden = strip((aside_m - half_m) * bend, (aside_m + half_m) * bend)
        hidden *= strip(-height_m * level * bend, (COLUMN * top_m - height_m) * level * bend)
        kept[beside] -= hidden
        return kept

    def _mirrored(self, position_m: np.ndarray, heading_rad: np.ndarray) -> np.ndarray:
        """Channels over one reflection at each body, complex128 [T, R, F]."""
        is_there = np.isfinite(position_m[..., 0])[:, None]
        place_m, heading = np.nan_to_num(position_m)[:, None], np.nan_to_num(heading_rad)[:, None]
        transmitter_m, receiver_m = self._transmitter_m, self._receiver_m[:, None]
        point_m, curvature_m, cosine = mirror(
            place_m, heading, self._shapes[:, 1], self._shapes[:, 2], transmitter_m[:2], receiver_m[..., :2]
        )
        flat_m = [np.linalg.norm(end_m[..., :2] - point_m, axis=-1) for end_m in (transmitter_m, receiver_m)]
        rise_m = receiver_m[..., 2] - transmitter_m[2]
        around_m = flat_m[0] + flat_m[1]
        total_m = np.hypot(around_m, rise_m)
        first_m, second_m = (total_m * one / around_m for one in flat_m)
        height_m = transmitter_m[2] + rise_m * flat_m[0] / around_m
        spread = total_m * (total_m + 2 * first_m * second_m / (curvature_m * cosine))
        eta = body_permittivity(self._config.body, self._config.carrier_hz)
        bend = np.sqrt(2 * total_m / (self._wavelength_m * first_m * second_m))
        gain = self._wavelength_m / (4 * np.pi) / np.sqrt(spread) * reflection(cosine, eta, across=True)
        gain = gain * strip(-height_m * bend, (COLUMN * self._shapes[:, 0] - height_m) * bend)
        point_m = np.concatenate([point_m, height_m[..., None]], axis=-1)
        gain, shape = np.where(is_there, gain, 0.0), gain.shape
        others = ~np.tile(np.eye(shape[2], dtype=bool), (shape[1], 1))
        point_m, total_m = (
            point_m.reshape(shape[0], -1, 3),
            np.broadcast_to(total_m, shape).reshape(shape[0], -1),
        )
        for end_m, way_m in ((transmitter_m, first_m), (receiver_m, second_m)):
            end_m = np.broadcast_to(end_m, (*shape, 3)).reshape(point_m.shape)
            behind = (way_m.reshape(total_m.shape) / total_m)[..., None] * np.array([0.0, 1.0])
            kept = self._shadows(end_m, point_m, behind, total_m, position_m, heading_rad)
            kept = np.where(others, kept, 1.0).prod(axis=2) * self._furniture(end_m, point_m)
            gain = gain * kept.reshape(shape)
        delay_s = total_m.reshape(-1, shape[2]) / SPEED_OF_LIGHT_M_PER_S
        response = frequency_response(gain.reshape(-1, 1, shape[2]), delay_s, self._frequency_hz)
        return response.reshape(*shape[:2], -1)


def _legs(orders: np.ndarray, image_m: np.ndarray, receiver_m: np.ndarray, extent: np.ndarray) -> _Legs:
    """Folds the straight lines from images [N, 3] to receivers [R, 3] back into the room."""
    start, end, share, path = [], [], [], []
    for number, (receiver, (order, image)) in enumerate(
        product(receiver_m, zip(orders, image_m, strict=True))
    ):
        cuts = [0.0, 1.0]
        for axis in range(3):
            planes = range(1, order[axis] + 1) if order[axis] > 0 else range(order[axis] + 1, 1)
            way = receiver[axis] - image[axis]
            cuts += [(plane * extent[axis] - image[axis]) / way for plane in planes]
        cuts.sort()
        # A line through an edge crosses two planes at once.
        cuts = [cut for cut, after in pairwise([*cuts, 2.0]) if after - cut > 1e-9]
        folded = np.array([_folded(image + cut * (receiver - image), extent) for cut in cuts])
        start.append(folded[:-1])
        end.append(folded[1:])
        share.append(np.stack([cuts[:-1], cuts[1:]], axis=1))
        path += [number] * (len(cuts) - 1)
    first = np.flatnonzero(np.diff(path, prepend=-1))
    start_m, end_m, between = (np.concatenate(part) for part in (start, end, share))
    return _Legs(start_m, end_m, between, np.array(path), first)


def _folded(place_m: np.ndarray, extent: np.ndarray) -> np.ndarray:
    return np.asarray(extent - np.abs(place_m % (2 * extent) - extent))
