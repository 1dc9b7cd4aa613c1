"""Turned latent spaces: what a model reads off and predicts in them stays; clients that grew apart agree."""

import math

import pytest
import torch
from federated_setups import latent_layers as toy_layers
from federated_setups import make_stage

from nodes.training.alignment import Alignment
from nodes.training.turns import TURN_HEADER_BITS, absorb_turn, decode_turn, encode_anchors, find_turns
from scenarios.charting.features import FeatureConfig
from scenarios.charting.models import ArrayModel, ModelConfig, SequenceEncoder
from scenarios.charting.training import latent_layers
from semcom.contracts import SemcomError
from semcom.predictors import rollout
from semcom.targets import EmaTarget

NUM_ARRAYS, DIM = 3, 4


def _parts(num, dim, seed=1):
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(num):
        rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
        shifts = torch.randn(2, dim, generator=generator, dtype=torch.float64)
        parts.append(Alignment(rotation, 1.0, *shifts, math.nan, True))
    return parts


@torch.no_grad()
def _drawn(module, seed=0):
    """Gives every weight a value: none that starts at zero may hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(
            torch.randn(parameter.shape, generator=generator) / max(1, parameter.shape[-1]) ** 0.5
        )
    return module


def _charting_model():
    torch.manual_seed(0)
    model = ArrayModel(
        ModelConfig(embedding_dim=DIM, hidden_dim=8, head_dim=8, predictor_dim=8),
        FeatureConfig(),
        (NUM_ARRAYS, 8, 32),
        1,
        with_predictor=True,
    )
    _drawn(model.encoder)
    _drawn(model.head, 1)
    return model, _drawn(EmaTarget(SequenceEncoder(model.encoder)), 2), _drawn(model.predictor, 3)


@torch.no_grad()
def test_a_turned_charting_model_charts_and_predicts_as_before():
    model, target, predictor = _charting_model()
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(7, 5, NUM_ARRAYS, model.features.output_dim, generator=generator)
    u = torch.randn(7, 3, 2, generator=generator)

    def results():
        z = SequenceEncoder(model.encoder)(features)
        ahead = [*rollout(predictor, z[:, 0], u)]
        charts = [model.head(each) for each in (z, *ahead)]
        return z, target(features), ahead, charts

    parts = _parts(NUM_ARRAYS, DIM)
    before = results()
    absorb_turn(latent_layers(model, target), parts)
    after = results()

    def turned(z):
        blocks = z.unflatten(-1, (NUM_ARRAYS, DIM)).unbind(-2)
        return torch.cat([part.apply(block) for part, block in zip(parts, blocks, strict=True)], dim=-1)

    torch.testing.assert_close(after[0], turned(before[0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[1], turned(before[1]), atol=1e-4, rtol=1e-4)
    for z, was in zip(after[2], before[2], strict=True):
        torch.testing.assert_close(z, turned(was), atol=1e-4, rtol=1e-4)
        assert (z - was).abs().max() > 0.1
    for chart, was in zip(after[3], before[3], strict=True):
        torch.testing.assert_close(chart, was, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_layers_that_are_summed_are_shifted_once():
    stage = make_stage()
    jepa = _drawn(stage.module)
    x, u = torch.randn(9, 5), torch.randn(9, 1)
    z, slow = jepa.encoder(x), jepa.target(x)
    ahead = jepa.predictor(z, u)
    [part] = _parts(1, 3)
    absorb_turn(toy_layers(jepa), [part])
    torch.testing.assert_close(jepa.encoder(x), part.apply(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(jepa.target(x), part.apply(slow), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(jepa.predictor(jepa.encoder(x), u), part.apply(ahead), atol=1e-4, rtol=1e-4)
    with pytest.raises(SemcomError, match="a turn of 2 blocks"):
        absorb_turn(toy_layers(jepa), [part, part])


def test_clients_that_are_turned_copies_of_each_other_agree_afterwards():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(60, 2 * DIM, generator=generator)
    views = {0: z}
    for client in (3, 7):
        parts = _parts(2, DIM, seed=client)
        views[client] = torch.cat(
            [part.apply(z[:, n * DIM : (n + 1) * DIM]) for n, part in enumerate(parts)], dim=1
        )
    sent = {client: encode_anchors(view, 2) for client, view in views.items()}
    assert all(8 * len(payload) == TURN_HEADER_BITS + 32 * 60 * 2 * DIM for payload in sent.values())
    turns, reasons = find_turns(sent)
    assert ([*turns], reasons) == ([3, 7], [])
    assert all(8 * len(turn) == TURN_HEADER_BITS + 32 * 2 * (DIM + 2) * DIM for turn in turns.values())
    for client, turn in turns.items():
        assert (views[client] - z).abs().max() > 0.5
        for n, part in enumerate(decode_turn(turn)):
            block = slice(n * DIM, (n + 1) * DIM)
            torch.testing.assert_close(part.apply(views[client][:, block]), z[:, block], atol=1e-4, rtol=1e-4)


def test_a_client_whose_anchors_fix_no_rotation_is_left_out():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(60, DIM, generator=generator)
    sent = {0: z, 1: z.flip(1), 2: z * 0, 4: z / 0, 5: z[:50]}
    turns, reasons = find_turns({client: encode_anchors(view, 1) for client, view in sent.items()})
    assert [*turns] == [1]
    assert [reason.split(":")[1].split()[:2] for reason in reasons] == [
        ["client", str(c)] for c in (2, 4)
    ] + [["client", "5"]]
    assert find_turns({3: encode_anchors(z, 1)}) == ({}, [])
    assert find_turns({}) == ({}, [])
