"""What the whole suite shares: one Ray cluster, started by the first test that needs it."""

import gc
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray's workers import what this process can import by name: the modules beside this file are for them.
sys.path.insert(0, str(Path(__file__).parent))

from nodes.cluster import Cluster


@pytest.fixture(scope="session", autouse=True)
def cache_of_generated_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps generated data in a folder of this session: no cache is touched, nothing is made twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMCOM_CACHE", str(tmp_path_factory.mktemp("semcom-cache")))
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three local workers; a Cluster entered meanwhile uses the same Ray."""
    with Cluster(num_workers=3) as started:
        yield started
    with warnings.catch_warnings():
        # Ray leaves the pipes to its stopped processes to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
