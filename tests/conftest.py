"""What the whole suite shares: one Ray cluster, started by the first test that needs it.

Several processes share the tests out by files: what a file makes for its tests is made once. All that need
Ray are one process's.
"""

import gc
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray's workers import what this process can import by name: the modules beside this file are for them.
sys.path.insert(0, str(Path(__file__).parent))

from nodes.cluster import Cluster


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names the group that each test belongs to: its file, or Ray's for files with a test that needs Ray."""
    on_ray = {item.path for item in items if "cluster" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in on_ray else str(item.path)))


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
