"""The base station of federated rounds: what it makes of updates, and what it remembers of the last model."""

import torch

from nodes.training.aggregation import FedAdam, FedAvg, Krum
from nodes.training.broadcast import BroadcastConfig
from nodes.training.screening import ScreeningConfig
from nodes.training.station import BaseStationSide
from nodes.training.updates import Float32Update, UpdateCodec
from semcom.rng import Streams

START = {"w": torch.zeros(3)}


def station(strategy=None):
    codec = UpdateCodec(Float32Update(), START)
    told = (strategy or FedAvg(), ScreeningConfig(), BroadcastConfig())
    return BaseStationSide(*told, codec, START, Streams(0)), codec


def payload(codec, value):
    return codec.encode({"w": torch.full((3,), float(value))}, START, codec.initial_memory())[0]


def test_each_round_remembers_the_model_that_the_last_one_sent():
    base, codec = station()
    for number, (value, before) in enumerate([(1.0, 0.0), (4.0, 1.0), (9.0, 4.0)]):
        assert float(base.sent["w"][0]) == before
        base.take(number, {0: payload(codec, value)}, {0: 5})
        base.advance()
        assert float(base.before["w"][0]) == before
        assert float(base.tensors["w"][0]) == float(base.sent["w"][0]) == value


def test_updates_are_weighted_by_samples_and_what_is_damaged_is_named():
    base, codec = station()
    damaged = payload(codec, 7.0)[:-1]
    count, reasons = base.take(
        0, {0: payload(codec, 1.0), 1: payload(codec, 5.0), 2: damaged}, {0: 3, 1: 1, 2: 8}
    )
    assert count == 1
    assert reasons[0].startswith("client 2: ")
    assert torch.equal(base.tensors["w"], torch.full((3,), 2.0))


def test_with_too_few_for_the_strategy_the_model_stays():
    base, codec = station(Krum(num_malicious_nodes=1))
    count, reasons = base.take(0, {0: payload(codec, 1.0)}, {0: 3})
    assert count == 1
    assert "krum" in " ".join(reasons)
    assert torch.equal(base.tensors["w"], START["w"])


def test_it_goes_on_from_its_parts():
    base, codec = station(FedAdam())
    for number, value in enumerate((2.0, 5.0)):
        base.take(number, {0: payload(codec, value)}, {0: 3})
        base.advance()
    again, _ = station(FedAdam())
    again.restore(*base.parts())
    assert torch.equal(again.tensors["w"], base.tensors["w"])
    assert torch.equal(again.before["w"], base.before["w"])
    assert not torch.equal(again.before["w"], START["w"])
    assert again.broadcast.version == 2
    assert again.state.keys() == base.state.keys()
    for each in (again, base):
        each.take(2, {0: payload(codec, 1.0)}, {0: 3})
    assert torch.equal(again.tensors["w"], base.tensors["w"])
