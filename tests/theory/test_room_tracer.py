"""The ray-traced room: free space where nothing is in the way, the pinhole's formula, and the same bits."""

import numpy as np
import pytest

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.response import resource_block_centres_hz
from channels.room import SHAPES, Furniture, RoomConfig, Walk
from channels.room_meshes import Mesh, body_mesh, box_mesh, furniture_mesh, placed, room_meshes
from channels.room_tracer import TracedRoom

SMALL = {"num_rays": 2000, "num_receivers": 3, "num_subcarriers": 8}
EMPTY = {"furniture": (), "max_depth": 0, **SMALL}


def walk_of(*steps: list[tuple[float, float, float] | None]) -> Walk:
    """A walk of x, y and heading of each pedestrian in each step, None for who isn't there."""
    values = np.array([[body or (np.nan,) * 3 for body in step] for step in steps])
    return Walk(values[..., :2], values[..., 2])


def pixel_of(config: RoomConfig, camera: int, point_m: np.ndarray) -> tuple[float, float]:
    """Column and row of a point in a pinhole camera's frame, in pixels from the upper left corner."""
    look = config.looks()[camera]
    right = np.cross(look, [0, 0, 1])
    right /= np.linalg.norm(right)
    above = np.cross(right, look)
    way = point_m - config.cameras_m()[camera]
    scale = config.frame_width_px / 2 / np.tan(np.deg2rad(config.field_of_view_deg) / 2) / (way @ look)
    column = config.frame_width_px / 2 + scale * (way @ right)
    return column, config.frame_height_px / 2 - scale * (way @ above)


def is_red(frame: np.ndarray) -> np.ndarray:
    """Pixels of the clothes of pedestrian 0: skin, floor and furniture are less red."""
    red, green = frame[..., 0].astype(float), frame[..., 1].astype(float)
    return (red > 1.7 * green) & (red > 60)


@pytest.fixture(scope="module")
def empty_room() -> TracedRoom:
    return TracedRoom(RoomConfig(max_pedestrians=1, **EMPTY))


@pytest.fixture(scope="module")
def room() -> TracedRoom:
    return TracedRoom(RoomConfig(**SMALL))


@pytest.mark.parametrize("name", SHAPES)
def test_bodies_are_closed_and_as_large_as_their_shape_says(name):
    shape = SHAPES[name]
    mesh, is_head = body_mesh(shape)
    edges = np.concatenate([mesh.face[:, [i, (i + 1) % 3]] for i in range(3)])
    # Of a closed surface that is turned outwards each edge is walked once in either direction.
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert {tuple(edge) for edge in edges} == {tuple(edge[::-1]) for edge in edges}
    a, b, c = (mesh.vertex_m[mesh.face[:, i]] for i in range(3))
    volume_m3 = np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6
    column_m3 = np.pi / 4 * shape.width_m * shape.depth_m * shape.height_m
    assert 0.7 * column_m3 < volume_m3 < column_m3
    assert (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-5).all()
    depth_m, width_m, height_m = np.ptp(mesh.vertex_m, axis=0)
    assert mesh.vertex_m[:, 2].max() == pytest.approx(shape.height_m)
    assert height_m == pytest.approx(shape.height_m, abs=0.01)
    assert 0.95 * shape.width_m < width_m <= shape.width_m
    assert 0.95 * shape.depth_m < depth_m <= shape.depth_m
    assert mesh.vertex_m[mesh.face[is_head], 2].min() > 0.8 * shape.height_m
    turned = np.ptp(placed(mesh, np.array([3.0, 1.0]), np.pi / 2), axis=0)
    np.testing.assert_allclose(turned, [width_m, depth_m, height_m])


def test_a_body_turns_against_the_clock_to_where_it_faces():
    mesh = Mesh(np.array([[0.5, 0.0, 1.0], [0.0, 0.2, 0.0]]), np.zeros((0, 3), dtype=np.int64))
    found = placed(mesh, np.array([2.0, 1.0]), np.pi / 2)
    np.testing.assert_allclose(found, [[2.0, 1.5, 1.0], [1.8, 1.0, 0.0]])


def test_furniture_stands_on_the_floor_and_the_room_is_closed():
    box = Furniture(centre_m=(2.0, 1.0), size_m=(0.4, 0.6, 1.5))
    mesh = furniture_mesh(box)
    np.testing.assert_allclose(mesh.vertex_m.max(axis=0), [2.2, 1.3, 1.5])
    np.testing.assert_allclose(mesh.vertex_m.min(axis=0), [1.8, 0.7, 0.0], atol=0.01)
    parts = room_meshes(RoomConfig())
    volume_m3 = 0.0
    for part in (*parts.values(), box_mesh(np.zeros(3), np.array([6.0, 4.0, 2.8]))):
        a, b, c = (part.vertex_m[part.face[:, i]] for i in range(3))
        volume_m3 += np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6
    # Seen from inside, the room is minus the box of its size.
    assert volume_m3 == pytest.approx(0, abs=1e-9)


def test_line_of_sight_is_free_space(empty_room):
    config = RoomConfig(max_pedestrians=1, **EMPTY)
    csi = empty_room.csi(walk_of([None]))[0]
    distance_m = np.linalg.norm(config.receivers_m() - config.transmitter_m(), axis=1)
    frequency_hz = config.carrier_hz + resource_block_centres_hz(config.num_subcarriers, config.bandwidth_hz)

    def friis(distance_m: np.ndarray) -> np.ndarray:
        amplitude = SPEED_OF_LIGHT_M_PER_S / config.carrier_hz / (4 * np.pi * distance_m)
        delay_s = distance_m / SPEED_OF_LIGHT_M_PER_S
        return amplitude[:, None] * np.exp(-2j * np.pi * frequency_hz * delay_s[:, None])

    # Single precision leaves a few micrometres of a path: less than a thousandth of a turn.
    np.testing.assert_allclose(csi / friis(distance_m), 1, atol=5e-3)
    assert (np.abs(csi / friis(distance_m + 1e-3) - 1) > 0.05).all()


def test_a_body_in_the_way_takes_the_line_of_sight(empty_room):
    config = RoomConfig(max_pedestrians=1, **EMPTY)
    middle = (config.transmitter_m() + config.receivers_m()[1]) / 2
    x, y = middle[:2]
    alone, hidden, aside = empty_room.csi(walk_of([None], [(x, y, 0.4)], [(x + 0.6, y, 0.4)]))
    assert not hidden[1].any()
    np.testing.assert_array_equal(aside[1], alone[1])


def test_with_reflections_a_body_in_the_way_weakens_the_channel(room):
    config = RoomConfig(**SMALL)
    x, y = ((config.transmitter_m() + config.receivers_m()[0]) / 2)[:2]
    csi = room.csi(walk_of([None] * 3, [(x, y, 1.0), None, None]))
    power = (np.abs(csi[:, 0]) ** 2).mean(axis=-1)
    assert 0 < power[1] < 0.5 * power[0]


@pytest.mark.parametrize(("max_depth", "passes"), [(1, False), (2, True)])
def test_a_box_of_wood_lets_through_what_metal_does_not_if_both_its_panels_may_be_passed(max_depth, passes):
    settings = SMALL | {"num_receivers": 1, "max_pedestrians": 1, "max_depth": max_depth}
    wood, metal = (
        TracedRoom(
            RoomConfig(
                furniture=(Furniture(centre_m=(3.0, 2.0), size_m=(0.6, 0.4, 2.0), material=material),),
                **settings,
            )
        ).csi(walk_of([None]))
        for material in ("wood", "metal")
    )
    assert (np.linalg.norm(wood - metal) > 0.5 * np.linalg.norm(metal)) == passes


def test_edges_diffract_on_demand_alone():
    box = Furniture(centre_m=(1.95, 2.0), size_m=(1.9, 0.4, 2.0), material="metal")
    settings = SMALL | {"num_receivers": 9, "max_pedestrians": 1, "max_depth": 1, "furniture": (box,)}
    plain, diffracted = (
        TracedRoom(RoomConfig(diffraction=told, **settings)).csi(walk_of([None]))[0] for told in (False, True)
    )
    # Of the last but one more than a tenth of the field comes over the box's edges.
    assert np.linalg.norm(diffracted[7] - plain[7]) > 0.1 * np.linalg.norm(plain[7])


def test_a_body_scatters_like_a_person():
    """Adults' mean radar cross section is some 0.5 m^2 (-3 dBsm) at a few GHz: 0.25 to 1 m^2 here."""
    settings = {"furniture": (), "max_depth": 1, "diffraction": False, "max_pedestrians": 1}
    settings |= {"num_receivers": 9, "num_rays": 5000, "num_subcarriers": 8}
    config = RoomConfig(**settings)
    mirrors = TracedRoom(RoomConfig(**settings, body={"scattering_coefficient": 0}))
    generator = np.random.default_rng(0)
    place_m = generator.uniform([1.0, 1.2], [5.0, 3.0], (40, 2))
    walk = walk_of([None], *([(x, y, x * y)] for x, y in place_m))
    csi, mirrored = TracedRoom(config).csi(walk), mirrors.csi(walk)
    # Where a body that mirrors changes nothing, it scatters and is in nobody's way.
    is_free = (mirrored[1:] == mirrored[0]).all(axis=-1)
    power = (np.abs(csi[1:] - csi[0]) ** 2).mean(axis=-1)
    device_m, transmitter_m = config.receivers_m()[:, :2], config.transmitter_m()[:2]
    first_m = np.linalg.norm(place_m - transmitter_m, axis=1)[:, None]
    second_m = np.linalg.norm(place_m[:, None] - device_m, axis=-1)
    wavelength_m = SPEED_OF_LIGHT_M_PER_S / config.carrier_hz
    # The radar equation of isotropic antennas.
    section_m2 = power * (4 * np.pi) ** 3 * (first_m * second_m / wavelength_m) ** 2
    assert is_free.sum() > 100
    assert 0.25 < section_m2[is_free].mean() < 1.0


def test_bodies_that_are_not_there_change_nothing(room):
    one = TracedRoom(RoomConfig(max_pedestrians=1, **SMALL))
    alone, in_company = walk_of([(1.7, 2.9, 0.3)]), walk_of([(1.7, 2.9, 0.3), None, None])
    np.testing.assert_array_equal(one.csi(alone), room.csi(in_company))
    for_one, for_three = one.frames(alone), room.frames(in_company)
    np.testing.assert_array_equal(for_one[0], for_three[0])
    np.testing.assert_array_equal(for_one[1], for_three[1][..., :1])
    assert np.isnan(for_three[1][..., 1:]).all()


def test_the_same_bits_whatever_was_computed_before(room):
    steps = [
        [(1.2, 1.1, 0.3), (4.4, 2.6, 2.0), None],
        [None, (4.1, 1.0, 1.0), (2.2, 3.1, 4.0)],
        [(1.9, 3.0, 5.0), (5.2, 0.8, 0.1), (3.9, 3.3, 2.5)],
    ]
    forwards, backwards = walk_of(*steps), walk_of(*steps[::-1])
    csi, (frame, share) = room.csi(forwards), room.frames(forwards)
    np.testing.assert_array_equal(room.csi(backwards)[::-1], csi)
    np.testing.assert_array_equal(room.frames(backwards)[0][::-1], frame)
    fresh = TracedRoom(RoomConfig(**SMALL))
    np.testing.assert_array_equal(fresh.csi(walk_of(steps[1]))[0], csi[1])
    np.testing.assert_array_equal(fresh.frames(walk_of(steps[1]))[1][0], share[1])
    assert len({part.tobytes() for part in (*csi, *frame)}) == 6


def test_a_receivers_paths_are_the_same_in_any_company(room):
    # With one receiver it stands where the middle one of three does.
    lonely = TracedRoom(RoomConfig(**(SMALL | {"num_receivers": 1})))
    walk = walk_of([(1.7, 2.9, 0.3), (4.0, 1.0, 1.0), None])
    np.testing.assert_array_equal(lonely.csi(walk)[:, 0], room.csi(walk)[:, 1])


@pytest.mark.parametrize("camera", [0, 1])
def test_a_body_stands_where_a_pinhole_shows_it(camera):
    config = RoomConfig(
        max_pedestrians=1, furniture=(), frame_height_px=192, frame_width_px=288, samples_per_px=1, **SMALL
    )
    x, y = (3.4, 1.4) if camera == 0 else (2.4, 2.9)
    frame, _ = TracedRoom(config).frames(walk_of([(x, y, 0.0)], [None]))
    body, background = frame[:, camera].astype(float)
    rows, columns = np.nonzero(is_red(body) & ~is_red(background))
    shape = SHAPES[config.shapes[0]]
    top_column, top_row = pixel_of(config, camera, np.array([x, y, shape.height_m]))
    sole_column, sole_row = pixel_of(config, camera, np.array([x, y, 0.0]))
    towards = np.sign(config.cameras_m()[camera, 0] - x)
    _, toe_row = pixel_of(config, camera, np.array([x + towards * shape.depth_m / 2, y, 0.0]))
    assert sole_row - 1 < rows.max() < toe_row + 1
    assert columns[rows > rows.max() - 6].mean() == pytest.approx(sole_column, abs=2)
    # The crown is the highest pixel that differs from the room without anybody: shadows fall below it.
    changed = np.abs(body - background).max(axis=-1) > 8
    near = np.abs(np.arange(config.frame_width_px) - top_column) < 4
    assert np.nonzero((changed & near).any(axis=1))[0].min() == pytest.approx(top_row, abs=2)
    assert abs(top_row - pixel_of(config, camera, np.array([x, y, shape.height_m - 0.1]))[1]) > 4


def test_a_walk_across_the_view_goes_opposite_ways_in_the_two_cameras():
    config = RoomConfig(max_pedestrians=1, furniture=(), **SMALL)
    frame, share = TracedRoom(config).frames(walk_of(*([(3.0, y, 1.0)] for y in (1.0, 1.7, 2.4, 3.1))))
    column = np.array([[np.nonzero(is_red(seen))[1].mean() for seen in step] for step in frame])
    assert (np.diff(column[:, 0]) < -5).all()
    assert (np.diff(column[:, 1]) > 5).all()
    np.testing.assert_array_equal(share, 1)


def test_what_is_hidden_from_a_camera_is_not_visible():
    # The partition hides the lower half of who stands behind it; the stout one hides the small one.
    low = Furniture(centre_m=(3.0, 2.0), size_m=(0.1, 1.8, 1.5))
    config = RoomConfig(shapes=("tall", "stout", "small"), furniture=(low,), **SMALL)
    frame, share = TracedRoom(config).frames(
        walk_of(
            [(4.2, 2.0, 0.0), None, None],
            [None, (1.2, 2.0, 0.0), (1.7, 2.0, 0.0)],
            [(0.3, 0.3, 0.0), None, None],
        )
    )
    assert frame.dtype == np.uint8
    assert frame.shape == (3, 2, 64, 96, 3)
    assert share.dtype == np.float32
    assert 0 < share[0, 0, 0] < 0.5
    assert share[0, 1, 0] == 1
    assert share[1, 0, 1] == 1
    assert share[1, 0, 2] < 0.15
    # Outside the one camera's view; the other sees it beside and above the partition.
    assert share[2, 0, 0] == 0
    assert 0.3 < share[2, 1, 0] < 1
