"""One stage of a split training: the devices' turns with the base station, step by step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from nodes.training.aggregation import FedAvg, aggregate
from nodes.training.air import Air, Way
from nodes.training.contracts import ClientUpdate
from nodes.training.costs import StepCost, stage_cost
from nodes.training.cut import Cut, Lost
from nodes.training.ledger import Ledger
from nodes.training.split_config import SplitConfig
from nodes.training.split_parts import PartCoder
from nodes.training.split_state import Devices, load_progress, save_progress
from nodes.training.updates import UpdateCodec
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.train import Stage, StageLog, Training

Tensors = Mapping[str, torch.Tensor]
_LOG_EVERY = 100
_NUM_ATTEMPTS = 10


class SplitStage:
    """One stage of a split training: its devices, the base station's part, and what is on the air.

    shares: the numbers of each device's samples; the others are those of the trainer (see Split).
    """

    def __init__(
        self,
        config: SplitConfig,
        stage: Stage,
        shares: Sequence[torch.Tensor],
        streams: Streams,
        air: Air,
        ledger: Ledger,
        scratch: Path | None = None,
    ) -> None:
        self._config, self._stage, self._shares, self._air = config, stage, shares, air
        self._ledger, self._scratch = ledger, scratch
        self._streams = streams.substream(f"split {stage.name}")
        self._cut = Cut(stage, config.shape, config.target)
        self._cost = _device_cost(stage, self._shares, self._cut)
        self._training = Training(
            stage.module,
            stage.batch_loss,
            stage.num_steps,
            stage.peak_rate,
            stage.generator,
            after_step=self._postpone if config.target == "station" else stage.after_step,
            before_update=self._exchange_norms,
            optimizer=stage.optimizer,
        )
        tensors = self._cut.tensors()
        self._parts = PartCoder(config.encoder)
        self._codecs: dict[tuple[str, torch.Size], UpdateCodec] = {}
        self._devices = Devices(
            tensors,
            self._training.moments_of(self._cut.weights),
            self._training.state(),
            self._streams,
            hands_moments_over=config.encoders == "relay" and config.moments == "handed-over",
        )
        self._client = 0
        self._num_messages = 0
        self._num_taken = 0
        self._postponed: list[int] = []
        self._log: StageLog = []

    def run(self) -> StageLog:
        """Takes the stage's steps, in rounds; returns its log."""
        training, devices = self._training, self._devices
        path = None if self._scratch is None else self._scratch / f"{self._stage.name}.safetensors"
        number = 0
        if path is not None and path.exists():
            told, self._log = load_progress(path, self._stage.module, training, devices, self._ledger)
            number, self._num_messages = told["rounds"], told["num_messages"]
            self._postponed, self._num_taken = told["postponed"], told["num_taken"]
        while training.num_done < training.num_steps:
            began = time.perf_counter()
            self._round(number)
            number += 1
            if self._averages(number):
                self._average(number)
            if training.num_done == training.num_steps:
                self._deploy()
            self._ledger.wall_s += time.perf_counter() - began
            if path is not None:
                counters = {
                    "rounds": number,
                    "num_messages": self._num_messages,
                    "postponed": self._postponed,
                    "num_taken": self._num_taken,
                }
                save_progress(path, self._stage.module, training, devices, self._ledger, counters, self._log)
        self._cut.load(devices.newest)
        self._stage.generator.set_state(devices.generator_of(0))
        return self._log

    def _warn(self, text: str) -> None:
        self._log.append({"stage": self._stage.name, "step": self._training.num_done, "warning": text})

    def _averages(self, number: int) -> bool:
        """Whether copies are averaged after so many rounds."""
        if self._config.encoders == "relay" or not self._cut.weights:
            return False
        is_done = self._training.num_done == self._training.num_steps
        return is_done or number % self._config.average_rounds == 0

    def _deploy(self) -> None:
        """Sends the newest encoder to every device that has another, for what comes after the stage.

        Raises SemcomError naming a device that it does not reach.
        """
        self._follow()
        for client in range(len(self._shares)):
            if not any(self._bring_up_to_date(client) for _ in range(_NUM_ATTEMPTS)):
                raise SemcomError(
                    f"client {client}: the finished encoder of stage {self._stage.name} did not arrive in "
                    f"{_NUM_ATTEMPTS} attempts: raise collaboration.split.transfer.max_steps or take another "
                    "collaboration.link"
                )
        if not self._num_taken:
            self._warn("no training step was completed: nothing was learned")

    def _round(self, number: int) -> None:
        config, num_clients = self._config, len(self._shares)
        count = max(1, round(config.participation * num_clients))
        order = self._streams.numpy_generator("order", step=number).permutation(num_clients)[:count]
        u = self._streams.indexed_uniform("dropout", order, number)
        ledger = self._ledger
        ledger.rounds += 1
        for client, drawn in zip(order.tolist(), u.tolist(), strict=True):
            if self._training.num_done == self._training.num_steps:
                return
            ledger.updates_asked += 1
            if drawn < config.dropout_probability or not self._bring_up_to_date(client):
                ledger.updates_missing += 1
                # A turn that is missed takes its time: a stage has an end.
                ledger.duration_s += config.turn_steps * config.step_s
                self._skip(config.turn_steps)
                continue
            self._turn(client)
            if config.encoders == "relay" and self._cut.weights:
                self._hand_over(client)

    def _turn(self, client: int) -> None:
        """A device's steps with the base station."""
        training, devices, ledger = self._training, self._devices, self._ledger
        self._client = client
        self._cut.load(devices.tensors_of(client))
        training.load(devices.state_of(client, training.state()))
        num_steps = min(self._config.turn_steps, training.num_steps - training.num_done)
        with self._stage.samples.only(self._shares[client]), self._cut.carried_by(self):
            for _ in range(num_steps):
                step = training.num_done
                ledger.add_steps(1, self._cost)
                ledger.duration_s += self._config.step_s
                try:
                    terms = training.step()
                except (Lost, SemcomError) as error:
                    if isinstance(error, SemcomError):
                        self._warn(f"client {client}: {error}")
                    ledger.steps_lost += 1
                    self._skip(1)
                    continue
                self._num_taken += 1
                if step % _LOG_EVERY == 0 or step == training.num_steps - 1:
                    row = {name: float(term.detach()) for name, term in terms.items()}
                    self._log.append({"stage": self._stage.name, "step": step, "client": client, **row})
        devices.keep(client, self._cut.tensors(), training.state())

    def _skip(self, num_steps: int) -> None:
        training = self._training
        training.num_done = min(training.num_done + num_steps, training.num_steps)

    def _postpone(self, step: int) -> None:
        self._postponed.append(step)

    def _follow(self) -> None:
        """Lets the base station's targets follow the newest encoder, once for each step since the last."""
        if self._postponed and self._stage.after_step is not None:
            self._cut.load(self._devices.newest)
            for step in self._postponed:
                self._stage.after_step(step)
        self._postponed = []

    def _bring_up_to_date(self, client: int) -> bool:
        """Sends a device the newest encoder if it has another; returns whether it has it then."""
        devices = self._devices
        if devices.is_up_to_date(client):
            return True
        held = devices.held_by(client)
        payload = self._parts.encode(devices.newest, held, self._rounding(client))
        received = self._send("down", payload, client)
        if received is None:
            return False
        devices.install(client, self._parts.decode(received, held, devices.newest))
        return True

    def _hand_over(self, client: int) -> None:
        """Takes a device's encoder as the newest, if it arrives."""
        arrived = self._take_up(client)
        if arrived is not None:
            self._devices.adopt(client, arrived)
            self._follow()

    def _take_up(self, client: int) -> dict[str, torch.Tensor] | None:
        devices = self._devices
        held, tensors = devices.held_by(client), devices.tensors_of(client)
        payload = self._parts.encode(tensors, held, self._rounding(client))
        received = self._send("up", payload, client)
        self._ledger.updates_asked += 1
        if received is None:
            self._ledger.updates_missing += 1
            return None
        return self._parts.decode(received, held, tensors)

    def _rounding(self, client: int) -> torch.Generator:
        return self._streams.torch_generator("rounding", client, self._num_messages)

    def _average(self, number: int) -> None:
        """Averages the encoders of the devices that had a turn since the last time, as far as they arrive."""
        updates = []
        for client in self._devices.trained():
            arrived = self._take_up(client)
            if arrived is not None:
                updates.append(ClientUpdate(client, len(self._shares[client]), number, arrived))
        if updates:
            newest, _ = aggregate(FedAvg(), self._devices.newest, updates, {})
            self._devices.renew(newest)
        self._follow()

    def up(self, values: torch.Tensor, kind: Literal["embedding", "gradient"]) -> torch.Tensor:
        """See Carrier."""
        return self._cross("up", values, kind)

    def down(self, values: torch.Tensor, kind: Literal["embedding", "gradient"]) -> torch.Tensor:
        """See Carrier."""
        return self._cross("down", values, kind)

    def _cross(self, way: Way, values: torch.Tensor, kind: str) -> torch.Tensor:
        key = (kind, values.shape)
        if key not in self._codecs:
            config = self._config.embedding if kind == "embedding" else self._config.gradient
            self._codecs[key] = UpdateCodec(config, {kind: values})
        codec = self._codecs[key]
        zero = {kind: torch.zeros_like(values)}
        generator = self._streams.torch_generator("crossing", self._client, self._num_messages)
        payload, _ = codec.encode({kind: values}, zero, codec.initial_memory(), generator)
        received = self._send(way, payload, self._client)
        if received is None:
            raise Lost
        return codec.decode(received, zero)[kind]

    def _exchange_norms(self) -> None:
        """Each side needs the other's share of the gradient's norm to clip by."""
        if self._send("up", bytes(4), self._client) is None or (
            self._send("down", bytes(4), self._client) is None
        ):
            raise Lost

    def _send(self, way: Way, payload: bytes, client: int) -> bytes | None:
        """Carries one payload, to or from a device; returns what arrived of it."""
        ledger = self._ledger
        report = self._air.carry(
            way,
            [payload],
            [client],
            self._streams.substream(f"message {self._num_messages}"),
            self._config.transfer,
            at_s=ledger.duration_s,
            model_version=self._devices.version,
        )
        self._num_messages += 1
        (ledger.add_up if way == "up" else ledger.add_down)(report)
        ledger.duration_s += float(report.duration_s[0])
        return report.payloads[0]


def _device_cost(stage: Stage, shares: Sequence[torch.Tensor], cut: Cut) -> StepCost:
    """What a step costs a device: all but the predictor with shape = u, else encoders and its targets."""
    if not cut.is_u:
        return stage_cost(stage, shares, *cut.on_device)
    whole, theirs = stage_cost(stage, shares), stage_cost(stage, shares, *cut.predictors)
    return StepCost(max(0, whole.flops - theirs.flops), max(0, whole.memory_bytes - theirs.memory_bytes))
