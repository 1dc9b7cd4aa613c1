"""A sensed room by Sionna RT and Mitsuba: both see the same triangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from channels.array_tracer import slots_of_their_own, sorted_paths, sum_paths
from channels.ray_tracer import sionna_rt
from channels.room import SHAPES, RoomConfig, Walk, check_room
from channels.room_camera import RoomCameras
from channels.room_meshes import (
    body_mesh,
    furniture_mesh,
    mitsuba_mesh,
    placed,
    room_meshes,
    vertex_values,
)

_SOLVER_SEED = 1
_MAX_PATHS = 1 << 15
# To Sionna a surface is a slab with air behind it, whatever its mesh encloses: boxes and bodies are hollow.
_SLAB_M = {"walls": 0.1, "floor": 0.2, "ceiling": 0.2}
_FURNITURE_SLAB_M = 0.02
_BODY_SLAB_M = 0.1


class TracedRoom:
    """A RoomWorld of triangles: paths by Sionna RT's solver, frames by Mitsuba.

    Line of sight, specular reflections at flat surfaces, refractions through them, one diffraction at an
    edge, and what bodies scatter: by default all that they reflect, Lambert's way. As mirrors a body's
    triangles, smaller than a Fresnel zone, would flash as it turns. Walls are plasterboard, floor and ceiling
    concrete (ITU-R P.2040). Antennas are vertical, without a pattern. Both scenes stay loaded, and only the
    bodies' vertices change from step to step: what a step gives hangs on nothing that was computed before.
    Raises SemcomError as check_room does, and where no ray can be traced (see use_llvm).
    """

    def __init__(self, config: RoomConfig) -> None:
        check_room(config)
        rt = sionna_rt()
        self._config = config
        self._scene = load_room(config)
        self._solver = rt.PathSolver(deterministic=True)
        self._cameras = RoomCameras(config)

    def csi(self, walk: Walk) -> np.ndarray:
        """See RoomWorld.csi."""
        return np.stack(
            [
                self._channels(position_m, heading_rad)
                for position_m, heading_rad in zip(walk.position_m, walk.heading_rad, strict=True)
            ]
        )

    def frames(self, walk: Walk) -> tuple[np.ndarray, np.ndarray]:
        """See RoomWorld.frames."""
        return self._cameras.frames(walk.position_m, walk.heading_rad)

    def _channels(self, position_m: np.ndarray, heading_rad: np.ndarray) -> np.ndarray:
        config = self._config
        move_bodies(self._scene, config, position_m, heading_rad)
        with slots_of_their_own(config.num_receivers):
            paths = self._solver(
                self._scene,
                max_depth=config.max_depth,
                diffraction=config.diffraction,
                specular_reflection=True,
                diffuse_reflection=config.body.scattering_coefficient > 0,
                refraction=True,
                samples_per_src=config.num_rays,
                max_num_paths_per_src=_MAX_PATHS,
                synthetic_array=True,
                seed=_SOLVER_SEED,
            )
        gain, delay_s = sorted_paths(paths)
        response = sum_paths(
            gain, delay_s, config.carrier_hz, config.num_subcarriers, config.bandwidth_hz
        )  # [R, 1, 1, F]
        return response[:, 0, 0]


def load_room(config: RoomConfig) -> Any:
    """The room as a scene of Sionna RT, with its transmitter, its receivers, and all bodies at the origin."""
    rt = sionna_rt()
    scene = rt.Scene()
    scene.edit(add=_objects(config))
    scene.frequency = config.carrier_hz
    for side in ("tx_array", "rx_array"):
        array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
        setattr(scene, side, array)
    scene.add(rt.Transmitter("transmitter", config.transmitter_m().tolist()))
    for number, place_m in enumerate(config.receivers_m().tolist()):
        scene.add(rt.Receiver(f"receiver-{number}", place_m))
    return scene


def move_bodies(scene: Any, config: RoomConfig, position_m: np.ndarray, heading_rad: np.ndarray) -> None:
    """Puts the bodies of load_room's scene to x, y [P, 2] with headings [P], and takes those with NaN out."""
    places = scene.mi_scene_params
    for number, name in enumerate(config.shapes[: config.max_pedestrians]):
        vertex_m = placed(body_mesh(SHAPES[name])[0], position_m[number], heading_rad[number])
        places[f"body-{number}.vertex_positions"] = vertex_values(vertex_m)
    places.update()


def _objects(config: RoomConfig) -> list[Any]:
    rt = sionna_rt()
    materials: dict[str, Any] = {}

    def slab(name: str, kind: str, thickness_m: float) -> Any:
        if name not in materials:
            materials[name] = rt.ITURadioMaterial(name, kind, thickness=thickness_m)
        return materials[name]

    body = rt.RadioMaterial(
        "body",
        relative_permittivity=config.body.relative_permittivity,
        conductivity=config.body.conductivity_s_per_m,
        thickness=_BODY_SLAB_M,
        scattering_coefficient=config.body.scattering_coefficient,
    )
    parts = []
    for name, mesh in room_meshes(config).items():
        kind = "plasterboard" if name == "walls" else "concrete"
        parts.append((name, mesh, slab(f"{name}-{kind}", kind, _SLAB_M[name])))
    for number, box in enumerate(config.furniture):
        material = slab(f"furniture-{box.material}", box.material, _FURNITURE_SLAB_M)
        parts.append((f"furniture-{number}", furniture_mesh(box), material))
    for number, shape in enumerate(config.shapes[: config.max_pedestrians]):
        parts.append((f"body-{number}", body_mesh(SHAPES[shape])[0], body))
    return [
        rt.SceneObject(mi_mesh=mitsuba_mesh(mesh, name=name, material=material), name=name)
        for name, mesh, material in parts
    ]
