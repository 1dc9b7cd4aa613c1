"""Federated training: rounds of local training, updates up and the model down, stage by stage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import save_file

from nodes.training.aggregation import AggregationConfig, FedAvg, FedProx, aggregate, check_num_clients
from nodes.training.clients import Clients, LocalResult, LocalWork
from nodes.training.contracts import ClientUpdate
from nodes.training.costs import StepCost, stage_cost
from nodes.training.faults import FaultConfig, Faults
from nodes.training.ledger import Ledger
from nodes.training.screening import ScreeningConfig, screen
from nodes.training.updates import Float32Update, UpdateCodec, UpdateCodecConfig
from nodes.transfer import TransferConfig, TransferReport, transfer
from semcom.contracts import Channel, Link, SemcomError
from semcom.files import write_atomically
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.train import DataKind, Stage, StageLog

Tensors = Mapping[str, torch.Tensor]


class FederatedConfig(BaseModel):
    """How clients train together: who takes part, what they send, and what the base station makes of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    local_steps: int = Field(20, ge=1, le=1_000_000, description="training steps of a client in a round")
    participation: float = Field(1.0, gt=0, le=1, description="share of the clients that a round asks")
    strategy: AggregationConfig = FedAvg()
    update: UpdateCodecConfig = Float32Update()
    screening: ScreeningConfig = ScreeningConfig()
    optimizer_state: Literal["kept", "reset"] = Field(
        "kept", description="what becomes of a client's moments from round to round"
    )
    faults: FaultConfig = FaultConfig()
    transfer: TransferConfig = TransferConfig(segment_bytes=1500)


@dataclass(frozen=True)
class Air:
    """The radio that models travel by, both ways: see nodes.transfer; step_s is the length of its steps."""

    uplink: Link
    downlink: Link
    uplink_channel: Channel | None = None
    downlink_channel: Channel | None = None
    step_s: float = 0.001


@dataclass
class Federated:
    """Runs the stages of a training as rounds among clients; the last global model is what is left.

    A round: clients are asked, the global model goes down, those that got it train local_steps on their own
    samples, their updates go up, and what arrives in time is screened and aggregated. A client that misses a
    round begins the next from the global model of that time; its own update is lost. What is lost on the air
    is lost. As many rounds as it takes for a client to have the stage's steps, the last one shorter.

    shares: from a stage's samples, the numbers of each client's, int64; the client's number is its place.
    scratch: a folder in which each round leaves what the next one needs, so that a stopped training goes on
    as if it had not.
    With one client, no faults and float32 updates a stage ends with the weights of Central, bit for bit.
    """

    config: FederatedConfig
    shares: Callable[[Samples], Sequence[torch.Tensor]]
    streams: Streams
    air: Air
    scratch: Path | None = None
    ledger: Ledger = field(default_factory=Ledger)
    _cost: StepCost = field(default_factory=StepCost)

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage: see Trainer. Raises SemcomError for fewer clients than the strategy takes.

        A round in which too few of them answer for it leaves the global model as it is, and says so.
        """
        config, shares = self.config, self.shares(stage.samples)
        check_num_clients(config.strategy, max(1, round(config.participation * len(shares))))
        streams = self.streams.substream(f"federated {stage.name}")
        faults = Faults(config.faults, len(shares), self.streams)
        self._cost = stage_cost(stage, shares)
        tensors = {name: tensor.detach().clone() for name, tensor in stage.module.state_dict().items()}
        codec = UpdateCodec(config.update, tensors)
        mu = config.strategy.proximal_mu if isinstance(config.strategy, FedProx) else 0.0
        clients = Clients(
            stage,
            dict(enumerate(shares)),
            codec,
            streams,
            faults,
            optimizer_state=config.optimizer_state,
            proximal_mu=mu,
        )
        base = BaseStationSide(config, codec, tensors)
        log: StageLog = []
        path = None if self.scratch is None else self.scratch / f"{stage.name}.safetensors"
        first = 0
        if path is not None and path.exists():
            first, log = self._load(path, base, clients)
        num_rounds = -(-stage.num_steps // config.local_steps)
        for number in range(first, num_rounds):
            row = self._round(number, stage, base, clients, faults, streams)
            done = min((number + 1) * config.local_steps, stage.num_steps)
            log.append({"stage": stage.name, "step": done - 1, **row})
            if path is not None:
                self._save(path, number + 1, base, clients, log)
        stage.module.load_state_dict(dict(base.tensors))
        clients.finish()
        return log

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Returns the data, which stay where they are."""
        return data

    def _round(
        self,
        number: int,
        stage: Stage,
        base: BaseStationSide,
        clients: Clients,
        faults: Faults,
        streams: Streams,
    ) -> dict[str, float | int | str]:
        config, ledger, began = self.config, self.ledger, time.perf_counter()
        asked = self._ask(number, faults, streams)
        streams = streams.substream(f"round {number}")
        work = LocalWork(
            number,
            number * config.local_steps,
            min(config.local_steps, stage.num_steps - number * config.local_steps),
            base.tensors,
            base.before,
        )
        down = self._carry("down", [base.payload] * len(asked), asked, streams)
        reached = [client for client, ok in zip(asked, down.ok, strict=True) if ok]
        answering = faults.answering(reached, number)
        results = clients.train(work, answering)
        sending = [client for client in answering if not results[client].fault]
        up = self._carry("up", [results[client].payload for client in sending], sending, streams)
        down_s = dict(zip(asked, down.duration_s.tolist(), strict=True))
        taken_s = {
            client: down_s[client] + work.num_steps * float(faults.step_s[client]) + float(seconds)
            for client, seconds in zip(sending, up.duration_s, strict=True)
        }
        deadline_s = config.faults.deadline_s
        arrived = {}
        for client, payload in zip(sending, up.payloads, strict=True):
            if payload is not None and (deadline_s is None or taken_s[client] <= deadline_s):
                arrived[client] = payload
                clients.acknowledge(client, results[client])
        reasons = [result.fault for result in results.values() if result.fault]
        num_rejected, why = base.take(
            number, arrived, {client: len(clients.shares[client]) for client in arrived}
        )
        reasons += why
        ledger.add_down(down)
        ledger.add_up(up)
        ledger.rounds += 1
        ledger.add_steps(sum(result.num_steps for result in results.values()), self._cost)
        ledger.updates_asked += len(asked)
        ledger.updates_missing += len(asked) - len(arrived)
        ledger.updates_rejected += num_rejected
        missed = len(arrived) < len(asked)
        waited_s = max([*down_s.values(), *taken_s.values()], default=0.0)
        ledger.duration_s += deadline_s if deadline_s and missed else waited_s
        ledger.wall_s += time.perf_counter() - began
        row: dict[str, float | int | str] = {**_mean_terms(results.values()), "clients": len(arrived)}
        if reasons:
            row["warning"] = f"round {number}: " + "; ".join(reasons)
        return row

    def _ask(self, number: int, faults: Faults, streams: Streams) -> list[int]:
        """The clients that a round asks, ascending: a share of those that have joined, at least one."""
        joined = [client for client in range(faults.num_clients) if faults.has_joined(client, number)]
        count = max(1, round(self.config.participation * len(joined))) if joined else 0
        order = streams.numpy_generator("participation", step=number).permutation(len(joined))
        return sorted(joined[place] for place in order[:count].tolist())

    def _carry(
        self, way: Literal["up", "down"], payloads: list[bytes], clients: list[int], streams: Streams
    ) -> TransferReport:
        air = self.air
        link, channel = (
            (air.uplink, air.uplink_channel) if way == "up" else (air.downlink, air.downlink_channel)
        )
        return transfer(
            payloads,
            np.array(clients, dtype=np.int64),
            link,
            channel,
            streams,
            self.config.transfer,
            step_s=air.step_s,
            name=way,
        )

    def _save(self, path: Path, done: int, base: BaseStationSide, clients: Clients, log: StageLog) -> None:
        tensors = {f"global.{name}": tensor for name, tensor in base.tensors.items()}
        tensors |= {f"before.{name}": tensor for name, tensor in base.before.items()}
        tensors |= {f"strategy.{name}": tensor for name, tensor in base.state.items()}
        tensors |= {f"clients.{name}": tensor for name, tensor in clients.state().items()}
        told = json.dumps({"done": done, "log": log, "ledger": asdict(self.ledger)})
        whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        write_atomically(path, lambda file: save_file(whole, file, {"federated": told}))

    def _load(self, path: Path, base: BaseStationSide, clients: Clients) -> tuple[int, StageLog]:
        try:
            with safe_open(path, "pt") as file:
                told = json.loads(file.metadata()["federated"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            parts = {
                part: {
                    name.removeprefix(f"{part}."): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(f"{part}.")
                }
                for part in ("global", "before", "strategy", "clients")
            }
            base.restore(parts["global"], parts["before"], parts["strategy"])
            clients.load(parts["clients"])
            self.ledger.__dict__.update(told["ledger"])
            return int(told["done"]), list(told["log"])
        except Exception as error:
            raise SemcomError(
                f"checkpoint {path} can't be read ({error}): delete it to train anew"
            ) from error


class BaseStationSide:
    """The base station of a federated stage: the global model, and what becomes of the updates."""

    def __init__(self, config: FederatedConfig, codec: UpdateCodec, tensors: Tensors) -> None:
        self._config, self._codec = config, codec
        self._whole = UpdateCodec(Float32Update(), tensors)
        self.tensors: dict[str, torch.Tensor] = dict(tensors)
        self.before: dict[str, torch.Tensor] = dict(tensors)
        self.state: dict[str, torch.Tensor] = {}

    @property
    def payload(self) -> bytes:
        """The global model as it is sent down, 32 bits a number."""
        return self._whole.encode(self.tensors, self.tensors, self._whole.initial_memory())[0]

    def take(
        self, number: int, payloads: Mapping[int, bytes], num_samples: Mapping[int, int]
    ) -> tuple[int, list[str]]:
        """Makes the next global model of a round's updates; returns how many were not used, and why.

        With none that may be used the model stays as it is.
        """
        updates = []
        reasons = []
        for client, payload in sorted(payloads.items()):
            try:
                tensors = self._codec.decode(payload, self.tensors)
            except SemcomError as error:
                reasons.append(f"client {client}: {error}")
                continue
            updates.append(ClientUpdate(client, num_samples[client], number, tensors))
        updates, rejected = screen(self._config.screening, self.tensors, number, updates)
        reasons += [each.reason for each in rejected]
        before = self.tensors
        if updates:
            try:
                check_num_clients(self._config.strategy, len(updates))
            except SemcomError as error:
                updates = []
                reasons.append(str(error))
        if updates:
            self.tensors, self.state = aggregate(self._config.strategy, self.tensors, updates, self.state)
        self.before = before
        return len(payloads) - len(updates), reasons

    def restore(self, tensors: Tensors, before: Tensors, state: Tensors) -> None:
        """Goes on from a checkpoint's parts."""
        if {name: tensor.shape for name, tensor in tensors.items()} != {
            name: tensor.shape for name, tensor in self.tensors.items()
        }:
            raise SemcomError("it holds another model")
        self.tensors, self.before, self.state = dict(tensors), dict(before), dict(state)


def _mean_terms(results: Iterable[LocalResult]) -> dict[str, float | int | str]:
    """The means of the loss terms over the clients that trained."""
    sums: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.terms.items():
            sums.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sums.items()}
