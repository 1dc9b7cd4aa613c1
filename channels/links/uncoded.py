"""Uncoded modulations through Sionna's mapper and demapper, for the closed forms of error rates."""

from __future__ import annotations

import torch

from channels.sionna_scope import sionna_scope

BITS_PER_SYMBOL = {"bpsk": 1, "qpsk": 2, "16-qam": 4}
_SYMBOLS_AT_ONCE = 1 << 18


@torch.no_grad()
def count_bit_errors(
    modulation: str, ebno_db: float, num_symbols: int, seed: int, *, fading: bool
) -> tuple[int, int]:
    """Sends random symbols over y = h x + n, decides for the nearest, and returns (bit errors, bits).

    modulation: one of BITS_PER_SYMBOL, Gray-coded, E |x|^2 = 1. h = 1, or CN(0, 1), new for each symbol
    and known to the receiver (fading). n ~ CN(0, N0) with N0 = 1 / (Eb/N0 x bits per symbol): there is
    no code, so Es = Eb x bits per symbol.
    """
    from sionna.phy.mapping import Constellation, Demapper, Mapper

    bits_per_symbol = BITS_PER_SYMBOL[modulation]
    noise_power = 10 ** (-ebno_db / 10) / bits_per_symbol
    num_errors, num_sent = 0, 0
    generator = torch.Generator().manual_seed(seed)

    def gaussian(num: int) -> torch.Tensor:
        return torch.view_as_complex(torch.randn(num, 2, generator=generator)) * 0.5**0.5

    with sionna_scope(0):
        points = Constellation("pam" if bits_per_symbol == 1 else "qam", bits_per_symbol)
        # The closed forms decide for the nearest symbol, as the signs of max-log soft bits do; exact soft
        # bits decide better where the SNR is low.
        mapper, demapper = Mapper(constellation=points), Demapper("maxlog", constellation=points)
        while num_sent < num_symbols:
            num = min(_SYMBOLS_AT_ONCE, num_symbols - num_sent)
            bits = torch.randint(0, 2, (num * bits_per_symbol,), generator=generator).float()
            h = gaussian(num) if fading else torch.ones(num, dtype=torch.complex64)
            # Dividing by h leaves x and noise of power N0 / |h|^2, which the demapper is told.
            y = mapper(bits) + noise_power**0.5 * gaussian(num) / h
            decided = demapper(y, noise_power / h.abs().square()) > 0
            num_errors += int((decided != (bits > 0.5)).sum())
            num_sent += num
    return num_errors, num_symbols * bits_per_symbol
