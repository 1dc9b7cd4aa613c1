"""A small array with a few training examples, for the tests of learned estimates."""

import torch

from channels.near_field import NearFieldConfig
from scenarios.elaa.examples import ExampleConfig, draw_examples, training_visibilities
from scenarios.elaa.features import Dechirper
from scenarios.elaa.models import ModelConfig
from scenarios.elaa.patches import Patches
from scenarios.elaa.task import TrainingConfig, TrainingInputs
from semcom.rng import Streams

ARRAY = NearFieldConfig(num_elements=64)
PATCH_SIZE = 8
PATCHES = Patches(ARRAY, PATCH_SIZE)
MODEL = ModelConfig(
    patch_size=PATCH_SIZE, dim=16, depth=1, predictor_dim=8, predictor_depth=1, combiner_dim=16
)

SHORT = ("--preset", "tiny", "--seeds", "1", "--workers", "0")
NOTHING = tuple(
    f"evaluation.{name}=[]"
    for name in (
        "methods",
        "unknown_methods",
        "noisy_methods",
        "size_methods",
        "forecasters",
        "band_methods",
        "feedbacks",
        "air_methods",
    )
)


def only(*settings: str) -> list[str]:
    """Settings of a command that asks for these results and no others."""
    keys = {setting.partition("=")[0] for setting in settings}
    return [*(each for each in NOTHING if each.partition("=")[0] not in keys), *settings]


def small_inputs(**training):
    steps = {
        "num_steps_pretraining": 12,
        "num_steps_decoder": 10,
        "num_steps_tuning": 12,
        "num_steps_combiner": 12,
    }
    return TrainingInputs(MODEL, TrainingConfig(batch_size=16, combiner_batch_size=16, **steps | training))


def draw_some(num=200, seed=3, **config):
    return draw_examples(
        ARRAY,
        ExampleConfig(num_examples=num, **config),
        training_visibilities(PATCH_SIZE),
        PATCHES,
        Dechirper(ARRAY),
        Streams(seed),
    )


def random_channels(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, ARRAY.num_elements, dtype=torch.complex64, generator=generator)
