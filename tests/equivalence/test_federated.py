"""Federated training: one client is central training, a stopped one goes on, losses are losses."""

import math

import pytest
import torch
from federated_setups import federated, lossy, make_stage, same_tensors, shares, weights

from nodes.training.faults import Faults
from nodes.training.federated import Federated
from semcom.contracts import SemcomError
from semcom.train import CENTRAL


def _fit(trainer, **told):
    stage = make_stage(**told)
    log = trainer.fit(stage)
    return weights(stage), log, stage


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("local_steps", [1, 5, 100])
def test_one_client_is_central_training_bit_for_bit(optimizer, local_steps):
    """With rounds that the steps don't fill, too; and what follows draws the same numbers."""
    central, _, stage = _fit(CENTRAL, optimizer=optimizer)
    alone, log, other = _fit(federated(1, local_steps=local_steps), optimizer=optimizer)
    assert same_tensors(central, alone)
    assert torch.equal(stage.generator.get_state(), other.generator.get_state())
    assert len(log) == math.ceil(12 / local_steps)
    assert not same_tensors(central, weights(make_stage()))


def test_moments_that_are_forgotten_make_a_difference():
    central, _, _ = _fit(CENTRAL)
    assert not same_tensors(central, _fit(federated(1, optimizer_state="reset"))[0])
    assert same_tensors(central, _fit(federated(1, optimizer_state="reset", local_steps=12))[0])


def test_a_round_is_the_mean_of_what_clients_trained_by_themselves():
    """Four clients, one round: each alone with its share, then averaged by hand."""
    together, _, _ = _fit(federated(4, local_steps=12))
    found = []
    for client in range(4):
        trainer = federated(4, local_steps=12)
        # All others are late for good.
        stage = make_stage()
        only = Federated(trainer.config, trainer.shares, trainer.streams, trainer.air)
        only._ask = lambda number, faults, streams, client=client: [client]
        only.fit(stage)
        found.append(weights(stage))
    for name, tensor in together.items():
        mean = torch.stack([each[name].double() for each in found]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, atol=1e-6, rtol=1e-6)
        if name.endswith("weight"):
            assert (found[0][name] - found[1][name]).abs().max() > 1e-4


def test_a_client_trains_on_its_own_samples_alone():
    seen = {}
    stage = make_stage()
    object.__setattr__(stage, "batch_loss", _recording(stage, seen))
    federated(4).fit(stage)
    measured = [4, 0, 0, 0]  # what a step costs is measured with the first client's
    assert seen == {tuple(share.tolist()): 12 + num for share, num in zip(shares(4), measured, strict=True)}
    assert len(stage.samples) == stage.samples.num_all


def _recording(stage, seen):
    inner = stage.batch_loss

    def loss(step, generator):
        own = tuple(stage.samples.own.tolist())
        seen[own] = seen.get(own, 0) + 1
        return inner(step, generator)

    return loss


@pytest.mark.parametrize("stopped_in", [1, 2])
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"strategy": {"kind": "fedadam", "eta": 0.01}, "optimizer_state": "reset"},
        {"update": {"kind": "top-k", "share": 0.2}, "participation": 0.5},
        {"faults": {"dropout_probability": 0.3, "malicious_share": 0.25, "attack": "stale"}},
    ],
)
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, told, stopped_in, monkeypatch):
    whole, log, _ = _fit(federated(4, **told))
    trainer = federated(4, scratch=tmp_path, **told)
    rounds = trainer._round

    def stopping(number, *arguments):
        if number == stopped_in:
            raise KeyboardInterrupt
        return rounds(number, *arguments)

    monkeypatch.setattr(trainer, "_round", stopping)
    with pytest.raises(KeyboardInterrupt):
        _fit(trainer)
    again = federated(4, scratch=tmp_path, **told)
    resumed, rows, _ = _fit(again)
    assert same_tensors(whole, resumed)
    assert rows == log
    straight = federated(4, **told)
    _fit(straight)
    assert again.ledger == straight.ledger


def test_updates_that_are_lost_are_lost():
    """Without the uplink nothing is learned; without the downlink nobody trains; both are counted."""
    start = weights(make_stage())
    told = {"transfer": {"max_steps": 1, "segment_bytes": 65_000}}
    nothing_up = federated(4, lossy(1.0), **told)
    assert same_tensors(_fit(nothing_up)[0], start)
    assert nothing_up.ledger.updates_missing == nothing_up.ledger.updates_asked == 16
    assert nothing_up.ledger.num_steps == 48
    assert nothing_up.ledger.duration_s > 12 * 0.01  # what was given up was waited for
    nothing_down = federated(4, lossy(0.0, 1.0), **told)
    assert same_tensors(_fit(nothing_down)[0], start)
    assert nothing_down.ledger.num_steps == 0
    some = federated(4, lossy(0.5), **told)
    assert not same_tensors(_fit(some)[0], start)
    assert 0 < some.ledger.updates_missing < 16


def test_bits_are_those_of_the_segments():
    trainer = federated(4)
    _, _, stage = _fit(trainer)
    num = sum(tensor.numel() for tensor in stage.module.state_dict().values())
    rounds, clients = 4, 4
    # 48 bits of an update's own header; of each of its segments 64 bits and 32 of its number.
    segments = math.ceil((4 * num + 6) / 1500)
    per_update = 32 * num + 48 + segments * 96
    assert trainer.ledger.bits_up == trainer.ledger.bits_down == rounds * clients * per_update


def test_who_is_asked_joins_late_drops_out_or_misses_the_deadline():
    half = federated(8, participation=0.5)
    _fit(half)
    assert half.ledger.updates_asked == 4 * 4
    late = federated(8, faults={"late_share": 0.5, "late_round": 2})
    _fit(late)
    assert late.ledger.updates_asked == 4 + 4 + 8 + 8
    nobody = federated(8, faults={"dropout_probability": 1.0})
    assert same_tensors(_fit(nobody)[0], weights(make_stage()))
    slow = federated(8, faults={"step_s": 1.0, "slowness": 1.0, "deadline_s": 3.0})
    _fit(slow)
    assert 0 < slow.ledger.updates_missing < slow.ledger.updates_asked
    assert slow.ledger.duration_s == pytest.approx(4 * 3.0)


def test_a_loss_that_is_not_finite_is_the_client_s_alone():
    trainer = federated(4)
    stage = make_stage()
    inner = stage.batch_loss

    def broken(step, generator):
        terms = inner(step, generator)
        if 12 in stage.samples.own.tolist():
            terms = {**terms, "total": terms["total"] * math.nan}
        return terms

    object.__setattr__(stage, "batch_loss", broken)
    log = trainer.fit(stage)
    assert (trainer.ledger.updates_missing, trainer.ledger.updates_rejected) == (4, 0)
    assert trainer.ledger.num_steps == 3 * 12
    assert "client 1" in log[0]["warning"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(stage).values())
    assert not same_tensors(weights(stage), weights(make_stage()))


def test_nan_in_an_update_is_screened_and_training_goes_on(monkeypatch):
    def spoiling(self, client, number, tensors, global_tensors, stale_tensors):
        return tensors if client != 1 else {name: 0 * tensor / 0 for name, tensor in tensors.items()}

    monkeypatch.setattr(Faults, "corrupt", spoiling)
    trainer = federated(4)
    left, log, _ = _fit(trainer)
    assert (trainer.ledger.updates_missing, trainer.ledger.updates_rejected) == (0, 4)
    assert "client 1" in log[0]["warning"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in left.values())
    assert not same_tensors(left, weights(make_stage()))


def test_what_follows_a_stage_does_not_hang_on_who_trained_last(tmp_path):
    """With few clients a round client 0 may never be asked: a resumed stage leaves the same stream."""
    told = {"participation": 0.125, "local_steps": 6}
    _, _, first = _fit(federated(8, scratch=tmp_path, **told))
    _, _, again = _fit(federated(8, scratch=tmp_path, **told))
    assert torch.equal(first.generator.get_state(), again.generator.get_state())


def test_sign_flips_ruin_the_mean_and_not_multikrum():
    told = {"local_steps": 4}
    faults = {"malicious_share": 0.2, "attack": "sign-flip", "attack_scale": 30.0}
    _, log, _ = _fit(federated(10, **told), num_steps=120)
    _, bad, _ = _fit(federated(10, faults=faults, screening={"max_ratio": None}, **told), num_steps=120)
    _, good, _ = _fit(
        federated(
            10,
            faults=faults,
            screening={"max_ratio": None},
            strategy={"kind": "multikrum", "num_malicious_nodes": 2, "num_nodes_to_select": 8},
            **told,
        ),
        num_steps=120,
    )
    assert bad[-1]["total"] > 2 * log[-1]["total"]
    assert good[-1]["total"] < 1.1 * log[-1]["total"]


def test_krum_needs_its_clients_at_the_start_and_waits_for_them_in_a_round():
    krum = {"kind": "krum", "num_malicious_nodes": 1}
    with pytest.raises(SemcomError, match="takes 5 clients or more, and 4 take part"):
        _fit(federated(4, strategy=krum))
    trainer = federated(6, strategy=krum, faults={"dropout_probability": 0.4})
    weights_left, log, _ = _fit(trainer, num_steps=30)
    waited = [row for row in log if "warning" in row]
    assert 0 < len(waited) < len(log)
    assert "takes 5 clients or more" in waited[0]["warning"]
    assert not same_tensors(weights_left, weights(make_stage()))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    (tmp_path / "encoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(SemcomError, match="delete it to train anew"):
        _fit(federated(4, scratch=tmp_path))
