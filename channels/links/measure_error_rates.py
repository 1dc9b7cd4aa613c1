"""Measures how often NR's code blocks fail, with Sionna's encoder and decoder: the numbers behind `nr`.

    python -m channels.links.measure_error_rates [--processes 2] [--blocks 2000]

adds what is missing to channels/links/error_rates.json: for each modulation, code rate and block size the
SNR at which half of the blocks fail on an AWGN channel, and how fast that changes,

    BLER(snr) = Q((snr_db - centre_db) / width_db),

fitted by maximum likelihood to blocks sent where it is between 0.95 and 0.01. Takes about half
an hour.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import norm

from channels.sionna_scope import sionna_scope

FILE = Path(__file__).with_name("error_rates.json")
# What the MCS of TS 38.214, tables 5.1.3.1-1 and -2, take of what Sionna's code can do (1/5 to 948/1024).
RATES = {
    2: (0.2, 0.25, 0.3, 0.35, 0.45, 0.55, 0.7),
    4: (0.3, 0.37, 0.45, 0.55, 0.7),
    6: (0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.9255),
    8: (0.62, 0.7, 0.8, 0.87, 0.9255),
}
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 3824, 8448)
NUM_BP_ITERATIONS = 20


def _num_coded_bits(bits_per_symbol: int, rate: float, num_info_bits: int) -> int:
    # Rounded away from the ends of what the code can do; the real rate is what counts.
    rounded = math.floor if rate < 0.5 else math.ceil
    return rounded(num_info_bits / rate / bits_per_symbol) * bits_per_symbol


class _BlockSender:
    """Sends code blocks of one kind over an AWGN channel and counts those that fail."""

    def __init__(self, bits_per_symbol: int, rate: float, num_info_bits: int) -> None:
        from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
        from sionna.phy.mapping import Constellation, Demapper, Mapper

        num_coded = _num_coded_bits(bits_per_symbol, rate, num_info_bits)
        self.rate = num_info_bits / num_coded
        self._num_info_bits = num_info_bits
        constellation = Constellation("qam", bits_per_symbol)
        self._encoder = LDPC5GEncoder(num_info_bits, num_coded, num_bits_per_symbol=bits_per_symbol)
        self._decoder = LDPC5GDecoder(self._encoder, hard_out=True, num_iter=NUM_BP_ITERATIONS)
        self._mapper = Mapper(constellation=constellation)
        self._demapper = Demapper("app", constellation=constellation)
        self._batch = max(4, min(200, 100_000 // num_coded))

    @torch.no_grad()
    def count_failures(self, snr_db: float, num_blocks: int, generator: torch.Generator) -> tuple[int, int]:
        """Returns how many blocks were sent, at least num_blocks, and how many of them failed."""
        noise_power = 10 ** (-snr_db / 10)
        num_sent = num_failed = 0
        while num_sent < num_blocks:
            bits = torch.randint(0, 2, (self._batch, self._num_info_bits), generator=generator).float()
            x = self._mapper(self._encoder(bits))
            noise = torch.view_as_complex(torch.randn(*x.shape, 2, generator=generator))
            y = x + math.sqrt(noise_power / 2) * noise
            decoded = self._decoder(self._demapper(y, torch.tensor(noise_power)))
            num_failed += int((decoded != bits).any(dim=1).sum())
            num_sent += self._batch
        return num_sent, num_failed


def fit(snr_db: np.ndarray, num_sent: np.ndarray, num_failed: np.ndarray) -> tuple[float, float]:
    """Returns the centre and width of the probit that makes these counts most likely, both in dB."""

    def loss(parameters: np.ndarray) -> float:
        at = (snr_db - parameters[0]) / math.exp(parameters[1])
        return -float((num_failed * norm.logsf(at) + (num_sent - num_failed) * norm.logcdf(at)).sum())

    start = np.array([np.interp(0.5, 1 - num_failed / num_sent, snr_db), math.log(0.5)])
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-4})
    return float(found.x[0]), float(math.exp(found.x[1]))


def measure(task: tuple[int, float, int, int]) -> dict[str, Any]:
    """Measures one kind of block: (bits per symbol, code rate, information bits, blocks to send)."""
    bits_per_symbol, rate, num_info_bits, num_blocks = task
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(
        num_info_bits * 100_000 + round(rate * 1000) * 10 + bits_per_symbol
    )
    with sionna_scope(0):
        sender = _BlockSender(bits_per_symbol, rate, num_info_bits)
        counts: list[tuple[float, int, int]] = []

        def send(snr_db: float, share: float) -> float:
            sent, failed = sender.count_failures(snr_db, max(1, int(share * num_blocks)), generator)
            counts.append((snr_db, sent, failed))
            return failed / sent

        # From above Shannon's limit downwards until most fail, then a fit, then where it is worth looking.
        snr_db = 10 * math.log10(2 ** (bits_per_symbol * sender.rate) - 1) + 5
        while send(snr_db, 0.02) < 0.8:
            snr_db -= 1.0
        for _ in range(3):
            centre_db, width_db = fit(*(np.array(column) for column in zip(*sorted(counts), strict=True)))
            width_db = min(max(width_db, 0.05), 2.0)
            for bler in (0.9, 0.6, 0.25, 0.07, 0.02):
                send(centre_db + width_db * float(norm.isf(bler)), 1 / 15)
    centre_db, width_db = fit(*(np.array(column) for column in zip(*sorted(counts), strict=True)))
    return {
        "bits_per_symbol": bits_per_symbol,
        "num_info_bits": num_info_bits,
        "num_coded_bits": _num_coded_bits(bits_per_symbol, rate, num_info_bits),
        "centre_db": round(centre_db, 4),
        "width_db": round(width_db, 4),
        "num_blocks": sum(sent for _, sent, _ in counts),
    }


def main() -> None:
    """Measures all kinds of blocks and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    tasks = [
        # Long blocks change from all to nothing within a fraction of a dB: fewer of them fix it as well.
        (bits, rate, size, max(100, min(arguments.blocks, arguments.blocks * 256 // size)))
        for size in reversed(SIZES)
        for bits, rates in RATES.items()
        for rate in rates
        # Base graph 1, the only one for long blocks, has no lower rate in Sionna.
        if size <= 3824 or rate > 1 / 3
    ]
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    done = {(row["bits_per_symbol"], row["num_info_bits"], row["num_coded_bits"]) for row in rows}
    by_key = {(task[0], task[2], _num_coded_bits(*task[:3])): task for task in tasks}
    tasks = [task for key, task in by_key.items() if key not in done]
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for number, row in enumerate(pool.map(measure, tasks), 1):
            rows.append(row)
            rows.sort(key=lambda row: (row["bits_per_symbol"], row["num_info_bits"], row["num_coded_bits"]))
            lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
            arguments.out.write_text(f"[\n{lines}\n]\n")
            print(f"{number}/{len(tasks)}", row, flush=True)


if __name__ == "__main__":
    main()
