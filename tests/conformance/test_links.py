"""Every link of the catalogue keeps the Link contract."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from radio_states import still_radio

from channels.catalogue import _LEAST_BITS_PER_ELEMENT, LINKS, LinkConfig, check_packet, make_link
from channels.grid import GridConfig, ResourceGrid
from channels.links.transport_tables import KNOWN_MCS, transport_tables
from semcom.contracts import Delivery, Link, SemcomError
from semcom.packets import Packet, pack_packets
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
STEP_S = 0.02
STREAMS = Streams(7)
# Bit for bit a packet takes a hundred times as long.
NUM_PACKETS = {name: 40 if name == "nr-bit" else 300 for name in LINKS}
LOSSY: dict[str, dict[str, float]] = {
    "erasure": {"probability": 0.3},
    "nr": {"bler_target": 0.3},
    "nr-bit": {"bler_target": 0.3},
    "analog": {"header_bler_target": 0.3},
}
RADIO = ("nr", "nr-bit", "analog")
UNSHARED = [name for name in LINKS if name not in RADIO]

every_link = pytest.mark.parametrize("name", LINKS)


def link_of(name: str, **settings: float) -> Link:
    config = TypeAdapter(LinkConfig).validate_python({"kind": name, **(settings or LOSSY.get(name, {}))})
    return make_link(config, GRID, STEP_S, tx_power_dbm=10.0)


def packets_of(num_packets: int, name: str = "nr") -> list[bytes]:
    rng = np.random.default_rng(1)
    if name == "analog":
        numbers = rng.standard_normal((num_packets, 10)).astype(">f4")
        return pack_packets(range(num_packets), 0, 1, 9, [row.tobytes() for row in numbers])
    return [rng.bytes(size) for size in rng.integers(1, 40, num_packets)]


def arrived_alike(sent: bytes, received: bytes | None) -> bool:
    """The same bytes; of an analog packet the same header, but for its CRC, and as many finite numbers."""
    if received is None or sent == received:
        return received is not None
    one, other = Packet.from_bytes(sent), Packet.from_bytes(received)
    numbers = np.frombuffer(other.payload, ">f4")
    return one._replace(payload=b"") == other._replace(payload=b"") and bool(np.isfinite(numbers).all())


def sinr_of(num_rows: int) -> np.ndarray:
    """Frequency-selective and of any quality, from -10 to 30 dB."""
    sinr_db = np.random.default_rng(2).uniform(-10, 30, (num_rows, GRID.num_resource_blocks))
    return (10 ** (sinr_db / 10)).astype(np.float32)


def flat_sinr_of(num_rows: int) -> np.ndarray:
    return np.repeat(sinr_of(num_rows)[:, :1], GRID.num_resource_blocks, axis=1)


def send(link: Link, step: int = 0, streams: Streams = STREAMS, *, flat: bool = False) -> Delivery:
    num = NUM_PACKETS[link.name]
    sinr = flat_sinr_of(num) if flat else sinr_of(num)
    return link.transmit(packets_of(num, link.name), np.arange(num), still_radio(sinr, GRID), step, streams)


def assert_same(one: Delivery, other: Delivery) -> None:
    assert one.payloads == other.payloads
    for field in ("ok", "sent", "channel_uses", "airtime_s", "energy_j", "padding_bits", "bits"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@every_link
def test_a_delivery_has_the_promised_shapes_and_types(name):
    link = link_of(name)
    assert isinstance(link, Link)
    assert link.name == name
    delivery = send(link)
    num = NUM_PACKETS[name]
    for field, kind in {
        "ok": np.bool_,
        "sent": np.bool_,
        "channel_uses": np.int64,
        "airtime_s": np.float64,
        "energy_j": np.float64,
        "padding_bits": np.int64,
        "bits": np.int64,
    }.items():
        values = getattr(delivery, field)
        assert values.shape == (num,), field
        assert values.dtype == kind, field
        assert (values >= 0).all(), field
    assert not (delivery.ok & ~delivery.sent).any()
    for packet, payload, ok, bits in zip(
        packets_of(num, name), delivery.payloads, delivery.ok, delivery.bits, strict=True
    ):
        assert arrived_alike(packet, payload) == ok
        assert name == "analog" or ((payload in (None, packet)) and bits == 8 * len(packet))
    share = link.resource_share(sinr_of(num), 160, num)
    assert share.shape == (num,)
    assert share.dtype == np.float64
    assert (share >= 0).all()


@every_link
def test_nothing_to_send_gives_an_empty_delivery(name):
    delivery = link_of(name).transmit([], np.arange(0), still_radio(sinr_of(0), GRID), 0, STREAMS)
    assert delivery.payloads == []
    assert delivery.ok.shape == delivery.energy_j.shape == (0,)


@every_link
def test_the_same_seed_gives_the_same_delivery(name):
    assert_same(send(link_of(name)), send(link_of(name)))


@pytest.mark.parametrize("name", LOSSY)
def test_a_new_seed_replicate_or_step_gives_a_new_delivery(name):
    # On a flat channel the MCS is chosen close to its limit, so that luck decides now and then.
    link = link_of(name)
    reference = send(link, flat=True).ok
    for other in (
        send(link, streams=Streams(8), flat=True),
        send(link, streams=Streams(7, replicate=1), flat=True),
        send(link, step=1, flat=True),
    ):
        assert (other.ok != reference).any()


@every_link
def test_a_link_keeps_no_state_between_steps(name):
    link = link_of(name)
    send(link, step=3)
    assert_same(send(link), send(link_of(name)))


@every_link
def test_a_pickled_link_is_the_same_link(name):
    link = link_of(name)
    assert_same(send(link), send(pickle.loads(pickle.dumps(link))))


@pytest.mark.parametrize("name", UNSHARED)
def test_rows_are_independent_where_nothing_is_shared(name):
    link, packets = link_of(name), packets_of(NUM_PACKETS[name], name)
    together = send(link)
    chosen = np.arange(NUM_PACKETS[name])[::-7]
    alone = link.transmit([packets[i] for i in chosen], chosen, None, 0, STREAMS)
    np.testing.assert_array_equal(alone.ok, together.ok[chosen])


@pytest.mark.parametrize("name", RADIO)
def test_rows_share_only_the_resource_blocks(name):
    num = NUM_PACKETS[name]
    link, packets = link_of(name), packets_of(num, name)
    # On a flat channel it does not matter which resource blocks a packet gets.
    flat = flat_sinr_of(num)
    together = link.transmit(packets, np.arange(num), still_radio(flat, GRID), 0, STREAMS)
    assert together.sent.all()
    assert 0.02 < 1 - together.ok.mean() < 0.9
    chosen = np.arange(num)[::-7]
    alone = link.transmit([packets[i] for i in chosen], chosen, still_radio(flat[chosen], GRID), 0, STREAMS)
    for field in ("ok", "sent", "channel_uses", "airtime_s", "energy_j", "padding_bits", "bits"):
        np.testing.assert_array_equal(getattr(alone, field), getattr(together, field)[chosen])


@pytest.mark.parametrize("name", RADIO)
def test_a_radio_link_without_a_matching_sinr_is_refused_in_one_line(name):
    link = link_of(name)
    with pytest.raises(SemcomError, match="needs the SINR"):
        link.resource_share(None, 160, 3)
    with pytest.raises(SemcomError, match="same grid"):
        link.transmit(
            packets_of(1, name), np.arange(1), still_radio(np.ones((1, 7), np.float32), GRID), 0, Streams(0)
        )


@pytest.mark.parametrize("name", RADIO)
def test_who_has_no_radio_at_all_sends_in_vain(name):
    """A device without a path has an SINR of 0: it spends the resources of the lowest MCS, for nothing."""
    sinr = flat_sinr_of(4)
    sinr[[1, 3]] = 0
    sinr[0], sinr[2] = 1e4, 1e4
    sinr[2, ::2] = 0  # an SINR of 0 on some resource blocks alone
    settings = {"equaliser": "zero-forcing"} if name == "analog" else {"max_retransmissions": 1}
    link = link_of(name, **settings)
    assert np.isfinite(link.resource_share(sinr, 160, 4)).all()
    packets = packets_of(4, name) if name == "analog" else [bytes(20)] * 4
    delivery = link.transmit(packets, np.arange(4), still_radio(sinr, GRID), 0, STREAMS)
    assert delivery.sent.all()
    assert delivery.ok[0]
    assert not delivery.ok[[1, 3]].any()
    # Numbers take the same resources whatever the channel.
    assert name == "analog" or (delivery.energy_j[[1, 3]] > delivery.energy_j[0]).all()


def test_numbers_over_no_channel_at_all_are_lost_even_with_an_ideal_header():
    link = link_of("analog", header="ideal", equaliser="zero-forcing")
    sinr = flat_sinr_of(2)
    sinr[0], sinr[1] = 0, 100
    delivery = link.transmit(packets_of(2, "analog"), np.arange(2), still_radio(sinr, GRID), 0, STREAMS)
    assert delivery.ok.tolist() == [False, True]
    assert delivery.sent.all()


@pytest.mark.parametrize("settings", [{"kind": "erasure", "probability": 1.01}, {"kind": "ideal", "loss": 1}])
def test_a_wrong_configuration_is_refused(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(LinkConfig).validate_python(settings)


def test_the_catalogue_does_not_import_sionna():
    code = "import sys, channels.catalogue; sys.exit('sionna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("error_rates", "mcs_table"), KNOWN_MCS)
def test_what_check_packet_lets_pass_unseen_fits_at_any_mcs(error_rates, mcs_table):
    """Small and large carriers, few and many data symbols: every MCS carries more than the bits let pass."""
    for bandwidth_hz, num_data_symbols in ((5e6, 1), (5e6, 12), (20e6, 3), (20e6, 13)):
        grid = ResourceGrid(GridConfig(bandwidth_hz=bandwidth_hz, num_data_symbols=num_data_symbols))
        elements = grid.num_resource_blocks * grid.re_per_rb_slot
        tables = transport_tables(mcs_table, grid.num_resource_blocks, grid.re_per_rb_slot, error_rates)
        assert tables.tb_bits[:, -1].min() >= _LEAST_BITS_PER_ELEMENT * elements


def test_a_packet_is_refused_exactly_where_a_step_ends():
    config, best = TypeAdapter(LinkConfig).validate_python({"kind": "nr"}), np.full((1, 51), 1e6, np.float32)
    link = make_link(config, GRID, STEP_S, tx_power_dbm=10.0)
    most = 40 * int(link.planner.tables.tb_bits[-1, -1])
    check_packet(config, GRID, STEP_S, most, "one")
    assert link.resource_share(best, most, 1) == 1
    with pytest.raises(SemcomError, match=r"a packet of two has .* more than a step of 0.02 s"):
        check_packet(config, GRID, STEP_S, most + 1, "two")
    check_packet(TypeAdapter(LinkConfig).validate_python({"kind": "ideal"}), GRID, STEP_S, most + 1, "two")
