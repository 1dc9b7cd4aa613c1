"""The analog link against closed forms, and joint source-channel training against none."""

import numpy as np
import pytest
import torch
from radio_states import still_radio
from torch import nn

from analysis import theory
from channels.block_fading import BlockFadingChannel, BlockFadingConfig
from channels.grid import GridConfig, ResourceGrid
from channels.links.analog import AnalogConfig, AnalogLink
from semcom.codecs.analog import AnalogCodec, over_equalised_channel
from semcom.contracts import Delivery, RadioState, SemcomError
from semcom.packets import HEADER_BYTES, pack_packets
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())


def analog_link(**settings: float | str) -> AnalogLink:
    return AnalogLink(
        AnalogConfig.model_validate({"header": "ideal", **settings}), GRID, 1.0, tx_power_dbm=10.0
    )


def packets_of(x: np.ndarray) -> list[bytes]:
    return pack_packets(range(len(x)), 0, 0, 9, [row.tobytes() for row in x.astype(">f4")])


def numbers_of(delivery: Delivery) -> np.ndarray:
    return np.stack([np.frombuffer(data or b"", ">f4", offset=HEADER_BYTES) for data in delivery.payloads])


def gaussian(num_rows: int, num_symbols: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((num_rows, 2 * num_symbols)) * 0.5**0.5


def flat(num_rows: int, snr_db: float) -> RadioState:
    return still_radio(
        np.full((num_rows, GRID.num_resource_blocks), 10 ** (snr_db / 10), dtype=np.float32), GRID
    )


@pytest.mark.parametrize("repetitions", [1, 4])
def test_the_error_on_awgn_is_the_least_possible(repetitions):
    # 144 resource elements: as many symbols once, or a quarter of them four times, 6 dB better.
    num_rows, num_symbols, snr_db = 400, GRID.re_per_rb_slot // repetitions, 3.0
    x = gaussian(num_rows, num_symbols)
    received = numbers_of(
        analog_link().transmit(packets_of(x), np.arange(num_rows), flat(num_rows, snr_db), 0, Streams(1))
    )
    error = 2 * np.square(received - x).ravel()
    combined_db = snr_db + 10 * np.log10(repetitions)
    sigma = error.std() / np.sqrt(error.size)
    assert abs(error.mean() - theory.mmse_awgn(combined_db)) < 4.5 * sigma
    for half_db_off in (combined_db - 0.5, combined_db + 0.5):
        assert abs(error.mean() - theory.mmse_awgn(half_db_off)) > 4.5 * sigma


def test_zero_forcing_is_unbiased_and_errs_by_one_over_snr():
    num_rows, snr_db = 200, 3.0
    x = gaussian(num_rows, GRID.re_per_rb_slot)
    received = numbers_of(
        analog_link(equaliser="zero-forcing").transmit(
            packets_of(x), np.arange(num_rows), flat(num_rows, snr_db), 0, Streams(1)
        )
    )
    error = received - x
    sigma = np.square(error).std() / np.sqrt(error.size)
    assert abs(np.square(error).mean() - 0.5 * 10 ** (-snr_db / 10)) < 4.5 * sigma
    assert abs((error * x).mean()) < 4.5 * (error * x).std() / np.sqrt(error.size)


def test_the_error_on_rayleigh_is_the_closed_form():
    num_rows, snr_db = 8000, 5.0
    channel = BlockFadingChannel(
        BlockFadingConfig(model="rayleigh", snr_db=snr_db), num_rows, GRID.num_resource_blocks, Streams(2)
    )
    radio = RadioState(channel.sinr(0), lambda rows, *at: channel.response(0, rows, *at))
    x = gaussian(num_rows, GRID.re_per_rb_slot)
    received = numbers_of(analog_link().transmit(packets_of(x), np.arange(num_rows), radio, 0, Streams(1)))
    # The symbols of a packet share its fading: packets are the independent samples.
    error = 2 * np.square(received - x).mean(axis=1)
    sigma = error.std() / np.sqrt(num_rows)
    assert abs(error.mean() - theory.mmse_rayleigh(snr_db)) < 4.5 * sigma
    for half_db_off in (snr_db - 0.5, snr_db + 0.5):
        assert abs(error.mean() - theory.mmse_rayleigh(half_db_off)) > 4.5 * sigma


def test_two_antennas_are_worth_three_decibels():
    num_rows, snr_db = 200, 2.0
    radio = flat(num_rows, snr_db)

    def both(rows: np.ndarray, *at: np.ndarray) -> np.ndarray:
        return np.repeat(radio.response(rows, *at), 2, axis=1)

    x = gaussian(num_rows, GRID.re_per_rb_slot)
    received = numbers_of(
        analog_link().transmit(
            packets_of(x), np.arange(num_rows), RadioState(radio.sinr, both), 0, Streams(1)
        )
    )
    error = 2 * np.square(received - x).ravel()
    expected = theory.mmse_awgn(snr_db + 10 * np.log10(2))
    assert abs(error.mean() - expected) < 4.5 * error.std() / np.sqrt(error.size)


def test_the_coded_header_fails_as_its_transport_block_and_costs_its_resources():
    num_rows = 4000
    link = analog_link(header="coded", header_bler_target=0.3)
    x = gaussian(num_rows, 5)
    delivery = link.transmit(packets_of(x), np.arange(num_rows), flat(num_rows, -1.0), 0, Streams(1))
    plan = link.planner.plan(flat(1, -1.0).sinr, np.array([64]))
    tables = link.planner.tables
    rate = tables.tbler[plan.row[0], plan.last_rb[0], tables.snr_index(np.array(10**-0.1))]
    sigma = np.sqrt(rate * (1 - rate) / num_rows)
    assert 0.02 < rate < 0.3
    assert abs(1 - delivery.ok.mean() - rate) < 4.5 * sigma
    assert (delivery.channel_uses == (plan.last_rb[0] + 1) * GRID.re_per_rb_slot).all()
    assert (delivery.bits == 64).all()
    free = analog_link().transmit(packets_of(x), np.arange(num_rows), flat(num_rows, -1.0), 0, Streams(1))
    assert free.ok.all()
    assert (free.channel_uses == GRID.re_per_rb_slot).all()


def test_energy_is_what_the_symbols_radiate():
    x = np.repeat(gaussian(1, 20), 2, axis=0) * np.array([[1.0], [3.0]])
    energy_j = analog_link().transmit(packets_of(x), np.arange(2), flat(2, 4.0), 0, Streams(1)).energy_j
    assert energy_j[1] == pytest.approx(9 * energy_j[0], rel=1e-5)
    # 10 mW over 51 resource blocks, one of them for half a millisecond.
    # Twenty symbols on 144 elements: the first four of them lie on eight, the others on seven.
    times = np.where(np.arange(20) < 4, 8, 7)
    power = float((np.square(x[0]).reshape(20, 2).sum(axis=1) * times).sum() / 144)
    assert energy_j[0] == pytest.approx(0.01 / 51 * 0.5e-3 * power, rel=1e-5)


def test_what_is_no_sequence_of_symbols_or_does_not_fit_is_refused_with_the_remedy():
    with pytest.raises(SemcomError, match=r"codec\.kind=analog"):
        analog_link().transmit([bytes(15)], np.arange(1), flat(1, 4.0), 0, Streams(1))
    with pytest.raises(SemcomError, match=r"link\.num_resource_blocks = 2"):
        analog_link().transmit(packets_of(gaussian(1, 145)), np.arange(1), flat(1, 4.0), 0, Streams(1))
    with pytest.raises(SemcomError, match="grid's 51"):
        analog_link(num_resource_blocks=52)


def test_the_path_is_differentiable_and_its_gradient_is_that_of_its_value():
    generator = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(3, 4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    gain = torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.1
    for biased in (True, False):
        assert torch.autograd.gradcheck(
            lambda x, gain, biased=biased: over_equalised_channel(x, gain, noise, biased=biased),
            (x.requires_grad_(), gain.requires_grad_()),
        )


def correlated(num_rows: int) -> torch.Tensor:
    """Ten dimensions, most of what they hold in two."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num_rows, 2, generator=generator) @ torch.randn(
        2, 10, generator=generator
    ) + 0.1 * torch.randn(num_rows, 10, generator=generator)


def received_error(codec: AnalogCodec, z: torch.Tensor, snr_db: float) -> float:
    noise = torch.randn(len(z), codec.num_symbols, 2, generator=torch.Generator().manual_seed(9))
    gain = torch.full((len(z), codec.num_symbols), 10 ** (snr_db / 10))
    with torch.no_grad():
        received = codec.embedding(over_equalised_channel(codec.symbols(z), gain, noise))
    return float(((received - z) / z.std(dim=0)).square().mean())


def test_the_mean_power_of_a_symbol_is_one_and_few_symbols_take_the_principal_components():
    z = correlated(2000)
    for settings in ({}, {"num_symbols": 1}, {"num_symbols": 9}, {"num_symbols": 2, "snr_db": 0.0}):
        codec = AnalogCodec(10, **settings)
        codec.fit(z)
        assert float(codec.symbols(z).detach().square().sum(dim=2).mean()) == pytest.approx(1.0, rel=1e-4)
    one = AnalogCodec(10, num_symbols=1)
    one.fit(z)
    assert float(((one(z).detach() - z) / z.std(dim=0)).square().mean()) < 0.02


def test_training_through_the_channel_beats_the_untrained_map_where_the_channel_is_bad():
    z, held_out = correlated(4000).split((2000, 2000))
    plain, trained = AnalogCodec(10), AnalogCodec(10, snr_db=0.0)
    for codec in (plain, trained):
        codec.fit(z)
    assert received_error(trained, held_out, 0.0) < 0.8 * received_error(plain, held_out, 0.0)


@pytest.mark.parametrize("snr_db", [None, 10.0])
def test_a_weight_makes_the_symbols_carry_what_the_task_reads(snr_db):
    z = torch.randn(2000, 10, generator=torch.Generator().manual_seed(4))
    weight = torch.zeros(10, 10)
    weight[7, 7] = 1.0
    errors = []
    for weighted in (False, True):
        codec = AnalogCodec(10, num_symbols=1, snr_db=snr_db, weighted=weighted)
        codec.fit(z, weight if weighted else None)
        with torch.no_grad():
            errors.append(float((codec(z) - z)[:, 7].square().mean()))
    assert errors[1] < 0.2 < 0.5 < errors[0]


def test_the_linear_map_under_a_weight_is_the_best_at_its_snr():
    # Independent dimensions of unit variance and weights 1, 4, 16, 64: amplitudes as 1, 2^(1/2), 2, 2^(3/2).
    z = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(4))
    weight = torch.diag(torch.tensor([1.0, 4.0, 16.0, 64.0]))
    codec = AnalogCodec(4, weighted=True)
    codec.fit(z, weight)
    powers = codec.symbols(z).detach().flatten(1).square().mean(dim=0).sort().values
    torch.testing.assert_close(powers / powers[0], torch.tensor([1.0, 2.0, 4.0, 8.0]), rtol=0.05, atol=0.0)
    uniform = AnalogCodec(4)
    uniform.fit(z)
    noise = torch.randn(len(z), 2, 2, generator=torch.Generator().manual_seed(9))
    gain = torch.full((len(z), 2), 100.0)
    errors = []
    for tried in (uniform, codec):
        with torch.no_grad():
            e = tried.embedding(over_equalised_channel(tried.symbols(z), gain, noise)) - z
        errors.append(float(((e @ weight) * e).sum(dim=1).mean()))
    # At high SNR the error is (sum of sqrt(w))^2 / D instead of the sum of w: 225 / 4 against 85.
    assert errors[1] / errors[0] == pytest.approx(225 / 4 / 85, rel=0.05)


def test_an_encoder_learns_through_the_codec_and_its_noise():
    # The encoder may put its one number into the dimension that the codec sends, and has to.
    codec = AnalogCodec(10, num_symbols=1, snr_db=10.0)
    codec.fit(correlated(1000))
    generator = torch.Generator().manual_seed(6)
    encoder = nn.Linear(1, 10)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(generator=generator)
    head = nn.Linear(10, 1)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-2)
    losses = []
    for _ in range(150):
        value = torch.randn(256, 1, generator=generator)
        noise = torch.randn(256, 1, 2, generator=generator)
        loss = (head(codec(encoder(value), noise)) - value).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.2 * np.mean(losses[:5])
