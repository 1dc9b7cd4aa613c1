"""How a training is carried out: in one place, or among clients; what every scenario offers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.catalogue import (
    ChannelConfig,
    LinkConfig,
    check_link,
    check_packet,
    make_channel,
    make_link,
    uses_a_channel,
)
from channels.downlink import DownlinkChannel
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryConfig
from channels.links.analog import AnalogConfig
from channels.links.ideal import IdealConfig
from channels.recorded import RecordedConfig, check_recorded
from nodes.training.air import Air
from nodes.training.central import CentralConfig, CountedCentral, LosslessRaw
from nodes.training.federated import Federated
from nodes.training.federated_config import FederatedConfig
from nodes.training.ledger import Ledger
from nodes.training.partitions import PartitionConfig, SampleInfo, TrajectoryPartition, partition
from nodes.training.split import Split
from nodes.training.split_config import SplitConfig
from nodes.transfer import SEGMENT_HEADER_BITS, TransferConfig
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.train import Central, StageLog, Trainer

MODES = ("central", "split", "federated")


class CollaborationConfig(BaseModel):
    """Who trains together, over which radio, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_clients: int = Field(20, ge=1, le=65_536, description="clients that the training data lie at")
    partition: PartitionConfig = TrajectoryPartition()
    central: CentralConfig = CentralConfig()
    federated: FederatedConfig = FederatedConfig()
    split: SplitConfig = SplitConfig()
    link: LinkConfig = IdealConfig()
    channel: ChannelConfig = IndoorFactoryConfig()
    grid: GridConfig = GridConfig()
    step_s: float = Field(0.01, gt=0, le=10, description="length of a step of the radio's schedule")
    downlink_snr_offset_db: float = Field(
        10.0,
        ge=-50,
        le=80,
        description="downlink SNR over uplink SNR: the station's power over a device's, less a device's "
        "noise figure over the station's",
    )


def check_collaboration(config: CollaborationConfig, mode: str, *, is_counted: bool = False) -> None:
    """Raises SemcomError for a mode that there isn't, and for a radio that can't carry updates.

    is_counted: the radio has to carry the raw data of a central training too.
    """
    if mode not in MODES:
        raise SemcomError(f"mode = {mode!r}: trainings are offered in modes {', '.join(MODES)}")
    if mode == "central" and not is_counted:
        return
    grid = ResourceGrid(config.grid)
    if isinstance(config.link, AnalogConfig):
        raise SemcomError("collaboration.link = analog: updates are bits, take another link")
    check_link(config.link, grid, config.step_s)
    bits = SEGMENT_HEADER_BITS + 8 * _transfer_of(mode, config).segment_bytes
    check_packet(config.link, grid, config.step_s, bits, f"a client ({mode}.transfer.segment_bytes)")


def _transfer_of(mode: str, config: CollaborationConfig) -> TransferConfig:
    if mode == "central":
        return config.central.transfer
    return config.split.transfer if mode == "split" else config.federated.transfer


def collaborative_settings(config: CollaborationConfig, mode: str) -> dict[str, Any]:
    """What trained weights depend on besides a central training's settings, as it is written down."""
    if mode == "central":
        raw = config.central.raw
        # Weights don't hang on how data came, only on what is left of them.
        return {} if isinstance(raw, LosslessRaw) else {"raw": raw.model_dump(mode="json")}
    return {"mode": mode, "collaboration": config.model_dump(mode="json", exclude={*MODES} - {mode})}


def make_trainer(
    mode: str, config: CollaborationConfig, seed: int, scratch: Path | None, *, is_counted: bool = False
) -> Trainer:
    """The trainer of a mode; scratch: a folder in which it leaves what it needs to go on.

    is_counted: a central training's raw data are carried by the radio, and their cost is counted. Data that
    lose something on the way are carried in any case.
    """
    if mode == "central" and not is_counted and isinstance(config.central.raw, LosslessRaw):
        return Central(scratch)
    streams = Streams(seed).substream("collaboration")
    air = _make_air(config, _transfer_of(mode, config).max_steps, streams)
    if mode == "central":
        return CountedCentral(config.central, config.num_clients, air, streams, scratch)
    shares = partial(shares_of, config=config, streams=streams)
    if mode == "split":
        return Split(config.split, shares, streams, air, config.num_clients, scratch)
    return Federated(config.federated, shares, streams, air, scratch)


def _make_air(config: CollaborationConfig, num_steps: int, streams: Streams) -> Air:
    """The uplink by the configured link and channel, and the downlink by the same channel the other way."""
    grid, step_s = ResourceGrid(config.grid), config.step_s
    up = make_link(config.link, grid, step_s, config.channel.tx_power_dbm)
    down = make_link(config.link, grid, step_s, config.channel.tx_power_dbm)
    if not uses_a_channel(config.link):
        return Air(up, down, step_s=step_s)
    own = streams.substream("channel")
    if isinstance(config.channel, RecordedConfig):
        # Half of what was recorded, so that devices can begin at different places of it.
        file = check_recorded(config.channel, grid, num_steps, step_s)
        num_steps = max(num_steps, int(file.num_times * file.snapshot_interval_s / step_s / 2))
    channel = make_channel(config.channel, grid, config.num_clients, num_steps, step_s, own)
    back = DownlinkChannel(channel, config.downlink_snr_offset_db)
    last = num_steps if isinstance(config.channel, RecordedConfig) else None
    return Air(up, down, channel, back, step_s, last)


def account(trainer: Trainer) -> StageLog:
    """What a training has cost in all, as a row of its log; of a central one that isn't counted nothing."""
    ledger = getattr(trainer, "ledger", None)
    return [{"stage": "account", "step": 0, **ledger.row()}] if isinstance(ledger, Ledger) else []


def shares_of(samples: Samples, config: CollaborationConfig, streams: Streams) -> list[torch.Tensor]:
    """The samples of each client, int64: the same for all stages over the same samples."""
    about = SampleInfo(
        samples.num_all,
        None if samples.label is None else samples.label.numpy(),
        torch.arange(samples.num_all).numpy(),
        None if samples.position_m is None else samples.position_m.numpy(),
    )
    generator = streams.numpy_generator("partition")
    return [
        torch.as_tensor(share, dtype=torch.int64)
        for share in partition(config.partition, config.num_clients, about, generator)
    ]
