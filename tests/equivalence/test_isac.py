"""The sensing scenario: the same records for any workers, and after an interrupted training."""

import isac_setups
import pytest
import torch

from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.isac import training
from scenarios.isac.scenario import SCENARIO
from semcom.codecs.catalogue import CodecConfig
from semcom.train import fit


def test_records_are_the_same_for_any_number_of_workers(cluster):
    """Of every result, and of two seeds; devices in groups that the workers share."""
    config = isac_setups.changed("evaluation", group_size=7, faults=("noise",), num_receivers=(2,))
    config = config.model_copy(update={"codec": CodecConfig(kind="entropy", bits=3)})
    first = SCENARIO.training_jobs(config, 1, "central")[0]
    models = isac_setups.trained() | {first.key: dict(SCENARIO.train(first).tensors)}
    points = [*SCENARIO.points(config, [0])[::2], Point("sweep", "inpainting", 1)]
    expected = SCENARIO.simulate(config, points, models, Cluster())
    results = {point.result for point in points}
    assert results == {"missing", "loss", "receivers", "rate", "alarm", "sweep"}
    with Cluster(1) as of_that_size:
        assert SCENARIO.simulate(config, points, models, of_that_size) == expected
    # Three processes: cells of several groups, and questions of two seeds that are dealt among them.
    some = [0, len(points) - 2, len(points) - 1]
    found = SCENARIO.simulate(config, [points[place] for place in some], models, cluster)
    assert found == [expected[place] for place in some]


@pytest.mark.parametrize("name", ["inpainting", "supervised"])
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, name):
    jobs = SCENARIO.training_jobs(isac_setups.config(), 0, "central")
    job = next(job for job in jobs if job.model == name)
    steps: list[int] = []

    def stopping(model, batch_loss, *arguments, **named):
        def loss(step, generator):
            steps.append(step)
            if len(steps) == 18:
                raise KeyboardInterrupt
            return batch_loss(step, generator)

        return fit(model, loss, *arguments, checkpoint_every=3, **named)

    monkeypatch.setattr(training, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        SCENARIO.train(job, tmp_path)
    # The first stage is whole, and the second one was in its eighth step.
    assert steps == [*range(10), *range(8)]
    done = len(steps)
    resumed = SCENARIO.train(job, tmp_path)
    assert steps[done : done + 4] == [6, 7, 8, 9]
    whole = isac_setups.trained()[job.key]
    assert resumed.tensors.keys() == whole.keys()
    for key, tensor in whole.items():
        assert torch.equal(resumed.tensors[key], tensor), key


@pytest.mark.parametrize("name", ["inpainting", "image-only"])
def test_training_leaves_the_process_s_random_state_alone_and_asks_nothing_of_it(name):
    jobs = SCENARIO.training_jobs(isac_setups.config(), 0, "central")
    job = next(job for job in jobs if job.model == name)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = SCENARIO.train(job).tensors
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, tensor in isac_setups.trained()[job.key].items():
        assert torch.equal(again[key], tensor), key
