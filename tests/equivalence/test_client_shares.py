"""What a client's training draws is the client's own, in every scenario: partners and pairs too."""

import charting_setups
import isac_setups
import pytest
import torch
from elaa_setups import draw_some

from scenarios.charting.sources import load_sequences
from scenarios.charting.task import KnownDissimilarities, Task, draw_rows
from scenarios.isac.mixing import ALONE
from semcom.contracts import SemcomError
from semcom.samples import Samples
from semcom.train import CENTRAL


def _generator():
    return torch.Generator().manual_seed(0)


def test_samples_are_drawn_from_a_share_and_then_from_all_again():
    samples, own = Samples(20), torch.tensor([3, 4, 17])
    everything = samples.draw((500,), _generator())
    with samples.only(own):
        assert len(samples) == 3
        assert set(samples.draw((500,), _generator()).tolist()) == {3, 4, 17}
        assert samples.among(torch.arange(20)).nonzero()[:, 0].tolist() == [3, 4, 17]
    assert torch.equal(samples.draw((500,), _generator()), everything)
    assert set(everything.tolist()) == set(range(20))
    for share, words in ((torch.tensor([], dtype=torch.int64), "no training samples"), (own + 5, "8 to 22")):
        with pytest.raises(SemcomError, match=words), samples.only(share):
            pass


def test_channels_of_an_array():
    examples, own = draw_some(), torch.arange(0, 40, 3)
    with examples.samples.only(own):
        rows = torch.cat([examples.draw_rows(32, torch.Generator().manual_seed(seed)) for seed in range(40)])
    assert set(rows.tolist()) == set(own.tolist())


def test_walks_of_a_room_and_their_partners():
    task = isac_setups.task("inpainting", mix_share=0.9)
    own, num_steps = torch.tensor([0, 2, 3]), task.train.num_steps
    with task.samples.only(own):
        draws = [task.scenes.draw(64, 0.9) for _ in range(20)] + [task.windows(64)[2] for _ in range(20)]
    rows = torch.cat([draw.rows for draw in draws]) // num_steps
    partner = torch.cat([draw.partner[draw.partner != ALONE] for draw in draws]) // num_steps
    assert set(rows.tolist()) == {0, 2, 3}
    assert set(partner.tolist()) <= {0, 2, 3}
    everyone = torch.cat([draw.partner for draw in (task.scenes.draw(512, 0.9),)])
    assert not set((everyone[everyone != ALONE] // num_steps).tolist()) <= {0, 2, 3}


def test_trajectories_and_the_dissimilarities_of_their_positions():
    config = charting_setups.config()
    data = load_sequences(config, 0)
    samples, num_steps = Samples(data.train.num_trajectories), data.train.num_steps
    task = Task(None, config.training_inputs(), data, None, _generator(), CENTRAL, samples)
    known, own = KnownDissimilarities(task), torch.tensor([1, 4])
    whole = known()
    with samples.only(own):
        some = known()
        assert set((some.rows // num_steps).tolist()) == {1, 4}
        assert set((draw_rows(task, _generator()) // num_steps).tolist()) == {1, 4}
    assert known() is whole
    assert set((whole.rows // num_steps).tolist()) == set(range(data.train.num_trajectories))
