"""What a central unit has to learn from: sub-arrays' embeddings, rounded in steps of all sizes, and lost."""

from __future__ import annotations

import math

import torch

from scenarios.elaa.local_wave import embed_wave, rebuild_wave
from scenarios.elaa.methods import Patch
from scenarios.elaa.observations import Observed
from semcom.rng import Streams

_LEAST_STEP, _LARGEST_STEP, _NUM_STEPS = 0.02, 0.8, 16
_LOSSY_SHARE, _MOST_ERASED = 0.5, 0.4
_PATCHES_AT_ONCE = 4096


def over_the_fronthaul(
    observed: Observed, subarray_size: int, streams: Streams, purpose: str = "elaa fronthaul"
) -> Observed:
    """Embeds, rounds, loses and rebuilds what sub-arrays received: what the central unit has of it.

    The numbers of a channel's embeddings are rounded to multiples of one step, one of _NUM_STEPS from
    _LEAST_STEP to _LARGEST_STEP, so that one network serves codecs of all rates. Half of the channels lose
    reports, with a probability from 0 to _MOST_ERASED, but never all of them: lost ones are hidden. To the
    noise comes the mean square error of rebuilding at the channel's step. purpose: names the random stream.
    """
    generator = streams.torch_generator(purpose)
    num = len(observed)
    seen = observed.visible.unflatten(1, (-1, subarray_size))
    y = observed.y.unflatten(1, (-1, subarray_size))
    level = torch.randint(0, _NUM_STEPS, (num,), generator=generator)
    ratio = math.log(_LARGEST_STEP / _LEAST_STEP)
    step = _LEAST_STEP * (ratio * level / (_NUM_STEPS - 1)).exp()
    user, place = seen.any(dim=2).nonzero(as_tuple=True)
    rebuilt = torch.zeros_like(y)
    for some, where in zip(user.split(_PATCHES_AT_ONCE), place.split(_PATCHES_AT_ONCE), strict=True):
        z = embed_wave(Patch(y[some, where], seen[some, where], observed.noise_var[some], where))
        rebuilt[some, where] = rebuild_wave((z / step[some, None]).round() * step[some, None])
    error = ((rebuilt - y).abs().square() * seen).sum(dim=(1, 2))
    of_level = torch.zeros(_NUM_STEPS).index_add(0, level, error)
    met = torch.zeros(_NUM_STEPS).index_add(0, level, seen.sum(dim=(1, 2)).float())
    noise_var = observed.noise_var + (of_level / met.clamp_min(1))[level]
    arrived = _arrived(seen.any(dim=2), generator)
    known = (seen & arrived[:, :, None]).flatten(1)
    return Observed(torch.where(known, rebuilt.flatten(1), 0), known, noise_var)


def _arrived(sent: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Which of the reports that were sent arrive, bool [N, L]: one of each channel at least."""
    num = len(sent)
    lossy = torch.rand(num, 1, generator=generator) < _LOSSY_SHARE
    probability = _MOST_ERASED * torch.rand(num, 1, generator=generator) * lossy
    luck = torch.where(sent, torch.rand(sent.shape, generator=generator), -1.0)
    best = luck == luck.amax(dim=1, keepdim=True)
    return sent & ((luck >= probability) | best)
