"""Split training: equal to central with one device, resumed exactly, and nothing crosses uncounted."""

import dataclasses

import numpy as np
import pytest
import torch
from federated_setups import lossy
from split_setups import running, split, split_stage

from nodes.training.split_config import SplitConfig
from nodes.training.updates import UPDATE_HEADER_BITS, QuantisedUpdate
from nodes.transfer import SEGMENT_HEADER_BITS, TransferConfig
from semcom.contracts import SemcomError
from semcom.train import CENTRAL

ONCE = TransferConfig(segment_bytes=1500, max_steps=1)


def trained(trainer, **told):
    stage = split_stage(**told)
    log = trainer.fit(stage)
    return {name: tensor.clone() for name, tensor in stage.module.state_dict().items()}, log


def is_close(one, other, tolerance=1e-5):
    return all(torch.allclose(one[name], other[name], rtol=0, atol=tolerance) for name in other)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "told",
    [{}, {"encoders": "average"}, {"shape": "u"}, {"turn_steps": 3}],
    ids=["relay", "average", "u", "turns"],
)
def test_one_device_without_loss_trains_as_one_place_does(told, optimizer):
    wanted, _ = trained(CENTRAL, num_steps=20, optimizer=optimizer)
    found, _ = trained(split(**told), num_steps=20, optimizer=optimizer)
    assert is_close(found, wanted)


def test_eight_bits_end_elsewhere_but_near():
    wanted, _ = trained(CENTRAL, num_steps=20)
    eight = QuantisedUpdate(bits=8)
    found, _ = trained(split(embedding=eight, gradient=eight), num_steps=20)
    assert not is_close(found, wanted)
    assert is_close(found, wanted, 0.05)


def test_targets_at_the_base_station_follow_what_arrived_of_the_encoder():
    wanted, _ = trained(CENTRAL, num_steps=20)
    found, _ = trained(split(target="station", turn_steps=1), num_steps=20)
    assert is_close(found, wanted)
    late, _ = trained(split(target="station", turn_steps=5), num_steps=20)
    assert not is_close(late, wanted)
    without = split_stage(num_steps=8)
    without = dataclasses.replace(without, after_step=None)
    assert split(target="station").fit(without)


@pytest.mark.parametrize("told", [{}, {"encoders": "average", "average_rounds": 2}, {"target": "station"}])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, told):
    settings = {"num_clients": 3, "turn_steps": 2, **told}
    wanted, log = trained(split(**settings), num_steps=26)
    stage, count = split_stage(num_steps=26), 0

    def stopping(step, generator):
        nonlocal count
        count += 1
        if count == 16:
            raise KeyboardInterrupt
        return stage.batch_loss(step, generator)

    with pytest.raises(KeyboardInterrupt):
        split(scratch=tmp_path, **settings).fit(dataclasses.replace(stage, batch_loss=stopping))
    again, again_log = split(scratch=tmp_path, **settings), split_stage(num_steps=26)
    rows = again.fit(again_log)
    found = again_log.module.state_dict()
    whole = split(**settings)
    trained(whole, num_steps=26)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (rows, again.ledger) == (log, whole.ledger)


def test_every_device_trains_on_its_own_samples():
    seen = {}
    trainer, stage = split(num_clients=4, turn_steps=2), split_stage(num_steps=16)

    def watched(step, generator):
        seen.setdefault(int(stage.samples.own[0]), []).append(step)
        return stage.batch_loss(step, generator)

    trainer.fit(dataclasses.replace(stage, batch_loss=watched))
    assert sorted(seen) == [0, 12, 24, 36]
    del seen[0][:4]  # what a step costs is measured beforehand, at the first
    assert sorted(step for steps in seen.values() for step in steps) == list(range(16))
    assert all(len(steps) == 4 for steps in seen.values())


def test_copies_are_averaged_by_their_devices_samples():
    whole = running(split(num_clients=2, encoders="average", turn_steps=3), split_stage(num_steps=6))
    whole.run()
    one, other = (whole._devices.tensors_of(client) for client in (0, 1))
    # The last thing that happens is that both are sent the mean.
    assert all(torch.equal(one[name], other[name]) for name in one)
    trainer = split(num_clients=2, encoders="average", turn_steps=3, average_rounds=9)
    trainer.shares = lambda samples: [torch.arange(36), torch.arange(36, 48)]
    stage = running(trainer, split_stage())
    stage._round(0)
    first, second = (stage._devices.tensors_of(client) for client in (0, 1))
    stage._average(1)
    name = next(name for name, tensor in first.items() if tensor.ndim == 2)
    assert not torch.equal(first[name], second[name])
    assert torch.allclose(stage._devices.newest[name], 0.75 * first[name] + 0.25 * second[name])


def test_what_is_lost_costs_the_step_on_both_sides():
    start = {name: t.clone() for name, t in split_stage().module.state_dict().items()}
    never = split(air=lossy(1.0), transfer=ONCE)
    found, _ = trained(never)
    assert all(torch.equal(found[name], start[name]) for name in start)
    assert (never.ledger.steps_lost, never.ledger.num_steps) == (12, 12)
    some = split(air=lossy(0.3), transfer=ONCE)
    found, _ = trained(some)
    assert 0 < some.ledger.steps_lost < 12
    assert any(not torch.equal(found[name], start[name]) for name in start if name.startswith("predictor."))


def test_a_device_that_missed_a_version_is_sent_the_newest_or_misses_its_turn():
    trainer = split(num_clients=3, air=lossy(0.0, 0.4), transfer=ONCE, turn_steps=1)
    trained(trainer)
    assert 0 < trainer.ledger.updates_missing < trainer.ledger.updates_asked
    # Of a single device nobody else makes a newer version: it is sent the encoder once.
    alone = split(turn_steps=1)
    _, _ = trained(alone, num_steps=5)
    assert alone.ledger.updates_missing == 0


def test_bits_are_those_of_what_crosses():
    def bits(trainer, num_steps):
        trained(trainer, num_steps=num_steps)
        return np.array([trainer.ledger.bits_up, trainer.ledger.bits_down])

    def message(*counts):
        return sum(8 * 4 * count + UPDATE_HEADER_BITS + SEGMENT_HEADER_BITS for count in counts)

    norm = 32 + SEGMENT_HEADER_BITS
    z, start, z_hat = 8 * 6 * 3, 8 * 3 * 3, 8 * 3 * 3
    turn = {"turn_steps": 50}
    # One step more, in the same turn: embeddings and targets up, a gradient down.
    more = bits(split(**turn), 4) - bits(split(**turn), 3)
    assert more.tolist() == [message(z, z) + norm, message(z) + norm]
    # The base station has the observations and the target encoder.
    more = bits(split(target="station", **turn), 4) - bits(split(target="station", **turn), 3)
    assert more.tolist() == [message(z) + norm, message(z) + norm]
    # Labels and losses stay: contexts up and two predictions down, and gradients the other way.
    more = bits(split(shape="u", **turn), 4) - bits(split(shape="u", **turn), 3)
    assert more.tolist() == [message(start, z_hat, z_hat) + norm, message(start, z_hat, z_hat) + norm]


def test_eight_bits_take_far_less_than_numbers_of_32():
    eight = QuantisedUpdate(bits=8)
    coarse, fine = split(embedding=eight, gradient=eight, turn_steps=50), split(turn_steps=50)
    trained(coarse, num_steps=4)
    trained(fine, num_steps=4)
    assert coarse.ledger.bits_up < fine.ledger.bits_up / 2  # small messages: headers weigh


def test_devices_that_always_drop_out_train_nothing_and_the_stage_ends():
    start = split_stage().module.state_dict()
    trainer = split(num_clients=3, dropout_probability=1.0)
    found, _ = trained(trainer)
    assert all(torch.equal(found[name], tensor) for name, tensor in start.items())
    assert trainer.ledger.updates_missing == trainer.ledger.updates_asked > 0


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="needs target = device"):
        SplitConfig(shape="u", target="station")
    with pytest.raises(ValueError, match=r"gradient\.error_feedback = true"):
        SplitConfig(gradient=QuantisedUpdate(bits=4, error_feedback=True))
    with pytest.raises(SemcomError, match=r"client 0: its embedding data .* collaboration\.split\.transfer"):
        split(air=lossy(1.0), transfer=ONCE).gather("embedding", torch.randn(6, 3))


def test_what_is_gathered_arrives_as_it_was():
    generator = torch.Generator().manual_seed(3)
    trainer = split(num_clients=4, target="station")
    frames = torch.randint(0, 256, (10, 2, 3), dtype=torch.uint8, generator=generator)
    csi = torch.randn(10, 4, dtype=torch.complex64, generator=generator)
    assert torch.equal(trainer.gather("observation", frames), frames)
    assert torch.equal(trainer.gather("condition", csi), csi)
    payload = 8 * 60 + 64 * 40
    assert trainer.ledger.bits_up == payload + 8 * SEGMENT_HEADER_BITS
    coarse = split(num_clients=4, embedding=QuantisedUpdate(bits=4))
    z = torch.randn(10, 3, generator=generator)
    found = coarse.gather("embedding", z)
    assert 0 < (found - z).abs().max() < z.abs().max() / 7
    # Devices keep what they see where they compute targets.
    before = coarse.ledger.bits_up
    assert coarse.gather("observation", z) is z
    assert coarse.ledger.bits_up == before


def test_moments_go_with_an_encoder_that_is_handed_on_or_stay():
    ends = {}
    for moments in ("handed-over", "kept"):
        trainer = split(num_clients=3, turn_steps=2, moments=moments)
        stage = running(trainer, split_stage(num_steps=18))
        stage.run()
        ends[moments] = stage._devices.newest, trainer.ledger.bits_up
    handed, kept = ends["handed-over"], ends["kept"]
    counts = [tensor for name, tensor in handed[0].items() if name.endswith(".step")]
    # One optimiser went through all 18 steps; of those that stay each went through its own.
    assert counts
    assert all(int(count) == 18 for count in counts)
    assert not any(name.startswith("moments.") for name in kept[0])
    assert handed[1] > kept[1]
    name = next(name for name, tensor in kept[0].items() if tensor.ndim == 2)
    assert not torch.equal(handed[0][name], kept[0][name])


def test_one_optimiser_handed_on_without_loss_trains_as_in_one_place_on_the_same_batches():
    # All devices have all samples, and draw from one stream: turns are then no more than central's steps.
    wanted, _ = trained(CENTRAL, num_steps=20)
    trainer = split(num_clients=4, turn_steps=1)
    trainer.shares = lambda samples: [torch.arange(samples.num_all)] * 4
    stage = split_stage(num_steps=20)
    whole = running(trainer, stage)
    generator = stage.generator

    def shared(step, _):
        return stage.batch_loss(step, generator)

    whole._training.batch_loss = shared
    own = generator.get_state()
    whole._training.generator = torch.Generator()
    generator.set_state(own)
    whole._devices._first_generator = whole._training.generator.get_state()
    whole.run()
    found = {name: tensor.clone() for name, tensor in stage.module.state_dict().items()}
    assert is_close(found, wanted)
