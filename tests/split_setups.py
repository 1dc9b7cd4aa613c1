"""Split trainings of a small JEPA, for tests."""

import dataclasses

from federated_setups import PERFECT, make_stage, shares

from nodes.training.split import Split
from nodes.training.split_config import SplitConfig
from nodes.training.split_stage import SplitStage
from nodes.training.updates import Float32Update
from semcom.rng import Streams

LOSSLESS = {
    "embedding": Float32Update(), "gradient": Float32Update(), "encoder": Float32Update(), "turn_steps": 10,
}  # fmt: skip


def split_stage(**told):
    """The stage of tests.federated_setups, with its encoder on devices."""
    stage = make_stage(**told)
    return dataclasses.replace(stage, on_device=stage.module.encoder)


def split(num_clients=1, air=PERFECT, scratch=None, seed=0, **told):
    """A trainer of devices and a base station, without loss in its codecs unless told otherwise."""
    config = SplitConfig(**{**LOSSLESS, **told})
    streams = Streams(seed).substream("collaboration")
    return Split(
        config, lambda samples: shares(num_clients, samples.num_all), streams, air, num_clients, scratch
    )


def running(trainer, stage):
    """A stage of a trainer, to be looked into."""
    return SplitStage(
        trainer.config, stage, trainer.shares(stage.samples), trainer.streams, trainer.air, trainer.ledger
    )
