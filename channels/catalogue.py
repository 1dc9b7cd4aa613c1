"""The links and channels that there are, by name, and how to make one from its configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from channels.fading import IndoorFactoryChannel, IndoorFactoryConfig, UmiChannel, UmiConfig
from channels.grid import ResourceGrid
from channels.links.erasure import ErasureConfig, ErasureLink
from channels.links.ideal import IdealConfig, IdealLink
from channels.links.nr import NrConfig, NrLink
from semcom.contracts import Channel, Link
from semcom.rng import Streams

LinkConfig = Annotated[IdealConfig | ErasureConfig | NrConfig, Field(discriminator="kind")]
ChannelConfig = Annotated[IndoorFactoryConfig | UmiConfig, Field(discriminator="kind")]

LINKS: dict[str, type[BaseModel]] = {"ideal": IdealConfig, "erasure": ErasureConfig, "nr": NrConfig}
CHANNELS: dict[str, type[BaseModel]] = {"indoor_factory": IndoorFactoryConfig, "umi": UmiConfig}


def make_link(config: LinkConfig, grid: ResourceGrid, step_s: float, tx_power_dbm: float) -> Link:
    """Makes the link that a configuration describes.

    grid, step_s and tx_power_dbm (a device's power over the whole carrier, as the channel has it) are
    used by the links that know a radio. Sionna is imported only for `nr`. Raises SemcomError if a step
    holds no slot.
    """
    match config:
        case IdealConfig():
            return IdealLink(config)
        case ErasureConfig():
            return ErasureLink(config)
        case NrConfig():
            return NrLink(config, grid, step_s, tx_power_dbm)


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
    size = (num_devices, num_steps, step_s, grid.num_resource_blocks, grid.occupied_bandwidth_hz)
    match config:
        case IndoorFactoryConfig():
            return IndoorFactoryChannel(config, *size, streams)
        case UmiConfig():
            return UmiChannel(config, *size, streams)
