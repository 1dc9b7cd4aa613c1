"""What a control step costs per device as their number grows: 1 to 1,000 devices over `nr`, inline.

    python benchmarks/control_scale.py [--devices 1 10 100 1000] [--steps 100]

The whole line is timed: rendering, encoding, quantising, scheduling, fading, link adaptation, block
errors, decoding, predicting, acting. Every device sends at every step, or at every fourth. The networks
have the default preset's size and hardly any training, on which no time depends.
"""

from __future__ import annotations

import argparse
import time

from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.control.config import TINY, ControlConfig
from scenarios.control.scenario import SCENARIO


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--steps", type=int, default=100)
    told = parser.parse_args()
    config = ControlConfig(dataset=TINY.dataset, training=TINY.training)
    config = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"num_steps": told.steps})}
    )
    job = next(job for job in SCENARIO.training_jobs(config, 0, "central") if job.model == "jepa")
    models = {job.key: SCENARIO.train(job).tensors}

    def seconds(num_devices: int, interval_steps: int) -> float:
        axes = {"update_interval_ms": 1e3 * config.plant.step_s * interval_steps,
                "scheduler": "round-robin", "num_devices": num_devices}  # fmt: skip
        begin = time.perf_counter()
        SCENARIO.simulate(config, [Point("sharing", "jepa", 0, axes)], models, Cluster())
        return time.perf_counter() - begin

    seconds(2, 1)  # imports, tables and the transport-block searches that later runs find done
    print(f"jepa over nr, round robin, inline, {told.steps} control steps")
    for interval in (1, 4):
        print(f"\nan update of every device in each {interval} step(s)\n")
        print(f"{'devices':>8} {'total (s)':>10} {'per device and step (us)':>26} {'ratio to the first':>19}")
        first = None
        for num_devices in told.devices:
            total = seconds(num_devices, interval)
            each = total / num_devices / told.steps
            first = each if first is None else first
            print(f"{num_devices:>8} {total:>10.2f} {1e6 * each:>26.1f} {each / first:>19.4f}")


if __name__ == "__main__":
    main()
