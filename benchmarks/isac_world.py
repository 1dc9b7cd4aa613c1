"""What a sensed room costs: time steps a second, and the ratio to Sionna's own way, which loads anew.

    python benchmarks/isac_world.py [--steps 240] [--one-by-one 5] [--workers 2] [--diffraction]

The room's default settings; bodies anywhere in the free floor, turned at random, seed 0. CSI and frames are
timed apart and together: in this process on one thread and on all cores, and on Ray workers of one thread
each, warmed up by a walk each. Sionna's way is a scene built for each step, its solver and paths.cfr(), and
Scene.render for each camera with as many samples a pixel, on all cores. All in turn in one run.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np

from channels.ray_tracer import sionna_rt, use_threads
from channels.response import resource_block_centres_hz
from channels.room import RoomConfig, Walk
from channels.room_generator import load_world
from channels.room_tracer import load_room, move_bodies
from nodes.cluster import Cluster
from scenarios.doctor import num_cores

SEED = 0
_FROM_WALLS_M = 0.4


def draw_walks(config: RoomConfig, num_steps: int, size: int) -> list[Walk]:
    """Walks of `size` steps with all bodies in the room, wherever a generator puts them."""
    generator = np.random.default_rng(SEED)
    walks = []
    for _ in range(-(-num_steps // size)):
        shape = size, config.max_pedestrians
        high_m = np.array([config.length_m, config.width_m]) - _FROM_WALLS_M
        position_m = generator.uniform(_FROM_WALLS_M, high_m, (*shape, 2))
        walks.append(Walk(position_m, generator.uniform(0, 2 * np.pi, shape)))
    return walks


def num_made(config: RoomConfig, num_threads: int, walk: Walk) -> int:
    """Makes a walk's CSI and frames and gives back how many steps it has."""
    use_threads(num_threads)
    room = load_world(config)
    room.frames(walk)
    return len(room.csi(walk))


def sionna_s(config: RoomConfig, walk: Walk) -> tuple[float, float]:
    """Seconds that Sionna takes for a step's CSI and for its frames, after one step to warm up."""
    rt = sionna_rt()
    import mitsuba as mi

    solver = rt.PathSolver(deterministic=True)
    offset_hz = resource_block_centres_hz(config.num_subcarriers, config.bandwidth_hz)
    frequencies = mi.Float(offset_hz.astype(np.float32))
    spent_s = np.zeros((len(walk.position_m), 2))
    for step, (position_m, heading_rad) in enumerate(zip(walk.position_m, walk.heading_rad, strict=True)):
        begin_s = time.perf_counter()
        scene = load_room(config)
        move_bodies(scene, config, position_m, heading_rad)
        paths = solver(
            scene, max_depth=config.max_depth, diffraction=config.diffraction,
            diffuse_reflection=config.body.scattering_coefficient > 0, samples_per_src=config.num_rays,
            max_num_paths_per_src=1 << 17, seed=1,
        )  # fmt: skip
        paths.cfr(frequencies=frequencies, normalize_delays=False, out_type="numpy")
        middle_s = time.perf_counter()
        for place_m, look in zip(config.cameras_m(), config.looks(), strict=True):
            camera = rt.Camera(place_m.tolist(), look_at=(place_m + look).tolist())
            scene.render(
                camera=camera, fov=config.field_of_view_deg, num_samples=config.samples_per_px,
                resolution=(config.frame_width_px, config.frame_height_px), show_devices=False,
                return_bitmap=True,
            )  # fmt: skip
        spent_s[step] = middle_s - begin_s, time.perf_counter() - middle_s
    csi_s, frames_s = spent_s[1:].mean(axis=0)
    return float(csi_s), float(frames_s)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=240, help="time steps that are timed")
    parser.add_argument("--one-by-one", type=int, default=5, help="time steps in Sionna's own way")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers of one thread each")
    parser.add_argument("--diffraction", action="store_true", help="with one diffraction at an edge")
    asked = parser.parse_args()
    config = RoomConfig(diffraction=asked.diffraction)
    size = config.num_steps
    walks = draw_walks(config, asked.steps + asked.workers * size, size)
    warm, timed = walks[: asked.workers], walks[asked.workers :]
    num_timed = len(timed) * size
    rates: dict[str, tuple[float, float, float]] = {}
    with Cluster(asked.workers) as cluster:
        cluster.map(partial(num_made, config, 1), warm)
        begin_s = time.perf_counter()
        sum(cluster.map(partial(num_made, config, 1), timed))
        together = num_timed / (time.perf_counter() - begin_s)
        rates[f"{asked.workers} workers of one thread"] = np.nan, np.nan, together
    for name, num_threads in (("one process, one thread", 1), ("one process, all cores", 0)):
        use_threads(num_threads or num_cores())
        room = load_world(config)
        room.csi(warm[0])
        room.frames(warm[0])
        marks = [time.perf_counter()]
        for make in (room.csi, room.frames):
            for walk in timed:
                make(walk)
            marks.append(time.perf_counter())
        csi_s, frames_s = np.diff(marks) / num_timed
        rates[name] = 1 / csi_s, 1 / frames_s, 1 / (csi_s + frames_s)
    some = Walk(*(part[: 1 + asked.one_by_one] for part in (warm[0].position_m, warm[0].heading_rad)))
    csi_s, frames_s = sionna_s(config, some)
    rates["Sionna, built for each step"] = 1 / csi_s, 1 / frames_s, 1 / (csi_s + frames_s)
    slowest = np.array(rates["Sionna, built for each step"])
    print(f"{'steps/s (ratio)':30}{'CSI':>16}{'frames':>16}{'both':>16}")
    for name, rate in rates.items():
        cells = (
            "" if np.isnan(value) else f"{value:.1f} ({value / slow:.1f})"
            for value, slow in zip(rate, slowest, strict=True)
        )
        print(f"{name:30}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
