"""The room's radio against Friis, images worked by hand, knife edges, and Fermat's principle."""

import numpy as np
import pytest

from channels.room import SHAPES, Furniture, RoomConfig, Walk
from channels.room_analytic import AnalyticRoom
from channels.room_bodies import mirror, strip
from channels.room_images import ImageRadio
from channels.room_materials import body_permittivity, permittivity, reflection, slab
from channels.room_paths import PANEL_M, image_paths

C = 299_792_458.0
BARE = RoomConfig(furniture=(), max_depth=0, shapes=("tall", "stout", "small"))
WAVELENGTH_M = C / BARE.carrier_hz


def walk_of(*people: tuple[float, float, float] | None) -> Walk:
    """One step: x, y and heading of each pedestrian, or None."""
    rows = np.array([(np.nan,) * 3 if person is None else person for person in people])
    return Walk(rows[None, :, :2], rows[None, :, 2])


EMPTY = walk_of(None, None, None)


def expected_los(config: RoomConfig, extra_m: float = 0.0) -> np.ndarray:
    way_m = np.linalg.norm(config.receivers_m() - config.transmitter_m(), axis=1)[:, None] + extra_m
    width_hz = config.bandwidth_hz / config.num_subcarriers
    centre = np.arange(config.num_subcarriers) - (config.num_subcarriers - 1) / 2
    frequency_hz = config.carrier_hz + width_hz * centre
    return WAVELENGTH_M / (4 * np.pi * way_m) * np.exp(-2j * np.pi * frequency_hz * way_m / C)


def test_devices_stand_around_the_room_in_turn():
    """Receivers from the transmitter on, along y = 0 and then against the clock, 19.2 m / 10 apart."""
    place_m = BARE.receivers_m()
    np.testing.assert_allclose(BARE.transmitter_m(), [3.0, 0.1, 1.1])
    np.testing.assert_allclose(place_m[:2], [[4.92, 0.1, 1.1], [5.9, 1.04, 1.1]])
    np.testing.assert_allclose(place_m[[4, 8]], [[3.0, 3.9, 1.1], [1.08, 0.1, 1.1]])


def test_line_of_sight_is_friis_in_amplitude_phase_and_delay():
    csi = AnalyticRoom(BARE).csi(EMPTY)[0]
    np.testing.assert_allclose(csi, expected_los(BARE), rtol=1e-5)
    # The power check: a millimetre of way is noticed.
    assert np.abs(csi / expected_los(BARE, extra_m=1e-3) - 1).min() > 0.1


def test_first_order_images_are_where_a_hand_puts_them():
    config = BARE.model_copy(update={"max_depth": 1})
    paths = image_paths(config)
    images_m = np.array(
        [
            (3, 0.1, 1.1),
            (-3, 0.1, 1.1),
            (9, 0.1, 1.1),
            (3, -0.1, 1.1),
            (3, 7.9, 1.1),
            (3, 0.1, -1.1),
            (3, 0.1, 4.5),
        ]
    )
    for receiver_m, length_m in zip(config.receivers_m(), paths.length_m, strict=True):
        by_hand_m = np.linalg.norm(images_m - receiver_m, axis=1)
        np.testing.assert_allclose(np.sort(length_m), np.sort(by_hand_m), rtol=1e-12)
    # To the receiver opposite the image behind it is 7.8 m away and normal to the wall: r = -|r|.
    opposite = int(np.argmin(np.abs(config.receivers_m() - [3, 3.9, 1.1]).sum(axis=1)))
    behind = int(np.argmin(np.abs(paths.length_m[opposite] - 4.0)))
    wall, _ = slab(
        np.array(1.0), permittivity("plasterboard", config.carrier_hz), 0.1, config.carrier_hz, across=True
    )
    assert paths.gain[opposite, behind] == pytest.approx(
        complex(wall) * WAVELENGTH_M / (16 * np.pi), rel=1e-6
    )


def test_fields_in_the_plane_of_incidence_stay_there():
    """To the receiver opposite, by the floor alone, and by the wall behind the receiver and the floor.

    Seen along the field, a floor of metal leaves it (r = 1 within the plane), a wall turns it round.
    """
    config = BARE.model_copy(update={"max_depth": 2})
    paths = image_paths(config)
    opposite = int(np.argmin(np.abs(config.receivers_m() - [3, 3.9, 1.1]).sum(axis=1)))
    floor, wall = (2, "concrete", 0.2, 1), (1, "plasterboard", 0.1, -1)
    for y_m, sides in ((0.1, (floor,)), (7.9, (wall, floor))):
        way_m = np.array([0, 3.9 - y_m, 2.2])
        length_m = np.linalg.norm(way_m)
        path = int(np.argmin(np.abs(paths.length_m[opposite] - length_m)))
        expected = WAVELENGTH_M / (4 * np.pi * length_m) + 0j
        for axis, material, thickness_m, sign in sides:
            eta, cosine = permittivity(material, config.carrier_hz), abs(way_m[axis]) / length_m
            within, _ = slab(np.array(cosine), eta, thickness_m, config.carrier_hz, across=False)
            expected *= sign * complex(within)
        assert paths.gain[opposite, path] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("depth", [1, 3])
def test_legs_lead_from_the_transmitter_to_the_receiver_within_the_room(depth):
    legs = image_paths(BARE.model_copy(update={"max_depth": depth}))
    length_m = np.linalg.norm(legs.end_m - legs.start_m, axis=1)
    np.testing.assert_allclose(np.bincount(legs.path, length_m), legs.length_m.ravel(), rtol=1e-12)
    np.testing.assert_allclose(
        legs.start_m[legs.first], np.broadcast_to(BARE.transmitter_m(), (len(legs.first), 3))
    )
    same = np.diff(legs.path) == 0
    np.testing.assert_allclose(legs.end_m[:-1][same], legs.start_m[1:][same], atol=1e-9)
    extent_m = [BARE.length_m, BARE.width_m, BARE.height_m]
    assert (legs.end_m > -1e-9).all()
    assert (legs.end_m < np.array(extent_m) + 1e-9).all()
    num_lattice = {1: 7, 3: 63}[depth]
    assert legs.gain.shape == (BARE.num_receivers, num_lattice)


def test_layers_reflect_and_pass_as_theory_has_it():
    cosine = np.linspace(0.05, 1, 20)
    for across in (True, False):
        back, through = slab(cosine, 4.0, 0.013, 5e9, across=across)  # nothing is lost in it
        np.testing.assert_allclose(np.abs(back) ** 2 + np.abs(through) ** 2, 1, rtol=1e-12)
        back, through = slab(cosine, 1.0 + 1e-12, 0.02, 5e9, across=across)
        np.testing.assert_allclose(back, 0, atol=1e-9)
        np.testing.assert_allclose(through, np.exp(-2j * np.pi * 0.02 * 5e9 / C * cosine), rtol=1e-9)
    metal = permittivity("metal", 5e9)
    assert reflection(np.array(1.0), metal, across=True) == pytest.approx(-1, abs=1e-3)
    assert reflection(np.array(1.0), metal, across=False) == pytest.approx(1, abs=1e-3)
    assert reflection(np.array(1.0), 4.0, across=True) == pytest.approx(-1 / 3)
    brewster = np.cos(np.arctan(2.0))  # tan(angle) = sqrt(eta)
    assert reflection(np.array(brewster), 4.0, across=False) == pytest.approx(0, abs=1e-12)


def test_one_edge_is_the_knife_edge_of_itu_r_p526():
    edge = np.linspace(-0.7, 3, 30)
    loss_db = -20 * np.log10(np.abs(strip(edge, np.inf)))
    # ITU-R P.526-15, equation 31, an approximation to 0.2 dB or so.
    expected_db = 6.9 + 20 * np.log10(np.sqrt((edge - 0.1) ** 2 + 1) + edge - 0.1)
    np.testing.assert_allclose(loss_db, expected_db, atol=0.3)
    assert strip(np.array(-np.inf), np.array(np.inf)) == pytest.approx(1)


def hidden_by(half_m: float, top_m: float, way_m: float) -> complex:
    """Kirchhoff's integral over a screen halfway at a link 1.1 m above ground, by quadrature."""
    fresnel_m = np.sqrt(WAVELENGTH_M * way_m / 8)  # sqrt(lambda d1 d2 / (2 d)), so that v = distance / it

    def integral(low_m: float, high_m: float) -> complex:
        v = np.linspace(low_m, high_m, 20_001) / fresnel_m
        return complex((0.5 + 0.5j) * np.trapezoid(np.exp(-0.5j * np.pi * v**2), v))

    return integral(-half_m, half_m) * integral(-1.1, top_m - 1.1)


@pytest.mark.parametrize("receiver", [1, 4])
@pytest.mark.parametrize("shown", ["width_m", "depth_m"])
def test_a_body_on_the_line_hides_what_passes_between_its_edges(receiver, shown):
    room, shape = AnalyticRoom(BARE), SHAPES["tall"]
    start_m, end_m = BARE.transmitter_m(), BARE.receivers_m()[receiver]
    middle_m, along = (start_m + end_m) / 2, end_m - start_m
    heading = np.arctan2(along[1], along[0]) + (0 if shown == "width_m" else np.pi / 2)
    lit, dimmed = (
        room.csi(walk_of(who, None, None))[0, receiver] for who in (None, (middle_m[0], middle_m[1], heading))
    )
    half_m, way_m = getattr(shape, shown) / 2, float(np.linalg.norm(along))
    expected, wider = (1 - hidden_by(half, 0.8 * shape.height_m, way_m) for half in (half_m, 1.1 * half_m))
    np.testing.assert_allclose(dimmed / lit, expected, rtol=1e-3)
    assert abs(wider / expected - 1) > 0.02  # the power check


def test_a_body_far_from_the_line_or_beyond_its_ends_hides_nothing():
    room = AnalyticRoom(BARE)
    receivers_m = BARE.receivers_m()
    opposite = int(np.argmin(np.abs(receivers_m - [3, 3.9, 1.1]).sum(axis=1)))
    lit = room.csi(EMPTY)[0]
    aside = room.csi(walk_of(None, (5.5, 2.0, 0.3), None))[0]
    # Far from two edges in a row Fresnel's integrals leave 1 / (sqrt(2) pi v) each.
    v = (2.5 - SHAPES["stout"].width_m / 2) * np.sqrt(8 / (WAVELENGTH_M * 3.8))
    assert np.abs(aside[opposite] / lit[opposite] - 1).max() < np.sqrt(2) / (np.pi * v) < 0.05
    beyond = [number for number, (x, y, _) in enumerate(receivers_m) if x < 2.9]
    corner = room.csi(walk_of(None, (5.6, 0.5, 0.3), None))[0]
    np.testing.assert_array_equal(corner[beyond], lit[beyond])


def test_columns_reflect_where_the_way_is_shortest():
    generator = np.random.default_rng(1)
    around = np.linspace(0, 2 * np.pi, 40_001)
    checked = 0
    for _ in range(60):
        place_m, heading = generator.uniform(1, 3, 2), generator.uniform(0, 2 * np.pi)
        ends_m = np.array([[0.0, generator.uniform(0, 4)], [4.0, generator.uniform(0, 4)]])
        turned = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
        between = (ends_m[0] + np.linspace(0, 1, 500)[:, None] * (ends_m[1] - ends_m[0]) - place_m) @ turned
        if (np.hypot(*(between / [0.2, 0.3]).T) < 1).any():
            continue  # no ray reflects at who stands in the line
        edge_m = place_m + np.stack([0.19 * np.cos(around), 0.28 * np.sin(around)], axis=1) @ turned.T
        way_m = sum(np.linalg.norm(edge_m - end_m, axis=1) for end_m in ends_m)
        point_m, _, cosine = mirror(place_m, np.array(heading), 0.56, 0.38, *ends_m)
        ways = [end_m - point_m for end_m in ends_m]
        assert sum(map(np.linalg.norm, ways)) == pytest.approx(way_m.min(), abs=1e-4)
        between = np.dot(*(way / np.linalg.norm(way) for way in ways))
        assert cosine == pytest.approx(np.cos(np.arccos(between) / 2), abs=0.02)
        checked += 1
    assert checked > 20


def test_a_round_column_reflects_its_geometrical_cross_section():
    _, curvature_m, _ = mirror(
        np.zeros(2), np.array(0.7), 0.4, 0.4, np.array([3.0, 1.0]), np.array([-1.0, 4.0])
    )
    assert curvature_m == pytest.approx(0.2)
    # Of an ellipse the ends of the axes have b^2 / a and a^2 / b.
    far = np.array([1e6, 0.0])
    assert mirror(np.zeros(2), np.array(0.0), 0.5, 0.3, far, far)[1] == pytest.approx(0.25**2 / 0.15)
    assert mirror(np.zeros(2), np.array(np.pi / 2), 0.5, 0.3, far, far)[1] == pytest.approx(0.15**2 / 0.25)


def test_echoes_keep_the_power_of_a_bundle_of_rays():
    """Two rays that leave the transmitter d_phi apart arrive d_w apart: |a|^2 = |r|^2 d_phi / (d d_w)."""
    config, shape, step_m = RoomConfig(max_depth=1, furniture=()), SHAPES["stout"], 1e-5
    place_m, heading = np.array([2.2, 2.6]), 0.4
    start_m, end_m = config.transmitter_m()[:2], config.receivers_m()[1, :2]
    point_m, _, cosine = mirror(place_m, np.array(heading), shape.width_m, shape.depth_m, start_m, end_m)
    first, second = point_m - start_m, end_m - point_m
    aside = np.array([-second[1], second[0]]) / np.linalg.norm(second)
    turned, _, _ = mirror(
        place_m, np.array(heading), shape.width_m, shape.depth_m, start_m, end_m + step_m * aside
    )
    angle = np.arctan2(*(turned - start_m)[::-1]) - np.arctan2(*first[::-1])
    way_m, distances_m = (
        np.linalg.norm(first) + np.linalg.norm(second),
        np.linalg.norm([first, second], axis=1),
    )
    eta = body_permittivity(config.body, config.carrier_hz)
    edges = np.array([-1.1, 0.8 * shape.height_m - 1.1]) * np.sqrt(
        2 * way_m / WAVELENGTH_M / distances_m.prod()
    )
    expected = abs(reflection(cosine, eta, across=True)) * abs(strip(*edges)) * WAVELENGTH_M / (4 * np.pi)
    expected *= np.sqrt(abs(angle) / step_m / way_m)
    walk = walk_of(None, (*place_m, heading), None)
    echo = ImageRadio(config).echoes(walk.position_m, walk.heading_rad)[0, 1]
    np.testing.assert_allclose(np.abs(echo), expected, rtol=2e-3)
    # From subcarrier to subcarrier it turns as its delay says.
    turn = np.angle(echo[1:] / echo[:-1]).mean()
    assert -turn / (2 * np.pi * config.bandwidth_hz / config.num_subcarriers) * C == pytest.approx(
        way_m, rel=1e-6
    )
    hidden = walk_of((2.6, 1.35, 0.0), (*place_m, heading), None)
    alone = walk_of((2.6, 1.35, 0.0), None, None)
    radio = ImageRadio(config)
    behind = radio.echoes(hidden.position_m, hidden.heading_rad) - radio.echoes(
        alone.position_m, alone.heading_rad
    )
    assert np.abs(behind[0, 1]).max() < 0.8 * expected  # somebody stands in the way to the body


def test_furniture_dims_echoes_on_either_way():
    walk = walk_of(None, (2.2, 2.6, 0.4), None)

    def echo(*centre_m: float) -> np.ndarray:
        boxes = (Furniture(centre_m=centre_m, size_m=(0.2, 0.6, 2.0), material="metal"),) if centre_m else ()
        radio = ImageRadio(RoomConfig(max_depth=1, furniture=boxes))
        return np.abs(radio.echoes(walk.position_m, walk.heading_rad)[0, 1])

    # Between the body and the receiver at (5.9, 1.0), between transmitter and body, beside both ways.
    assert echo(4.5, 1.63).max() < 1e-3 * echo().min()
    assert echo(2.6, 1.35).max() < 1e-3 * echo().min()
    np.testing.assert_allclose(echo(1.0, 1.0), echo())


def test_furniture_dims_what_goes_through_it_by_its_panels():
    box = Furniture(centre_m=(3.0, 2.0), size_m=(1.0, 0.4, 2.0), material="wood")
    csi, lit = (
        AnalyticRoom(BARE.model_copy(update={"furniture": some})).csi(EMPTY)[0] for some in ((box,), ())
    )
    opposite = int(np.argmin(np.abs(BARE.receivers_m() - [3, 3.9, 1.1]).sum(axis=1)))
    _, through = slab(
        np.array(1.0), permittivity("wood", BARE.carrier_hz), PANEL_M, BARE.carrier_hz, across=True
    )
    np.testing.assert_allclose(np.abs(csi[opposite] / lit[opposite]), np.abs(through) ** 2, rtol=1e-5)
    assert np.abs(through) < 0.999
    beside = [number for number, (x, y, _) in enumerate(BARE.receivers_m()) if y < 0.2]
    np.testing.assert_array_equal(csi[beside], lit[beside])


def test_steps_and_absent_bodies_are_independent():
    generator = np.random.default_rng(0)
    room = AnalyticRoom(RoomConfig(max_depth=1))
    position_m = generator.uniform([0.6, 0.6], [2.4, 3.4], (40, 3, 2))
    position_m[::2, 1] = np.nan
    heading = np.where(np.isnan(position_m[..., 0]), np.nan, generator.uniform(-3, 3, (40, 3)))
    together = room.csi(Walk(position_m, heading))
    assert together.shape == (40, 9, 64)
    assert together.dtype == np.complex64
    for step in (0, 17, 39):
        alone = room.csi(Walk(position_m[step : step + 1], heading[step : step + 1]))[0]
        np.testing.assert_allclose(together[step], alone, rtol=1e-4, atol=1e-9)
