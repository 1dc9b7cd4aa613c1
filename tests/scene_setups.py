"""A small ray-traced channel for tests, by a name that Ray's workers can import."""

import numpy as np

from channels.catalogue import make_channel
from channels.grid import GridConfig, ResourceGrid
from channels.scenes import RayTracedConfig
from semcom.rng import Streams

CANYON = RayTracedConfig(model="street-canyon", num_rays=5000, max_depth=2, speed_m_per_s=10.0)


def sinr(steps: list[int], num_devices: int = 10) -> dict[int, np.ndarray]:
    """SINR at each of the steps, asked for in that order, of a channel made anew."""
    channel = make_channel(CANYON, ResourceGrid(GridConfig()), num_devices, 100, 0.02, Streams(7))
    return {step: channel.sinr(step) for step in steps}
