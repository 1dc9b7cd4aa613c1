"""Central training that counts: the raw data of all clients go up once, by the radio of updates."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from nodes.training.air import Air
from nodes.training.gathering import Gathering
from nodes.training.ledger import Ledger
from nodes.training.raw import LosslessRaw, RawCoder, RawConfig
from nodes.transfer import TransferConfig
from semcom.files import write_atomically
from semcom.rng import Streams
from semcom.train import Central, DataKind, Stage, StageLog

_WALL = "wall.json"


class CentralConfig(BaseModel):
    """How raw data come to where a central training is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    raw: RawConfig = LosslessRaw()
    transfer: TransferConfig = TransferConfig(segment_bytes=1500, max_steps=20_000)


@dataclass
class CountedCentral:
    """Runs stages in one place, on the raw data that clients have sent there; counts what that costs.

    Observations, and what devices know of their movement, go up once. The samples are dealt out in equal
    runs, one for each of the clients, and not by the partition: what arrives is the same, airtime and energy
    hang on whose they are. Embeddings are what encoders make of them here, and go nowhere. Devices compute
    nothing.
    """

    config: CentralConfig
    num_clients: int
    air: Air
    streams: Streams
    scratch: Path | None = None
    ledger: Ledger = field(default_factory=lambda: Ledger(rounds=1))

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage: see Trainer."""
        known = self._known_s()
        began = time.perf_counter()
        log = Central(self.scratch).fit(stage)
        # A stage that is finished is only read again; of one that was stopped, the time since then counts.
        known.setdefault(stage.name, time.perf_counter() - began)
        self.ledger.wall_s += known[stage.name]
        if self.scratch is not None:
            write_atomically(self.scratch / _WALL, lambda file: _write(file, json.dumps(known)))
        return log

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Returns what arrived of the data [N, ...]: all, or SemcomError names the client whose did not."""
        if kind in ("label", "embedding") or not data.numel():
            return data
        return self.gathering.gather(f"raw {kind}", data, RawCoder(self.config.raw, data))

    @cached_property
    def gathering(self) -> Gathering:
        """What brings data up."""
        where = "collaboration.central.transfer"
        return Gathering(self.num_clients, self.streams, self.air, self.config.transfer, self.ledger, where)

    def starting_seed(self, seed: int) -> int:
        """Returns the seed."""
        return seed

    def _known_s(self) -> dict[str, float]:
        """How long the stages took that were finished before, by their names."""
        path = None if self.scratch is None else self.scratch / _WALL
        if path is None or not path.exists():
            return {}
        try:
            return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            # It is told, and nothing is computed of it.
            return {}


def _write(file: Path, text: str) -> None:
    file.write_text(text)
