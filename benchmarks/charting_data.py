"""What a data set of CSI costs: positions a second, and the ratio to Sionna's own frequency responses.

    python benchmarks/charting_data.py [--positions 600] [--one-by-one 20] [--workers 2]

Munich with the default settings: four arrays of 2 x 4 antennas, 64 subcarriers. Positions come out of the
same chunks as a data set's, on Ray workers of one thread each and in this process on all cores, warmed up
by a chunk each. Sionna's are its solver and paths.cfr() with the same scene, arrays and rays for one
position at a time, on all cores; the ratios are those of positions a second. All in turn in one run.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np

from channels.csi_generator import Chunk, make_chunk, plan_chunks
from channels.csi_scene import CsiSceneConfig
from channels.ray_tracer import load_scene, use_threads
from channels.response import resource_block_centres_hz
from nodes.cluster import Cluster

SEED = 0


def num_made(num_threads: int, chunk: Chunk) -> int:
    """Makes a chunk and gives back how many positions it holds, without their channels."""
    use_threads(num_threads)
    return len(make_chunk(chunk).csi)


def sionna_s(config: CsiSceneConfig, place_m: np.ndarray, num_warm: int) -> float:
    """Seconds that Sionna takes for a position: its own solver and cfr(), written out."""
    scene = load_scene("munich", "ground").rt
    import drjit as dr
    import mitsuba as mi
    import sionna.rt as rt

    for name in (*scene.transmitters, *scene.receivers):
        scene.remove(name)
    scene.frequency = config.carrier_hz
    scene.tx_array = rt.PlanarArray(
        num_rows=config.num_rows, num_cols=config.num_columns, pattern=config.pattern, polarization="V"
    )
    scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    facing = mi.Point3f(*config.area_centre_m(), 0.0)
    for number, array_m in enumerate(config.arrays_m().tolist()):
        scene.add(rt.Transmitter(f"array-{number}", array_m, look_at=facing))
    scene.add(rt.Receiver("user", [0.0, 0.0, 0.0]))
    solver = rt.PathSolver(deterministic=True)
    offset_hz = resource_block_centres_hz(config.num_subcarriers, config.bandwidth_hz)
    frequencies = mi.Float(offset_hz.astype(np.float32))
    begin_s = 0.0
    for number, position in enumerate(place_m.tolist()):
        if number == num_warm:
            begin_s = time.perf_counter()
        # As plain numbers they would be compiled into kernels, which costs seconds a position.
        scene.receivers["user"].position = mi.Point3f(*(dr.opaque(mi.Float, value) for value in position))
        paths = solver(
            scene, max_depth=config.max_depth, diffraction=config.diffraction, refraction=False,
            samples_per_src=config.num_rays, max_num_paths_per_src=100_000, seed=1,
        )  # fmt: skip
        paths.cfr(frequencies=frequencies, normalize_delays=False, out_type="numpy")
    return (time.perf_counter() - begin_s) / (len(place_m) - num_warm)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positions", type=int, default=600, help="positions that are timed")
    parser.add_argument(
        "--one-by-one", type=int, default=20, help="positions that Sionna's cfr() is timed for"
    )
    parser.add_argument("--workers", type=int, default=2, help="Ray workers of one thread each")
    asked = parser.parse_args()
    config = CsiSceneConfig()
    num_chunks = -(-asked.positions // config.num_steps)
    chunks = plan_chunks(config, SEED)[: asked.workers + num_chunks]
    rates: dict[str, float] = {}
    with Cluster(asked.workers) as cluster:
        cluster.map(partial(num_made, 1), chunks[: asked.workers])
        begin_s = time.perf_counter()
        made = sum(cluster.map(partial(num_made, 1), chunks[asked.workers :]))
        rates[f"{asked.workers} workers of one thread"] = made / (time.perf_counter() - begin_s)
    warm = make_chunk(chunks[0])
    begin_s = time.perf_counter()
    made = sum(len(make_chunk(chunk).csi) for chunk in chunks[asked.workers :])
    rates["one process, all cores"] = made / (time.perf_counter() - begin_s)
    num_warm = 5
    some_m = warm.position_m[: num_warm + asked.one_by_one]
    rates["Sionna's cfr(), one by one"] = 1 / sionna_s(config, some_m, num_warm)
    slowest = rates["Sionna's cfr(), one by one"]
    print(f"{'':28}{'positions/s':>12}{'ratio':>8}")
    for name, rate in rates.items():
        print(f"{name:28}{rate:12.1f}{rate / slowest:8.1f}")


if __name__ == "__main__":
    main()
