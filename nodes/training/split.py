"""Split training: encoders live and train with the devices, the rest with the base station, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from nodes.training.air import Air
from nodes.training.gathering import EmbeddingCoder, Gathering
from nodes.training.ledger import Ledger
from nodes.training.raw import LosslessRaw, RawCoder
from nodes.training.split_config import SplitConfig
from nodes.training.split_stage import SplitStage
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.train import Central, DataKind, Stage, StageLog


@dataclass
class Split:
    """Runs the stages of a training between devices and the base station, in rounds of turns.

    In its turn a device trains turn_steps steps on its own samples: its encoder's embeddings go up, the base
    station completes the loss and steps its part, the gradient comes down and the device steps its own (the
    base station's part is one and goes on from turn to turn: SplitFed's second version, Thapa et al. 2022).
    Both clip by the norm of the whole gradient, for which each sends 32 bits. What does not arrive costs the
    step, on both sides.

    relay: after its turn a device hands its part to the base station, which hands it to the next one (Gupta
    and Raskar 2018). average: devices go on with copies of their own, which every average_rounds rounds go up
    and come back as their mean weighted by samples. A device whose version is not the base station's is sent
    the newest before its turn; if that does not arrive, it misses the turn.

    Stages without a part on devices are the base station's alone. With one device and codecs without loss a
    stage ends with the weights of Central. shares, scratch: as in Federated.
    """

    config: SplitConfig
    shares: Callable[[Samples], Sequence[torch.Tensor]]
    streams: Streams
    air: Air
    num_clients: int
    scratch: Path | None = None
    ledger: Ledger = field(default_factory=Ledger)

    @cached_property
    def gathering(self) -> Gathering:
        """What brings data up."""
        where = "collaboration.split.transfer"
        return Gathering(self.num_clients, self.streams, self.air, self.config.transfer, self.ledger, where)

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage: see Trainer."""
        if stage.on_device is None:
            began = time.perf_counter()
            log = Central(self.scratch).fit(stage)
            self.ledger.wall_s += time.perf_counter() - began
            return log
        shares = self.shares(stage.samples)
        return SplitStage(self.config, stage, shares, self.streams, self.air, self.ledger, self.scratch).run()

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Brings up what the base station needs, and counts it; returns what arrived of it.

        Conditions go up whole, embeddings through the embeddings' codec; observations only where the base
        station computes targets. Each device has an equal run of the samples. Raises SemcomError naming the
        device whose data did not arrive.
        """
        if kind == "observation" and self.config.target == "device":
            return data
        if kind == "embedding":
            return self.gathering.gather(kind, data, EmbeddingCoder(self.config.embedding))
        return self.gathering.gather(kind, data, RawCoder(LosslessRaw(), data))

    def starting_seed(self, seed: int) -> int:
        """Returns the seed."""
        return seed
