"""Where a configuration's data come from, as sequences: generated and kept, or recorded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from channels.csi_dataset import CsiDataset, read_dataset
from scenarios.charting.config import ChartingConfig, RayTracedData
from scenarios.charting.data import ChartingData, make_sequences
from scenarios.charting.generation import obtain_dataset
from scenarios.recorded import RecordedData, changed_ns
from semcom.rng import Streams


def load_dataset(config: ChartingConfig, seed: int) -> CsiDataset:
    """Returns the data set of a seed: generated, in this process, if it is not there yet; or recorded."""
    if isinstance(config.data, RayTracedData):
        return _read(obtain_dataset(config.data.scene, seed), 0)
    return _read(config.data.path, _version(config))


def _version(config: ChartingConfig) -> int:
    """When a recorded file was changed last, so that one that changed is read again."""
    return changed_ns(config.data.path) if isinstance(config.data, RecordedData) else 0


def load_sequences(config: ChartingConfig, seed: int) -> ChartingData:
    """Returns the sequences of a seed, as observed and split."""
    return _sequences(
        ChartingConfig(
            data=config.data, observation=config.observation, velocity=config.velocity, split=config.split
        ),
        seed,
        _version(config),
    )


@lru_cache(maxsize=1)
def _read(path: Path, version: int) -> CsiDataset:
    return read_dataset(path)


# One at a time: a default data set is 92 MB, and every worker keeps its own.
@lru_cache(maxsize=1)
def _sequences(config: ChartingConfig, seed: int, version: int) -> ChartingData:
    dataset = load_dataset(config, seed)
    return make_sequences(dataset, config.split, config.observation, config.velocity, Streams(seed))


def has_time_axis(config: ChartingConfig) -> bool:
    """Tells whether the data are sequences; recorded ones without `time_s` are single snapshots."""
    if isinstance(config.data, RayTracedData):
        return config.data.scene.positions_path is None
    return load_dataset(config, 0).time_s is not None
