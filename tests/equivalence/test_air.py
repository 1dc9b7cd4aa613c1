"""The air between clients and their base station: channels go on through a training."""

import numpy as np
import pytest
from federated_setups import federated, make_stage
from split_setups import split, split_stage

from channels.links.erasure import ErasureConfig, ErasureLink
from nodes.training.air import Air
from nodes.transfer import TransferConfig
from semcom.rng import Streams


class Watched:
    """A channel that notes for which steps it was asked."""

    num_devices, num_resource_blocks = 4, 1

    def __init__(self):
        self.steps = []

    def sinr(self, step):
        self.steps.append(step)
        return np.ones((4, 1), dtype=np.float32)


def air_of(up, down, step_s=0.01, num_steps=None):
    link = ErasureLink(ErasureConfig(probability=0.0))
    return Air(link, link, up, down, step_s, num_steps)


@pytest.mark.parametrize(
    ("at_s", "num_steps", "first"), [(0.0, None, 0), (0.3, None, 30), (0.3, 24, 30 % 15)]
)
def test_a_transfer_begins_at_the_time_that_it_is(at_s, num_steps, first):
    up, down = Watched(), Watched()
    config = TransferConfig(segment_bytes=400, max_steps=10)
    report = air_of(up, down, num_steps=num_steps).carry("up", [b"x"], [1], Streams(0), config, at_s=at_s)
    assert (up.steps, down.steps) == ([first], [])
    assert report.payloads == [b"x"]


def test_the_channels_of_a_federation_go_on_from_round_to_round():
    up, down = Watched(), Watched()
    federated(local_steps=3, air=air_of(up, down)).fit(make_stage(12))
    # A round: a step of .01 s for the model, three of .01 s to train, one for the updates.
    assert down.steps == [0, 5, 10, 15]
    assert up.steps == [4, 9, 14, 19]


def test_the_channels_of_a_split_training_go_on_from_message_to_message():
    up, down = Watched(), Watched()
    split(air=air_of(up, down), turn_steps=2).fit(split_stage(num_steps=4))
    both = sorted(up.steps + down.steps)
    assert len(set(both)) == len(both) > 20
    # 4 steps of .01 s are for computing; every other one has its message.
    assert both[-1] + 1 == len(both) + 4


def test_turns_that_are_missed_take_their_time():
    trainer = split(num_clients=3, dropout_probability=1.0, turn_steps=4)
    trainer.fit(split_stage(num_steps=12))
    assert trainer.ledger.duration_s == pytest.approx(12 * 0.01 + 3 * trainer.air.step_s)


def test_targets_at_the_base_station_miss_no_step_where_the_last_hand_over_is_lost():
    class LosesLast:
        """Loses what is longer than a step's messages after the first of them: hand-overs."""

        name = "loses-last"

        def __init__(self, ideal):
            self.ideal, self.resource_share, self.lost = ideal, ideal.resource_share, 0

        def transmit(self, packets, devices, radio, step, streams):
            delivery = self.ideal.transmit(packets, devices, radio, step, streams)
            if sum(map(len, packets)) > 700:
                self.lost += 1
                return type(delivery)(**{
                    **vars(delivery), "ok": ~delivery.ok, "payloads": [None] * len(packets)
                })  # fmt: skip
            return delivery

    ideal = ErasureLink(ErasureConfig(probability=0.0))
    link, followed = LosesLast(ideal), []
    stage = split_stage(num_steps=6)
    stage = type(stage)(**{**vars(stage), "after_step": followed.append})
    once = TransferConfig(segment_bytes=60_000, max_steps=1)
    split(air=Air(link, ideal), target="station", turn_steps=2, transfer=once).fit(stage)
    assert link.lost == 3
    assert followed == list(range(6))
