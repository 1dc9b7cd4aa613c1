"""The path codec for a number of bits: how large its steps are, and how they compare."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from scenarios.elaa.feedback_paths import PathCodec, Paths, PathSteps
from scenarios.elaa.line_array import LineArray
from semcom.contracts import SemcomError

_SIZES = 1e-5, 10.0
_NUM_HALVINGS = 20
_FACTORS = (0.7, 1.4)
_NUM_SWEEPS = 3
_WHOLE_BYTES_BITS = 2.5
"""What a payload costs more than its entropy, about: it has a whole number of bytes."""


def fit_path_codec(array: LineArray, paths: Paths, mean_bits: float, max_paths: int = 8) -> PathCodec:
    """Returns the codec whose payloads of training paths [N, P] take mean_bits on average, in whole bytes.

    For any factors of the steps their size follows from the bits; the factors are moved one by one to what
    gives the least NMSE of the paths' channels. Raises SemcomError for too few bits, or no paths.
    """
    codec = PathCodec(array, max_paths, PathSteps(1.0), paths)
    target = mean_bits - _WHOLE_BYTES_BITS
    if target <= 0:
        raise SemcomError(f"mean_bits {mean_bits:g} is too few for paths: take more than {_WHOLE_BYTES_BITS}")
    h = paths.channels(array)
    power = h.abs().square().sum(dim=1)

    def sized(steps: PathSteps, target_bits: float) -> PathSteps:
        low, high = _SIZES
        for _ in range(_NUM_HALVINGS):
            size = (low * high) ** 0.5
            cost = float(codec.with_steps(replace(steps, size=size)).entropy_bits(paths).mean())
            low, high = (size, high) if cost > target_bits else (low, size)
        return replace(steps, size=high)

    def tried(steps: PathSteps) -> tuple[float, PathSteps]:
        steps = sized(steps, target)
        error = (codec.with_steps(steps)(paths) - h).abs().square().sum(dim=1)
        return float((error / power).mean()), steps

    best = tried(codec.steps)
    factors = [field.name for field in fields(PathSteps) if field.name != "size"]
    for _ in range(_NUM_SWEEPS):
        before = best[0]
        for name in factors:
            for factor in _FACTORS:
                moved = tried(replace(best[1], **{name: getattr(best[1], name) * factor}))
                best = min(best, moved, key=lambda one: one[0])
        if best[0] == before:
            break
    tuned = codec.with_steps(best[1])
    spent = float(np.mean([8 * len(payload) for payload in tuned.encode(paths)]))
    return codec.with_steps(sized(best[1], target + mean_bits - spent))
