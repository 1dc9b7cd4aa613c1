"""What the whole suite shares: one Ray cluster, started by the first test that needs it.

Several processes share the tests out by files: what a file makes for its tests is made once. All that need
Ray are one process's.
"""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# Ray's workers import what this process can import by name: the modules beside this file are for them.
sys.path.insert(0, str(Path(__file__).parent))

from nodes.cluster import Cluster


def pytest_configure(config: pytest.Config) -> None:
    """Refuses a pytest under which pytest-xdist can't write the groups: all would pass, in twice the time."""
    if config.getoption("numprocesses", None) and not hasattr(pytest.Item, "_nodeid"):
        raise pytest.UsageError(f"pytest {pytest.__version__}: pytest-xdist groups no test; install 9.1")


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
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers stand back for what else runs, which here is the rest of the suite.
        patch.setenv("RAY_worker_niceness", "0")
        with Cluster(num_workers=3) as started:
            yield started
    with warnings.catch_warnings():
        # Ray leaves the pipes to its stopped processes to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def cluster_of(cluster: Cluster) -> Iterator[Callable[[int], Cluster]]:
    """Clusters of any size on the same Ray; each keeps its actors for the next test that asks for it."""
    made = {cluster.num_workers: cluster}
    with ExitStack() as stack:

        def of(num_workers: int) -> Cluster:
            if num_workers not in made:
                made[num_workers] = stack.enter_context(Cluster(num_workers))
            return made[num_workers]

        yield of
