"""Sizes and error rates of NR transport blocks, tabulated once.

The tables hold every (MCS, number of resource blocks, SINR) that a link can meet, so that a step is
array look-ups and neither Sionna nor its random state is touched while a simulation runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from channels.links.error_rates import block_error_rate
from channels.sionna_scope import sionna_scope

if TYPE_CHECKING:
    import torch

PUSCH = 0  # Sionna's MCS table category
_NUM_MCS = {1: 29, 2: 28}
# First and last MCS of which there are error rates, by where they come from and by MCS table.
KNOWN_MCS = {("sionna", 1): (3, 27), ("measured", 1): (3, 28), ("measured", 2): (2, 27)}
ErrorRates = Literal["sionna", "measured"]
# Lowest SNR, end and step of the tables, dB; Sionna's own grid for Sionna's own error rates.
_GRID_DB: dict[ErrorRates, tuple[float, float, float]] = {
    "sionna": (-5.0, 30.01, 0.1),
    "measured": (-10.0, 35.005, 0.05),
}
# Of lower rates Sionna's code knows no repetition: base graphs 2 (short blocks) and 1 (longer than this).
_LOWEST_RATE_BG2, _LOWEST_RATE_BG1, _LONGEST_BG2 = 1 / 5, 1 / 3, 3824
_HIGHEST_RATE = 0.95


def check_mcs(mcs_table: int, mcs_index: int | None, error_rates: ErrorRates) -> None:
    """Raises ValueError, for a configuration to pass on, where there are no error rates."""
    known = KNOWN_MCS.get((error_rates, mcs_table))
    if known is None:
        raise ValueError(f"error_rates {error_rates} are not those of mcs_table {mcs_table}: take measured")
    if mcs_index is not None and not known[0] <= mcs_index <= known[1]:
        raise ValueError(
            f"mcs_index {mcs_index} of mcs_table {mcs_table} has no {error_rates} error rates: "
            f"take {known[0]} to {known[1]}"
        )


@dataclass(frozen=True)
class TransportTables:
    """What a transport block of one slot carries and how often it fails; J usable MCS, R resource blocks.

    mcs [J]: the MCS indices, ascending. beta [J]: their EESM parameters. tb_bits [J, R + 1] int64: the
    size of a block on n resource blocks (0 for n = 0). tbler [J, R + 1, S]: its error rate on an AWGN
    channel at the S points of the SINR grid, snr_min_db + snr_step_db x (0 .. S - 1) (1 for n = 0).
    codable [J, R + 1] bool: Sionna can encode it.
    """

    mcs: np.ndarray
    beta: np.ndarray
    tb_bits: np.ndarray
    tbler: np.ndarray
    codable: np.ndarray
    snr_min_db: float
    snr_step_db: float

    def snr_index(self, sinr: np.ndarray) -> np.ndarray:
        """Grid point nearest to each linear SINR: int64, same shape; the ends are held."""
        snr_db = 10 * np.log10(np.maximum(sinr, 1e-6))
        index = np.rint((snr_db - self.snr_min_db) / self.snr_step_db).astype(np.int64)
        return np.clip(index, 0, self.tbler.shape[-1] - 1)


def effective_sinr(sinr: np.ndarray, beta: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Exponential effective SINR: -beta ln(mean over the used resource blocks of exp(-sinr / beta)).

    sinr [N, R] linear; beta [N], or [J, 1] for J values each; used [N, R] bool, all of them if None.
    Returns [N], or [J, N]. The smallest SINR is taken out of the sum first, so a strong signal can't
    underflow it, and the exponentials are of single precision; otherwise this is Sionna's EESM. Source:
    Brueninghaus et al., Link performance models for system level simulations of broadband radio access
    systems, PIMRC 2005.
    """
    beta = np.asarray(beta, dtype=np.float64)
    if (sinr == sinr[:, :1]).all():
        # Flat: the mean of equals.
        return np.broadcast_to(sinr[:, 0].astype(np.float64), np.broadcast_shapes(beta.shape, (len(sinr),)))
    masked = sinr.astype(np.float32) if used is None else np.where(used, sinr, np.float32(np.inf))
    smallest = masked.min(axis=1)
    num_used = sinr.shape[1] if used is None else used.sum(axis=1)
    below = smallest[:, None] - masked
    if beta.ndim == 1:
        total = np.exp(below / beta[:, None].astype(np.float32)).sum(axis=1)
    else:
        total = np.stack([np.exp(below * np.float32(1 / value)).sum(axis=1) for value in beta[:, 0]])
    return smallest - beta * np.log(total.astype(np.float64) / num_used)


@lru_cache(maxsize=8)
def transport_tables(
    mcs_table: int, num_resource_blocks: int, re_per_rb_slot: int, error_rates: ErrorRates = "sionna"
) -> TransportTables:
    """Builds the tables for a PUSCH carrier without transform precoding.

    mcs_table: 1 or 2, TS 38.214 tables 5.1.3.1-1 and 5.1.3.1-2 (through 6.1.4.1). Block sizes follow
    TS 38.214, 5.1.3.2, as Sionna computes them; a block of C code blocks fails with 1 - (1 - BLER)^C.
    error_rates: "sionna", those of Sionna's PHYAbstraction, which has a point every 1.8 dB for MCS 3 to 27
    of table 1; or "measured", those of channels.links.error_rates at the code blocks' own size and rate,
    for all MCS of rate 1/5 and more, the lowest of Sionna's code: KNOWN_MCS. Not for "sionna" and table
    2: what Sionna ships as PUSCH table 2 are the error rates of another table's MCS.
    """

    import torch
    from sionna.phy.nr.utils import calculate_tb_size, decode_mcs_index
    from sionna.sys import EESM

    with sionna_scope(0):
        num_rb = torch.arange(1, num_resource_blocks + 1, dtype=torch.int32)
        mcs = torch.arange(_NUM_MCS[mcs_table], dtype=torch.int32)
        order, rate = decode_mcs_index(mcs, table_index=mcs_table, is_pusch=True, device="cpu")
        if error_rates == "sionna":
            usable, tbler = _sionna_error_rates(mcs_table, num_rb, re_per_rb_slot)
        else:
            usable = rate >= _LOWEST_RATE_BG2
        mcs, order, rate = mcs[usable], order[usable], rate[usable]
        shape = (len(mcs), len(num_rb))
        coded_bits = order[:, None] * re_per_rb_slot * num_rb
        tb_bits, cb_bits, num_cb, *_ = (
            values.numpy().astype(np.int64)
            for values in calculate_tb_size(
                order[:, None].expand(shape),
                rate[:, None].expand(shape),
                num_coded_bits=coded_bits,
                return_cw_length=False,
                device="cpu",
            )
        )
        beta = EESM(precision="double", device="cpu").beta_tensor[mcs_table - 1, mcs.long()]
    real_rate = cb_bits * num_cb / coded_bits.numpy()
    lowest_rate = np.where(cb_bits <= _LONGEST_BG2, _LOWEST_RATE_BG2, _LOWEST_RATE_BG1)
    codable = (real_rate >= lowest_rate) & (real_rate <= _HIGHEST_RATE)
    if error_rates == "measured":
        snr_db = np.arange(*_GRID_DB[error_rates])
        bler = np.concatenate(
            [
                block_error_rate(bits, rates[None, :, None], sizes[None, :, None], snr_db)
                for bits, rates, sizes in zip(order.tolist(), real_rate, cb_bits, strict=True)
            ]
        )
        tbler = 1 - (1 - bler) ** num_cb[..., None]
    return TransportTables(
        mcs=mcs.numpy().astype(np.int64),
        beta=beta.numpy(),
        tb_bits=np.pad(tb_bits, ((0, 0), (1, 0))),
        tbler=np.pad(tbler, ((0, 0), (1, 0), (0, 0)), constant_values=1.0),
        codable=np.pad(codable, ((0, 0), (1, 0)), constant_values=False),
        snr_min_db=_GRID_DB[error_rates][0],
        snr_step_db=_GRID_DB[error_rates][2],
    )


def _sionna_error_rates(
    mcs_table: int, num_rb: torch.Tensor, re_per_rb_slot: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Returns which MCS Sionna's tables know, bool, and the error rates of those, [J, R, S]."""
    import sionna.sys
    import torch

    file = Path(sionna.sys.__file__).parent / "bler_tables" / f"PUSCH_table{mcs_table}.json"
    # The abstraction draws an ACK on every call; only its error rate is wanted.
    abstraction = sionna.sys.PHYAbstraction(
        load_bler_tables_from=str(file),
        snr_db_interp_min_max_delta=_GRID_DB["sionna"],
        precision="double",
        device="cpu",
    )
    known = torch.isfinite(abstraction.bler_table_interp[PUSCH, mcs_table - 1]).all(-1).all(-1)
    usable = torch.zeros(_NUM_MCS[mcs_table], dtype=torch.bool)
    usable[torch.nonzero(known).flatten()] = True
    mcs = torch.nonzero(usable).flatten().to(torch.int32)
    snr_db = torch.arange(*_GRID_DB["sionna"], dtype=torch.float64)
    shape = (len(mcs), len(num_rb), len(snr_db))
    _, _, _, tbler, _ = abstraction(
        mcs[:, None, None].expand(shape),
        sinr_eff=(10 ** (snr_db / 10)).expand(shape),
        num_allocated_re=(re_per_rb_slot * num_rb)[:, None].expand(shape),
        mcs_table_index=mcs_table,
        mcs_category=PUSCH,
    )
    return usable, tbler.numpy()
