"""What near-field channels cost: channels a second, and the ratio to a plain sum in double precision.

    python benchmarks/near_field.py [--channels 20000] [--plain 1000] [--elements 256]

The default setting of NearFieldConfig (3 to 6 paths, one subcarrier and one snapshot) with so many elements,
seed 0: draws and channels, on one thread and on all cores. The plain way is the same sum over paths as
textbooks have it, complex128 for all users at once on all cores: the distance of each element, and exp(). All
in turn in one run, the best of five.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.near_field import NearFieldConfig, draw_channels, element_positions_m
from scenarios.doctor import num_cores
from semcom.rng import Streams

SEED = 0


def draw(config: NearFieldConfig, num: int) -> torch.Tensor:
    """Draws channels the library's way."""
    return draw_channels(config, num, Streams(SEED).torch_generator("benchmark")).h


def draw_plainly(config: NearFieldConfig, num: int) -> torch.Tensor:
    """Draws channels of the same distribution by the sum as it stands, complex128 [N, M]."""
    generator = Streams(SEED).torch_generator("benchmark")
    shape = (num, config.max_paths)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)

    count = torch.randint(config.min_paths, config.max_paths + 1, (num, 1), generator=generator)
    below_db = uniform(config.min_gap_db, config.max_gap_db)
    below_db[:, 0] = 0
    gain = 10 ** (-below_db / 20) * (torch.arange(config.max_paths) < count)
    gain = gain / gain.norm(dim=1, keepdim=True) * torch.exp(1j * uniform(0, 2 * math.pi))
    distance_m = uniform(config.min_distance_m, config.max_distance_m)
    angle_rad = uniform(-1, 1) * math.radians(config.max_angle_deg)
    place_m = torch.stack([distance_m * angle_rad.cos(), distance_m * angle_rad.sin()], dim=-1)
    away_m = (place_m[:, :, None] - element_positions_m(config)[:, :2]).norm(dim=-1)
    wavelength_m = SPEED_OF_LIGHT_M_PER_S / config.carrier_hz
    phasor = torch.exp(-2j * math.pi / wavelength_m * (away_m - distance_m[..., None]))
    return (gain[..., None] * phasor).sum(dim=1)


def rate(make: Callable[[NearFieldConfig, int], torch.Tensor], config: NearFieldConfig, num: int) -> float:
    """Channels a second, the best of five runs after one to warm up."""
    spent_s = []
    for _ in range(6):
        begin_s = time.perf_counter()
        make(config, num)
        spent_s.append(time.perf_counter() - begin_s)
    return num / min(spent_s[1:])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=20_000, help="channels that are timed")
    parser.add_argument("--plain", type=int, default=1000, help="channels in the plain way")
    parser.add_argument("--elements", type=int, default=256, help="elements of the array")
    asked = parser.parse_args()
    config = NearFieldConfig(num_elements=asked.elements)
    rates: dict[str, float] = {}
    for name, num_threads in (("one thread", 1), ("all cores", num_cores())):
        torch.set_num_threads(num_threads)
        rates[name] = rate(draw, config, asked.channels)
    rates["plain sum, all cores"] = rate(draw_plainly, config, asked.plain)
    slowest = rates["plain sum, all cores"]
    print(f"{'':28}{'channels/s':>12}{'ratio':>8}")
    for name, found in rates.items():
        print(f"{name:28}{found:12.0f}{found / slowest:8.1f}")


if __name__ == "__main__":
    main()
