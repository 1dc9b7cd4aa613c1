"""The radio of a room by images of the transmitter, with bodies that shadow and reflect."""

from __future__ import annotations

import numpy as np

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.response import frequency_response, resource_block_centres_hz
from channels.room import SHAPES, RoomConfig, Walk
from channels.room_bodies import mirror, strip
from channels.room_materials import body_permittivity, reflection
from channels.room_paths import image_paths, through_furniture

COLUMN = 0.8
"""Share of a body's height that its column reaches to for the radio; above are shoulders and head."""

_LEGS_AT_ONCE = 200_000


class ImageRadio:
    """CSI of an empty room's paths (see `image_paths`), as bodies change them.

    A body takes from a leg what an absorbing screen of its width across the leg would, by Kirchhoff's
    integral (see `strip`; Rampa, Savazzi, Nicoli and D'Amico 2015):

        1 - strip(left edge, right edge) strip(sole, top)

    And with max_depth > 0 it reflects like a convex cylinder of its material (geometrical optics; McNamara,
    Pistorius and Malherbe 1990), with r Fresnel's coefficient, rho the radius of curvature at the point that
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
        self._paths = image_paths(config)
        delay_s = self._paths.length_m[..., None] / SPEED_OF_LIGHT_M_PER_S
        self._phasor = self._paths.gain[..., None] * np.exp(-2j * np.pi * delay_s * self._frequency_hz)

    def csi(self, walk: Walk) -> np.ndarray:
        """See RoomWorld.csi."""
        num_steps = len(walk.position_m)
        size = max(1, _LEGS_AT_ONCE // (len(self._paths.path) * walk.position_m.shape[1]))
        parts = [
            self._some(walk.position_m[start : start + size], walk.heading_rad[start : start + size])
            for start in range(0, num_steps, size)
        ]
        return np.concatenate(parts).astype(np.complex64)

    def _some(self, position_m: np.ndarray, heading_rad: np.ndarray) -> np.ndarray:
        """Channels in some of the steps, complex128 [T, R, F]."""
        paths = self._paths
        length_m = paths.length_m.ravel()[paths.path]
        kept = self._shadows(paths.start_m, paths.end_m, paths.share, length_m, position_m, heading_rad)
        factor = np.multiply.reduceat(kept.prod(axis=2), paths.first, axis=1)
        factor = factor.reshape(-1, *paths.gain.shape).transpose(1, 0, 2)
        response = (factor @ self._phasor).transpose(1, 0, 2)
        if self._config.max_depth:
            response = response + self.echoes(position_m, heading_rad)
        return response

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

    def echoes(self, position_m: np.ndarray, heading_rad: np.ndarray) -> np.ndarray:
        """Channels over one reflection at each body alone, complex128 [T, R, F], for bodies as in Walk."""
        is_there = np.isfinite(position_m[..., 0])[:, None]
        place_m, heading = np.nan_to_num(position_m)[:, None], np.nan_to_num(heading_rad)[:, None]
        transmitter_m, receiver_m = self._transmitter_m, self._receiver_m[:, None]
        flat_m, curvature_m, cosine = mirror(
            place_m, heading, self._shapes[:, 1], self._shapes[:, 2], transmitter_m[:2], receiver_m[..., :2]
        )
        # All devices have one height, and a column is upright.
        height_m = self._config.device_height_m
        point_m = np.concatenate([flat_m, np.full_like(cosine[..., None], height_m)], axis=-1)
        first_m, second_m = (
            np.linalg.norm(end_m - point_m, axis=-1) for end_m in (transmitter_m, receiver_m)
        )
        total_m = first_m + second_m
        spread = total_m * (total_m + 2 * first_m * second_m / (curvature_m * cosine))
        eta = body_permittivity(self._config.body, self._config.carrier_hz)
        bend = np.sqrt(2 * total_m / (self._wavelength_m * first_m * second_m))
        gain = self._wavelength_m / (4 * np.pi) / np.sqrt(spread) * reflection(cosine, eta, across=True)
        gain = gain * strip(-height_m * bend, (COLUMN * self._shapes[:, 0] - height_m) * bend)
        gain, shape = np.where(is_there, gain, 0.0), gain.shape
        others = ~np.tile(np.eye(shape[2], dtype=bool), (shape[1], 1))
        point_m, total_m = point_m.reshape(shape[0], -1, 3), total_m.reshape(shape[0], -1)
        for end_m, way_m in ((transmitter_m, first_m), (receiver_m, second_m)):
            end_m = np.broadcast_to(end_m, (*shape, 3)).reshape(point_m.shape)
            behind = (way_m.reshape(total_m.shape) / total_m)[..., None] * np.array([0.0, 1.0])
            kept = self._shadows(end_m, point_m, behind, total_m, position_m, heading_rad)
            kept = np.where(others, kept, 1.0).prod(axis=2) * through_furniture(self._config, end_m, point_m)
            gain = gain * kept.reshape(shape)
        delay_s = total_m.reshape(-1, shape[2]) / SPEED_OF_LIGHT_M_PER_S
        response = frequency_response(gain.reshape(-1, 1, shape[2]), delay_s, self._frequency_hz)
        return response.reshape(*shape[:2], -1)
