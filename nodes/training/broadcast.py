"""The global model on its way down: who holds which version, who has to catch up, how far all drift apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nodes.training.tensors import averaged_names, flatten
from nodes.training.updates import Float32Update, UpdateCodec, UpdateCodecConfig

Tensors = Mapping[str, torch.Tensor]
_NUM_KEPT = 8
"""Old versions that are kept, to tell how far clients drift."""
NEVER = -1
"""The version of a client that was never sent a model."""


class BroadcastConfig(BaseModel):
    """How the global model is sent, and what becomes of a client that missed a version."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    codec: UpdateCodecConfig = Field(
        Float32Update(), description="float32: whole, each time; others: what changed since the last version"
    )
    missed: Literal["catch-up", "refuse"] = Field(
        "catch-up",
        description="a client that missed a version is sent the whole model, or is refused from then on",
    )

    @model_validator(mode="after")
    def _check(self) -> BroadcastConfig:
        if getattr(self.codec, "error_feedback", False):
            raise ValueError("codec.error_feedback = true: errors are made up for anyway, set it to false")
        if self.missed == "refuse" and isinstance(self.codec, Float32Update):
            raise ValueError("missed = refuse: with codec.kind = float32 the whole model is sent each time")
        return self


class Broadcast:
    """Versions of a global model, the payloads that bring clients from one to the next, and their drift.

    Version v is what devices hold of the global model w_v:

        r_v = w_v with float32, else r_(v-1) + Q(w_v - r_(v-1)),    r_0 = w_0

    with Q what the codec makes of a difference: an error is made up for with the next version and does not
    add up. A client that holds version v - 1 is sent Q(...) alone; one that holds an older version, or none,
    the whole of r_v with 32 bits a number, or nothing if such clients are refused. The first version is sent
    whole to everybody.
    """

    def __init__(self, config: BroadcastConfig, tensors: Tensors) -> None:
        self.config = config
        self._codec, self._whole = UpdateCodec(config.codec, tensors), UpdateCodec(Float32Update(), tensors)
        self._names = averaged_names(tensors)
        self.version = 0
        self.tensors: dict[str, torch.Tensor] = dict(tensors)
        self._difference: bytes | None = None
        self._whole_payload: bytes | None = None
        self._held: dict[int, int] = {}
        self._known: dict[int, dict[str, torch.Tensor]] = {0: self.tensors}

    def advance(self, tensors: Tensors, generator: torch.Generator | None = None) -> None:
        """Makes the next version, of a new global model; `tensors` are what devices hold of it."""
        self.version += 1
        self._whole_payload = None
        if isinstance(self.config.codec, Float32Update):
            self.tensors, self._difference = dict(tensors), None
        else:
            codec = self._codec
            payload, _ = codec.encode(tensors, self.tensors, codec.initial_memory(), generator)
            self.tensors, self._difference = codec.decode(payload, self.tensors), payload
        self._known[self.version] = self.tensors
        needed = {self.version, *(v for v in self._held.values() if v >= self.version - _NUM_KEPT)}
        self._known = {version: known for version, known in self._known.items() if version in needed}

    def held_by(self, client: int) -> int:
        """The version that a client holds."""
        return self._held.get(client, NEVER)

    def is_refused(self, client: int) -> bool:
        """Whether a client missed a version for which it is refused."""
        held = self.held_by(client)
        return self.config.missed == "refuse" and held != NEVER and held < self.version - 1

    def payload_for(self, client: int) -> bytes:
        """What brings a client to the present version, which it may hold already."""
        if self._difference is not None and self.held_by(client) == self.version - 1:
            return self._difference
        if self._whole_payload is None:
            memory = self._whole.initial_memory()
            self._whole_payload, _ = self._whole.encode(self.tensors, self.tensors, memory)
        return self._whole_payload

    def confirm(self, clients: Iterable[int]) -> None:
        """Notes that clients received what was for them."""
        for client in clients:
            self._held[client] = self.version

    def drift(self, tensors: Tensors, embed: Callable[[Tensors], torch.Tensor] | None = None) -> Drift:
        """How far what clients hold is from a global model; of those far behind, the oldest version kept.

        embed: what a model makes of common samples, [n, D].
        """
        whole = flatten(tensors, self._names)
        goal = None if embed is None else embed(tensors)
        weights, latents = {}, {}
        for version, known in self._known.items():
            gap = torch.linalg.vector_norm(flatten(known, self._names) - whole)
            weights[version] = float(gap / torch.linalg.vector_norm(whole).clamp_min(1e-12))
            if embed is not None and goal is not None:
                spread = (goal - goal.mean(dim=0)).square().sum().clamp_min(1e-12)
                latents[version] = float((embed(known) - goal).square().sum() / spread)
        held = [max(version, min(self._known)) for version in self._held.values()]
        return Drift(
            len([version for version in self._held.values() if version < self.version]),
            max((weights[version] for version in held), default=0.0),
            max((latents[version] for version in held), default=0.0) if embed is not None else None,
        )

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        """All that the next round depends on: tensors, and what goes into JSON."""
        tensors = {
            f"{version}.{name}": tensor
            for version, known in self._known.items()
            for name, tensor in known.items()
        }
        difference = b"" if self._difference is None else self._difference
        tensors["difference"] = torch.frombuffer(bytearray(difference or b"\0"), dtype=torch.uint8)
        told: dict[str, object] = {
            "version": self.version,
            "held": {str(client): version for client, version in self._held.items()},
            "has_difference": self._difference is not None,
        }
        return tensors, told

    def load(self, tensors: Tensors, told: Mapping[str, object]) -> None:
        """Goes on from what `state` returned."""
        held = told["held"]
        assert isinstance(held, dict)
        self.version = int(str(told["version"]))
        self._held = {int(client): int(version) for client, version in held.items()}
        self._known = {}
        for name, tensor in tensors.items():
            if name != "difference":
                version, rest = name.split(".", 1)
                self._known.setdefault(int(version), {})[rest] = tensor
        self.tensors, self._whole_payload = self._known[self.version], None
        self._difference = tensors["difference"].numpy().tobytes() if told["has_difference"] else None


class Drift:
    """How far clients are from the base station's model, at most.

    num_behind: clients that hold an older version than the present. weights: |w_k - w| / |w|. latents:
    sum |f_k(x) - f(x)|^2 / sum |f(x) - mean f|^2 over common samples x, None where there are none.
    """

    def __init__(self, num_behind: int, weights: float, latents: float | None) -> None:
        self.num_behind, self.weights, self.latents = num_behind, weights, latents

    def row(self) -> dict[str, float | int]:
        """The drift as columns of a log."""
        row: dict[str, float | int] = {"behind": self.num_behind, "drift_weights": self.weights}
        return row if self.latents is None else {**row, "drift_latents": self.latents}
