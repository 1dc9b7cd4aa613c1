"""A bottleneck trained for a moment on a small array, for tests."""

from functools import cache

from elaa_setups import ARRAY, draw_some, small_inputs

from scenarios.elaa.bottleneck import BottleneckConfig, BottleneckModel
from scenarios.elaa.bottleneck_codec import BottleneckFeedback, RateControl
from scenarios.elaa.bottleneck_training import train_bottleneck
from scenarios.elaa.observations import Observed

TOLD = BottleneckConfig(num_steps_pretraining=10, num_steps=30, num_steps_density=20, depth=1)
MEAN_BITS = 64


@cache
def trained() -> BottleneckModel:
    """Its network."""
    return train_bottleneck(0, draw_some(), ARRAY, small_inputs(), TOLD)[0]


def observed(num: int = 40, seed: int = 9) -> Observed:
    """Channels that it was not trained on: parts of the array, all SNRs."""
    return draw_some(max(num, 16), seed=seed).observed[:num]


@cache
def _control() -> RateControl:
    return RateControl(trained(), ARRAY, observed(60, seed=5))


@cache
def feedback(mean_bits: float = MEAN_BITS) -> BottleneckFeedback:
    """The codec at a number of bits, set on other channels."""
    return _control().feedback(mean_bits)
