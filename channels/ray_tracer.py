"""Sionna RT behind one small interface: scenes, rays cast through them, and the paths of a station.

The only file that imports sionna.rt beside array_tracer.py; Dr.Jit computes on the CPU, with LLVM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from channels.llvm import use_llvm
from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.trajectories import OpenGround
from semcom.contracts import SemcomError

# A GPU's paths differ in the last bits, and records must not depend on who has one.
_VARIANT = "llvm_ad_mono_polarized"
# Rays times bounces times devices at once: the solver takes some 50 bytes for each.
_LANES_AT_ONCE = 4_800_000
_MAX_PATHS_AT_ONCE = 1_000_000
# Paths so far below a device's strongest are dropped: a thousand of them are a thousandth of its power.
_DROPPED_BELOW_DB = 60.0
_SOLVER_SEED = 1
_WALL_HEIGHT_M = 1.0


@dataclass(frozen=True)
class Scene:
    """A scene of Sionna RT and the name of the object that one stands on in it."""

    rt: Any
    ground: str

    def bounds_m(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest x, y and z of anything in the scene, float64 [3] each."""
        bounds = self.rt.mi_scene.bbox()
        low_m, high_m = (np.array(corner, dtype=np.float64).ravel() for corner in (bounds.min, bounds.max))
        return low_m, high_m

    def sky_above(self, place_m: np.ndarray) -> np.ndarray:
        """Whether nothing is above places [N, 3]: bool [N]; False inside a building and below ground."""
        up = np.broadcast_to([0.0, 0.0, 1.0], np.shape(place_m))
        return ~np.array(self.rt.mi_scene.ray_test(_rays(np.asarray(place_m), up)))

    def sees(self, one_m: np.ndarray, other_m: np.ndarray) -> np.ndarray:
        """Whether nothing lies between pairs of places, [N, 3] each: bool [N]."""
        way_m = np.asarray(other_m, dtype=np.float64) - one_m
        length_m = np.linalg.norm(way_m, axis=-1, keepdims=True)
        return ~np.array(
            self.rt.mi_scene.ray_test(_rays(np.asarray(one_m), way_m / length_m, length_m[:, 0]))
        )

    def open_ground(self, station_m: np.ndarray, max_distance_m: float, cell_m: float = 1.0) -> OpenGround:
        """Looks for open ground around the station: see OpenGround.

        A cell is open where the ground is what one sees from above and nothing stands between the cell
        and its neighbours a metre above it: some walls have no roof.
        """
        import mitsuba as mi

        low, high = self.bounds_m()
        first_m = np.maximum(low[:2], station_m[:2] - max_distance_m)
        last_m = np.minimum(high[:2], station_m[:2] + max_distance_m)
        x, y = (np.arange(first_m[axis] + cell_m / 2, last_m[axis], cell_m) for axis in (0, 1))
        if not (x.size and y.size):
            return OpenGround(np.zeros((1, 1), dtype=bool), np.zeros((1, 1)), first_m, cell_m)
        place_m = np.stack([*np.meshgrid(x, y), np.full((len(y), len(x)), high[2] + 1)], axis=-1)
        down = np.broadcast_to([0.0, 0.0, -1.0], (place_m[..., 0].size, 3))
        hit = self.rt.mi_scene.ray_intersect(_rays(place_m.reshape(-1, 3), down))
        ground = mi.ShapePtr(self.rt.objects[self.ground].mi_mesh)
        is_open = np.array(hit.shape == ground).reshape(len(y), len(x))
        height_m = np.array(hit.p.z, dtype=np.float64).reshape(len(y), len(x))
        above_m = np.concatenate([place_m[..., :2], height_m[..., None] + _WALL_HEIGHT_M], axis=-1)
        is_free = is_open.copy()
        for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
            both = is_open[here] & is_open[there]
            blocked = np.zeros_like(both)
            blocked[both] = ~self.sees(above_m[here][both], above_m[there][both])
            is_free[here] &= ~blocked
            is_free[there] &= ~blocked
        is_free &= np.linalg.norm(place_m[..., :2] - station_m[:2], axis=-1) < max_distance_m
        return OpenGround(is_free, height_m, place_m[0, 0, :2], cell_m)


@dataclass(frozen=True)
class TracedPaths:
    """The paths from a station of M antennas to K places, the strongest first.

    gain: complex64 [K, M, P], linear amplitude without the phase of the carrier's delay, 0 where a
    place has fewer paths. source_m: float64 [K, P, 3], where the path seems to come from: the station or
    its mirror image, as far away as the path is long, in its direction of arrival.
    """

    gain: np.ndarray
    source_m: np.ndarray


class RayTracer:
    """Finds the paths between a station and any places in a scene.

    Line of sight, up to max_depth specular reflections, refractions through walls, and with them one
    diffraction at an edge; no diffuse scattering. All antennas are vertical and have no pattern; those of
    the station stand half a wavelength apart along y and see plane waves. Paths are found by launching
    num_rays from the station, always the same ones: a longer path over small surfaces may be missed.
    """

    def __init__(
        self,
        scene: Scene,
        station_m: np.ndarray,
        carrier_hz: float,
        num_antennas: int = 1,
        *,
        max_depth: int,
        reflection: bool,
        diffraction: bool,
        refraction: bool,
        num_rays: int,
    ) -> None:
        import sionna.rt as rt

        self._scene = scene
        self._station_m = station_m
        self._carrier_hz = carrier_hz
        self._num_antennas = num_antennas
        self._solver = rt.PathSolver(deterministic=True)
        self._settings = {
            "max_depth": max_depth,
            "specular_reflection": reflection,
            "diffraction": diffraction,
            "refraction": refraction,
            "samples_per_src": num_rays,
            "max_num_paths_per_src": _MAX_PATHS_AT_ONCE,
            "los": True,
            "diffuse_reflection": False,
            "synthetic_array": True,
            "seed": _SOLVER_SEED,
        }
        self._num_at_once = max(4, _LANES_AT_ONCE // (max(1, max_depth) * num_rays))

    def trace(self, place_m: np.ndarray) -> TracedPaths:
        """Traces the paths to K places [K, 3], so many at once as fit a bounded memory."""
        num_places = len(place_m)
        size = -(-num_places // -(-num_places // self._num_at_once))
        self._set_up(size)
        parts = []
        for start in range(0, num_places, size):
            part_m = place_m[start : start + size]
            # Kernels are compiled for a number of places: the last part is filled up.
            filled_m = np.concatenate([part_m, np.repeat(part_m[:1], size - len(part_m), axis=0)])
            parts.append(self._trace_part(filled_m.astype(np.float32), len(part_m)))
        num_paths = max(part.gain.shape[2] for part in parts)
        return TracedPaths(
            np.concatenate([_padded(part.gain, 2, num_paths) for part in parts]),
            np.concatenate([_padded(part.source_m, 1, num_paths) for part in parts]),
        )

    def _set_up(self, num_places: int) -> None:
        """Puts the station and so many receivers into the scene, which other tracers use as well."""
        import sionna.rt as rt

        scene = self._scene.rt
        for name in (*scene.transmitters, *scene.receivers):
            scene.remove(name)
        scene.frequency = self._carrier_hz
        for side, num_antennas in (("tx_array", self._num_antennas), ("rx_array", 1)):
            array = rt.PlanarArray(num_rows=1, num_cols=num_antennas, pattern="iso", polarization="V")
            setattr(scene, side, array)
        scene.add(rt.Transmitter("station", self._station_m.tolist()))
        for number in range(num_places):
            scene.add(rt.Receiver(f"device-{number}", [0.0, 0.0, 0.0]))

    def _trace_part(self, place_m: np.ndarray, num_wanted: int) -> TracedPaths:
        import drjit as dr
        import mitsuba as mi

        scene = self._scene.rt
        for number, position in enumerate(place_m.tolist()):
            # As plain numbers they would be part of the kernels, and each place would compile some anew.
            opaque = mi.Point3f(*(dr.opaque(mi.Float, coordinate) for coordinate in position))
            scene.receivers[f"device-{number}"].position = opaque
        paths = self._solver(scene, **self._settings)
        gain = (paths.a[0].numpy() + 1j * paths.a[1].numpy())[:num_wanted, 0, 0]  # [K, M, P]
        delay_s, zenith, azimuth = (
            getattr(paths, name).numpy()[:num_wanted, 0].astype(np.float64)
            for name in ("tau", "theta_r", "phi_r")
        )  # [K, P]
        power = (np.abs(gain) ** 2).sum(axis=1)
        power *= delay_s >= 0
        # The solver's threads store paths in any order: sums are the same only after sorting.
        order = np.lexsort((azimuth, zenith, delay_s, -power), axis=-1)
        floor = power.max(axis=1, initial=0.0, keepdims=True) * 10 ** (-_DROPPED_BELOW_DB / 10)
        kept = np.take_along_axis(power > floor, order, axis=1)
        num_kept = int(kept.sum(axis=1).max(initial=0))
        order, kept = order[:, :num_kept], kept[:, :num_kept]
        delay_s, zenith, azimuth = (np.take_along_axis(a, order, axis=1) for a in (delay_s, zenith, azimuth))
        gain = np.take_along_axis(gain, order[:, None], axis=2) * kept[:, None]
        length_m = SPEED_OF_LIGHT_M_PER_S * np.maximum(delay_s, 0)
        arrival = np.stack(
            [np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)], axis=-1
        )
        source_m = place_m[:num_wanted, None].astype(np.float64) + length_m[..., None] * arrival
        return TracedPaths(gain.astype(np.complex64), source_m)


@lru_cache(maxsize=5)
def load_scene(name: str, ground: str) -> Scene:
    """Loads one of Sionna RT's built-in scenes, of which `ground` is the object that one stands on.

    Raises SemcomError where no ray can be traced: see use_llvm.
    """
    rt = sionna_rt()
    return Scene(rt.load_scene(getattr(rt.scene, name), merge_shapes_exclude_regex=f"^{ground}$"), ground)


@lru_cache(maxsize=2)
def load_scene_file(path: str, ground: str) -> Scene:
    """Loads a scene from its XML file, in the format of Mitsuba 3 with Sionna RT's materials.

    Raises SemcomError where no ray can be traced (see use_llvm), and for a file that Sionna RT can't load
    or that has no object named `ground`.
    """
    rt = sionna_rt()
    try:
        scene = Scene(rt.load_scene(path, merge_shapes_exclude_regex=f"^{re.escape(ground)}$"), ground)
    except Exception as error:
        told = str(error).strip().split("\n", 1)[0]
        raise SemcomError(f"{path} is no scene that Sionna RT can load ({told})") from error
    if ground not in scene.rt.objects:
        raise SemcomError(
            f"{path} has no object named {ground}: set ground to what users stand on, "
            f"one of {', '.join(scene.rt.objects)}"
        )
    return scene


def use_threads(num_threads: int) -> None:
    """Makes Dr.Jit compute on so many threads, instead of one on each core; no bit depends on it."""
    sionna_rt()
    import drjit as dr

    dr.set_thread_count(num_threads)


def sionna_rt() -> Any:
    """Imports sionna.rt for the CPU.

    Raises SemcomError as use_llvm does, and where Mitsuba is set to another variant.
    """
    import mitsuba as mi

    if mi.variant() is None:
        use_llvm()
        mi.set_variant(_VARIANT)
    if mi.variant() != _VARIANT:
        raise SemcomError(
            f"Mitsuba's variant is {mi.variant()}, and rays are traced with {_VARIANT}: "
            f"leave the variant unset or call mitsuba.set_variant({_VARIANT!r})"
        )
    import sionna.rt

    return sionna.rt


def _rays(origin_m: np.ndarray, direction: np.ndarray, length_m: np.ndarray | None = None) -> Any:
    import mitsuba as mi

    origin, towards = (
        [mi.Float(np.ascontiguousarray(part[:, axis], dtype=np.float32)) for axis in range(3)]
        for part in (origin_m, direction)
    )
    ray: Any = mi.Ray3f(mi.Point3f(*origin), mi.Vector3f(*towards))
    if length_m is not None:
        length: Any = mi.Float(length_m.astype(np.float32))
        ray.maxt = length
    return ray


def _padded(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - array.shape[axis] if at == axis else 0) for at in range(array.ndim)])
