"""Small set-ups of the control scenario for tests: the smallest training that leaves a usable model."""

from __future__ import annotations

from functools import cache

import torch

from scenarios.control.config import TINY, ControlConfig
from scenarios.control.dataset import DatasetConfig
from scenarios.control.scenario import SCENARIO
from scenarios.control.training import TrainingConfig

CONFIG = TINY.model_copy(
    update={
        "dataset": DatasetConfig(num_trajectories=12, num_held_out=4, num_steps=40),
        "training": TrainingConfig(
            num_steps=20, num_steps_actor=20, num_steps_baseline=20, batch_size=8, actor_batch_size=16,
            baseline_batch_size=16, rollout_steps=4, actor_rollout_steps=6,
        ),
        "evaluation": TINY.evaluation.model_copy(
            update={"num_episodes": 10, "num_steps": 30, "group_size": 4}
        ),
    }
)  # fmt: skip


@cache
def trained(config: ControlConfig = CONFIG, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Trains the three models once per process; returns their tensors by the keys of their jobs."""
    torch.set_num_threads(1)
    jobs = SCENARIO.training_jobs(config, seed, "central")
    return {job.key: dict(SCENARIO.train(job).tensors) for job in jobs}
