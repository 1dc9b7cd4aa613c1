"""The global model's versions: differences don't add up errors, who missed one catches up or is refused."""

import pytest
import torch

from nodes.training.broadcast import NEVER, Broadcast, BroadcastConfig
from nodes.training.updates import Float32Update, QuantisedUpdate, TopKUpdate, UpdateCodec
from semcom.contracts import SemcomError


def model(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(40, 5, generator=generator), "n": torch.tensor(seed)}


def coarse(**told):
    return BroadcastConfig(codec=QuantisedUpdate(bits=8), **told)


def is_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


def test_without_loss_every_version_is_the_model_itself():
    sent = Broadcast(BroadcastConfig(), model(0))
    assert (sent.version, sent.held_by(3)) == (0, NEVER)
    assert is_equal(sent.tensors, model(0))
    sent.confirm([3])
    sent.advance(model(1))
    assert (sent.version, sent.held_by(3)) == (1, 0)
    assert is_equal(UpdateCodec(Float32Update(), model(0)).decode(sent.payload_for(3), {}), model(1))


def test_a_client_follows_by_differences_and_holds_what_the_base_station_knows():
    config = coarse()
    sent, codec = Broadcast(config, model(0)), UpdateCodec(config.codec, model(0))
    holds = UpdateCodec(Float32Update(), model(0)).decode(sent.payload_for(1), {})
    sent.confirm([1])
    target = model(0)
    for seed in range(1, 6):
        target = {"w": target["w"] + 0.01 * model(seed)["w"], "n": torch.tensor(seed)}
        sent.advance(target)
        assert len(sent.payload_for(1)) < len(sent.payload_for(2)) / 2
        holds = codec.decode(sent.payload_for(1), holds)
        sent.confirm([1])
        assert is_equal(holds, sent.tensors)
        # The step of 8 bits over a difference of about .04: its error is never more than half of it.
        assert 0 < (holds["w"] - target["w"]).abs().max() < 0.5 * 0.08 / 254


def test_who_missed_a_version_is_sent_the_whole_model_or_refused():
    for missed in ("catch-up", "refuse"):
        sent = Broadcast(coarse(missed=missed), model(0))
        sent.confirm([1, 2])
        sent.advance(model(1))
        sent.confirm([1])
        assert not sent.is_refused(2)  # one behind: the difference is all it needs
        sent.advance(model(2))
        assert [sent.is_refused(client) for client in (1, 2, 9)] == [False, missed == "refuse", False]
        whole = UpdateCodec(Float32Update(), model(0))
        assert is_equal(whole.decode(sent.payload_for(2), {}), sent.tensors)
        with pytest.raises(SemcomError, match="another template or codec"):
            whole.decode(sent.payload_for(1), {})


def test_drift_is_that_of_the_worst_client():
    start = {"w": torch.tensor([3.0, 4.0])}
    sent = Broadcast(BroadcastConfig(), start)
    sent.confirm([0, 1])
    sent.advance({"w": torch.tensor([3.0, 5.0])})
    sent.confirm([1])
    drift = sent.drift({"w": torch.tensor([3.0, 4.0]) * 2}, lambda tensors: tensors["w"][:, None])
    assert drift.num_behind == 1
    # |(3, 4) - (6, 8)| / |(6, 8)|; of latents sum (3, 4)^2 / sum (6 - 7, 8 - 7)^2.
    assert drift.row() == {"behind": 1, "drift_weights": pytest.approx(0.5), "drift_latents": 12.5}
    assert "drift_latents" not in sent.drift(start).row()


def test_it_goes_on_from_its_state():
    sent = Broadcast(coarse(), model(0))
    sent.confirm([1, 2])
    sent.advance(model(1))
    sent.confirm([1])
    sent.advance(model(2))
    again = Broadcast(coarse(), model(0))
    again.load(*sent.state())
    for client in (1, 2, 3):
        assert again.payload_for(client) == sent.payload_for(client)
        assert again.held_by(client) == sent.held_by(client)
    assert again.drift(model(4)).row() == sent.drift(model(4)).row()


def test_only_versions_that_somebody_holds_are_kept():
    sent = Broadcast(BroadcastConfig(), model(0))
    sent.confirm(range(5))
    for seed in range(1, 30):
        sent.advance(model(seed))
        sent.confirm([seed % 5])
    assert len(sent.state()[0]) <= 1 + 2 * 6


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match=r"codec\.error_feedback = true"):
        BroadcastConfig(codec=TopKUpdate())
    with pytest.raises(ValueError, match="missed = refuse: with codec"):
        BroadcastConfig(missed="refuse")


def test_far_behind_is_told_by_the_oldest_version_kept():
    sent = Broadcast(BroadcastConfig(), model(0))
    sent.confirm([7])
    for seed in range(1, 40):
        sent.advance(model(seed))
        sent.confirm([8])
    assert sent.drift(model(40)).num_behind == 1
    assert len(sent.state()[0]) <= 1 + 2 * 10
