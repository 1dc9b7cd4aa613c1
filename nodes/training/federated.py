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
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import safe_open
from safetensors.torch import save_file

from nodes.training.aggregation import AggregationConfig, FedAvg, FedProx, aggregate, check_num_clients
from nodes.training.clients import Clients, LocalResult, LocalWork, RoundClients, StageStart
from nodes.training.contracts import ClientUpdate
from nodes.training.faults import FaultConfig, Faults
from nodes.training.ledger import Ledger
from nodes.training.private_parts import private_names
from nodes.training.screening import ScreeningConfig, screen
from nodes.training.stacking import stack, unstack
from nodes.training.turns import find_turns
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
    sharing: Literal["all", "predictor", "nothing"] = Field(
        "all",
        description="what is federated: all; all but encoders and target encoders, which stay each client's "
        "own; or nothing, each client trains alone",
    )
    initialisation: Literal["shared", "own"] = Field(
        "shared", description="clients start from the same random weights, or each from its own"
    )
    alignment: Literal["none", "procrustes"] = Field(
        "none", description="whether clients turn their latent spaces onto each other before they send"
    )
    alignment_rounds: int | None = Field(
        None, ge=1, description="every so many rounds; in the first of a stage alone if not given"
    )
    strategy: AggregationConfig = FedAvg()
    update: UpdateCodecConfig = Float32Update()
    screening: ScreeningConfig = ScreeningConfig()
    optimizer_state: Literal["kept", "reset"] = Field(
        "kept", description="what becomes of a client's moments from round to round"
    )
    faults: FaultConfig = FaultConfig()
    transfer: TransferConfig = TransferConfig(segment_bytes=1500)

    @model_validator(mode="after")
    def _check(self) -> FederatedConfig:
        if self.alignment != "none" and self.sharing == "nothing":
            raise ValueError("alignment = procrustes with sharing = nothing: there is nothing to align for")
        return self

    @property
    def is_personal(self) -> bool:
        """Whether each client runs a training of its own: see nodes.training.personal."""
        return self.sharing != "all" or self.initialisation == "own"


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
    as if it had not. spread: gives the clients of the next stage where they are elsewhere (see
    nodes.training.replicas); they have come to the same stage with the same weights.
    With one client, no faults and float32 updates a stage ends with the weights of Central, bit for bit.
    """

    config: FederatedConfig
    shares: Callable[[Samples], Sequence[torch.Tensor]]
    streams: Streams
    air: Air
    scratch: Path | None = None
    ledger: Ledger = field(default_factory=Ledger)
    spread: Callable[[], RoundClients] | None = None

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage: see Trainer. Raises SemcomError for fewer clients than the strategy takes.

        A round in which too few of them answer for it leaves the global model as it is, and says so.
        """
        shares = self.shares(stage.samples)
        clients: RoundClients
        if self.spread is None:
            clients = make_clients(self.config, shares, self.streams, stage, range(len(shares)))
        else:
            clients = self.spread()
        start = clients.start()
        tensors, log = self.run(start, clients)
        stream = clients.stream(0)
        clients.finish(tensors, stream)
        if self.spread is not None:
            stage.module.load_state_dict(dict(tensors))
            stage.generator.set_state(stream)
        return log

    def run(self, stage: StageStart, clients: RoundClients) -> tuple[Tensors, StageLog]:
        """Runs the rounds of a stage among clients; returns the last global model, and their rows."""
        config, num_clients = self.config, len(stage.num_samples)
        if stage.tensors:
            check_num_clients(config.strategy, max(1, round(config.participation * num_clients)))
        streams = self.streams.substream(f"federated {stage.name}")
        faults = Faults(config.faults, num_clients, self.streams)
        codec = UpdateCodec(config.update, stage.tensors) if stage.tensors else None
        base = BaseStationSide(config, codec, stage.tensors)
        log: StageLog = []
        path = None if self.scratch is None else self.scratch / f"{stage.name}.safetensors"
        first = 0
        if path is not None and path.exists():
            first, log = self._load(path, base, clients)
        num_rounds = -(-stage.num_steps // config.local_steps)
        for number in range(first, num_rounds):
            if codec is None:
                row = self._round_apart(number, stage, clients, faults)
            else:
                row = self._round(number, stage, base, clients, faults, streams)
            done = min((number + 1) * config.local_steps, stage.num_steps)
            log.append({"stage": stage.name, "step": done - 1, **row})
            if path is not None:
                self._save(path, number + 1, base, clients, log)
        return base.tensors, log

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Returns the data, which stay where they are."""
        return data

    def starting_seed(self, seed: int) -> int:
        """Returns the seed."""
        return seed

    def _round(
        self,
        number: int,
        stage: StageStart,
        base: BaseStationSide,
        clients: RoundClients,
        faults: Faults,
        streams: Streams,
    ) -> dict[str, float | int | str]:
        config, ledger, began = self.config, self.ledger, time.perf_counter()
        asked = self._ask(number, faults, streams)
        streams = streams.substream(f"round {number}")
        work = self._work(number, stage, base.tensors, base.before)
        # Who begins from weights of its own needs none.
        sent_to = [] if work.from_own else asked
        down = self._carry("down", [base.payload] * len(sent_to), sent_to, streams)
        reached = asked if work.from_own else [c for c, ok in zip(asked, down.ok, strict=True) if ok]
        answering = faults.answering(reached, number)
        results = clients.train(work, answering)
        reasons: list[str] = []
        aligned_s = self._align(results, clients, streams, reasons) if work.aligns else 0.0
        sending = [client for client in answering if not results[client].fault]
        up = self._carry("up", [results[client].payload for client in sending], sending, streams)
        down_s = dict.fromkeys(asked, 0.0) | dict(zip(sent_to, down.duration_s.tolist(), strict=True))
        taken_s = {
            client: down_s[client]
            + work.num_steps * float(faults.step_s[client])
            + aligned_s
            + float(seconds)
            for client, seconds in zip(sending, up.duration_s, strict=True)
        }
        deadline_s = config.faults.deadline_s
        arrived = {}
        for client, payload in zip(sending, up.payloads, strict=True):
            if payload is not None and (deadline_s is None or taken_s[client] <= deadline_s):
                arrived[client] = payload
        clients.acknowledge(list(arrived))
        reasons += [result.fault for result in results.values() if result.fault]
        num_rejected, why = base.take(
            number, arrived, {client: stage.num_samples[client] for client in arrived}
        )
        reasons += why
        ledger.add_down(down)
        ledger.add_up(up)
        ledger.rounds += 1
        ledger.add_steps(sum(result.num_steps for result in results.values()), stage.cost)
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

    def _round_apart(
        self, number: int, stage: StageStart, clients: RoundClients, faults: Faults
    ) -> dict[str, float | int | str]:
        """Each client trains as many steps as in a round, and sends nothing."""
        results = clients.train(self._work(number, stage, {}, {}), sorted(stage.num_samples))
        self.ledger.add_steps(sum(result.num_steps for result in results.values()), stage.cost)
        self.ledger.duration_s += max(
            result.num_steps * float(faults.step_s[client]) for client, result in results.items()
        )
        reasons = [result.fault for result in results.values() if result.fault]
        row = {**_mean_terms(results.values()), "clients": len(results) - len(reasons)}
        return row | ({"warning": f"round {number}: " + "; ".join(reasons)} if reasons else {})

    def _work(self, number: int, stage: StageStart, tensors: Tensors, stale: Tensors) -> LocalWork:
        done = number * self.config.local_steps
        from_own = self.config.initialisation == "own" and number == 0
        num_steps = min(self.config.local_steps, stage.num_steps - done)
        every = self.config.alignment_rounds
        aligns = self.config.alignment != "none" and (number % every if every else number) == 0
        return LocalWork(number, done, num_steps, tensors, stale, from_own, aligns)

    def _align(
        self, results: dict[int, LocalResult], clients: RoundClients, streams: Streams, reasons: list[str]
    ) -> float:
        """Turns the clients that hold their updates back onto each other; returns the time that it took.

        Whose anchors or turn is lost sends its update as it is. results: theirs are replaced.
        """
        holding = [client for client, result in results.items() if result.anchors]
        up = self._carry("up", [results[c].anchors for c in holding], holding, streams.substream("anchors"))
        arrived = {c: sent for c, sent in zip(holding, up.payloads, strict=True) if sent is not None}
        turns, why = find_turns(arrived)
        down = self._carry("down", list(turns.values()), list(turns), streams.substream("turns"))
        told = {c: turn for (c, turn), ok in zip(turns.items(), down.ok, strict=True) if ok}
        results |= clients.turn({client: told.get(client, b"") for client in holding})
        reasons += why
        self.ledger.add_up(up)
        self.ledger.add_down(down)
        return float(up.duration_s.max(initial=0.0)) + float(down.duration_s.max(initial=0.0))

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

    def _save(
        self, path: Path, done: int, base: BaseStationSide, clients: RoundClients, log: StageLog
    ) -> None:
        tensors = {f"global.{name}": tensor for name, tensor in base.tensors.items()}
        tensors |= {f"before.{name}": tensor for name, tensor in base.before.items()}
        tensors |= {f"strategy.{name}": tensor for name, tensor in base.state.items()}
        tensors |= {f"clients.{name}": tensor for name, tensor in stack(clients.state()).items()}
        told = json.dumps({"done": done, "log": log, "ledger": asdict(self.ledger)})
        whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        write_atomically(path, lambda file: save_file(whole, file, {"federated": told}))

    def _load(self, path: Path, base: BaseStationSide, clients: RoundClients) -> tuple[int, StageLog]:
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
            clients.load(unstack(parts["clients"]))
            self.ledger.__dict__.update(told["ledger"])
            return int(told["done"]), list(told["log"])
        except Exception as error:
            raise SemcomError(
                f"checkpoint {path} can't be read ({error}): delete it to train anew"
            ) from error


def make_clients(
    config: FederatedConfig,
    shares: Sequence[torch.Tensor],
    streams: Streams,
    stage: Stage,
    numbers: Iterable[int],
) -> Clients:
    """Makes some of a stage's clients, by their numbers; shares: of all of them."""
    numbers = list(numbers)
    if config.is_personal and len(numbers) != 1:
        raise SemcomError(
            f"sharing = {config.sharing} and initialisation = {config.initialisation} need a training of its "
            "own for each client: see nodes.training.personal"
        )
    if config.alignment != "none" and stage.on_device is not None and None in (stage.latent, stage.anchors):
        raise SemcomError(
            f"collaboration.federated.alignment = {config.alignment}: training stage {stage.name!r} doesn't "
            "tell which layers are at its embeddings, set it to none"
        )
    private = private_names(stage, config.sharing)
    shared = {name: tensor for name, tensor in stage.module.state_dict().items() if name not in private}
    mu = config.strategy.proximal_mu if isinstance(config.strategy, FedProx) else 0.0
    return Clients(
        stage,
        {number: shares[number] for number in numbers},
        UpdateCodec(config.update, shared) if shared else None,
        streams.substream(f"federated {stage.name}"),
        Faults(config.faults, len(shares), streams),
        optimizer_state=config.optimizer_state if shared else "kept",
        proximal_mu=mu,
        private=private,
    )


class BaseStationSide:
    """The base station of a federated stage: the global model, and what becomes of the updates."""

    def __init__(self, config: FederatedConfig, codec: UpdateCodec | None, tensors: Tensors) -> None:
        """codec: None where there are no tensors, and nothing is ever sent."""
        self._config, self._codec = config, codec
        self._whole = UpdateCodec(Float32Update(), tensors) if codec else None
        self.tensors: dict[str, torch.Tensor] = dict(tensors)
        self.before: dict[str, torch.Tensor] = dict(tensors)
        self.state: dict[str, torch.Tensor] = {}

    @property
    def payload(self) -> bytes:
        """The global model as it is sent down, 32 bits a number."""
        assert self._whole is not None
        return self._whole.encode(self.tensors, self.tensors, self._whole.initial_memory())[0]

    def take(
        self, number: int, payloads: Mapping[int, bytes], num_samples: Mapping[int, int]
    ) -> tuple[int, list[str]]:
        """Makes the next global model of a round's updates; returns how many were not used, and why.

        With none that may be used the model stays as it is.
        """
        assert self._codec is not None
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
