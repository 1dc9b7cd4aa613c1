"""The statements of docs/conventions.md that no other test proves, and that each of them names one."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from radio_states import still_radio

from channels.grid import GridConfig, ResourceGrid
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig, NrBitLink, _Chain, _chain
from semcom.packets import HEADER_BITS, pack_packets
from semcom.rng import Streams

ROOT = Path(__file__).parents[2]
GRID = ResourceGrid(GridConfig())
MCS = {"QPSK": 5, "16-QAM": 12, "64-QAM": 20}


def flat(num_rows: int, snr: float) -> np.ndarray:
    return np.full((num_rows, GRID.num_resource_blocks), snr, dtype=np.float32)


def sent_elements(mcs: int, num_rb: int, num_blocks: int) -> torch.Tensor:
    """Resource elements of random transport blocks, complex64 [n, symbols, subcarriers]."""
    chain = _chain(NrBitConfig(), mcs, num_rb, GRID)
    num_bits = chain._transmitter._tb_encoder.k
    return chain.encode(
        torch.randint(0, 2, (num_blocks, num_bits), generator=torch.Generator().manual_seed(1)).float()
    )


def test_every_statement_names_a_test_that_there_is():
    statements = re.findall(r"^- .*?(?=^- |^#|\Z)", (ROOT / "docs/conventions.md").read_text(), re.M | re.S)
    assert len(statements) > 20
    for statement in statements:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", statement)
        assert named, statement
        for path, name in named:
            functions = {
                node.name
                for node in ast.walk(ast.parse((ROOT / path).read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            assert name in functions, f"{path}::{name}"


@pytest.mark.parametrize("mcs", MCS.values(), ids=MCS)
def test_data_symbols_have_unit_power_and_pilots_twice_that(mcs):
    x = sent_elements(mcs, 4, 60)
    pilots = [2, 11]
    data = np.delete(x.abs().square().numpy(), pilots, axis=1)
    sigma = data.std() / np.sqrt(data.size)
    # QPSK has no spread at all but rounding.
    assert abs(data.mean() - 1.0) < 4.5 * sigma + 1e-6
    assert abs(data.mean() - 10**0.05) > 4.5 * sigma + 1e-6
    # Sionna sends one of two CDM groups at double power, the other stays empty.
    of_pilots = x[:, pilots].abs().square().numpy()
    np.testing.assert_allclose(of_pilots[..., ::2], 2.0, rtol=1e-5)
    np.testing.assert_allclose(of_pilots[..., 1::2], 0.0, atol=1e-12)


def test_noise_has_unit_power_per_resource_element_half_of_it_in_each_part(monkeypatch):
    received = []

    def watched(self: _Chain, y: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        received.append(y)
        return soft_bits(self, y, h)

    soft_bits = _Chain.soft_bits
    monkeypatch.setattr(_Chain, "soft_bits", watched)
    link = NrBitLink(NrBitConfig(mcs_index=12, csi="perfect"), GRID, 0.1, tx_power_dbm=10.0)
    # A channel that is as good as none leaves the noise.
    num = 60
    link.transmit([bytes(60)] * num, np.arange(num), still_radio(flat(num, 1e-12), GRID), 0, Streams(1))
    noise = torch.cat([y.flatten() for y in received]).numpy()
    for part in (noise.real, noise.imag):
        sigma = np.sqrt(2 / part.size) * 0.5
        assert abs(part.var() - 0.5) < 4.5 * sigma
        assert abs(part.var() - 0.5 * 10**0.05) > 4.5 * sigma
    assert abs((noise.real * noise.imag).mean()) < 4.5 * 0.5 / np.sqrt(noise.size)


def test_channel_uses_are_the_data_elements_of_whole_resource_blocks():
    link = NrLink(NrConfig(mcs_index=10), GRID, 0.1, tx_power_dbm=10.0)
    delivery = link.transmit(
        [bytes(18), bytes(100)], np.arange(2), still_radio(flat(2, 30.0), GRID), 0, Streams(1)
    )
    plan = link.planner.plan(flat(2, 30.0), np.array([144, 800]))
    np.testing.assert_array_equal(delivery.channel_uses, plan.num_rb_slots * 12 * 12)
    # What fills the last resource block is padding, counted apart from the bits.
    np.testing.assert_array_equal(delivery.bits, [144, 800])
    np.testing.assert_array_equal(delivery.padding_bits, plan.tb_bits - [144, 800])


def test_a_device_on_part_of_the_carrier_radiates_that_part_of_its_power():
    link = NrLink(NrConfig(mcs_index=10), GRID, 0.1, tx_power_dbm=20.0)
    delivery = link.transmit([bytes(18)], np.arange(1), still_radio(flat(1, 30.0), GRID), 0, Streams(1))
    num_rb = int(delivery.channel_uses[0]) // 144
    assert delivery.energy_j[0] == pytest.approx(0.1 * num_rb / 51 * 0.5e-3)


def test_the_header_is_64_of_a_packet_s_bits():
    (packet,) = pack_packets([7], 3, 1, 4, [bytes(10)])
    assert 8 * len(packet) == HEADER_BITS + 80
    assert HEADER_BITS == 64
