"""The charting scenario: the same records for any workers, and after an interrupted training."""

import charting_setups
import pytest
import torch

from nodes.cluster import Cluster
from scenarios.charting.scenario import SCENARIO
from semcom import train
from semcom.codecs.catalogue import CodecConfig
from semcom.train import Central, fit


def test_records_are_the_same_for_any_number_of_workers(cluster_of):
    """Of every result, and of two seeds at once over the air; devices in groups that the workers share."""
    config = charting_setups.config()
    config = config.model_copy(
        update={
            "codec": CodecConfig(kind="entropy", bits=3),
            "evaluation": config.evaluation.model_copy(
                update={"group_size": 3, "charts": ("w-jepa", "pca", "isomap")}
            ),
        }
    )
    first = SCENARIO.training_jobs(config, 1, "central")[0]
    models = charting_setups.trained() | {first.key: dict(SCENARIO.train(first).tensors)}
    points = SCENARIO.points(config, [0]) + SCENARIO.sweep_points(config, [1])
    expected = SCENARIO.simulate(config, points, models, Cluster())
    assert {point.result for point in points} == {"chart", "forecast", "velocity", "rate", "loss", "sweep"}
    assert SCENARIO.simulate(config, points, models, cluster_of(1)) == expected
    # One cell in three processes: two groups of devices that report to it.
    some = [0, len(points) - 1]
    found = SCENARIO.simulate(config, [points[place] for place in some], models, cluster_of(3))
    assert found == [expected[place] for place in some]


@pytest.mark.parametrize("name", ["w-jepa", "siamese", "autoencoder"])
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, name):
    config = charting_setups.config()
    job = next(job for job in SCENARIO.training_jobs(config, 0, "central") if job.model == name)
    steps = []

    def stopping(model, batch_loss, *arguments, **named):
        def loss(step, generator):
            steps.append(step)
            if step == 13:
                raise KeyboardInterrupt
            return batch_loss(step, generator)

        return fit(model, loss, *arguments, checkpoint_every=5, **named)

    def counted(model, batch_loss, *arguments, **named):
        def loss(step, generator):
            steps.append(step)
            return batch_loss(step, generator)

        return fit(model, loss, *arguments, **named)

    monkeypatch.setattr(train, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        SCENARIO.train(job, Central(tmp_path))
    assert steps == list(range(14))
    steps.clear()
    monkeypatch.setattr(train, "fit", counted)
    resumed = SCENARIO.train(job, Central(tmp_path))
    # The second stage of w-jepa, its predictor's, follows whole.
    second = range(config.training.num_steps_predictor) if name == "w-jepa" else range(0)
    assert steps == [*range(10, 20), *second]
    whole = charting_setups.trained()[job.key]
    assert resumed.tensors.keys() == whole.keys()
    for key, tensor in whole.items():
        assert torch.equal(resumed.tensors[key], tensor), key


@pytest.mark.parametrize("name", ["siamese", "lstm-velocity"])
def test_training_leaves_the_process_s_random_state_alone_and_asks_nothing_of_it(name):
    config = charting_setups.config()
    job = next(job for job in SCENARIO.training_jobs(config, 0, "central") if job.model == name)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = SCENARIO.train(job).tensors
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, tensor in charting_setups.trained()[job.key].items():
        assert torch.equal(again[key], tensor), key
