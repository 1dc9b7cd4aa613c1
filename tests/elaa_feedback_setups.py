"""Small near-field channels, and each kind of feedback fitted to them, for tests."""

from functools import cache
from typing import Any

import torch

from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa.feedback_codebook import fit_beam_feedback
from scenarios.elaa.feedback_path_fit import fit_path_codec
from scenarios.elaa.feedback_paths import Paths
from scenarios.elaa.feedback_transform import fit_dechirped_klt_feedback, fit_klt_feedback
from scenarios.elaa.line_array import LineArray
from semcom.rng import Streams

CONFIG = NearFieldConfig(num_elements=32, min_paths=2, max_paths=3)
ARRAY = LineArray.of(CONFIG)
MEAN_BITS = 48
KINDS = ("klt", "klt-dechirped", "beams", "paths")


def draw(num: int, purpose: str, config: NearFieldConfig = CONFIG) -> tuple[torch.Tensor, Paths]:
    """Channels complex64 [num, M] and the paths they are made of."""
    drawn = draw_channels(config, num, Streams(0).torch_generator(purpose))
    return drawn.h[:, 0, 0], Paths(drawn.gain, drawn.angle_rad[:, 0].sin(), 1 / drawn.distance_m[:, 0])


@cache
def fitted(kind: str) -> Any:
    """One kind of feedback, fitted to 600 channels."""
    h, paths = draw(600, "train")
    match kind:
        case "klt":
            return fit_klt_feedback(h, MEAN_BITS)
        case "klt-dechirped":
            return fit_dechirped_klt_feedback(ARRAY, h, MEAN_BITS, grids=((32, 4, 8), (64, 4, 8)))
        case "beams":
            return fit_beam_feedback(h, MEAN_BITS)
        case _:
            return fit_path_codec(ARRAY, paths, MEAN_BITS, max_paths=3)
