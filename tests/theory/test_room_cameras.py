"""The room's cameras against the pinhole formula, and what bodies hide of each other."""

import numpy as np
import pytest

from channels.room import COLOURS, SHAPES, Furniture, RoomConfig, Walk
from channels.room_analytic import AnalyticRoom

CONFIG = RoomConfig(furniture=())
NOBODY = (np.nan,) * 3


def seen(
    people: list[tuple[float, float, float]], config: RoomConfig = CONFIG
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [C, height, width, 3] and shares [C, P] of one step: x, y and heading of each pedestrian."""
    rows = np.array([*people, *[NOBODY] * (3 - len(people))])
    frame, share = AnalyticRoom(config).frames(Walk(rows[None, :, :2], rows[None, :, 2]))
    return frame[0], share[0]


def pixel_of(point_m: tuple[float, float, float], camera: int) -> tuple[float, float]:
    """Row and column where a pinhole shows a point: written down here once more, with angles."""
    x, y, z = np.array(point_m) - CONFIG.cameras_m()[camera]
    if camera == 1:
        x, y = -x, -y  # it looks the other way
    pitch = np.deg2rad(CONFIG.camera_pitch_deg)
    depth, up = x * np.cos(pitch) - z * np.sin(pitch), x * np.sin(pitch) + z * np.cos(pitch)
    focal_px = CONFIG.frame_width_px / 2 / np.tan(np.deg2rad(CONFIG.field_of_view_deg) / 2)
    return (
        CONFIG.frame_height_px / 2 - focal_px * up / depth,
        CONFIG.frame_width_px / 2 - focal_px * y / depth,
    )


@pytest.mark.parametrize("camera", [0, 1])
@pytest.mark.parametrize(("x", "y"), [(3.0, 2.0), (2.6, 1.0), (3.6, 3.2)])
def test_soles_head_and_middle_are_where_a_pinhole_shows_them(camera, x, y):
    empty, body = (seen(people)[0][camera] for people in ([], [(x, y, 0.0)]))
    rows, columns = np.nonzero((empty != body).any(axis=-1))
    height_m = SHAPES[CONFIG.shapes[0]].height_m
    top, middle = pixel_of((x, y, height_m), camera)
    bottom, _ = pixel_of((x, y, 0.0), camera)
    assert rows.min() == pytest.approx(top, abs=1.5)
    # The sole's edge that faces the camera is a hand's breadth nearer than its middle.
    nearer, _ = pixel_of((x + (2 * camera - 1) * SHAPES[CONFIG.shapes[0]].depth_m / 2, y, 0.0), camera)
    assert bottom - 1.5 < rows.max() + 1 < nearer + 2
    upper = rows < top + 0.3 * (bottom - top)
    assert (columns[upper].min() + columns[upper].max() + 1) / 2 == pytest.approx(middle, abs=2.5)


def test_cameras_at_opposite_walls_see_a_turned_room_alike():
    one, two, heading = (2.0, 1.2), (4.4, 2.9), 0.6
    frame, share = seen([(*one, heading), (*two, -1.0)])
    turned = [(6 - x, 4 - y, angle + np.pi) for (x, y), angle in ((one, heading), (two, -1.0))]
    frame_turned, share_turned = seen(turned)
    assert np.abs(frame[0].astype(int) - frame_turned[1]).max() <= 1
    np.testing.assert_allclose(share[0], share_turned[1], atol=0.02)
    assert np.abs(frame[0].astype(int) - frame_turned[0]).max() > 50


def test_bodies_wear_their_colours_and_have_a_face():
    frame, _ = seen([(3.0, 0.9, 0.0), (3.0, 2.0, 0.0), (3.0, 3.1, 0.0)])
    for person, y in enumerate((0.9, 2.0, 3.1)):
        height_m = SHAPES[CONFIG.shapes[person]].height_m
        row, column = pixel_of((3.0, y, 0.5 * height_m), 0)
        coded = frame[0][int(row), int(column)] / 255
        linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
        np.testing.assert_allclose(
            linear / linear.sum(), np.array(COLOURS[person]) / sum(COLOURS[person]), atol=0.02
        )
        row, column = pixel_of((3.0, y, 0.93 * height_m), 0)
        red, green, blue = frame[0][int(row), int(column)].astype(int)
        assert red > green > blue


@pytest.mark.parametrize("heading", [0.0, np.pi / 2])
def test_light_falls_off_with_angle_and_distance(heading):
    """The floor, and the front of a body that is lit from one side more than from the other: by hand."""
    frame, _ = seen([(1.8, 2.0, heading)])
    shape = SHAPES[CONFIG.shapes[0]]
    front_m = (shape.width_m if heading else shape.depth_m) / 2
    for point_m, normal, colour in (
        (np.array([1.8 - front_m, 2.0, 1.0]), np.array([-1.0, 0, 0]), COLOURS[0]),
        (np.array([2.5, 1.0, 0.0]), np.array([0, 0, 1.0]), (0.38, 0.28, 0.19)),
    ):
        light = 0.28
        for lamp_m in ([1.5, 2.0, 2.78], [4.5, 2.0, 2.78]):
            way_m = lamp_m - point_m
            light += 5 / np.pi * max(0.0, float(way_m @ normal)) / np.linalg.norm(way_m) ** 3
        linear = light * np.array(colour)
        coded = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        row, column = pixel_of(tuple(point_m), 0)
        np.testing.assert_allclose(frame[0][int(row), int(column)], coded, atol=4)


def test_who_turns_shows_another_width():
    empty = seen([])[0][0]
    widths = []
    for heading in (0.0, np.pi / 2):
        changed = (seen([(3.0, 2.0, heading)])[0][0] != empty).any(axis=-1)
        row = int(pixel_of((3.0, 2.0, 0.6), 0)[0])
        widths.append(changed[row].sum())
    shape = SHAPES[CONFIG.shapes[0]]
    assert widths[0] / widths[1] == pytest.approx(shape.width_m / shape.depth_m, rel=0.25)


def test_shares_of_hidden_bodies():
    # In camera 0's view: alone; side by side; one right behind the other; behind a wall; below the frame.
    assert seen([(3.0, 2.0, 0.0)])[1][:, 0] == pytest.approx([1, 1])
    assert seen([(3.0, 1.0, 0.0), (3.0, 3.0, 0.0)])[1][:, :2] == pytest.approx(np.ones((2, 2)))
    _, share = seen([(5.0, 2.0, 0.0), (4.0, 2.0, 0.0)])
    assert share[0, 1] == 1
    assert 0 < share[0, 0] < 0.35
    assert share[1, 0] == 1
    assert np.isnan(share[:, 2]).all()
    wall = Furniture(centre_m=(3.0, 2.0), size_m=(0.1, 4.0, 2.7))
    _, share = seen([(4.5, 2.0, 0.0)], CONFIG.model_copy(update={"furniture": (wall,)}))
    assert share[:, 0] == pytest.approx([0, 1])
    narrow = CONFIG.model_copy(update={"field_of_view_deg": 20.0})
    assert seen([(0.5, 0.5, 0.0)], narrow)[1][0, 0] == 0


def test_a_share_counts_the_pixels_that_stay():
    config = CONFIG.model_copy(update={"samples_per_px": 1})
    one, two = (4.0, 1.9, 0.4), (3.0, 2.1, 1.0)
    empty, alone, both = (seen(people, config)[0] for people in ([], [one], [one, two]))
    covered = (alone != empty).any(axis=-1)
    stays = covered & (both == alone).all(axis=-1)
    expected = stays.sum(axis=(1, 2)) / covered.sum(axis=(1, 2))
    assert expected[0] < 0.9
    np.testing.assert_allclose(seen([one, two], config)[1][:, 0], expected, atol=0.01)


def test_more_samples_smooth_edges_and_leave_the_rest():
    person = [(3.0, 2.0, 0.3)]
    coarse, fine = (
        seen(person, CONFIG.model_copy(update={"samples_per_px": number}))[0].astype(int)
        for number in (1, 16)
    )
    differs = (np.abs(coarse - fine).max(axis=-1) > 8).mean()
    assert 0.001 < differs < 0.05


def test_steps_are_independent():
    generator = np.random.default_rng(0)
    position_m = generator.uniform([0.6, 0.6], [5.4, 3.4], (70, 3, 2))
    position_m[::3, 0] = np.nan
    heading = np.where(np.isnan(position_m[..., 0]), np.nan, generator.uniform(-3, 3, (70, 3)))
    room = AnalyticRoom(RoomConfig())
    frame, share = room.frames(Walk(position_m, heading))
    assert frame.shape == (70, 2, 64, 96, 3)
    assert frame.dtype == np.uint8
    assert share.dtype == np.float32
    for step in (0, 31, 69):
        alone, alone_share = room.frames(Walk(position_m[step : step + 1], heading[step : step + 1]))
        np.testing.assert_array_equal(frame[step], alone[0])
        np.testing.assert_array_equal(share[step], alone_share[0])
