"""Federated rounds in which the model goes down by differences, and clients miss versions of it."""

import dataclasses

import pytest
import torch
from federated_setups import federated, lossy, make_stage, weights

from nodes.transfer import TransferConfig

ONCE = TransferConfig(segment_bytes=1500, max_steps=1)
COARSE = {"codec": {"kind": "quantised", "bits": 8}}


def train(trainer, num_steps=12):
    stage = make_stage(num_steps)
    return trainer.fit(stage), weights(stage)


def test_differences_take_a_fraction_of_the_bits_down_and_end_nearby():
    whole, coarse = federated(local_steps=1), federated(local_steps=1, broadcast=COARSE)
    _, wanted = train(whole)
    log, found = train(coarse)
    # The first version is sent whole; of 12 rounds 11 send differences, whose messages are small.
    assert coarse.ledger.bits_down < 0.6 * whole.ledger.bits_down
    assert not all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert all(torch.allclose(found[name], wanted[name], atol=0.05) for name in wanted)
    assert all(row["behind"] == 0 and row["drift_weights"] > 0 for row in log)


@pytest.mark.parametrize("missed", ["catch-up", "refuse"])
def test_who_missed_a_version_is_noticed_and_caught_up_or_refused(missed):
    trainer = federated(
        local_steps=1, air=lossy(0.0, 0.3), transfer=ONCE, broadcast={**COARSE, "missed": missed}
    )
    log, _ = train(trainer)
    assert max(row["behind"] for row in log) > 0
    told = " ".join(str(row.get("warning", "")) for row in log)
    if missed == "catch-up":
        assert "refused" not in told
        assert log[-1]["clients"] > 0
    else:
        assert "of the global model, which is" in told
        assert "it is refused" in told
        # In the end somebody has missed two versions in a row and is out for good.
        assert log[-1]["clients"] < 4
    assert trainer.ledger.updates_missing > 0


def test_a_client_that_is_behind_drifts_further_than_those_that_follow():
    follow, _ = train(federated(local_steps=1))
    behind, _ = train(federated(local_steps=1, participation=0.25))
    assert behind[-1]["drift_weights"] > follow[-1]["drift_weights"] > 0


def test_drift_is_seen_in_embeddings_where_there_are_anchors():
    stage = make_stage()
    x = torch.randn(16, 6, 5, generator=torch.Generator().manual_seed(2))
    stage = dataclasses.replace(stage, anchors=lambda: stage.module.encoder(x).flatten(0, 1))
    log = federated(local_steps=3).fit(stage)
    assert all(row["drift_latents"] > 0 for row in log)
    plain = dataclasses.replace(make_stage(), anchors=None)
    assert "drift_latents" not in federated(local_steps=3).fit(plain)[0]
    assert all(torch.equal(t, weights(plain)[name]) for name, t in weights(stage).items())


def test_a_stopped_training_goes_on_with_the_same_versions(tmp_path):
    told = {"local_steps": 1, "participation": 0.5, "broadcast": COARSE}
    whole = federated(**told)
    wanted_log, wanted = train(whole)
    stage, count = make_stage(12), 0

    def stopping(step, generator):
        nonlocal count
        count += 1
        if count == 18:
            raise KeyboardInterrupt
        return stage.batch_loss(step, generator)

    with pytest.raises(KeyboardInterrupt):
        federated(scratch=tmp_path, **told).fit(dataclasses.replace(stage, batch_loss=stopping))
    again = federated(scratch=tmp_path, **told)
    log, found = train(again)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (log, again.ledger) == (wanted_log, whole.ledger)
