"""Federated training: rounds of local training, updates up and the model down, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from nodes.training.aggregation import FedProx, check_num_clients
from nodes.training.air import Air, Way
from nodes.training.clients import Clients, LocalResult, LocalWork, RoundClients, StageStart
from nodes.training.faults import Faults
from nodes.training.federated_config import FederatedConfig
from nodes.training.ledger import Ledger
from nodes.training.private_parts import private_names
from nodes.training.stacking import stack, unstack
from nodes.training.station import BaseStationSide
from nodes.training.turns import find_turns
from nodes.training.updates import UpdateCodec
from nodes.transfer import TransferReport
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.tensor_files import damaged, read_progress, write_progress
from semcom.train import DataKind, Stage, StageLog, copy_into

Tensors = Mapping[str, torch.Tensor]
Embed = Callable[[Tensors], torch.Tensor]


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
        tensors, log = self.run(start, clients, _embedding(stage))
        stream = clients.stream(0)
        clients.finish(tensors, stream)
        if self.spread is not None:
            stage.module.load_state_dict(dict(tensors))
            stage.generator.set_state(stream)
        return log

    def run(
        self, stage: StageStart, clients: RoundClients, embed: Embed | None = None
    ) -> tuple[Tensors, StageLog]:
        """Runs the rounds of a stage among clients; returns the last global model, and their rows.

        embed: what a model makes of the stage's anchors, to measure how far versions drift apart.
        """
        config, num_clients = self.config, len(stage.num_samples)
        if stage.tensors:
            check_num_clients(config.strategy, max(1, round(config.participation * num_clients)))
        streams = self.streams.substream(f"federated {stage.name}")
        faults = Faults(config.faults, num_clients, self.streams)
        codec = UpdateCodec(config.update, stage.tensors) if stage.tensors else None
        base = BaseStationSide(
            config.strategy, config.screening, config.broadcast, codec, stage.tensors, streams
        )
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
                row = self._round(number, stage, base, clients, faults, streams, embed)
            done = min((number + 1) * config.local_steps, stage.num_steps)
            log.append({"stage": stage.name, "step": done - 1, **row})
            if path is not None:
                self._save(path, number + 1, base, clients, log)
        if log and not any(row["clients"] for row in log):
            log[-1].setdefault("warning", "no update arrived in any round: nothing was learned")
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
        embed: Embed | None,
    ) -> dict[str, float | int | str]:
        config, ledger, began = self.config, self.ledger, time.perf_counter()
        broadcast = base.broadcast
        assert broadcast is not None
        asked = self._ask(number, faults, streams)
        streams = streams.substream(f"round {number}")
        work = self._work(number, stage, base.sent, base.before)
        reasons = [
            f"client {client} holds version {broadcast.held_by(client)} of the global model, which is "
            f"{broadcast.version} by now: it is refused"
            for client in asked
            if broadcast.is_refused(client)
        ]
        # Who begins from weights of its own needs none.
        sent_to = [] if work.from_own else [c for c in asked if not broadcast.is_refused(c)]
        down = self._carry("down", [broadcast.payload_for(c) for c in sent_to], sent_to, streams)
        broadcast.confirm(c for c, ok in zip(sent_to, down.ok, strict=True) if ok)
        reached = asked if work.from_own else [c for c, ok in zip(sent_to, down.ok, strict=True) if ok]
        answering = faults.answering(reached, number)
        results = clients.train(work, answering)
        down_s = dict.fromkeys(asked, 0.0) | dict(zip(sent_to, down.duration_s.tolist(), strict=True))
        after_s = max(
            [down_s[client] + work.num_steps * float(faults.step_s[client]) for client in answering],
            default=0.0,
        )
        aligned_s = self._align(results, clients, streams, reasons, after_s) if work.aligns else 0.0
        sending = [client for client in answering if not results[client].fault]
        payloads = [results[client].payload for client in sending]
        up = self._carry("up", payloads, sending, streams, after_s + aligned_s)
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
        drift = broadcast.drift(base.tensors, embed)
        base.advance()
        ledger.wall_s += time.perf_counter() - began
        row: dict[str, float | int | str] = {**_mean_terms(results.values()), "clients": len(arrived)}
        row |= drift.row()
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
        self,
        results: dict[int, LocalResult],
        clients: RoundClients,
        streams: Streams,
        reasons: list[str],
        after_s: float,
    ) -> float:
        """Turns the clients that hold their updates back onto each other; returns the time that it took.

        Whose anchors or turn is lost sends its update as it is. results: theirs are replaced.
        """
        holding = [client for client, result in results.items() if result.anchors]
        anchors = [results[client].anchors for client in holding]
        up = self._carry("up", anchors, holding, streams.substream("anchors"), after_s)
        arrived = {c: sent for c, sent in zip(holding, up.payloads, strict=True) if sent is not None}
        turns, why = find_turns(arrived)
        after_s += float(up.duration_s.max(initial=0.0))
        down = self._carry("down", list(turns.values()), list(turns), streams.substream("turns"), after_s)
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
        self, way: Way, payloads: list[bytes], clients: list[int], streams: Streams, after_s: float = 0.0
    ) -> TransferReport:
        """after_s: since the round began. Packets carry the round as the model's version."""
        return self.air.carry(
            way,
            payloads,
            clients,
            streams,
            self.config.transfer,
            at_s=self.ledger.duration_s + after_s,
            model_version=self.ledger.rounds,
        )

    def _save(
        self, path: Path, done: int, base: BaseStationSide, clients: RoundClients, log: StageLog
    ) -> None:
        tensors, versions = base.parts()
        tensors |= {f"clients.{name}": tensor for name, tensor in stack(clients.state()).items()}
        told = {"done": done, "log": log, "ledger": asdict(self.ledger), "versions": versions}
        write_progress(path, tensors, told)

    def _load(self, path: Path, base: BaseStationSide, clients: RoundClients) -> tuple[int, StageLog]:
        tensors, told = read_progress(path)
        try:
            base.restore(tensors, told["versions"])
            left = {
                name.removeprefix("clients."): tensor
                for name, tensor in tensors.items()
                if name.startswith("clients.")
            }
            states = unstack(left)
            self.ledger.__dict__.update(told["ledger"])
            done, log = int(told["done"]), list(told["log"])
        except Exception as error:
            raise damaged(path, error) from error
        clients.load(states)
        return done, log


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


def _embedding(stage: Stage) -> Embed | None:
    """What models of a stage make of its anchors, by way of its module; None for a stage without."""
    module, anchors = stage.module, stage.anchors
    if anchors is None:
        return None

    @torch.no_grad()
    def embed(tensors: Tensors) -> torch.Tensor:
        copy_into(module, tensors)
        return anchors()

    return embed


def _mean_terms(results: Iterable[LocalResult]) -> dict[str, float | int | str]:
    """The means of the loss terms over the clients that trained."""
    sums: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.terms.items():
            sums.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sums.items()}
