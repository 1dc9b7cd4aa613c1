"""Data sets that can't be generated are refused in one line that names what, where and the remedy."""

import numpy as np
import pytest
from csi_setups import CANYON

from channels.csi_generator import make_chunk, plan_chunks
from channels.csi_scene import AREAS, CsiSceneConfig, read_positions
from channels.ray_tracer import load_scene
from channels.scenes import SCENES
from scenarios.charting.generation import obtain_dataset
from semcom.contracts import SemcomError

EMPTY_SCENE = '<scene version="2.1.0"></scene>'


def make_all(config: CsiSceneConfig) -> None:
    for chunk in plan_chunks(config, 0):
        make_chunk(chunk)


def refusal(config: CsiSceneConfig) -> str:
    with pytest.raises(SemcomError) as refused:
        make_all(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def canyon(**settings) -> CsiSceneConfig:
    return CsiSceneConfig.model_validate(CANYON.model_dump() | settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scene": "atlantis"}, "scene = atlantis is not there: take munich"),
        ({"scene": "nowhere/scene.xml"}, "scene = nowhere/scene.xml is not there"),
        ({"num_arrays": 2, "array_m": [(0, 0, 10)]}, "num_arrays = 2, and array_m has 1 places"),
        ({"array_m": [(0, 0, 10), (-50, 20, 10)]}, "array_m[1] = (-50, 20, 10) lies inside a building"),
        ({"array_m": [(0, 0, -3), (0, 0, 10)]}, "array_m[0] = (0, 0, -3) lies inside a building or below"),
        (
            {"num_steps": 2000, "num_subcarriers": 4096, "polarisation": "cross"},
            "2000 positions of 2 x 8 antennas and 4096 subcarriers take 1000 MiB, more than a worker",
        ),
        ({"centre_m": (900, 0)}, "centre_m = (900, 0) has no open ground of street-canyon"),
        (
            {"num_arrays": 1, "centre_m": (-46, 50), "radius_m": 8, "max_depth": 0},
            "20 drawings of trajectory 0 led through places without a path to any array",
        ),
    ],
)  # fmt: skip
def test_what_has_no_channels_is_refused(settings, told):
    assert told in refusal(canyon(**settings))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("5000,0,1.5", "position 2 of positions_path = {}, (5000, 0, 1.5), lies outside street-canyon"),
        ("-50,20,1.5", "position 2 of positions_path = {}, (-50, 20, 1.5), lies inside a building"),
        ("-46,50,1.5", "position 2 of positions_path = {}, (-46, 50, 1.5), has no path to any array"),
        ("1,2", "positions_path = {} is no table of x, y, z"),
        ("1,2,nan", "positions_path = {} holds a table [3, 3]: it takes finite x, y, z a line"),
    ],
)
def test_a_position_without_a_channel_is_named(line, told, tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(f"0,0,1.5\n10,0,1.5\n{line}\n")
    assert told.format(path) in refusal(canyon(positions_path=path, num_arrays=1, max_depth=0))


def test_positions_of_a_file_are_traced_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMCOM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "places.csv"
    path.write_text("0,0,1.5\n10,0,1.5\n0,0,1.5\n")
    config = canyon(positions_path=path)
    [chunk] = plan_chunks(config, 0)
    part = make_chunk(chunk)
    np.testing.assert_array_equal(part.position_m, read_positions(path))
    np.testing.assert_array_equal(part.csi[0], part.csi[2])
    assert (part.csi[0] != part.csi[1]).any()
    first = obtain_dataset(config, 0)
    path.write_text("0,0,1.5\n11,0,1.5\n")
    assert obtain_dataset(config, 0) != first  # other positions under the same name
    path.unlink()
    assert "can't be read" in refusal(config)


def test_a_scene_file_is_loaded_or_refused(tmp_path):
    import sionna.rt as rt

    scene = rt.scene.simple_street_canyon
    placed = {"array_m": [(-25, 0, 10), (25, 0, 10)], "centre_m": (0, 0)}
    assert "has no array_m of its own" in refusal(canyon(scene=scene))
    assert "has no object named ground: set ground" in refusal(canyon(scene=scene, **placed))
    own = make_chunk(plan_chunks(canyon(scene=scene, ground="floor", **placed), 0)[0])
    built_in = make_chunk(plan_chunks(canyon(), 0)[0])
    np.testing.assert_array_equal(own.csi, built_in.csi)
    broken = tmp_path / "broken.xml"
    broken.write_text("<scene")
    assert f"{broken} is no scene that Sionna RT can load" in refusal(canyon(scene=str(broken), **placed))


def test_an_llvm_too_old_is_told_of_in_one_line(tmp_path, monkeypatch):
    import mitsuba as mi

    library, scene = tmp_path / "libLLVM-15.so.1", tmp_path / "some.xml"
    library.touch()
    scene.write_text(EMPTY_SCENE)
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(library))
    # As in a process that has traced no ray yet.
    monkeypatch.setattr(mi, "variant", lambda: None)
    assert "needs LLVM 16 or newer, the newest found is 15" in refusal(
        canyon(scene=str(scene), array_m=[(0, 0, 1), (1, 1, 1)], centre_m=(0, 0))
    )


def test_a_cache_that_cannot_be_written_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEMCOM_CACHE", str(tmp_path / "file"))
    with pytest.raises(SemcomError, match="set SEMCOM_CACHE to a folder that can be"):
        obtain_dataset(CANYON, 0)


@pytest.mark.parametrize("name", AREAS)
def test_most_of_every_area_is_in_sight_of_its_arrays(name):
    config = CsiSceneConfig(scene=name)
    scene = load_scene(SCENES[name].name, SCENES[name].ground)
    assert scene.sky_above(config.arrays_m()).all()
    ground = scene.open_ground(np.array([*config.area_centre_m(), 0.0]), config.radius_m)
    row, column = np.nonzero(ground.walkable)
    assert len(row) > 3000
    place_m = ground.centre_m + ground.cell_m * np.stack([column, row], axis=-1)[::5]
    place_m = np.column_stack([place_m, ground.ground_m(place_m) + 1.5])
    in_sight = np.array([scene.sees(np.broadcast_to(m, place_m.shape), place_m) for m in config.arrays_m()])
    assert in_sight.any(axis=0).mean() > 0.6
