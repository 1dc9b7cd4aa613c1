"""The links and channels that there are, by name, and how to make one from its configuration."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, get_args

import numpy as np
from pydantic import BaseModel, Field

from channels.block_fading import BlockFadingChannel, BlockFadingConfig
from channels.delay_profiles import DelayProfileConfig, make_delay_profile_channel
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryChannel, IndoorFactoryConfig
from channels.links.analog import AnalogConfig, AnalogLink, check_size, check_symbols
from channels.links.erasure import ErasureConfig, ErasureLink
from channels.links.ideal import IdealConfig, IdealLink
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig, NrBitLink, check_pilots
from channels.recorded import RecordedChannel, RecordedConfig, check_recorded
from channels.scenes import RayTracedConfig, check_scene, make_ray_traced_channel
from channels.system_level import CellConfig, HallConfig, make_system_level_channel
from semcom.codecs.analog import BYTES_PER_SYMBOL
from semcom.contracts import Channel, Link, SemcomError
from semcom.packets import HEADER_BITS
from semcom.rng import Streams

LinkConfig = Annotated[
    IdealConfig | ErasureConfig | NrConfig | NrBitConfig | AnalogConfig, Field(discriminator="kind")
]
ChannelConfig = Annotated[
    IndoorFactoryConfig
    | BlockFadingConfig
    | DelayProfileConfig
    | CellConfig
    | HallConfig
    | RayTracedConfig
    | RecordedConfig,
    Field(discriminator="model"),
]

# Every MCS of which there are error rates carries at least so many bits on a full carrier.
_LEAST_BITS_PER_ELEMENT = 0.4

LINKS: dict[str, type[BaseModel]] = {
    "ideal": IdealConfig,
    "erasure": ErasureConfig,
    "nr": NrConfig,
    "nr-bit": NrBitConfig,
    "analog": AnalogConfig,
}
CHANNELS: dict[str, type[BaseModel]] = {
    name: config
    for config in get_args(get_args(ChannelConfig)[0])
    for name in get_args(config.model_fields["model"].annotation)
}


def uses_a_channel(config: LinkConfig) -> bool:
    """Whether a link needs a channel, and its devices share the resources of a carrier."""
    return isinstance(config, NrConfig | NrBitConfig | AnalogConfig)


def check_link(config: LinkConfig, grid: ResourceGrid, step_s: float) -> None:
    """Raises SemcomError for a link that can't work on this grid in steps this long; imports no Sionna."""
    if uses_a_channel(config):
        grid.slots_per_step(step_s)
    if isinstance(config, NrBitConfig):
        check_pilots(grid)
    if isinstance(config, AnalogConfig):
        check_size(config, grid)


def check_channel(config: ChannelConfig, grid: ResourceGrid, num_steps: int, step_s: float) -> None:
    """Raises SemcomError for a channel that can't be had; imports Sionna for a ray-traced scene only."""
    if isinstance(config, RecordedConfig):
        check_recorded(config, grid, num_steps, step_s)
    if isinstance(config, RayTracedConfig):
        check_scene(config)


def check_packet(
    config: LinkConfig, grid: ResourceGrid, step_s: float, packet_bits: int, sender: str
) -> None:
    """Raises SemcomError for a packet, `sender` sends it, that a step can't hold however good the channel.

    Sionna is imported only where the answer isn't plain.
    """
    if isinstance(config, AnalogConfig):
        check_symbols(config, grid, (packet_bits - HEADER_BITS) // (8 * BYTES_PER_SYMBOL))
        needed, held = config.num_resource_blocks + (config.header == "coded"), grid.rb_slots_per_step(step_s)
        if needed > held:
            raise SemcomError(
                f"a packet of {sender} takes {needed} resource blocks, a step of {step_s:g} s holds {held}: "
                "lower link.num_resource_blocks, or raise grid.bandwidth_hz or grid.uplink_share"
            )
    if not isinstance(config, NrConfig | NrBitConfig):
        return
    elements = grid.rb_slots_per_step(step_s) * grid.re_per_rb_slot
    is_any_mcs_fine = not isinstance(config, NrBitConfig) or config.mcs_index is None
    if is_any_mcs_fine and packet_bits <= _LEAST_BITS_PER_ELEMENT * elements:
        return
    link = make_link(config, grid, step_s, 0.0)
    best = np.full((1, grid.num_resource_blocks), 1e6, dtype=np.float32)
    if not np.isfinite(link.resource_share(best, packet_bits, 1)).all():
        raise SemcomError(
            f"a packet of {sender} has {packet_bits} bits, more than a step of {step_s:g} s carries at any "
            f"SINR: raise grid.bandwidth_hz or grid.uplink_share, or leave out {sender}"
        )


def make_link(config: LinkConfig, grid: ResourceGrid, step_s: float, tx_power_dbm: float) -> Link:
    """Makes the link that a configuration describes.

    grid, step_s and tx_power_dbm (a device's power over the whole carrier, as the channel has it) are
    used by the links that know a radio. Sionna is imported only for these. Raises SemcomError if a step
    holds no slot, or for an MCS or a grid that the link can't do.
    """
    match config:
        case IdealConfig():
            return IdealLink(config)
        case ErasureConfig():
            return ErasureLink(config)
        case NrConfig():
            return NrLink(config, grid, step_s, tx_power_dbm)
        case NrBitConfig():
            return NrBitLink(config, grid, step_s, tx_power_dbm)
        case AnalogConfig():
            return AnalogLink(config, grid, step_s, tx_power_dbm)


def make_channel(
    config: ChannelConfig,
    grid: ResourceGrid,
    num_devices: int,
    num_steps: int,
    step_s: float,
    streams: Streams,
) -> Channel:
    """Makes the channel that a configuration describes, on the grid's resource blocks; imports Sionna.

    The power and the noise are those of the occupied bandwidth, so `sinr` is per resource element.
    """
    num_blocks, bandwidth_hz = grid.num_resource_blocks, grid.occupied_bandwidth_hz
    match config:
        case IndoorFactoryConfig():
            return IndoorFactoryChannel(
                config, num_devices, num_steps, step_s, num_blocks, bandwidth_hz, streams
            )
        case BlockFadingConfig():
            return BlockFadingChannel(config, num_devices, num_blocks, streams)
        case DelayProfileConfig():
            return make_delay_profile_channel(config, num_devices, step_s, num_blocks, bandwidth_hz, streams)
        case CellConfig() | HallConfig():
            return make_system_level_channel(config, num_devices, step_s, num_blocks, bandwidth_hz, streams)
        case RecordedConfig():
            return RecordedChannel(config, num_devices, num_steps, step_s, grid, streams)
        case RayTracedConfig():
            return make_ray_traced_channel(config, num_devices, step_s, num_blocks, bandwidth_hz, streams)


@lru_cache(maxsize=64)
def shared_channel(
    config: ChannelConfig,
    grid: GridConfig,
    num_devices: int,
    num_steps: int,
    step_s: float,
    streams: Streams,
) -> Channel:
    """Makes a channel, or returns the one that cells of the same settings have: steps are computed once."""
    return make_channel(config, ResourceGrid(grid), num_devices, num_steps, step_s, streams)
