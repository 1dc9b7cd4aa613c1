"""Every built-in scene has a station with a view and streets to walk in; what can't be traced is refused."""

import subprocess
import sys

import numpy as np
import pytest

from channels.catalogue import check_channel
from channels.grid import GridConfig, ResourceGrid
from channels.llvm import use_llvm
from channels.ray_tracer import load_scene
from channels.scenes import SCENES, RayTracedConfig, RayTracedSource
from channels.trajectories import OpenGround
from semcom.contracts import SemcomError
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())


@pytest.mark.parametrize("model", SCENES)
def test_in_every_scene_the_station_sees_people_who_walk_through_no_wall(model):
    config = RayTracedConfig(model=model, speed_m_per_s=1.0)
    scene = load_scene(SCENES[model].name, SCENES[model].ground)
    walks = RayTracedSource(config, 50, Streams(3))
    way_m = np.stack([walks.positions_m(time_s) for time_s in np.arange(0, 60, 0.5)])
    before_m, after_m = way_m[:-1].reshape(-1, 3), way_m[1:].reshape(-1, 3)
    assert scene.sky_above(before_m).all()
    assert scene.sees(before_m, after_m).all()
    station_m = np.broadcast_to(config.station_m(), before_m.shape)
    assert np.linalg.norm((before_m - station_m)[:, :2], axis=1).max() < config.max_distance_m
    # Not all and not none: 0.2 in the canyon to 0.6 at the Etoile.
    assert 0.1 < scene.sees(way_m[0], station_m[:50]).mean() < 0.9
    # That seeing means something: some walkers are hidden from each other.
    assert not scene.sees(way_m[0], np.roll(way_m[0], 1, axis=0)).all()


@pytest.mark.parametrize("model", SCENES)
def test_no_wall_stands_between_neighbouring_cells_that_can_be_walked(model):
    """Not even one without a roof, such as those around Florence's cathedral."""
    config = RayTracedConfig(model=model)
    scene = load_scene(SCENES[model].name, SCENES[model].ground)
    ground = scene.open_ground(config.station_m(), config.max_distance_m)
    row, column = np.nonzero(ground.walkable[:-1, :-1])
    here_m = at_height(ground, row, column)
    assert len(here_m) > 10_000
    for step in ((0, 1), (1, 0), (1, 1)):
        next_to = ground.walkable[row + step[0], column + step[1]]
        there_m = at_height(ground, row[next_to] + step[0], column[next_to] + step[1])
        assert scene.sees(here_m[next_to], there_m).all()


def at_height(ground: OpenGround, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    place_m = ground.centre_m + ground.cell_m * np.stack([column, row], axis=-1)
    return np.column_stack([place_m, ground.height_m[row, column] + 1.5])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base_station_m": (-50.0, 20.0, 10.0)}, "inside a building"),
        ({"base_station_m": (-25.0, 0.0, -3.0)}, "below the ground"),
        ({"base_station_m": (900.0, 0.0, 10.0)}, "no open ground"),
        ({"base_station_m": (0.0, 22.0, 52.0), "max_depth": 0}, "has no path"),
    ],
)
def test_a_station_that_can_reach_nobody_is_refused(settings, told):
    with pytest.raises(SemcomError, match=r"channel\.base_station_m") as refusal:
        check_channel(RayTracedConfig(model="street-canyon", **settings), GRID, 40, 0.02)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("library", "told"),
    [
        (None, "there is none"),
        ("libLLVM-15.so.1", "the newest found is 15"),
        ("libLLVM-19.so.1", "can't be loaded"),
    ],
)
def test_without_a_new_llvm_ray_tracing_is_refused_in_one_line(library, told, tmp_path, monkeypatch):
    monkeypatch.delenv("DRJIT_LIBLLVM_PATH", raising=False)
    if library:
        (tmp_path / library).touch()
    with pytest.raises(SemcomError, match="needs LLVM 16 or newer") as refusal:
        use_llvm((f"{tmp_path}/libLLVM*.so*",))
    assert told in str(refusal.value)
    assert "libllvm19" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_llvm_whose_name_tells_nothing_is_asked_itself(tmp_path, monkeypatch):
    # Any library without LLVM's functions passes for one that is too old.
    import _ctypes

    library = tmp_path / "libLLVM.so"
    library.symlink_to(_ctypes.__file__)
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(library))
    with pytest.raises(SemcomError, match="is older"):
        use_llvm()
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(tmp_path / "nowhere.so"))
    with pytest.raises(SemcomError, match=r"nowhere\.so is not there"):
        use_llvm()


def test_nothing_of_ray_tracing_is_imported_before_a_scene_is_loaded():
    code = (
        "import sys; from channels.catalogue import ChannelConfig, make_channel; "
        "from scenarios.control.config import TINY, check; check(TINY); "
        "print([name for name in sys.modules if name.split('.')[0] in ('mitsuba', 'drjit')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
