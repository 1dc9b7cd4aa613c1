"""A scope in which Sionna draws from a seed of its own and after which nobody's generators have moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def sionna_scope(seed: int) -> Iterator[None]:
    """Seeds Sionna for the duration of a `with` block, on the CPU and in single precision.

    seed: 0 .. 2^64 - 1. Sionna keeps one process-wide configuration, and setting its seed also reseeds
    torch's default generators. On leaving, its seed, device, precision and the state of its generators,
    and the state of torch's default generators (CPU and CUDA), are what they were on entering.
    """
    from sionna.phy import config

    devices = config.available_devices
    seed_before, device_before, precision_before = config.seed, config.device, config.precision
    states_before = {device: config.torch_rng(device).get_state() for device in devices}
    numpy_before = config.np_rng.bit_generator.state
    python_before = config.py_rng.getstate()
    torch_before = torch.get_rng_state()
    # CUDA is asked only where Sionna itself would reseed it, or a CPU-only run would start a CUDA context.
    cuda_before = torch.cuda.get_rng_state_all() if len(devices) > 1 else []
    try:
        # A GPU's generator gives other numbers, and records must not depend on who has one.
        config.device = "cpu"
        config.precision = "single"
        config.seed = seed
        yield
    finally:
        config.device = device_before
        config.precision = precision_before
        config.seed = seed_before
        for device, state in states_before.items():
            config.torch_rng(device).set_state(state)
        config.np_rng.bit_generator.state = numpy_before
        config.py_rng.setstate(python_before)
        torch.set_rng_state(torch_before)
        if cuda_before:
            torch.cuda.set_rng_state_all(cuda_before)
