"""The channels between several planar arrays and any places in a scene, on all subcarriers at once.

Beside ray_tracer.py the only file that imports sionna.rt: that one follows the paths of one station as its
devices move, this one sums the paths of several arrays at every place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from channels.ray_tracer import Scene
from channels.response import resource_block_centres_hz

# Slots of a hash table for each place and array. Of chains of walls and edges that share a slot the solver
# keeps one: in Munich no path is lost by that with 10,000 rays from each array, one in 200 with 50,000.
_SLOTS_PER_PLACE = 1 << 18
_MAX_PATHS_AT_ONCE = 1 << 17
_SOLVER_SEED = 1
# So many paths are summed by one product of matrices: the order of a sum is the same however many there are.
_PATHS_PER_SUM = 64
# More places at once are hardly faster. Rays times bounces times places times arrays: the solver takes some
# 50 bytes for each.
_MAX_PLACES_AT_ONCE = 32
_LANES_AT_ONCE = 4_800_000


class ArrayTracer:
    """Finds the channels between R arrays and any places.

    The arrays have rows x columns places half a wavelength apart, each with one vertical antenna (V) or
    with two at -45 and +45 degrees (cross), and face a point: their normal leads there, their rows stay
    horizontal. Users have one vertical antenna without a pattern. Paths are those of RayTracer.
    """

    def __init__(
        self,
        scene: Scene,
        array_m: np.ndarray,
        facing_m: np.ndarray,
        carrier_hz: float,
        *,
        num_rows: int,
        num_columns: int,
        polarisation: Literal["V", "cross"],
        pattern: Literal["iso", "tr38901"],
        max_depth: int,
        reflection: bool,
        diffraction: bool,
        refraction: bool,
        num_rays: int,
    ) -> None:
        import sionna.rt as rt

        self._scene = scene
        self._array_m, self._facing_m = array_m, facing_m
        self._carrier_hz = carrier_hz
        self._shape = (2 if polarisation == "cross" else 1, num_columns, num_rows)
        lanes = max(1, max_depth) * num_rays * len(array_m)
        self._num_at_once = max(1, min(_MAX_PLACES_AT_ONCE, _LANES_AT_ONCE // lanes))
        self._arrays = {
            "tx_array": rt.PlanarArray(
                num_rows=num_rows, num_cols=num_columns, pattern=pattern, polarization=polarisation
            ),
            "rx_array": rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V"),
        }
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

    def csi(self, place_m: np.ndarray, num_subcarriers: int, bandwidth_hz: float) -> np.ndarray:
        """Channels at N places [N, 3]: complex64 [N, R, rows, columns, F], 0 where there is no path.

        H[f] = sum_p a_p exp(-j 2 pi (f_c + f) tau_p), f the centres of F equal parts of the bandwidth. Of
        two polarisations, column 2c is that of -45 degrees in the c-th column and 2c + 1 that of +45. Rows
        count from above, columns from the right as the array looks.
        """
        size = -(-len(place_m) // -(-len(place_m) // self._num_at_once))
        self._set_up(size)
        parts = []
        for start in range(0, len(place_m), size):
            part_m = place_m[start : start + size]
            # Kernels are compiled for a number of places: the last part is filled up.
            filled_m = np.concatenate([part_m, np.repeat(part_m[:1], size - len(part_m), axis=0)])
            gain, delay_s = sorted_paths(self._solve(filled_m))
            response = sum_paths(gain, delay_s, self._carrier_hz, num_subcarriers, bandwidth_hz)
            parts.append(response[: len(part_m)])
        # Sionna counts polarisations, columns and rows, these the fastest.
        csi = np.concatenate(parts).reshape(-1, len(self._array_m), *self._shape, num_subcarriers)
        num_polarisations, num_columns, num_rows = self._shape
        return csi.transpose(0, 1, 4, 3, 2, 5).reshape(
            -1, len(self._array_m), num_rows, num_columns * num_polarisations, num_subcarriers
        )

    def _set_up(self, num_places: int) -> None:
        """Puts the arrays and receivers into the scene, which other tracers use as well."""
        import mitsuba as mi
        import sionna.rt as rt

        scene = self._scene.rt
        for name in (*scene.transmitters, *scene.receivers):
            scene.remove(name)
        scene.frequency = self._carrier_hz
        for side, array in self._arrays.items():
            setattr(scene, side, array)
        for number, place_m in enumerate(self._array_m.tolist()):
            facing: Any = mi.Point3f(*self._facing_m.tolist())
            scene.add(rt.Transmitter(f"array-{number}", place_m, look_at=facing))
        for number in range(num_places):
            scene.add(rt.Receiver(f"user-{number}", [0.0, 0.0, 0.0]))

    def _solve(self, place_m: np.ndarray) -> Any:
        import drjit as dr
        import mitsuba as mi

        scene = self._scene.rt
        for number, position in enumerate(place_m.tolist()):
            # As plain numbers they would be part of the kernels, and each place would compile some anew.
            opaque = mi.Point3f(*(dr.opaque(mi.Float, coordinate) for coordinate in position))
            scene.receivers[f"user-{number}"].position = opaque
        with slots_of_their_own(len(place_m)):
            return self._solver(scene, **self._settings)


@contextmanager
def slots_of_their_own(num_places: int) -> Iterator[None]:
    """Gives each place its own part of the hash table in which Sionna's solver looks for double candidates.

    All places share the table otherwise, a million slots of it: whether a path is found then hangs on which
    other places are traced with it, and of 64 places in Munich one path in twenty is lost. Here a
    place's paths are the same in any company, and what is lost is the same chain at neighbouring places.
    """
    from sionna.rt.path_solvers import sb_deterministic

    def slot(place: Any, chain_hash: Any, num_slots: int, array: Any) -> Any:
        return chain_hash % _SLOTS_PER_PLACE + _SLOTS_PER_PLACE * place + num_slots * array

    generator = sb_deterministic.SBCandidateGenerator
    before = generator.MIN_SPEC_COUNT_SIZE, sb_deterministic.hash_for_target
    generator.MIN_SPEC_COUNT_SIZE = max(_MAX_PATHS_AT_ONCE, num_places * _SLOTS_PER_PLACE)
    sb_deterministic.hash_for_target = slot
    try:
        yield
    finally:
        generator.MIN_SPEC_COUNT_SIZE, sb_deterministic.hash_for_target = before


def sorted_paths(paths: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gains, complex64 [K, R, M, P], and delays, float64 [K, R, P], of Sionna's paths, the strongest first.

    The solver's threads store paths in any order: sums are the same only after sorting.
    """
    gain = (paths.a[0].numpy() + 1j * paths.a[1].numpy())[:, 0]  # [K, R, M, P]
    delay_s, zenith, azimuth = (
        getattr(paths, name).numpy().astype(np.float64) for name in ("tau", "theta_t", "phi_t")
    )
    power = (np.abs(gain) ** 2).sum(axis=2) * (delay_s >= 0)
    order = np.lexsort((azimuth, zenith, delay_s, -power), axis=-1)
    gain = np.take_along_axis(gain * (power > 0)[:, :, None], order[:, :, None], axis=3)
    return gain.astype(np.complex64), np.take_along_axis(delay_s, order, axis=-1).clip(0)


def sum_paths(
    gain: np.ndarray, delay_s: np.ndarray, carrier_hz: float, num_subcarriers: int, bandwidth_hz: float
) -> np.ndarray:
    """H[f] = sum_p a_p exp(-j 2 pi (f_c + f) tau_p) of gains [..., M, P] and delays [..., P].

    f: see ArrayTracer.csi. Returns complex64 [..., M, F]; phases are computed in float64. The F phasors of a
    path are products of about sqrt(F) coarse and sqrt(F) fine ones.
    """
    num_fine = int(np.ceil(np.sqrt(num_subcarriers)))
    offset_hz = resource_block_centres_hz(num_subcarriers, bandwidth_hz)
    fine_hz = np.arange(num_fine) * bandwidth_hz / num_subcarriers
    coarse = _turned(delay_s, carrier_hz + offset_hz[::num_fine])
    products = coarse[..., None] * _turned(delay_s, fine_hz)[..., None, :]
    phasor = products.reshape(*delay_s.shape, coarse.shape[-1] * num_fine)
    num_paths = delay_s.shape[-1]
    filled = -(-num_paths // _PATHS_PER_SUM) * _PATHS_PER_SUM - num_paths
    gain = np.pad(gain, [(0, 0)] * (gain.ndim - 1) + [(0, filled)])
    phasor = np.pad(phasor, [(0, 0)] * (phasor.ndim - 2) + [(0, filled), (0, 0)])
    response = np.zeros((*gain.shape[:-1], phasor.shape[-1]), dtype=np.complex64)
    for first in range(0, num_paths + filled, _PATHS_PER_SUM):
        some = slice(first, first + _PATHS_PER_SUM)
        response += gain[..., some] @ phasor[..., some, :]
    return response[..., :num_subcarriers]


def _turned(delay_s: np.ndarray, frequency_hz: np.ndarray) -> np.ndarray:
    cycles = delay_s[..., None] * frequency_hz
    return np.exp(-2j * np.pi * (cycles - np.rint(cycles))).astype(np.complex64)
