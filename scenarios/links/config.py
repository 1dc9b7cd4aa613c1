"""The links scenario's configuration and its presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from channels.grid import GridConfig, ResourceGrid
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig, check_pilots
from channels.links.transport_tables import check_mcs
from semcom.contracts import SemcomError

ChannelName = Literal[
    "awgn", "rayleigh", "rician",
    "tdl-a", "tdl-b", "tdl-c", "tdl-d", "tdl-e", "cdl-a", "cdl-b", "cdl-c", "cdl-d", "cdl-e",
]  # fmt: skip
MethodName = Literal["nr", "nr-sionna", "nr-bit", "nr-bit-estimated"]
Mcs = Annotated[int, Field(ge=0, le=28)]


class OperatingPoint(BaseModel):
    """The one point that `semcom sweep links` measures, to be varied by its axes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channel: ChannelName = Field("awgn", description="channel of a sweep")
    mcs_table: Literal[1, 2] = Field(1, description="MCS table of a sweep")
    mcs_index: Mcs = Field(13, description="MCS of a sweep")
    snr_db: float = Field(8.0, ge=-50, le=80, description="mean Es/N0 of a sweep")


class LinksConfig(BaseModel):
    """Which links are measured on which channels, and with how many blocks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    methods: tuple[MethodName, ...] = Field(
        get_args(MethodName),
        description="links that are compared: nr with measured error rates or with Sionna's own (table 1), "
        "nr-bit with the channel known or estimated from pilots",
    )
    channels: tuple[ChannelName, ...] = Field(
        ("awgn", "tdl-a", "tdl-c"), description="channels on which error rates are measured"
    )
    mcs_table_1: tuple[Mcs, ...] = Field((4, 13, 22), description="MCS of TS 38.214, table 5.1.3.1-1")
    mcs_table_2: tuple[Mcs, ...] = Field((3, 10, 22), description="MCS of TS 38.214, table 5.1.3.1-2")
    packet_bytes: int = Field(32, ge=1, le=4096, description="bytes in a packet, one transport block")
    num_blocks: int = Field(
        500, ge=7, le=10_000_000, description="blocks for each curve and seed, shared by its SNRs"
    )
    snr_db: tuple[Annotated[float, Field(ge=-30, le=60)], ...] = Field(
        (-4.0, 0.0, 4.0, 8.0, 12.0, 16.0, 20.0),
        min_length=1,
        description="Es/N0 of the analog distortion and Eb/N0 of the uncoded error rates",
    )
    num_symbols: int = Field(
        200_000, ge=1000, le=10**9, description="symbols for each of these points and seed"
    )
    delay_spread_s: float = Field(100e-9, ge=0, le=10e-6, description="delay spread of the tdl and cdl")
    speed_m_per_s: float = Field(0.8, ge=0, le=300, description="speed of the devices in the tdl and cdl")
    grid: GridConfig = GridConfig()
    point: OperatingPoint = OperatingPoint()


TINY = LinksConfig(
    channels=("awgn", "tdl-a"), mcs_table_1=(13,), mcs_table_2=(22,), packet_bytes=16, num_blocks=72,
    snr_db=(0.0, 10.0), num_symbols=2000,
)  # fmt: skip
PAPER = LinksConfig(num_blocks=4200, num_symbols=2_000_000)


def check(config: LinksConfig) -> None:
    """Raises SemcomError for MCS without error rates and a grid without pilots, naming key and remedy."""
    of_keys: dict[str, list[tuple[Literal[1, 2], int]]] = {
        "mcs_table_1": [(1, index) for index in config.mcs_table_1],
        "mcs_table_2": [(2, index) for index in config.mcs_table_2],
        "point.mcs_index": [(config.point.mcs_table, config.point.mcs_index)],
    }
    for key, named in of_keys.items():
        for table, index in named:
            try:
                check_mcs(table, index, "measured")
            except ValueError as error:
                raise SemcomError(f"{key}: {error}") from None
    for key in ("methods", "channels"):
        if not getattr(config, key):
            raise SemcomError(f"{key} is empty: name at least one")
    if not config.mcs_table_1 and not config.mcs_table_2:
        raise SemcomError("mcs_table_1 and mcs_table_2 are both empty: name at least one MCS")
    if any(name.startswith("nr-bit") for name in config.methods):
        check_pilots(ResourceGrid(config.grid))
    _check_one_block(config, [pair for named in of_keys.values() for pair in named])


def _check_one_block(config: LinksConfig, pairs: Sequence[tuple[int, int]]) -> None:
    """Raises SemcomError for a packet of several blocks; Sionna is imported only for long ones."""
    grid = ResourceGrid(config.grid)
    # The lowest MCS with error rates carries 0.49 bits an element.
    if 8 * config.packet_bytes <= 0.4 * grid.num_resource_blocks * grid.re_per_rb_slot:
        return
    for table, index in dict.fromkeys(pairs):
        sizes = NrLink(NrConfig(**{"mcs_table": table, "mcs_index": index}), grid, 10.0, 0.0).planner.tables
        most = int(sizes.tb_bits[sizes.mcs.tolist().index(index), -1]) // 8
        if config.packet_bytes > most:
            raise SemcomError(
                f"packet_bytes = {config.packet_bytes} is more than a transport block of MCS {index} of "
                f"table {table} holds: take at most {most}, or a larger grid.bandwidth_hz"
            )


def link_config(method: str, mcs_table: int, mcs_index: int) -> NrConfig | NrBitConfig:
    """Returns the configuration of a method's link at one MCS, without link adaptation."""
    told: dict[str, Any] = {"mcs_table": mcs_table, "mcs_index": mcs_index}
    match method:
        case "nr":
            return NrConfig(**told)
        case "nr-sionna":
            return NrConfig(**told, error_rates="sionna")
        case "nr-bit":
            return NrBitConfig(**told, csi="perfect")
        case "nr-bit-estimated":
            return NrBitConfig(**told, csi="estimated")
    raise ValueError(method)
