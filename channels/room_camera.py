"""What the cameras of a room see, by Mitsuba: its scene stays loaded, and only bodies move in it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from channels.llvm import use_llvm
from channels.room import COLOURS, SHAPES, RoomConfig
from channels.room_colours import (
    AMBIENT,
    CEILING,
    FLOOR,
    LAMP_INTENSITY,
    MATERIAL_COLOURS,
    SKIN,
    WALL,
    lamps_m,
    srgb,
)
from channels.room_meshes import (
    Mesh,
    body_mesh,
    furniture_mesh,
    mitsuba_mesh,
    placed,
    room_meshes,
    vertex_values,
)

_VARIANT = "llvm_ad_rgb"
_REFLECTANCE = {"walls": WALL, "floor": FLOOR, "ceiling": CEILING}
_NEAR_M = 0.01


class RoomCameras:
    """Renders the frames of all cameras of a room, and how much of each body is to be seen in them.

    Surfaces are diffuse: what a camera sees of one with reflectance rho and normal n is

        rho (A + sum_l I_l max(0, n . d_l) / (pi r_l^2)),

    the ambient light A and the lamps l that nothing hides, at distance r_l towards d_l. No light is drawn
    at random, and a pixel's rays are a fixed grid: frames are without noise and the same bit by bit.
    """

    def __init__(self, config: RoomConfig) -> None:
        import mitsuba as mi

        self._config = config
        self._bodies = [body_mesh(SHAPES[name])[0] for name in config.shapes[: config.max_pedestrians]]
        if mi.variant() is None:
            use_llvm()
        with mi.util.scoped_set_variant(_VARIANT):
            scene = mi.load_dict({"type": "scene", **_shapes(config), **_lamps(config)})
            self._scene, self._places = scene, mi.traverse(scene)
            # A body's share of the frame needs rays that meet it alone.
            self._alone = [
                mi.load_dict({"type": "scene", "body": mitsuba_mesh(mesh)}) for mesh in self._bodies
            ]
            self._alone_places = [mi.traverse(alone) for alone in self._alone]
            self._sensor = mi.load_dict(_sensor(config))
            self._integrator = _integrator_class()(self._alone)

    def frames(self, position_m: np.ndarray, heading_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See RoomWorld.frames: bodies at [T, P, 2], headings [T, P]."""
        config = self._config
        num_steps, num_bodies = heading_rad.shape
        size = config.frame_height_px, config.num_cameras, config.frame_width_px
        frame = np.empty((num_steps, *size, 3), dtype=np.uint8)
        covered = np.empty((num_steps, config.num_cameras, 2 * num_bodies), dtype=np.float32)
        for step in range(num_steps):
            self._move(position_m[step], heading_rad[step])
            image = self._render().reshape(*size, -1)
            frame[step] = srgb(image[..., :3].clip(0, 1))
            covered[step] = image[..., 3:].sum(axis=(0, 2))
        visible, alone = covered[..., :num_bodies], covered[..., num_bodies:]
        share = np.divide(visible, alone, out=np.zeros_like(visible), where=alone > 0)
        share[np.broadcast_to(np.isnan(heading_rad)[:, None], share.shape)] = np.nan
        return frame.transpose(0, 2, 1, 3, 4), share

    def _move(self, position_m: np.ndarray, heading_rad: np.ndarray) -> None:
        for number, mesh in enumerate(self._bodies):
            values = vertex_values(placed(mesh, position_m[number], heading_rad[number]))
            self._places[f"body-{number}.vertex_positions"] = values
            self._alone_places[number]["body.vertex_positions"] = values
            self._alone_places[number].update()
        self._places.update()

    def _render(self) -> np.ndarray:
        image: Any = self._integrator.render(
            self._scene, self._sensor, seed=0, spp=self._config.samples_per_px
        )
        return image.numpy()


def _shapes(config: RoomConfig) -> dict[str, Any]:
    shapes = {
        name: mitsuba_mesh(mesh, _painted(mesh, _REFLECTANCE[name]), name)
        for name, mesh in room_meshes(config).items()
    }
    for number, box in enumerate(config.furniture):
        mesh = furniture_mesh(box)
        name = f"furniture-{number}"
        shapes[name] = mitsuba_mesh(mesh, _painted(mesh, MATERIAL_COLOURS[box.material]), name)
    for number, shape in enumerate(config.shapes[: config.max_pedestrians]):
        mesh, is_head = body_mesh(SHAPES[shape])
        name = f"body-{number}"
        shapes[name] = mitsuba_mesh(mesh, np.where(is_head[:, None], SKIN, COLOURS[number]), name)
    return shapes


def _painted(mesh: Mesh, colour: tuple[float, float, float]) -> np.ndarray:
    return np.broadcast_to(colour, (len(mesh.face), 3))


def _lamps(config: RoomConfig) -> dict[str, Any]:
    return {
        f"lamp-{number}": {
            "type": "point",
            "position": place_m.tolist(),
            "intensity": {"type": "rgb", "value": LAMP_INTENSITY},
        }
        for number, place_m in enumerate(lamps_m(config))
    }


def _sensor(config: RoomConfig) -> dict[str, Any]:
    """All cameras side by side on one film."""
    import mitsuba as mi

    cameras = {
        f"camera-{number}": {
            "type": "perspective",
            "fov": config.field_of_view_deg,
            "fov_axis": "x",
            "near_clip": _NEAR_M,
            "to_world": mi.ScalarTransform4f().look_at(
                origin=place_m.tolist(), target=(place_m + look).tolist(), up=[0, 0, 1]
            ),
        }
        for number, (place_m, look) in enumerate(zip(config.cameras_m(), config.looks(), strict=True))
    }
    film = {
        "type": "hdrfilm",
        "width": config.num_cameras * config.frame_width_px,
        "height": config.frame_height_px,
        "rfilter": {"type": "box"},
        "pixel_format": "rgb",
        "component_format": "float32",
    }
    sampler = {"type": "stratified", "sample_count": config.samples_per_px, "jitter": False}
    return {"type": "batch", **cameras, "film": film, "sampler": sampler}


@lru_cache(maxsize=1)
def _integrator_class() -> Any:
    """The integrator behind RoomCameras; its base class exists once Mitsuba has its variant.

    It renders under other variants as well, since a change of variants costs as much as many frames.
    """
    import drjit as dr
    import mitsuba as mi

    one, centre = mi.Float(1), mi.Point2f(0.5)
    spectrum, shape_pointer, flags = mi.Color3f, mi.ShapePtr, mi.RayFlags.Minimal

    class LampLight(mi.SamplingIntegrator):
        """Light of lamps and ambient light; for each body, whether a ray meets it first, and at all."""

        def __init__(self, alone: list[Any]) -> None:
            super().__init__(mi.Properties())
            self._alone = alone

        def aov_names(self) -> list[str]:
            return [f"{kind}-{number}" for kind in ("seen", "there") for number in range(len(self._alone))]

        def sample(
            self, scene: Any, sampler: Any, ray: Any, medium: Any = None, active: Any = True
        ) -> tuple[Any, Any, list[Any]]:
            hit = scene.ray_intersect(ray, flags, True, active)
            active &= hit.is_valid()
            normal = dr.select(dr.dot(hit.n, ray.d) > 0, -hit.n, hit.n)
            light = spectrum(AMBIENT)
            for lamp in scene.emitters():
                towards, arriving = lamp.sample_direction(hit, centre, active)
                cosine = dr.dot(normal, towards.d)
                lit = active & (cosine > 0)
                lit &= ~scene.ray_test(hit.spawn_ray_to(towards.p), lit)
                light += dr.select(lit, cosine / dr.pi * arriving, 0)
            colour = hit.shape.eval_attribute_3("face_color", hit, active)
            there = [body.ray_test(ray, active) for body in self._alone]
            seen = [
                active & (hit.shape == shape_pointer(shape))
                for shape in scene.shapes()
                if shape.id().startswith("body-")
            ]
            return colour * light, active, [dr.select(mask, one, 0) for mask in (*seen, *there)]

    return LampLight
