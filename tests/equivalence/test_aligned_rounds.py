"""Rounds in which clients turn their latent spaces onto each other before they send."""

import math

import pytest
import torch
from federated_setups import DIM, NUM_SAMPLES, federated, lossy, make_stage, same_tensors, two_stages, weights

from nodes.training.clients import LocalWork
from nodes.training.federated import make_clients
from nodes.training.federated_config import FederatedConfig
from nodes.training.personal import train_each
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.train import CENTRAL

LATENT = 3
ALIGNED = {"alignment": "procrustes"}
OWN = {"initialisation": "own", **ALIGNED}


def _train(num_clients, scratch=None, air=None, **told):
    trainer = federated(num_clients, scratch=scratch, **({} if air is None else {"air": air}), **told)
    return trainer, train_each(two_stages, trainer, num_clients)


@pytest.mark.parametrize("told", [ALIGNED, {**OWN, "alignment_rounds": 1}])
def test_one_client_is_central_training_bit_for_bit(told):
    central = two_stages(CENTRAL)
    trainer = federated(1, **told)
    found = train_each(two_stages, trainer, 1)[0] if trainer.config.is_personal else two_stages(trainer)
    assert same_tensors(central[0], found[0])


def _bits(num_bytes):
    return 8 * num_bytes + 96 * math.ceil(num_bytes / 1500)


@pytest.mark.parametrize(("every", "times"), [(None, 1), (2, 2), (1, 4)])
def test_anchors_and_turns_are_counted(every, times):
    plain, aligned = (federated(4, **told) for told in ({}, {**ALIGNED, "alignment_rounds": every}))
    without, with_it = make_stage(), make_stage()
    plain.fit(without)
    aligned.fit(with_it)
    anchors, turn = 6 + 4 * NUM_SAMPLES * LATENT, 6 + 4 * LATENT * (LATENT + 2)
    assert aligned.ledger.bits_up - plain.ledger.bits_up == times * 4 * _bits(anchors)
    assert aligned.ledger.bits_down - plain.ledger.bits_down == times * 3 * _bits(turn)
    assert aligned.ledger.duration_s > plain.ledger.duration_s
    assert not same_tensors(weights(without), weights(with_it))


def test_own_weights_are_averaged_in_one_frame():
    """What clients with weights of their own send is nearer to each other where they were turned."""

    def spread(**told):
        sent = []

        def watching(trainer):
            take = trainer._round

            def round_(number, stage, base, clients, faults, streams, embed):
                inner = base.take

                def taking(number, payloads, num_samples):
                    sent.append([base._codec.decode(p, base.tensors) for p in payloads.values()])
                    return inner(number, payloads, num_samples)

                base.take = taking
                return take(number, stage, base, clients, faults, streams, embed)

            trainer._round = round_
            return trainer

        trainer = watching(federated(4, local_steps=12, initialisation="own", **told))
        results = train_each(two_stages, trainer, 4)
        x = torch.randn(200, DIM, generator=torch.Generator().manual_seed(1))
        encoder = make_stage().module.encoder
        z = []
        for tensors in sent[0]:
            encoder.load_state_dict(
                {
                    name.removeprefix("encoder."): t
                    for name, t in tensors.items()
                    if name.startswith("encoder.")
                }
            )
            z.append(encoder(x).detach())
        stacked = torch.stack(z)
        return float((stacked - stacked.mean(dim=0)).square().mean() / stacked.var()), results

    apart, _ = spread()
    together, results = spread(alignment="procrustes")
    assert together < 0.7 * apart
    assert same_tensors(results[0][0], results[3][0])


@pytest.mark.parametrize("told", [OWN, {**ALIGNED, "sharing": "predictor", "alignment_rounds": 2}])
def test_a_stopped_training_goes_on_to_the_same_models(tmp_path, monkeypatch, told):
    _, whole = _train(3, **told)
    trainer = federated(3, scratch=tmp_path, **told)
    work = trainer._work

    def stopping(number, *arguments):
        if number == 1:
            raise KeyboardInterrupt
        return work(number, *arguments)

    monkeypatch.setattr(trainer, "_work", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_each(two_stages, trainer, 3)
    _, resumed = _train(3, scratch=tmp_path, **told)
    assert all(same_tensors(first[0], second[0]) for first, second in zip(whole, resumed, strict=True))


def test_whose_anchors_are_lost_sends_its_update_as_it_is():
    """Half of all packets are lost once for all: some clients are turned, and the training goes on."""
    told = {**ALIGNED, "alignment_rounds": 1, "transfer": {"max_steps": 1, "segment_bytes": 65_000}}
    trainer = federated(6, lossy(0.5, 0.3), **told)
    stage = make_stage()
    trainer.fit(stage)
    assert trainer.ledger.updates_missing < trainer.ledger.updates_asked
    assert not same_tensors(weights(stage), weights(make_stage()))


def test_a_turned_client_forgets_its_moments_and_no_other_does():
    stage = make_stage()
    config = FederatedConfig.model_validate({**ALIGNED})
    shares = [torch.arange(0, 24), torch.arange(24, 48)]
    clients = make_clients(config, shares, Streams(0), stage, range(2))
    start = clients.start()
    results = clients.train(LocalWork(0, 0, 3, start.tensors, start.tensors, aligns=True), [0, 1])
    assert all(result.anchors and not result.payload for result in results.values())
    turn = torch.cat((torch.eye(3), torch.zeros(2, 3))).numpy().astype(">f4").tobytes()
    sent = clients.turn({0: b"", 1: bytes((0, 48, 0, 3, 0, 1)) + turn})
    assert all(result.payload and not result.anchors for result in sent.values())
    moments = {
        client: [n for n in clients.state() if n.startswith(f"{client}.training.opt")] for client in (0, 1)
    }
    assert moments[0]
    assert not moments[1]


def test_a_stage_that_tells_no_latent_layers_is_refused():
    stage = make_stage()
    object.__setattr__(stage, "latent", None)
    with pytest.raises(SemcomError, match=r"alignment = procrustes: training stage 'encoder' doesn't"):
        federated(4, **ALIGNED).fit(stage)
    with pytest.raises(ValueError, match="nothing to align for"):
        FederatedConfig.model_validate({**ALIGNED, "sharing": "nothing"})
