"""Triangle meshes of a sensed room: its surfaces, its furniture, and the bodies that walk through it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from channels.room import Furniture, RoomConfig, Shape

# Corners of a ring.
_NUM_SIDES = 12
# Soles stay off the floor: rays could not tell two surfaces in one place.
_SOLE_M = 0.005
_HEAD_HEIGHT = 0.135
_HEAD_WIDTH = 0.092
_NECK = 0.84


class Mesh(NamedTuple):
    """Vertices, float64 [V, 3], in metres, and triangles, int64 [N, 3], counter-clockwise from outside."""

    vertex_m: np.ndarray
    face: np.ndarray


@lru_cache(maxsize=16)
def body_mesh(shape: Shape) -> tuple[Mesh, np.ndarray]:
    """A body at the origin that faces along x, and which of its triangles are the head: bool [N].

    One closed surface of rings: a column of shape.width_m (along y) times
    shape.depth_m (along x), shoulders that round off to the neck, and an ellipsoid for a head.
    """
    height = shape.height_m
    half_width, half_depth = shape.width_m / 2, shape.depth_m / 2
    head_m, head_z = _HEAD_HEIGHT * height / 2, height * (1 - _HEAD_HEIGHT / 2)
    across = _HEAD_WIDTH * height / 2
    # z, then half-axes along x and y.
    rings = [(_SOLE_M, half_depth, half_width), (0.72 * height, half_depth, half_width)]
    for angle in np.deg2rad([40, 75]):
        shrunk = np.cos(angle)
        z = height * (0.72 + (_NECK - 0.72) * np.sin(angle))
        rings.append((z, max(half_depth * shrunk, 0.6 * across), max(half_width * shrunk, 0.6 * across)))
    num_below = len(rings) - 1
    for angle in np.deg2rad([-50, -15, 20, 55]):
        rings.append((head_z + head_m * np.sin(angle), across * np.cos(angle), across * np.cos(angle)))
    return _lathe(np.array(rings), height, num_below)


def _lathe(rings: np.ndarray, top_m: float, num_below: int) -> tuple[Mesh, np.ndarray]:
    """Closes rings of (z, half-axis along x, along y) to a surface; triangles above ring num_below: True."""
    around = 2 * np.pi * (np.arange(_NUM_SIDES) + 0.5) / _NUM_SIDES
    x, y = np.outer(rings[:, 1], np.cos(around)), np.outer(rings[:, 2], np.sin(around))
    ring_m = np.stack([x, y, np.broadcast_to(rings[:, :1], x.shape)], axis=-1)
    ends = np.array([[0.0, 0.0, rings[0, 0]], [0.0, 0.0, top_m]])
    bottom, top = ring_m.shape[0] * _NUM_SIDES, ring_m.shape[0] * _NUM_SIDES + 1
    here = np.arange(_NUM_SIDES)
    there = (here + 1) % _NUM_SIDES
    faces = [np.stack([np.full(_NUM_SIDES, bottom), there, here], axis=1)]
    for low in range(len(rings) - 1):
        a, b = low * _NUM_SIDES + here, low * _NUM_SIDES + there
        faces += [
            np.stack([a, b, b + _NUM_SIDES], axis=1),
            np.stack([a, b + _NUM_SIDES, a + _NUM_SIDES], axis=1),
        ]
    last = (len(rings) - 1) * _NUM_SIDES
    faces.append(np.stack([last + here, last + there, np.full(_NUM_SIDES, top)], axis=1))
    is_head = np.arange(sum(map(len, faces))) >= _NUM_SIDES * (1 + 2 * num_below)
    return Mesh(np.concatenate([ring_m.reshape(-1, 3), ends]), np.concatenate(faces)), is_head


def placed(mesh: Mesh, position_m: np.ndarray, heading_rad: float) -> np.ndarray:
    """The vertices of a body that stands at x, y and faces heading_rad: float64 [V, 3].

    Who isn't there (NaN) is one point: triangles without an area, which no ray meets.
    """
    if not np.isfinite(position_m).all():
        return np.zeros_like(mesh.vertex_m)
    cosine, sine = np.cos(heading_rad), np.sin(heading_rad)
    x, y, z = mesh.vertex_m.T
    return np.stack([position_m[0] + cosine * x - sine * y, position_m[1] + sine * x + cosine * y, z], axis=1)


def box_mesh(low_m: np.ndarray, high_m: np.ndarray) -> Mesh:
    """A closed box between two corners, seen from outside: 8 vertices, 12 triangles."""
    corner = np.array([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)], dtype=np.float64)
    quads = np.array([[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]])
    face = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh(low_m + corner * (high_m - low_m), face)


def furniture_mesh(box: Furniture) -> Mesh:
    """A piece of furniture, which stands on the floor."""
    centre, size = np.array([*box.centre_m, 0.0]), np.array(box.size_m)
    low_m = np.array([*(centre[:2] - size[:2] / 2), _SOLE_M])
    return box_mesh(low_m, np.array([*(centre[:2] + size[:2] / 2), size[2]]))


def room_meshes(config: RoomConfig) -> dict[str, Mesh]:
    """The walls, the floor and the ceiling, seen from inside: they close the room together."""
    box = box_mesh(np.zeros(3), np.array([config.length_m, config.width_m, config.height_m]))
    inward = box.face[:, ::-1]
    parts = {"floor": [0], "ceiling": [1], "walls": [2, 3, 4, 5]}
    return {
        name: _part(box.vertex_m, inward[[*sides, *(6 + i for i in sides)]]) for name, sides in parts.items()
    }


def _part(vertex_m: np.ndarray, face: np.ndarray) -> Mesh:
    used, renumbered = np.unique(face, return_inverse=True)
    return Mesh(vertex_m[used], renumbered.reshape(face.shape))


def mitsuba_mesh(
    mesh: Mesh, colour: np.ndarray | None = None, name: str = "body", material: Any = None
) -> Any:
    """The mesh as the active variant of Mitsuba has it, with a colour for each triangle or a material."""
    import mitsuba as mi

    properties = mi.Properties()
    properties["face_normals"] = True
    if material is not None:
        properties["bsdf"] = material
    shape = mi.Mesh(name, len(mesh.vertex_m), len(mesh.face), props=properties)
    shape.set_id(name)
    parameters = mi.traverse(shape)
    parameters["vertex_positions"] = vertex_values(mesh.vertex_m)
    parameters["faces"] = mi.UInt32(mesh.face.astype(np.uint32).ravel())
    parameters.update()
    if colour is not None:
        shape.add_attribute("face_color", 3, colour.ravel().tolist())
    return shape


def vertex_values(vertex_m: np.ndarray) -> Any:
    """Vertices [V, 3] as Mitsuba keeps them: 3 V single-precision numbers."""
    import mitsuba as mi

    return mi.Float(vertex_m.astype(np.float32).ravel())
