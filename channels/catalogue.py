"""The links and channels that there are, by name, and how to make one from its configuration."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import BaseModel, Field

from channels.block_fading import BlockFadingChannel, BlockFadingConfig
from channels.delay_profiles import DelayProfileConfig, make_delay_profile_channel
from channels.grid import ResourceGrid
from channels.indoor_factory import IndoorFactoryChannel, IndoorFactoryConfig
from channels.links.erasure import ErasureConfig, ErasureLink
from channels.links.ideal import IdealConfig, IdealLink
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig, NrBitLink, check_pilots
from channels.scenes import RayTracedConfig, check_scene, make_ray_traced_channel
from channels.system_level import CellConfig, HallConfig, make_system_level_channel
from semcom.contracts import Channel, Link
from semcom.rng import Streams

LinkConfig = Annotated[IdealConfig | ErasureConfig | NrConfig | NrBitConfig, Field(discriminator="kind")]
ChannelConfig = Annotated[
    IndoorFactoryConfig | BlockFadingConfig | DelayProfileConfig | CellConfig | HallConfig | RayTracedConfig,
    Field(discriminator="model"),
]

LINKS: dict[str, type[BaseModel]] = {
    "ideal": IdealConfig,
    "erasure": ErasureConfig,
    "nr": NrConfig,
    "nr-bit": NrBitConfig,
}
CHANNELS: dict[str, type[BaseModel]] = {
    name: config
    for config in get_args(get_args(ChannelConfig)[0])
    for name in get_args(config.model_fields["model"].annotation)
}


def uses_a_channel(config: LinkConfig) -> bool:
    """Whether a link needs a channel, and its devices share the resources of a carrier."""
    return isinstance(config, NrConfig | NrBitConfig)


def check_link(config: LinkConfig, grid: ResourceGrid, step_s: float) -> None:
    """Raises SemcomError for a link that can't work on this grid in steps this long; imports no Sionna."""
    if uses_a_channel(config):
        grid.slots_per_step(step_s)
    if isinstance(config, NrBitConfig):
        check_pilots(grid)


def check_channel(config: ChannelConfig) -> None:
    """Raises SemcomError for a channel that can't be made; imports Sionna for a ray-traced scene only."""
    if isinstance(config, RayTracedConfig):
        check_scene(config)


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
        case RayTracedConfig():
            return make_ray_traced_channel(config, num_devices, step_s, num_blocks, bandwidth_hz, streams)
