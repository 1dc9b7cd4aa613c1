"""What the links cost: packets a second over each of them, and what nr-bit adds to a bare Sionna chain.

    python benchmarks/links.py [--bytes 32] [--packets 256] [--rounds 5]

All are timed on one thread in turn, round by round, over the same packets on a TDL-A channel at a fixed
MCS; the ratios are those of the medians. The bare chain is written out below: Sionna's PUSCH
transmitter, channel and noise as plain tensors, Sionna's receiver with its transport-block decoder, in
batches of the size that the link uses. It makes no packets, names no random numbers, keeps no accounts.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from channels.delay_profiles import DelayProfileConfig, make_delay_profile_channel
from channels.grid import SUBCARRIERS_PER_RESOURCE_BLOCK, SYMBOLS_PER_SLOT, GridConfig, ResourceGrid
from channels.links.analog import AnalogConfig, AnalogLink
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import ELEMENTS_AT_ONCE, NrBitConfig, NrBitLink
from channels.sionna_scope import sionna_scope
from semcom.contracts import Link, RadioState
from semcom.packets import pack_packets
from semcom.rng import Streams

MCS_TABLE, MCS_INDEX, SNR_DB = 1, 13, 12.0
STEP_S = 10.0
# A packet of nr is a few look-ups: so many more of them are sent that their time can be measured.
NR_FACTOR = 20


def bare_chain(grid: ResourceGrid, num_rb: int) -> Callable[[int], None]:
    """Returns a function that sends n transport blocks through Sionna's own blocks, least squares CSI."""
    from sionna.phy.mimo import StreamManagement
    from sionna.phy.nr import PUSCHConfig, PUSCHReceiver, PUSCHTransmitter, TBDecoder
    from sionna.phy.ofdm import LinearDetector

    config = PUSCHConfig()
    config.carrier.n_size_grid = num_rb
    config.carrier.subcarrier_spacing = grid.subcarrier_spacing_hz / 1e3
    config.dmrs.additional_position = 1
    config.tb.mcs_table, config.tb.mcs_index = MCS_TABLE, MCS_INDEX
    with sionna_scope(0), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Effective coderate", category=UserWarning)
        transmitter = PUSCHTransmitter(config, return_bits=True, precision="single", device="cpu")
        streams = StreamManagement(np.ones([1, 1], dtype=bool), 1)
        detector = LinearDetector(
            "lmmse", "bit", "app", transmitter.resource_grid, streams, "qam", config.tb.num_bits_per_symbol,
            precision="single", device="cpu",
        )  # fmt: skip
        decoder = TBDecoder(transmitter._tb_encoder, num_bp_iter=20, precision="single", device="cpu")
        receiver = PUSCHReceiver(
            transmitter, mimo_detector=detector, tb_decoder=decoder, precision="single", device="cpu"
        )
    amplitude = 10 ** (SNR_DB / 20)
    size = max(1, ELEMENTS_AT_ONCE // (num_rb * SUBCARRIERS_PER_RESOURCE_BLOCK * SYMBOLS_PER_SLOT))

    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def send(num_blocks: int) -> None:
        for first in range(0, num_blocks, size):
            x, _ = transmitter(min(size, num_blocks - first))
            h = amplitude * torch.randn(len(x), 1, 1, 1, 1, dtype=torch.complex64, generator=generator)
            y = h * x + torch.randn(x.shape, dtype=torch.complex64, generator=generator)
            receiver(y, torch.ones(()))

    return send


def main() -> None:
    """Prints the table and the two ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bytes", type=int, default=32, help="bytes in a packet, its header among them")
    parser.add_argument("--packets", type=int, default=256, help="packets a round; nr sends 20 times as many")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(1)
    grid, streams = ResourceGrid(GridConfig()), Streams(0)
    settings = {"mcs_table": MCS_TABLE, "mcs_index": MCS_INDEX}
    links: dict[str, Link] = {
        "nr": NrLink(NrConfig(**settings), grid, STEP_S * NR_FACTOR, 10.0),
        "nr-bit": NrBitLink(NrBitConfig(**settings), grid, STEP_S, 10.0),
        "analog": AnalogLink(AnalogConfig(), grid, STEP_S, 10.0),
    }
    channel = make_delay_profile_channel(
        DelayProfileConfig(model="tdl-a", snr_db=SNR_DB), told.packets, STEP_S, grid.num_resource_blocks,
        grid.occupied_bandwidth_hz, streams,
    )  # fmt: skip
    sinr = channel.sinr(0)
    numbers = np.random.default_rng(0).standard_normal((told.packets, (told.bytes - 8) // 8 * 2))
    packets = pack_packets(range(told.packets), 0, 0, 9, [row.astype(">f4").tobytes() for row in numbers])

    def transmission(name: str) -> Callable[[], None]:
        factor = NR_FACTOR if name == "nr" else 1
        devices = np.arange(factor * told.packets)
        radio = RadioState(
            np.tile(sinr, (factor, 1)), lambda rows, *at: channel.response(0, rows % told.packets, *at)
        )
        return lambda: links[name].transmit(packets * factor, devices, radio, 0, streams) and None

    plan = links["nr-bit"].planner.plan(sinr[:1], np.array([8 * len(packets[0])]))
    bare = bare_chain(grid, int(plan.last_rb[0]))
    work: dict[str, tuple[int, Callable[[], None]]] = {
        "bare Sionna chain": (told.packets, lambda: bare(told.packets)),
        "nr-bit": (told.packets, transmission("nr-bit")),
        "nr": (NR_FACTOR * told.packets, transmission("nr")),
        "analog": (told.packets, transmission("analog")),
    }
    for _, run in work.values():
        run()  # builds what is built once
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(told.rounds):
        for name, (num, run) in work.items():
            begin = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - begin) / num)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"packets of {len(packets[0])} bytes, MCS {MCS_INDEX} of table {MCS_TABLE}, "
        f"{plan.last_rb[0]} resource block(s), one thread, median of {told.rounds} rounds\n"
    )
    print(f"{'':>18} {'us a packet':>12} {'packets/s':>12} {'spread':>16}")
    for name, value in median.items():
        spread = f"{1e6 * min(seconds[name]):.4g} to {1e6 * max(seconds[name]):.4g}"
        print(f"{name:>18} {1e6 * value:>12.4g} {1 / value:>12.4g} {spread:>16}")
    print(f"\nnr handles {median['nr-bit'] / median['nr']:.0f} times as many packets as nr-bit")
    print(
        f"nr-bit takes {median['nr-bit'] / median['bare Sionna chain']:.3f} times as long as the bare chain"
    )


if __name__ == "__main__":
    main()
