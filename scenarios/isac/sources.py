"""Where a configuration's data come from, as sequences: generated and kept, or recorded."""

from __future__ import annotations

from functools import lru_cache

from channels.room_generator import open_room_cache
from channels.sensing_dataset import SensingDataset, read_sensing
from scenarios.isac.config import GeneratedData, IsacConfig
from scenarios.isac.data import SensingData, make_sequences
from scenarios.isac.generation import obtain_room
from scenarios.recorded import RecordedData, changed_ns, content_hash
from semcom.rng import Streams


def load_sequences(config: IsacConfig, seed: int) -> SensingData:
    """Returns the sequences of a seed, as observed and split; generated ones are made if they aren't there.

    Raises SemcomError for recorded data that can't be read, and for too few or too short sequences.
    """
    return _sequences(_parts(config), seed, _changed_ns(config))


def keep_sequences(config: IsacConfig, seed: int) -> SensingData:
    """Returns the same, and keeps those of several seeds: for a process that comes back to each of them."""
    return _kept(_parts(config), seed, _changed_ns(config))


def data_name(config: IsacConfig, seed: int) -> str:
    """Returns what tells data sets apart: the name of the generated one, a recorded one's SHA-256."""
    if isinstance(config.data, GeneratedData):
        return open_room_cache(config.data.room, seed).name
    path = config.data.path
    return content_hash(path) if path.is_file() else str(path)


def _parts(config: IsacConfig) -> IsacConfig:
    """A configuration of nothing but what sequences depend on."""
    return IsacConfig(data=config.data, observation=config.observation, split=config.split)


def _changed_ns(config: IsacConfig) -> int:
    """When a recorded file was changed last, so that one that changed is read again."""
    return changed_ns(config.data.path) if isinstance(config.data, RecordedData) else 0


# One at a time: a default data set has 130 MB, and a worker that trains goes on to the next for good.
@lru_cache(maxsize=1)
def _sequences(config: IsacConfig, seed: int, changed_ns: int) -> SensingData:
    return make_sequences(_dataset(config, seed), config.split, config.observation, Streams(seed))


# A simulation takes all seeds in each of its batches.
_kept = lru_cache(maxsize=5)(_sequences)


def _dataset(config: IsacConfig, seed: int) -> SensingDataset:
    if isinstance(config.data, GeneratedData):
        return read_sensing(obtain_room(config.data.room, seed))
    return read_sensing(config.data.path)
