"""The sensing scenario: the same records for any workers, and after an interrupted training."""

import isac_setups
import pytest
import torch

from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.isac.scenario import SCENARIO
from semcom import train
from semcom.codecs.catalogue import CodecConfig
from semcom.train import Central, fit


def test_records_are_the_same_with_workers_and_without(cluster_of):
    """A cell of four groups on three hosts, which two points share, and an alarm of another seed."""
    config = isac_setups.changed("evaluation", group_size=5)
    config = config.model_copy(update={"codec": CodecConfig(kind="entropy", bits=3)})
    first = SCENARIO.training_jobs(config, 1, "central")[0]
    models = isac_setups.trained() | {first.key: dict(SCENARIO.train(first).tensors)}
    points = [
        Point("missing", "inpainting", 0, {"missing": "camera-1"}),
        Point("alarm", "inpainting", 1, {"fault": "noise", "sensor": "receiver"}),
        Point("receivers", "inpainting", 0, {"num_receivers": 4}),
    ]
    expected = SCENARIO.simulate(config, points, models, Cluster())
    assert SCENARIO.simulate(config, points, models, cluster_of(3)) == expected


@pytest.mark.parametrize("stopped_after", [8, 18])
@pytest.mark.parametrize("name", ["inpainting", "supervised"])
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, name, stopped_after):
    jobs = SCENARIO.training_jobs(isac_setups.config(), 0, "central")
    job = next(job for job in jobs if job.model == name)
    steps: list[int] = []

    def stopping(model, batch_loss, *arguments, **named):
        def loss(step, generator):
            steps.append(step)
            if len(steps) == stopped_after:
                raise KeyboardInterrupt
            return batch_loss(step, generator)

        return fit(model, loss, *arguments, checkpoint_every=3, **named)

    monkeypatch.setattr(train, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        SCENARIO.train(job, Central(tmp_path))
    # In the eighth step of the first stage, in which encoders meet JPEG, or in that of the second.
    assert steps == [*range(10), *range(10)][:stopped_after]
    done = len(steps)
    resumed = SCENARIO.train(job, Central(tmp_path))
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
