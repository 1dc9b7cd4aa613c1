"""What an estimate of a partly visible array costs: microseconds in one thread, and the ratio to NOMP.

    python benchmarks/elaa_cost.py [--elements 64 128 256 512] [--channels 512] [--slow 128] [--share 0.5]
        [--snr-db 10]

Batches of channels, of which half (or --share) of the elements is visible, by every method in turn in one
run, the best of ten rounds in processor time. The learned models have random weights, which cost the same as
trained ones and estimate nothing; the hybrid's time has NOMP's in it. --slow: channels of LMMSE, NOMP, polar
OMP (at 256 elements alone) and the hybrid, a whole number of their own batches of 64. Nothing is tuned.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VISIBLE_ABOVE, BlockVisibility, draw_visibility
from scenarios.elaa.dictionaries import polar_dictionary
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.linear import fit_lmmse, least_squares
from scenarios.elaa.models import CsiModel, LearnedEstimator, ModelConfig
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.patches import Patches
from scenarios.elaa.pursuit import Pursuit
from semcom.rng import Streams

SEED, NUM_ROUNDS, NUM_TRAINING = 0, 10, 1000
POLAR_ELEMENTS = 256
"""The polar dictionary grows with the cube of the array: larger ones take gigabytes."""
Estimate = Callable[[Observed], torch.Tensor]


def methods(config: NearFieldConfig, num_slow: int) -> dict[str, tuple[Estimate, int | None]]:
    """Estimators by name, and how many channels each is given: all where None."""
    array, model_config = LineArray.of(config), ModelConfig()
    patches = Patches(config, model_config.patch_size)
    torch.manual_seed(SEED)
    model = CsiModel(model_config, patches).eval()
    combiner = PathCombiner(model_config, patches.num_patches).eval()
    nomp = Nomp(array, nomp_prior(array))
    training = draw_channels(config, NUM_TRAINING, Streams(SEED).torch_generator("training")).h[:, 0, 0]
    pure = LearnedEstimator(model, config, model_config.patch_size)
    hybrid = HybridEstimator(model, combiner, nomp, config, model_config.patch_size)
    found: dict[str, tuple[Estimate, int | None]] = {
        "LS, zero fill": (least_squares, None),
        "LMMSE": (fit_lmmse(training).estimate, num_slow),
        "NOMP": (nomp.estimate, num_slow),
        "pure model": (pure.estimate, None),
        "hybrid": (hybrid.estimate, num_slow),
    }
    if config.num_elements == POLAR_ELEMENTS:
        found["polar OMP"] = (Pursuit(polar_dictionary(array)).estimate, num_slow)
    return found


def costs_us(config: NearFieldConfig, observed: Observed, num_slow: int) -> dict[str, float]:
    """Microseconds of processor time per estimate, the best of rounds after one to warm up."""
    asked = methods(config, num_slow)
    best = dict.fromkeys(asked, math.inf)
    for number in range(NUM_ROUNDS + 1):
        for name, (estimate, num) in asked.items():
            given = observed[: num or len(observed)]
            begin_s = time.process_time()
            estimate(given)
            spent_us = (time.process_time() - begin_s) / len(given) * 1e6
            best[name] = min(best[name], spent_us) if number else math.inf
    return best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--elements", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--channels", type=int, default=512, help="channels of the fast methods")
    parser.add_argument("--slow", type=int, default=128, help="channels of the slow ones")
    parser.add_argument("--share", type=float, default=0.5, help="visible share of the array")
    parser.add_argument("--snr-db", type=float, default=10.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'elements':>8}  {'method':16}{'us':>10}{'NOMP / it':>12}")
    for num_elements in asked.elements:
        config, streams = NearFieldConfig(num_elements=num_elements), Streams(SEED)
        h = draw_channels(config, asked.channels, streams.torch_generator("channels")).h[:, 0, 0]
        amplitude = draw_visibility(
            BlockVisibility(share=asked.share), config, len(h), streams.torch_generator("visibility")
        )
        observed = observe(h, amplitude > VISIBLE_ABOVE, asked.snr_db, streams.torch_generator("noise"))
        costs = costs_us(config, observed, asked.slow)
        for name, cost in sorted(costs.items(), key=lambda each: each[1]):
            print(f"{num_elements:8}  {name:16}{cost:10.1f}{costs['NOMP'] / cost:12.1f}", flush=True)


if __name__ == "__main__":
    main()
