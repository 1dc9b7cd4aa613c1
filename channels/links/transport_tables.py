"""Sizes and error rates of NR transport blocks, tabulated once from Sionna SYS.

The tables hold every (MCS, number of resource blocks, SINR) that a link can meet, so that a step is
array look-ups and neither Sionna nor its random state is touched while a simulation runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from channels.sionna_scope import sionna_scope

PUSCH = 0  # Sionna's MCS table category
SNR_MIN_DB, SNR_MAX_DB, SNR_STEP_DB = -5.0, 30.01, 0.1  # Sionna's own grid


@dataclass(frozen=True)
class TransportTables:
    """What a transport block of one slot carries and how often it fails; J usable MCS, R resource blocks.

    mcs [J]: the MCS indices, ascending. beta [J]: their EESM parameters. tb_bits [J, R + 1] int64: the
    size of a block on n resource blocks (0 for n = 0). tbler [J, R + 1, S]: its error rate on an AWGN
    channel at each point of the SINR grid (1 for n = 0).
    """

    mcs: np.ndarray
    beta: np.ndarray
    tb_bits: np.ndarray
    tbler: np.ndarray

    def snr_index(self, sinr: np.ndarray) -> np.ndarray:
        """Grid point of each linear SINR, as Sionna rounds it: int64, same shape; the ends are held."""
        snr_db = 10 * np.log10(np.maximum(sinr, 1e-6))
        index = np.rint((snr_db - SNR_MIN_DB) / SNR_STEP_DB).astype(np.int64)
        return np.clip(index, 0, self.tbler.shape[-1] - 1)


def effective_sinr(sinr: np.ndarray, beta: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Exponential effective SINR: -beta ln(mean over the used resource blocks of exp(-sinr / beta)).

    sinr [N, R] linear; beta [N] or a number; used [N, R] bool, all of them if None. Returns [N]. The
    smallest SINR is taken out of the sum first, so a strong signal can't underflow it; otherwise this
    is Sionna's EESM. Source: Brueninghaus et al., Link performance models for system level simulations
    of broadband radio access systems, PIMRC 2005.
    """
    beta = np.asarray(beta, dtype=np.float64)
    if (sinr == sinr[:, :1]).all():
        return sinr[:, 0].astype(np.float64)  # flat: the mean of equals
    masked = sinr.astype(np.float64) if used is None else np.where(used, sinr, np.inf)
    smallest = masked.min(axis=1)
    num_used = sinr.shape[1] if used is None else used.sum(axis=1)
    total = np.exp((smallest[:, None] - masked) / (beta[:, None] if beta.ndim else beta)).sum(axis=1)
    return smallest - beta * np.log(total / num_used)


@lru_cache(maxsize=8)
def transport_tables(mcs_table: int, num_resource_blocks: int, re_per_rb_slot: int) -> TransportTables:
    """Builds the tables for a PUSCH carrier without transform precoding.

    mcs_table: 1 or 2, TS 38.214 tables 5.1.3.1-1 and 5.1.3.1-2 (through 6.1.4.1). Block sizes follow
    TS 38.214, 5.1.3.2, as Sionna computes them; error rates are those of Sionna's PHYAbstraction,
    1 - (1 - BLER)^C over the C code blocks of a transport block. Only MCS with published error rates
    are usable: 3 to 27 of table 1 and 9 to 27 of table 2.
    """
    import sionna.sys
    import torch
    from sionna.phy.nr.utils import calculate_tb_size, decode_mcs_index
    from sionna.sys import EESM, PHYAbstraction

    file = Path(sionna.sys.__file__).parent / "bler_tables" / f"PUSCH_table{mcs_table}.json"
    # The abstraction draws an ACK on every call; only its error rate is wanted.
    with sionna_scope(0):
        abstraction = PHYAbstraction(
            load_bler_tables_from=str(file),
            snr_db_interp_min_max_delta=(SNR_MIN_DB, SNR_MAX_DB, SNR_STEP_DB),
            precision="double",
            device="cpu",
        )
        known = torch.isfinite(abstraction.bler_table_interp[PUSCH, mcs_table - 1]).all(-1).all(-1)
        mcs = torch.nonzero(known).flatten().to(torch.int32)
        snr_db = torch.arange(SNR_MIN_DB, SNR_MAX_DB, SNR_STEP_DB, dtype=torch.float64)
        num_rb = torch.arange(1, num_resource_blocks + 1, dtype=torch.int32)
        shape = (len(mcs), len(num_rb), len(snr_db))
        _, _, _, tbler, _ = abstraction(
            mcs[:, None, None].expand(shape),
            sinr_eff=(10 ** (snr_db / 10)).expand(shape),
            num_allocated_re=(re_per_rb_slot * num_rb)[:, None].expand(shape),
            mcs_table_index=mcs_table,
            mcs_category=PUSCH,
        )
        order, rate = decode_mcs_index(mcs, table_index=mcs_table, is_pusch=True, device="cpu")
        tb_bits, *_ = calculate_tb_size(
            order[:, None].expand(shape[:2]),
            rate[:, None].expand(shape[:2]),
            num_coded_bits=order[:, None] * re_per_rb_slot * num_rb,
            return_cw_length=False,
            device="cpu",
        )
        beta = EESM(precision="double", device="cpu").beta_tensor[mcs_table - 1, mcs.long()]
    return TransportTables(
        mcs=mcs.numpy().astype(np.int64),
        beta=beta.numpy(),
        tb_bits=np.pad(tb_bits.numpy().astype(np.int64), ((0, 0), (1, 0))),
        tbler=np.pad(tbler.numpy(), ((0, 0), (1, 0), (0, 0)), constant_values=1.0),
    )
