"""The sensing scenario made as small as it can be for tests: its configuration, data, models and files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from channels.sensing_dataset import write_sensing
from scenarios.contracts import Point
from scenarios.isac.config import TINY, IsacConfig
from scenarios.isac.data import SensingData
from scenarios.isac.measures import load_model
from scenarios.isac.models import SensingModel
from scenarios.isac.scenario import SCENARIO, training_job
from scenarios.isac.sources import load_sequences
from scenarios.isac.task import Task
from scenarios.isac.training import make_model
from semcom.rng import Streams
from semcom.train import CENTRAL

NUM_SEQUENCES, NUM_STEPS, INTERVAL_S = 8, 12, 0.5
FEW_STEPS = {name: 10 for name in TINY.training.model_dump() if name.startswith("num_steps")}


@cache
def config() -> IsacConfig:
    """The tiny preset with the shortest trainings that there are."""
    return TINY.model_copy(update={"training": TINY.training.model_copy(update=FEW_STEPS)})


def changed(part: str, **update: Any) -> IsacConfig:
    """Returns the configuration with some fields of a part replaced."""
    old = getattr(config(), part)
    # Validated: a field that isn't there would be set in silence.
    new = type(old).model_validate(old.model_dump() | update)
    return config().model_copy(update={part: new})


def data(seed: int = 0) -> SensingData:
    """The sequences of the configuration."""
    return load_sequences(config(), seed)


@cache
def trained(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Trains the models of the configuration once per process; tensors by the keys of their jobs."""
    torch.set_num_threads(1)
    jobs = SCENARIO.training_jobs(config(), seed, "central")
    return {job.key: dict(SCENARIO.train(job).tensors) for job in jobs}


@cache
def model(name: str = "inpainting") -> SensingModel:
    """A trained model of seed 0; its method has the same name."""
    weights = trained()[training_job(config(), name, 0).key]
    return load_model(config(), data(), Point("sweep", name, 0), weights)


def task(name: str = "inpainting", **update: Any) -> Task:
    """A training that has not begun, of seed 0; its heads know the scale of the room. Nothing is mixed."""
    told, train = changed("training", **{"mix_share": 0.0, **update}).training, data().train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make_model(config().model, data(), name)
    made.frames.calibrate(train.frame.flatten(0, 1))
    made.csi.calibrate(train.csi.flatten(0, 1)[:, : made.num_receivers])
    made.head.calibrate(train.position_m)
    return Task(made, told, train, Streams(0), torch.Generator().manual_seed(0), CENTRAL)


def recording(num_cameras: int = 2, num_receivers: int = 3, seed: int = 5) -> dict[str, Any]:
    """Arrays of a recorded data set by the names that write_sensing gives them: two blobs that walk."""
    generator = np.random.default_rng(seed)
    num = NUM_SEQUENCES * NUM_STEPS
    start_m = generator.uniform(1, 3, (NUM_SEQUENCES, 1, 2, 2))
    way_m = generator.uniform(-0.1, 0.1, (NUM_SEQUENCES, 1, 2, 2)) * np.arange(NUM_STEPS)[:, None, None]
    position_m = (start_m + way_m).reshape(num, 2, 2)
    frame = generator.integers(90, 110, (num, num_cameras, 16, 24, 3), dtype=np.uint8)
    for row, places in enumerate(position_m):
        for pedestrian, (x, y) in enumerate(places):
            frame[row, :, int(4 * y) : int(4 * y) + 3, int(6 * x) : int(6 * x) + 2, pedestrian] = 220
    distance_m = np.linalg.norm(
        position_m[:, None] - generator.uniform(0, 4, (num_receivers, 1, 2)), axis=-1
    ).sum(axis=-1)
    csi = np.exp(-1j * distance_m[..., None] * np.linspace(1, 1.4, 6)) / (1 + distance_m[..., None])
    return {
        "frame": frame,
        "csi": csi.astype(np.complex64),
        "position_m": position_m.astype(np.float32),
        "sequence": np.repeat(np.arange(NUM_SEQUENCES), NUM_STEPS),
        "time_s": np.tile(INTERVAL_S * np.arange(NUM_STEPS), NUM_SEQUENCES),
    }


def write(path: Path, arrays: dict[str, Any]) -> Path:
    """Writes arrays of a recording to a file."""
    write_sensing(path, **arrays)
    return path
