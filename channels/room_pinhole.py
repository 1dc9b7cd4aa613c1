"""The cameras of a room by analytic rays: a pinhole, boxes, and bodies of elliptic columns and ellipsoids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from channels.room import COLOURS, SHAPES, RoomConfig, Walk

SKIN = (0.60, 0.38, 0.27)
WALL, FLOOR, CEILING = (0.72, 0.70, 0.64), (0.36, 0.25, 0.16), (0.80, 0.80, 0.78)
MATERIAL_COLOURS = {
    "wood": (0.45, 0.28, 0.13),
    "chipboard": (0.50, 0.36, 0.20),
    "plasterboard": (0.66, 0.65, 0.62),
    "glass": (0.45, 0.60, 0.58),
    "metal": (0.42, 0.43, 0.46),
}
"""Linear red, green, blue, as COLOURS."""

SHOULDER, NECK = 0.72, 0.84
HEAD_HEIGHT, HEAD_WIDTH = 0.135, 0.092
"""Shares of a body's height: where shoulders begin and end, and the size of the head on top."""

_AMBIENT = 0.35
_NEAR_M = 0.1
_RAYS_AT_ONCE = 1_500_000
_TABLE = 4095


@dataclass(frozen=True)
class _Rays:
    """Rays of one frame that meet bodies: which body (its number and its row), where in the frame."""

    item: np.ndarray
    ray: np.ndarray


class PinholeCameras:
    """Frames of C cameras: the nearest hit of each ray, in the light of a lamp under the ceiling's middle.

    A surface of a colour shows, in linear red, green and blue,

        colour (ambient + (1 - ambient) max(0, cos(angle between normal and lamp)))

    (Lambert), nothing casts shadows; samples of a pixel are averaged and coded as sRGB (IEC 61966-2-1).
    A body is an elliptic column, half an ellipsoid for shoulders, and an ellipsoid for the head.
    """

    def __init__(self, config: RoomConfig) -> None:
        self._config = config
        self._camera_m, looks = config.cameras_m(), config.looks()
        self._shapes = np.array([SHAPES[name] for name in config.shapes[: config.max_pedestrians]])
        self._lamp_m = np.array([config.length_m / 2, config.width_m / 2, config.height_m - 0.1])
        right = np.stack([looks[:, 1], -looks[:, 0], np.zeros(len(looks))], axis=1)
        right /= np.linalg.norm(right, axis=1, keepdims=True)
        self._axes = np.stack([right, np.cross(right, looks), looks], axis=1)
        down, across = _grid(config.samples_per_px)
        self._samples = (down, across)
        self._height, self._width = config.frame_height_px * down, config.frame_width_px * across
        self._reach = np.tan(np.deg2rad(config.field_of_view_deg) / 2)
        self._tall = self._reach * config.frame_height_px / config.frame_width_px
        x = ((np.arange(self._width) + 0.5) / self._width * 2 - 1) * self._reach
        y = (1 - (np.arange(self._height) + 0.5) / self._height * 2) * self._tall
        offset = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0), axis=-1).reshape(-1, 3)
        ray = offset @ self._axes  # [C, rays, 3]; 1 along the look, so that a hit's parameter is its depth
        self._ray = ray.astype(np.float32)
        depth, colour = zip(*(self._empty(camera, ray[camera]) for camera in range(len(ray))), strict=True)
        self._depth = np.stack(depth).astype(np.float32)
        self._colour = np.stack(colour).astype(np.float32)
        self._pixel = self._pixels()
        num_px = config.frame_height_px * config.frame_width_px
        self._background = np.stack(
            [
                [np.bincount(self._pixel, shade, minlength=num_px) for shade in colours.T]
                for colours in self._colour
            ]
        ).transpose(0, 2, 1).astype(np.float32) / (down * across)  # fmt: skip
        self._table = _srgb(np.arange(_TABLE + 1) / _TABLE)

    def frames(self, walk: Walk) -> tuple[np.ndarray, np.ndarray]:
        """See RoomWorld.frames."""
        size = max(1, _RAYS_AT_ONCE // self._depth.size)
        parts = [
            self._some(walk.position_m[start : start + size], walk.heading_rad[start : start + size])
            for start in range(0, len(walk.position_m), size)
        ]
        frame, share = zip(*parts, strict=True)
        return np.concatenate(frame), np.concatenate(share)

    def _some(self, position_m: np.ndarray, heading_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_steps, num_bodies = heading_rad.shape
        num_cameras, num_rays = self._depth.shape
        num_px = self._background.shape[1]
        nearest = np.broadcast_to(self._depth, (num_steps, num_cameras, num_rays)).ravel()
        owner = np.full(nearest.shape, -1, dtype=np.int8)
        hits = []
        for body in range(num_bodies):
            at, ray, depth, colour = self._hits(body, position_m[:, body], heading_rad[:, body])
            index = at * num_rays + ray
            is_nearest = depth < nearest[index]
            nearest[index[is_nearest]] = depth[is_nearest]
            owner[index[is_nearest]] = body
            hits.append((at, ray, index, colour))
        light = np.broadcast_to(self._background, (num_steps, *self._background.shape)).reshape(-1, 3).copy()
        share = np.full((num_steps, num_cameras, num_bodies), np.nan, dtype=np.float32)
        for body, (at, ray, index, colour) in enumerate(hits):
            is_seen = owner[index] == body
            covered = np.bincount(at, minlength=num_steps * num_cameras)
            seen = np.bincount(at[is_seen], minlength=num_steps * num_cameras)
            part = (seen / np.maximum(covered, 1)).reshape(num_steps, num_cameras)
            is_there = np.isfinite(position_m[:, body, 0])
            share[is_there, :, body] = part[is_there]
            at, ray, colour = at[is_seen], ray[is_seen], colour[is_seen]
            change = (colour - self._colour[at % num_cameras, ray]) / np.prod(self._samples)
            pixel = at * num_px + self._pixel[ray]
            for channel in range(3):
                light[:, channel] += np.bincount(pixel, change[:, channel], minlength=len(light))
        config = self._config
        frame = self._table[(light * _TABLE + 0.5).clip(0, _TABLE).astype(np.int16)]
        return frame.reshape(num_steps, num_cameras, config.frame_height_px, config.frame_width_px, 3), share

    def _hits(
        self, body: int, position_m: np.ndarray, heading_rad: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rays that meet a body on T steps: row t * C + c, ray, depth, and colour float32 [N, 3]."""
        step = np.flatnonzero(np.isfinite(position_m[:, 0]))
        num_cameras = len(self._camera_m)
        row = (step[:, None] * num_cameras + np.arange(num_cameras)).ravel()
        camera, at_m = row % num_cameras, position_m[row // num_cameras]
        heading = heading_rad[row // num_cameras]
        item, ray = self._windows(body, camera, at_m)
        height, width, depth = self._shapes[body]
        cosine, sine = np.cos(heading), np.sin(heading)
        off_m = self._camera_m[camera] - np.column_stack([at_m, np.zeros(len(at_m))])
        # Everything in the body's frame: x ahead, y to its left.
        origin = np.column_stack(
            [
                cosine * off_m[:, 0] + sine * off_m[:, 1],
                cosine * off_m[:, 1] - sine * off_m[:, 0],
                off_m[:, 2],
            ]
        ).astype(np.float32)
        turn = np.column_stack([cosine, sine]).astype(np.float32)[item]
        world = self._ray[camera[item], ray]
        way = np.column_stack(
            [
                turn[:, 0] * world[:, 0] + turn[:, 1] * world[:, 1],
                turn[:, 0] * world[:, 1] - turn[:, 1] * world[:, 0],
                world[:, 2],
            ]
        )
        best = np.full(len(item), np.inf, dtype=np.float32)
        normal = np.zeros((len(item), 3), dtype=np.float32)
        is_head = np.zeros(len(item), dtype=bool)
        shoulder, neck = SHOULDER * height, (NECK - SHOULDER) * height
        head_m = HEAD_WIDTH * height / 2
        for centre, axes, head in (
            (0.0, (depth / 2, width / 2, np.inf), False),
            (shoulder, (depth / 2, width / 2, neck), False),
            (height * (1 - HEAD_HEIGHT / 2), (head_m, head_m, HEAD_HEIGHT * height / 2), True),
        ):
            scale = (1 / np.array(axes)).astype(np.float32)
            start = ((origin - np.array([0, 0, centre], dtype=np.float32)) * scale)[item]
            scaled = way * scale
            square = np.einsum("ij,ij->i", scaled, scaled)
            middle = np.einsum("ij,ij->i", start, scaled)
            inner = middle**2 - square * (np.einsum("ij,ij->i", start, start) - 1)
            hit = (-middle - np.sqrt(np.maximum(inner, 0))) / np.maximum(square, 1e-12)
            is_hit = (inner > 0) & (hit > 0) & (hit < best)
            if np.isinf(axes[2]):
                z = origin[item, 2] + hit * way[:, 2]
                is_hit &= (z >= 0) & (z <= shoulder)
            best[is_hit], is_head[is_hit] = hit[is_hit], head
            normal[is_hit] = ((start + hit[:, None] * scaled) * scale)[is_hit]
        kept = np.isfinite(best)
        item, ray, best, normal, way = item[kept], ray[kept], best[kept], normal[kept], way[kept]
        lamp = self._lamp_m - np.column_stack([at_m, np.zeros(len(at_m))])
        lamp = np.column_stack(
            [cosine * lamp[:, 0] + sine * lamp[:, 1], cosine * lamp[:, 1] - sine * lamp[:, 0], lamp[:, 2]]
        ).astype(np.float32)
        to_lamp = lamp[item] - origin[item] - best[:, None] * way
        base = np.where(is_head[kept, None], np.float32(SKIN), np.float32(COLOURS[body]))
        return row[item], ray, best, base * _lambert(normal, to_lamp)[:, None]

    def _windows(self, body: int, camera: np.ndarray, at_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rays of the rectangle that a body lies in, for N pairs of camera and place: item and ray."""
        height, width, _ = self._shapes[body]
        corner = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)])
        corner_m = corner * np.array([width / 2, width / 2, height])
        off_m = (
            np.column_stack([at_m, np.zeros(len(at_m))])[:, None] + corner_m - self._camera_m[camera, None]
        )
        seen = np.einsum("nkj,naj->nka", off_m, self._axes[camera])
        is_near = (seen[..., 2] < _NEAR_M).any(axis=1)
        is_behind = (seen[..., 2] < _NEAR_M).all(axis=1)
        depth = np.maximum(seen[..., 2], _NEAR_M)
        column = (seen[..., 0] / depth / self._reach + 1) / 2 * self._width
        line = (1 - seen[..., 1] / depth / self._tall) / 2 * self._height
        edges = []
        for at, extent in ((line, self._height), (column, self._width)):
            low = np.where(is_near, 0, np.floor(at.min(axis=1))).clip(0, extent).astype(np.int64)
            high = np.where(is_near, extent, np.ceil(at.max(axis=1))).clip(0, extent).astype(np.int64)
            edges.append((low, np.where(is_behind, 0, high - low).clip(0)))
        (top, lines), (left, columns) = edges
        size = lines * columns
        item = np.repeat(np.arange(len(camera)), size)
        within = np.arange(len(item)) - np.repeat(np.cumsum(size) - size, size)
        down, across = np.divmod(within, columns[item])
        return item, (top[item] + down) * self._width + left[item] + across

    def _pixels(self) -> np.ndarray:
        """The pixel that each ray belongs to, int64 [rays]."""
        down, across = self._samples
        line, column = np.divmod(np.arange(self._height * self._width), self._width)
        return np.asarray(line // down * self._config.frame_width_px + column // across)

    def _empty(self, camera: int, ray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth [rays] and colour [rays, 3] of the room without people."""
        config, start_m = self._config, self._camera_m[camera]
        extent = np.array([config.length_m, config.width_m, config.height_m])
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.fmax(-start_m / ray, (extent - start_m) / ray)
        axis, depth = out.argmin(axis=1), out.min(axis=1)
        normal = -np.sign(ray) * (np.arange(3) == axis[:, None])
        is_up = (axis == 2) & (ray[:, 2] < 0)
        colour = np.where((axis == 2)[:, None], CEILING, WALL)
        colour[is_up] = FLOOR
        for box in config.furniture:
            low = np.array([*(np.array(box.centre_m) - np.array(box.size_m[:2]) / 2), 0.0])
            with np.errstate(divide="ignore", invalid="ignore"):
                one, two = (low - start_m) / ray, (low + np.array(box.size_m) - start_m) / ray
            enters = np.fmin(one, two)
            entry, exit_ = enters.max(axis=1), np.fmax(one, two).min(axis=1)
            is_hit = (entry < exit_) & (entry > 0) & (entry < depth)
            depth[is_hit], colour[is_hit] = entry[is_hit], MATERIAL_COLOURS[box.material]
            side = np.arange(3) == enters.argmax(axis=1)[:, None]
            normal[is_hit] = (-np.sign(ray) * side)[is_hit]
        return depth, colour * _lambert(normal, self._lamp_m - start_m - depth[:, None] * ray)[:, None]


def _lambert(normal: np.ndarray, to_lamp: np.ndarray) -> np.ndarray:
    """Brightness of a surface, for normals and ways to the lamp of any length [N, 3]."""
    lengths = np.einsum("ij,ij->i", normal, normal) * np.einsum("ij,ij->i", to_lamp, to_lamp)
    cosine = np.einsum("ij,ij->i", normal, to_lamp) / np.sqrt(np.maximum(lengths, 1e-12))
    return np.asarray(_AMBIENT + (1 - _AMBIENT) * np.maximum(cosine, 0))


def _grid(samples_per_px: int) -> tuple[int, int]:
    """Lines and columns of samples in a pixel, as square as their number allows."""
    lines = max(line for line in range(1, int(samples_per_px**0.5) + 1) if samples_per_px % line == 0)
    return lines, samples_per_px // lines


def _srgb(linear: np.ndarray) -> np.ndarray:
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * curved), dtype=np.uint8)
