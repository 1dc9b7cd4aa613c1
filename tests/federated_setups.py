"""A small JEPA among clients, for tests of collaborative training."""

import random

import numpy as np
import torch
from torch import nn

from channels.links.erasure import ErasureConfig, ErasureLink
from channels.links.ideal import IdealConfig, IdealLink
from nodes.training.air import Air
from nodes.training.federated import Federated
from nodes.training.federated_config import FederatedConfig
from semcom.distances import DISTANCES
from semcom.encoders import MlpEncoder
from semcom.jepa import Jepa
from semcom.latent_layers import LatentLayers
from semcom.predictors import FilmPredictor
from semcom.regularizers import VicReg
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.targets import EmaTarget
from semcom.train import Stage

NUM_SAMPLES, LENGTH, DIM = 48, 6, 5
PERFECT = Air(IdealLink(IdealConfig()), IdealLink(IdealConfig()))


def same_tensors(first, second, but=(), has_nan=False):
    """Whether named tensors are the same; but: how the names begin of those that don't matter.

    has_nan: NaN is like NaN.
    """
    return first.keys() == second.keys() and all(
        np.array_equal(
            first[name].numpy(),
            second[name].numpy(),
            equal_nan=has_nan and first[name].is_floating_point(),
        )
        for name in first
        if not name.startswith(tuple(but))
    )


def lossy(up, down=0.0):
    """Links that lose each packet with these probabilities, once for all: a step is all there is."""
    return Air(ErasureLink(ErasureConfig(probability=up)), ErasureLink(ErasureConfig(probability=down)))


def make_stage(num_steps=12, optimizer="adamw", seed=0, weights_seed=None):
    """A JEPA over short random walks, its module and all it needs."""
    generator = torch.Generator().manual_seed(7)
    action = torch.randn(NUM_SAMPLES, LENGTH, 1, generator=generator)
    x = torch.cumsum(action * torch.ones(DIM), dim=1) + 0.1 * torch.randn(
        NUM_SAMPLES, LENGTH, DIM, generator=generator
    )
    torch.manual_seed(seed if weights_seed is None else weights_seed)
    encoder = MlpEncoder(DIM, 3, 8)
    jepa = Jepa(
        encoder,
        FilmPredictor(3, 1, 8),
        VicReg(1.0, 0.04),
        DISTANCES["l2"],
        target=EmaTarget(encoder, 0.9, 1.0, num_steps),
    )
    samples = Samples(NUM_SAMPLES)

    def batch_loss(step, generator):
        rows = samples.draw((8,), generator)
        window = x[rows] + 0.05 * torch.randn(8, LENGTH, DIM, generator=generator)
        return jepa.loss(window, action[rows], 2, 3, generator)

    draws = Streams(seed).torch_generator("toy")
    return Stage(
        "encoder",
        jepa,
        batch_loss,
        num_steps,
        1e-2,
        draws,
        samples,
        jepa.update_target,
        optimizer,
        encoder,
        anchors=lambda: encoder(x[:, 2]),
        latent=latent_layers(jepa),
    )


def latent_layers(jepa):
    """The layers at the embeddings of the small JEPA."""
    online, slow, predictor = jepa.encoder, jepa.target.encoder, jepa.predictor
    return LatentLayers(
        (online.linear, slow.linear),
        (online.out, slow.out, predictor.linear, predictor.out),
        (predictor.linear, predictor.layers[0]),
    )


def two_stages(trainer, seed=0):
    """A training of two stages; the second's weights are drawn after the first, its batches go on from there.

    Returns tensors, rows, and what was drawn on the way.
    """
    with torch.random.fork_rng(devices=[]):
        first = make_stage(seed=seed, weights_seed=trainer.starting_seed(seed))
        log = trainer.fit(first)
        head = nn.Linear(3, 1)
        drawn = [float(torch.randn(())), random.random(), float(np.random.rand())]  # noqa: NPY002
        with torch.no_grad():
            z = first.module.encoder(torch.ones(48, 5) * torch.arange(48)[:, None] / 48)

        def batch_loss(step, generator):
            rows = first.samples.draw((8,), generator)
            return {"total": (head(z[rows]) - rows[:, None] / 48).square().mean()}

        log = log + trainer.fit(Stage("head", head, batch_loss, 7, 1e-2, first.generator, first.samples))
    drawn.append(float(torch.randn((), generator=first.generator)))
    model = {**first.module.state_dict(), **{f"head.{k}": v for k, v in head.state_dict().items()}}
    return {name: tensor.clone() for name, tensor in model.items()}, log, drawn


def shares(num_clients, num=NUM_SAMPLES):
    """The samples dealt out in runs."""
    return list(torch.arange(num).chunk(num_clients))


def federated(num_clients=4, air=PERFECT, scratch=None, seed=0, **told):
    """A trainer among clients."""
    config = FederatedConfig.model_validate({"local_steps": 3, **told})
    return Federated(config, lambda samples: shares(num_clients), Streams(seed), air, scratch)


def weights(stage):
    """What a stage has left."""
    return {name: tensor.clone() for name, tensor in stage.module.state_dict().items()}
