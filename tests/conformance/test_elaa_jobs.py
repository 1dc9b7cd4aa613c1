"""Training jobs of the array scenario: each method is made of the tensors that its name promises."""

import torch
from elaa_setups import ARRAY, small_inputs

from channels.visibility import BlockVisibility
from scenarios.elaa.bench import Bench
from scenarios.elaa.config import ElaaConfig
from scenarios.elaa.data import Cell, DataConfig
from scenarios.elaa.examples import ExampleConfig
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner
from scenarios.elaa.jobs import COMBINER, FROZEN, TUNED, Trained, default_nomp, train_job
from scenarios.elaa.models import CsiModel, LearnedEstimator
from scenarios.elaa.patches import Patches

BENCH = Bench(
    ARRAY, BlockVisibility(subarray_size=8), DataConfig(num_validation=8, num_test=8), Cell(0.5, 10.0), 0
)


def test_channels_that_methods_are_tuned_on_are_not_those_that_they_are_asked_for():
    both = torch.cat((BENCH.validation.h, BENCH.test.h))
    assert len({row.numpy().tobytes() for row in both}) == 16


def test_frozen_tuned_and_hybrid_are_made_of_their_own_tensors():
    inputs = small_inputs()
    config = ElaaConfig(
        array=ARRAY,
        visibility=BlockVisibility(subarray_size=8),
        examples=ExampleConfig(num_examples=64, num_path_examples=64),
        model=inputs.model,
        training=inputs.training,
        training_shares=(1.0, 0.5),
    )
    tensors, _ = train_job("elaa-jepa", 0, config)
    trained = Trained(inputs.model, ARRAY, tensors, "a test")

    def part(module: torch.nn.Module, prefix: str) -> torch.nn.Module:
        chosen = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        module.load_state_dict(chosen)
        return module.eval()

    patches = Patches(ARRAY, inputs.model.patch_size)
    observed, size = BENCH.asked, inputs.model.patch_size
    models = {prefix: part(CsiModel(inputs.model, patches), prefix) for prefix in (FROZEN, TUNED)}
    wanted = {
        prefix: LearnedEstimator(model, ARRAY, size).estimate(observed) for prefix, model in models.items()
    }
    combiner = part(PathCombiner(inputs.model, patches.num_patches), COMBINER)
    # Started near NOMP, it hardly looks at the learned estimate: here it does.
    torch.nn.init.zeros_(combiner.mixing.bias)
    tensors[f"{COMBINER}mixing.bias"] = combiner.mixing.bias.detach()
    wanted[COMBINER] = HybridEstimator(models[TUNED], combiner, default_nomp(ARRAY), ARRAY, size).estimate(
        observed
    )
    for prefix, h_hat in wanted.items():
        # Where weights lie in memory may change the last digit.
        torch.testing.assert_close(trained.estimator(prefix).estimate(observed), h_hat, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(wanted[FROZEN], wanted[TUNED])
