"""The 5G NR uplink bit for bit: transport blocks through Sionna PHY, from CRC to decoded bytes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from channels.budget import dbm_to_w
from channels.grid import SUBCARRIERS_PER_RESOURCE_BLOCK, SYMBOLS_PER_SLOT, ResourceGrid
from channels.links.harq import HarqTrial
from channels.links.transport_plan import McsRule, TransportPlan, TransportPlanner
from channels.links.transport_tables import ErrorRates, check_mcs
from channels.sionna_scope import sionna_scope
from semcom.contracts import Delivery, RadioState, SemcomError
from semcom.rng import Streams

# Data symbols of a slot -> additional DMRS positions (TS 38.211, 6.4.1.1.3; one DMRS symbol each).
_DMRS_POSITIONS = {13: 0, 12: 1, 11: 2, 10: 3}
# So many resource elements at once: more of them leave the cache, and decoding takes a quarter longer.
ELEMENTS_AT_ONCE = 40_000


class NrBitConfig(BaseModel):
    """A PUSCH whose bits are encoded, modulated, sent, equalised and decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["nr-bit"] = "nr-bit"
    mcs_table: Literal[1, 2] = Field(1, description="MCS table of TS 38.214, 5.1.3.1 (1: 64-QAM, 2: 256-QAM)")
    mcs_index: int | None = Field(None, ge=0, le=28, description="one MCS for all, without link adaptation")
    bler_target: float = Field(0.1, gt=0, lt=1, description="error rate a transport block may have at most")
    margin_db: float = Field(
        0.0, ge=0, le=20, description="taken off the wideband SINR before the MCS is chosen"
    )
    mcs_rule: McsRule = Field(
        "fitting",
        description="highest: the highest MCS within the target; fitting: then lowered while it fits",
    )
    error_rates: ErrorRates = Field(
        "measured",
        description="of code blocks: measured with Sionna PHY, or Sionna SYS's coarse table (docs/LOG.md)",
    )
    max_retransmissions: int = Field(
        0, ge=0, le=15, description="HARQ: how often a failed transport block is sent again within its step"
    )
    csi: Literal["estimated", "perfect"] = Field(
        "estimated", description="the receiver's channel: least squares on the DMRS, or the true one"
    )
    num_bp_iterations: int = Field(20, ge=1, le=200, description="belief propagation steps of the decoder")
    demapper: Literal["app", "maxlog"] = Field("app", description="exact soft bits, or their approximation")

    @model_validator(mode="after")
    def _there_are_error_rates(self) -> NrBitConfig:
        check_mcs(self.mcs_table, self.mcs_index, self.error_rates)
        return self


def check_pilots(grid: ResourceGrid) -> None:
    """Raises SemcomError for a grid whose data symbols leave no standard DMRS."""
    if grid.config.num_data_symbols not in _DMRS_POSITIONS:
        raise SemcomError(
            f"grid.num_data_symbols = {grid.config.num_data_symbols} leaves no DMRS pattern that the "
            f"nr-bit link knows: use one of {', '.join(map(str, sorted(_DMRS_POSITIONS)))}, or link nr"
        )


class NrBitLink:
    """Carries packets as NR transport blocks, bit for bit: the receiver's bytes are the decoded ones.

    TransportPlanner cuts a packet and chooses the MCS as for `nr`. Each block then passes Sionna's CRC,
    LDPC code, rate matching, scrambling and QAM, lies with its DMRS on the resource blocks that it was
    given, meets the channel's response there,

        y = h x + n,    n ~ CN(0, 1) per antenna and resource element,

    (E |x|^2 = 1 of data; |h|^2 is the SINR, see Channel) and is estimated, equalised (LMMSE), softly
    demapped and decoded. A block whose CRC fails makes the packet an erasure; one that passes by chance
    arrives with its wrong bits. With HARQ, failed blocks are sent again on what resources the step has
    left and their soft bits are added (chase combining). Every transmission of a step sees the channel of
    the step's first slot, as in `nr`, with the channel's own ageing within the slot. Cost is counted as
    there.

    Raises SemcomError as check_pilots does.
    """

    name = "nr-bit"

    def __init__(self, config: NrBitConfig, grid: ResourceGrid, step_s: float, tx_power_dbm: float) -> None:
        check_pilots(grid)
        self.config = config
        self.grid = grid
        self.step_s = step_s
        self.tx_power_w = dbm_to_w(tx_power_dbm)
        self.planner = TransportPlanner(grid, step_s, config, must_encode=True, link_name=self.name)

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        """Share of a step's RB-slots that a packet takes for each device: see TransportPlanner."""
        return self.planner.resource_share(sinr, packet_bits, num_devices)

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery:
        """Sends N packets of one step in their order, the i-th from devices[i]; see Delivery.

        Packets for which no resources are left are not sent and cost nothing. Raises SemcomError if
        the radio's state is missing or its SINR has another shape than [N, R].
        """
        radio = self.planner.radio(radio, len(packets))
        packet_bits = np.array([8 * len(packet) for packet in packets], dtype=np.int64)
        plan = self.planner.plan(radio.sinr, packet_bits)
        trial = HarqTrial(plan, self.grid, self.step_s)
        sent_bits = self._cut(packets, plan)
        received_bits = {key: np.zeros_like(bits) for key, bits in sent_bits.items()}
        soft_bits: dict[tuple[int, int], torch.Tensor] = {}
        for attempt in range(1 + self.config.max_retransmissions):
            active = trial.grant()
            if not active.size:
                break
            arrived = np.zeros((active.size, trial.block.size), dtype=bool)
            place = {packet: index for index, packet in enumerate(active.tolist())}
            for (row, num_rb), blocks in self._groups(plan, trial, active).items():
                chain = _chain(self.config, int(self.planner.tables.mcs[row]), num_rb, self.grid)
                for part in _parts(blocks, num_rb):
                    llr = self._over_the_air(
                        chain, part, sent_bits, trial, radio, num_rb, devices, step, attempt, streams
                    )
                    for key, new in zip(part, llr, strict=True):
                        soft_bits[key] = soft_bits[key] + new if key in soft_bits else new
                    bits, ok = chain.decode(torch.stack([soft_bits[key] for key in part]))
                    for (packet, block), decoded, whole in zip(part, bits, ok, strict=True):
                        received_bits[packet, block] = decoded
                        arrived[place[packet], block] = whole
            trial.settle(active, arrived)
        received = [
            _join([received_bits[packet, block] for block in range(plan.num_blocks[packet])], len(data))
            for packet, data in enumerate(packets)
        ]
        return trial.delivery(received, packet_bits, self.tx_power_w)

    def _cut(self, packets: Sequence[bytes], plan: TransportPlan) -> dict[tuple[int, int], np.ndarray]:
        """The information bits of each (packet, block), uint8, zeros behind the last byte."""
        sizes, cut = self.planner.tables.tb_bits, {}
        for packet, data in enumerate(packets):
            bits = np.zeros(int(plan.tb_bits[packet]), dtype=np.uint8)
            bits[: 8 * len(data)] = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
            full = int(sizes[plan.row[packet], -1])
            for block in range(int(plan.num_blocks[packet])):
                last = block == plan.num_blocks[packet] - 1
                cut[packet, block] = bits[block * full :] if last else bits[block * full : (block + 1) * full]
        return cut

    def _groups(
        self, plan: TransportPlan, trial: HarqTrial, active: np.ndarray
    ) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """The open (packet, block) of the active packets by MCS row and number of resource blocks."""
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for packet in active.tolist():
            for block in np.flatnonzero(trial.open[packet]).tolist():
                last = block == plan.num_blocks[packet] - 1
                num_rb = int(plan.last_rb[packet]) if last else self.grid.num_resource_blocks
                groups.setdefault((int(plan.row[packet]), num_rb), []).append((packet, block))
        return groups

    def _over_the_air(
        self,
        chain: _Chain,
        part: Sequence[tuple[int, int]],
        sent_bits: dict[tuple[int, int], np.ndarray],
        trial: HarqTrial,
        radio: RadioState,
        num_rb: int,
        devices: np.ndarray,
        step: int,
        attempt: int,
        streams: Streams,
    ) -> torch.Tensor:
        """Sends blocks of one size once and returns their soft bits, float32 [n, coded bits]."""
        packet = np.array([key[0] for key in part])
        total_rb = self.grid.num_resource_blocks
        # A full block may start anywhere: it has all resource blocks, and is laid out from the first.
        first = np.zeros_like(packet) if num_rb == total_rb else trial.last_first[packet]
        used = (first[:, None] + np.arange(num_rb)) % total_rb
        frequency_hz = self.grid.subcarrier_frequency_hz(used)
        time_s = np.arange(SYMBOLS_PER_SLOT) * self.grid.slot_s / SYMBOLS_PER_SLOT
        h = torch.from_numpy(radio.response(packet, frequency_hz, time_s))
        noise = torch.stack(
            [
                streams.normal(
                    f"nr-bit-noise-{block}-{attempt}", [int(devices[index])], step, (*h.shape[1:], 2)
                )[0]
                for index, block in part
            ]
        )
        noise = torch.view_as_complex(noise.to(torch.float32).contiguous()) * 0.5**0.5
        x = chain.encode(torch.from_numpy(np.stack([sent_bits[key] for key in part])).to(torch.float32))
        return chain.soft_bits(h * x[:, None] + noise, h)


class _Chain:
    """Sionna's transmitter and receiver for one MCS on so many resource blocks; one layer, one antenna up."""

    def __init__(self, config: NrBitConfig, mcs: int, num_rb: int, grid: ResourceGrid) -> None:
        from sionna.phy.mimo import StreamManagement
        from sionna.phy.nr import PUSCHConfig, PUSCHReceiver, PUSCHTransmitter, TBDecoder
        from sionna.phy.ofdm import LinearDetector

        pusch = PUSCHConfig()
        pusch.carrier.n_size_grid = num_rb
        pusch.carrier.subcarrier_spacing = grid.subcarrier_spacing_hz / 1e3
        pusch.dmrs.additional_position = _DMRS_POSITIONS[grid.config.num_data_symbols]
        pusch.tb.mcs_table, pusch.tb.mcs_index = config.mcs_table, mcs
        with sionna_scope(0), warnings.catch_warnings():
            # The sizes of TS 38.214 exceed the nominal rate now and then, as Sionna notes each time.
            warnings.filterwarnings("ignore", message="Effective coderate", category=UserWarning)
            self._transmitter = PUSCHTransmitter(pusch, return_bits=False, precision="single", device="cpu")
            detector = LinearDetector(
                "lmmse",
                "bit",
                config.demapper,
                self._transmitter.resource_grid,
                StreamManagement(np.ones([1, 1], dtype=bool), 1),
                "qam",
                pusch.tb.num_bits_per_symbol,
                precision="single",
                device="cpu",
            )
            self._receiver = PUSCHReceiver(
                self._transmitter,
                channel_estimator="perfect" if config.csi == "perfect" else None,
                mimo_detector=detector,
                # The soft bits are wanted: they are combined over the transmissions before decoding.
                tb_decoder=lambda llr: (llr, None),
                precision="single",
                device="cpu",
            )
            self._decoder = TBDecoder(
                self._transmitter._tb_encoder,
                num_bp_iter=config.num_bp_iterations,
                precision="single",
                device="cpu",
            )
        self._perfect = config.csi == "perfect"

    @torch.no_grad()
    def encode(self, bits: torch.Tensor) -> torch.Tensor:
        """Maps information bits [n, k] to the slot's resource elements, complex64 [n, S, F]."""
        return self._transmitter(bits[:, None])[:, 0, 0]

    @torch.no_grad()
    def soft_bits(self, y: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Equalises and demaps what M antennas received: y and h complex64 [n, M, S, F], noise power 1."""
        known = (h[:, None, :, None, None],) if self._perfect else ()
        llr: torch.Tensor = self._receiver(y[:, None], torch.ones(()), *known)
        return llr[:, 0]

    @torch.no_grad()
    def decode(self, llr: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Decodes soft bits [n, coded bits]: information bits uint8 [n, k], CRC passed bool [n]."""
        bits, ok = self._decoder(llr[:, None])
        return bits[:, 0].to(torch.uint8).numpy(), ok[:, 0].numpy()


@lru_cache(maxsize=64)
def _cached_chain(config: NrBitConfig, mcs: int, num_rb: int, grid_json: str) -> _Chain:
    from channels.grid import GridConfig

    return _Chain(config, mcs, num_rb, ResourceGrid(GridConfig.model_validate_json(grid_json)))


def _chain(config: NrBitConfig, mcs: int, num_rb: int, grid: ResourceGrid) -> _Chain:
    """Returns the blocks for one MCS and size; what they don't depend on is left out of the cache's key."""
    plain = NrBitConfig(
        mcs_table=config.mcs_table,
        csi=config.csi,
        num_bp_iterations=config.num_bp_iterations,
        demapper=config.demapper,
    )
    return _cached_chain(plain, mcs, num_rb, grid.config.model_dump_json())


def _parts(blocks: list[tuple[int, int]], num_rb: int) -> list[list[tuple[int, int]]]:
    elements = num_rb * SUBCARRIERS_PER_RESOURCE_BLOCK * SYMBOLS_PER_SLOT
    size = max(1, ELEMENTS_AT_ONCE // elements)
    return [blocks[start : start + size] for start in range(0, len(blocks), size)]


def _join(blocks: Sequence[np.ndarray], num_bytes: int) -> bytes:
    return np.packbits(np.concatenate(blocks)[: 8 * num_bytes]).tobytes()
