"""The cameras of a room by analytic rays: a pinhole, boxes, and bodies of columns and ellipsoids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from channels.room import COLOURS, SHAPES, RoomConfig, Shape, Walk
from channels.room_colours import CEILING, FLOOR, MATERIAL_COLOURS, SKIN, WALL, lamps_m, light_on, srgb
from channels.room_rays import crossings

SHOULDER, NECK = 0.72, 0.84
HEAD_HEIGHT, HEAD_WIDTH, NECK_WIDTH = 0.135, 0.092, 0.055
"""Shares of a body's height: where shoulders begin and end, and sizes of the head on top and the neck."""

_NEAR_M = 0.1
# A surface doesn't hide a lamp from itself.
_SHADOW = 1e-6
_RAYS_AT_ONCE = 1_500_000
_TABLE = 4095


class _Part(NamedTuple):
    """An ellipsoid of a body between two heights; with an infinite vertical half-axis it is a column."""

    centre_m: float
    half_axes_m: tuple[float, float, float]
    low_m: float
    high_m: float
    colour: tuple[float, float, float]


class _Hits(NamedTuple):
    """Rays that meet a part of a body: the frame t * C + c, the ray, and the depth, each [N]."""

    frame: np.ndarray
    ray: np.ndarray
    depth: np.ndarray


class PinholeCameras:
    """Frames of C cameras: the nearest hit of each ray, in the light of two lamps at the ceiling.

    See `light_on`; furniture casts shadows on the empty room, and bodies none. A body is an elliptic column,
    half an ellipsoid for its shoulders, a neck, and an ellipsoid for its head. A pixel's samples, on a
    regular grid, are averaged and coded as sRGB.
    """

    def __init__(self, config: RoomConfig) -> None:
        self._config = config
        self._camera_m, looks = config.cameras_m(), config.looks()
        self._bodies = [
            _parts(SHAPES[name], colour)
            for name, colour in zip(config.shapes[: config.max_pedestrians], COLOURS, strict=False)
        ]
        self._lamps_m = lamps_m(config)
        right = np.stack([looks[:, 1], -looks[:, 0], np.zeros(len(looks))], axis=1)
        right /= np.linalg.norm(right, axis=1, keepdims=True)
        self._axes = np.stack([right, np.cross(right, looks), looks], axis=1)
        down, across = _grid(config.samples_per_px)
        self._height, self._width = config.frame_height_px * down, config.frame_width_px * across
        self._reach = np.tan(np.deg2rad(config.field_of_view_deg) / 2)
        self._tall = self._reach * config.frame_height_px / config.frame_width_px
        x = ((np.arange(self._width) + 0.5) / self._width * 2 - 1) * self._reach
        y = (1 - (np.arange(self._height) + 0.5) / self._height * 2) * self._tall
        # 1 along the look: where a ray meets something, its parameter is the depth.
        seen = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0), axis=-1).reshape(-1, 3)
        ray = seen @ self._axes
        self._ray = np.ascontiguousarray(np.moveaxis(ray, -1, 0).reshape(3, -1), dtype=np.float32)
        empty = [self._empty(camera, ray[camera]) for camera in range(len(ray))]
        self._depth = np.concatenate([depth for depth, _ in empty]).astype(np.float32)
        self._colour = np.concatenate([colour for _, colour in empty]).astype(np.float32)
        line, column = np.divmod(np.arange(self._height * self._width), self._width)
        self._pixel = line // down * config.frame_width_px + column // across
        pixels = self._colour.reshape(
            len(ray), config.frame_height_px, down, config.frame_width_px, across, 3
        )
        self._background = pixels.mean(axis=(2, 4)).reshape(-1, 3)
        self._table = srgb(np.arange(_TABLE + 1) / _TABLE)

    def frames(self, walk: Walk) -> tuple[np.ndarray, np.ndarray]:
        """See RoomWorld.frames."""
        size = max(1, _RAYS_AT_ONCE // len(self._depth))
        parts = [
            self._some(walk.position_m[start : start + size], walk.heading_rad[start : start + size])
            for start in range(0, len(walk.position_m), size)
        ]
        frame, share = zip(*parts, strict=True)
        return np.concatenate(frame), np.concatenate(share)

    def _some(self, position_m: np.ndarray, heading_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        config, num_cameras = self._config, len(self._camera_m)
        num_steps, num_bodies = heading_rad.shape
        num_frames, num_rays = num_steps * num_cameras, self._height * self._width
        nearest = np.tile(self._depth, num_steps)
        owner = np.full(nearest.shape, -1, dtype=np.int8)
        touched = np.full(nearest.shape, -1, dtype=np.int8)
        covered = np.zeros((num_bodies, num_frames), dtype=np.int64)
        numbered = [(body, part) for body, parts in enumerate(self._bodies) for part in parts]
        found = []
        for number, (body, part) in enumerate(numbered):
            hits = self._hits(part, position_m[:, body], heading_rad[:, body])
            index = hits.frame * num_rays + hits.ray
            covered[body] += np.bincount(hits.frame[touched[index] != body], minlength=num_frames)
            touched[index] = body
            is_nearest = hits.depth < nearest[index]
            found.append(_kept(hits, is_nearest))
            index = index[is_nearest]
            nearest[index], owner[index] = found[-1].depth, number
        seen = [
            _kept(hits, owner[hits.frame * num_rays + hits.ray] == number)
            for number, hits in enumerate(found)
        ]
        counts = np.stack([np.bincount(hits.frame, minlength=num_frames) for hits in seen])
        counts = counts.reshape(num_bodies, -1, num_frames).sum(axis=1)
        share = (counts / np.maximum(covered, 1)).T.reshape(num_steps, num_cameras, num_bodies)
        share = np.where(np.isfinite(position_m[:, None, :, 0]), share, np.nan).astype(np.float32)
        change = [
            self._colours(part, hits, position_m[:, body], heading_rad[:, body])
            for (body, part), hits in zip(numbered, seen, strict=True)
        ]
        everything = _Hits(*(np.concatenate(values) for values in zip(*seen, strict=True)))
        frame = self._developed(everything, np.concatenate(change), num_steps)
        config = self._config
        return frame.reshape(num_steps, num_cameras, config.frame_height_px, config.frame_width_px, 3), share

    def _hits(self, part: _Part, position_m: np.ndarray, heading_rad: np.ndarray) -> _Hits:
        """Where rays meet a part of a body in T steps, seen from outside."""
        num_cameras = len(self._camera_m)
        step = np.flatnonzero(np.isfinite(position_m[:, 0]))
        frame = (step[:, None] * num_cameras + np.arange(num_cameras)).ravel()
        camera, step = frame % num_cameras, frame // num_cameras
        item, ray = self._windows(part, camera, position_m[step])
        middle_m = np.column_stack([position_m[step], np.full(len(step), part.centre_m)])
        cosine, sine = np.cos(heading_rad[step]), np.sin(heading_rad[step])
        scale = 1 / np.array(part.half_axes_m)
        x, y, z = (self._camera_m[camera] - middle_m).T
        # In the body's frame, x ahead and y to its left, in which the part is a unit ball or a column.
        start = np.stack(
            [(cosine * x + sine * y) * scale[0], (cosine * y - sine * x) * scale[1], z * scale[2]]
        )
        outside = ((start**2).sum(axis=0) - 1).astype(np.float32)
        turn = np.stack([cosine * scale[0], sine * scale[0], -sine * scale[1], cosine * scale[1]])
        along, aside = start[:2].astype(np.float32)[:, item]
        xx, xy, yx, yy = turn.astype(np.float32)[:, item]
        ray_x, ray_y, ray_z = self._ray[:, camera[item] * (self._height * self._width) + ray]
        x, y = xx * ray_x + xy * ray_y, yx * ray_x + yy * ray_y
        square, product = x * x + y * y, along * x + aside * y
        if np.isfinite(part.half_axes_m[2]):
            z = ray_z * np.float32(scale[2])
            square += z * z
            product += start[2].astype(np.float32)[item] * z
        inner = product * product - square * outside[item]
        met = np.flatnonzero(inner > 0)
        depth = (-product[met] - np.sqrt(inner[met])) / square[met]
        height_m = self._camera_m[camera, 2].astype(np.float32)[item[met]] + depth * ray_z[met]
        kept = (depth > 0) & (height_m >= part.low_m) & (height_m <= part.high_m)
        met = met[kept]
        return _Hits(frame[item[met]], ray[met], depth[kept])

    def _windows(self, part: _Part, camera: np.ndarray, at_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rays of the rectangle that a part lies in, for N pairs of camera and place: item and ray."""
        half_m = max(part.half_axes_m[:2])
        corner = [
            [x, y, z] for x in (-half_m, half_m) for y in (-half_m, half_m) for z in (part.low_m, part.high_m)
        ]
        off_m = np.column_stack([at_m, np.zeros(len(at_m))])[:, None] + np.array(corner)
        seen = np.einsum("nkj,naj->nka", off_m - self._camera_m[camera, None], self._axes[camera])
        is_near, is_behind = (some(seen[..., 2] < _NEAR_M, axis=1) for some in (np.any, np.all))
        depth = np.maximum(seen[..., 2], _NEAR_M)
        column = (seen[..., 0] / depth / self._reach + 1) / 2 * self._width
        line = (1 - seen[..., 1] / depth / self._tall) / 2 * self._height
        edges = []
        for at, extent in ((line, self._height), (column, self._width)):
            low = np.where(is_near, 0, np.floor(at.min(axis=1))).clip(0, extent).astype(np.int64)
            high = np.where(is_near, extent, np.ceil(at.max(axis=1))).clip(0, extent).astype(np.int64)
            edges.append((low, np.where(is_behind, 0, high - low).clip(0)))
        (top, lines), (left, columns) = edges
        # Line by line: so many lines of each rectangle, and so many rays of each line.
        item = np.repeat(np.arange(len(camera)), lines)
        first = (_counted(lines) + np.repeat(top, lines)) * self._width + left[item]
        ray = np.repeat(first, columns[item]) + _counted(columns[item])
        return np.repeat(item, columns[item]), ray

    def _colours(
        self, part: _Part, hits: _Hits, position_m: np.ndarray, heading_rad: np.ndarray
    ) -> np.ndarray:
        """What the hits on a part show, float32 [N, 3]."""
        camera, step = hits.frame % len(self._camera_m), hits.frame // len(self._camera_m)
        way = self._ray[:, camera * (self._height * self._width) + hits.ray].T
        point_m = self._camera_m[camera] + hits.depth[:, None] * way
        middle_m = np.column_stack([position_m[step], np.full(len(step), part.centre_m)])
        cosine, sine = np.cos(heading_rad)[step], np.sin(heading_rad)[step]
        x, y, z = (point_m - middle_m).T
        scale = 1 / np.array(part.half_axes_m) ** 2
        ahead, left = (cosine * x + sine * y) * scale[0], (cosine * y - sine * x) * scale[1]
        normal = np.column_stack([cosine * ahead - sine * left, sine * ahead + cosine * left, z * scale[2]])
        shown = light_on(point_m, normal, self._lamps_m)[:, None] * np.array(part.colour)
        return np.asarray(shown, dtype=np.float32)

    def _developed(self, hits: _Hits, colour: np.ndarray, num_steps: int) -> np.ndarray:
        """Frames with these hits before the background, uint8 [T * C * height * width, 3]."""
        num_cameras, num_rays, num_px = (
            len(self._camera_m),
            len(self._pixel),
            len(self._background) // len(self._camera_m),
        )
        pixel = hits.frame * num_px + self._pixel[hits.ray]
        behind = self._colour[hits.frame % num_cameras * num_rays + hits.ray]
        change = (colour - behind) * np.float32(num_px / num_rays)
        frame = np.tile(self._table[_level(self._background)], (num_steps, 1))
        is_changed = np.zeros(len(frame), dtype=bool)
        is_changed[pixel] = True
        changed = np.flatnonzero(is_changed)
        row = np.empty(len(frame), dtype=np.int64)
        row[changed] = np.arange(len(changed))
        sums = [np.bincount(row[pixel], values, minlength=len(changed)) for values in change.T]
        light = self._background[changed % len(self._background)] + np.stack(sums, axis=1)
        frame[changed] = self._table[_level(light)]
        return frame

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
        boxes_m = [
            (np.array([x - wide / 2, y - deep / 2, 0.0]), np.array([x + wide / 2, y + deep / 2, high]))
            for (x, y), (wide, deep, high) in ((box.centre_m, box.size_m) for box in config.furniture)
        ]
        for box, (low_m, high_m) in zip(config.furniture, boxes_m, strict=True):
            enters, leaves = crossings(start_m, ray, low_m, high_m)
            entry = enters.max(axis=1)
            is_hit = (entry < leaves.min(axis=1)) & (entry > 0) & (entry < depth)
            depth[is_hit], colour[is_hit] = entry[is_hit], MATERIAL_COLOURS[box.material]
            side = np.arange(3) == enters.argmax(axis=1)[:, None]
            normal[is_hit] = (-np.sign(ray) * side)[is_hit]
        point_m = start_m + depth[:, None] * ray
        is_lit = np.ones((len(self._lamps_m), len(ray)), dtype=bool)
        for lamp_m, lit in zip(self._lamps_m, is_lit, strict=True):
            for low_m, high_m in boxes_m:
                enters, leaves = crossings(lamp_m, point_m - lamp_m, low_m, high_m)
                entry = enters.max(axis=1)
                lit &= (entry >= leaves.min(axis=1)) | (entry > 1 - _SHADOW) | (entry < 0)
        return depth, colour * light_on(point_m, normal, self._lamps_m, is_lit)[:, None]


def _parts(shape: Shape, colour: tuple[float, float, float]) -> list[_Part]:
    height_m, half_width, half_depth = shape.height_m, shape.width_m / 2, shape.depth_m / 2
    shoulder_m, neck_m, half_head = SHOULDER * height_m, NECK * height_m, HEAD_WIDTH * height_m / 2
    across, half_face = (half_depth, half_width), HEAD_HEIGHT * height_m / 2
    half_neck, chin_m = NECK_WIDTH * height_m / 2, height_m - 2 * half_face
    return [
        _Part(0.0, (*across, np.inf), 0.0, shoulder_m, colour),
        _Part(shoulder_m, (*across, neck_m - shoulder_m), shoulder_m, neck_m, colour),
        _Part(0.0, (half_neck, half_neck, np.inf), shoulder_m, chin_m + half_face / 2, SKIN),
        _Part(chin_m + half_face, (half_head, half_head, half_face), chin_m, height_m, SKIN),
    ]


def _kept(hits: _Hits, is_kept: np.ndarray) -> _Hits:
    return _Hits(*(values[is_kept] for values in hits))


def _counted(number: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each of the numbers in turn."""
    return np.asarray(np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number))


def _level(light: np.ndarray) -> np.ndarray:
    return np.asarray((light * _TABLE + 0.5).clip(0, _TABLE).astype(np.int16))


def _grid(samples_per_px: int) -> tuple[int, int]:
    """Lines and columns of samples in a pixel, as square as their number allows."""
    lines = max(line for line in range(1, int(samples_per_px**0.5) + 1) if samples_per_px % line == 0)
    return lines, samples_per_px // lines
