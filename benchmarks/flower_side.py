"""The same federated training by Flower's simulation engine, and the model that both sides train.

benchmarks/federated.py runs `main` in an environment of its own, which has torch and flwr and nothing of this
project; its argument is a file of JSON, and its last line of output is one too.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

DIM, LENGTH, LATENT, HIDDEN, SAMPLES_PER_CLIENT = 5, 6, 4, 16, 8
PEAK_RATE, WEIGHT_DECAY, MOMENTUM = 1e-2, 1e-5, 0.95


class TinyJepa(nn.Module):
    """Encoder, predictor of the next embedding and a slow copy of the encoder, some 700 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, LATENT))
        self.predictor = nn.Sequential(nn.Linear(LATENT + 1, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, LATENT))
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)

    def loss(self, x: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Prediction error and a hinge on each dimension's deviation; x [B, T, DIM], action [B, T, 1]."""
        z = self.encoder(x)
        with torch.no_grad():
            goal = self.target(x)
        predicted = z[:, :-1] + self.predictor(torch.cat((z[:, :-1], action[:, :-1]), dim=-1))
        deviation = (z.flatten(0, 1).var(dim=0) + 1e-4).sqrt()
        return (predicted - goal[:, 1:]).square().mean() + (1 - deviation).clamp(min=0).mean()

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the target after the encoder."""
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.mul_(MOMENTUM).add_(fast, alpha=1 - MOMENTUM)


def make_data(num_clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Short random walks and their actions, SAMPLES_PER_CLIENT of each client in a row."""
    generator = torch.Generator().manual_seed(num_clients)
    action = torch.randn(num_clients * SAMPLES_PER_CLIENT, LENGTH, 1, generator=generator)
    walk = torch.cumsum(action * torch.ones(DIM), dim=1)
    return walk + 0.1 * torch.randn(walk.shape, generator=generator), action


@lru_cache(maxsize=1)
def _data(num_clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    return make_data(num_clients)


def train(model: TinyJepa, rows: slice, num_clients: int, first_step: int, told: dict[str, Any]) -> float:
    """A client's steps of a round, on all of its samples at once; returns the last loss."""
    x, action = (part[rows] for part in _data(num_clients))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    for step in range(first_step, first_step + told["local_steps"]):
        loss = model.loss(x, action)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * step / told["num_steps"]))
        optimizer.param_groups[0]["lr"] = PEAK_RATE * min(1.0, (step + 1) / 50) * (cosine + 0.005)
        optimizer.step()
        model.follow()
    return float(loss.detach())


def main() -> None:
    """Runs the rounds and prints their seconds; writes the last global model."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    told = json.loads(Path(sys.argv[1]).read_text())
    num_clients = told["num_clients"]
    client_app, server_app = ClientApp(), ServerApp()
    times: list[float] = []

    @client_app.train()
    def train_client(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        model = TinyJepa()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        start = int(context.node_config["partition-id"]) * SAMPLES_PER_CLIENT
        first_step = (int(message.content["config"]["server-round"]) - 1) * told["local_steps"]
        loss = train(model, slice(start, start + SAMPLES_PER_CLIENT), num_clients, first_step, told)
        metrics = MetricRecord({"loss": loss, "num-examples": SAMPLES_PER_CLIENT})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        start = ArrayRecord(torch.load(told["start"]))
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=num_clients, min_available_nodes=num_clients)

        def note(number: int, arrays: ArrayRecord) -> None:
            times.append(time.perf_counter())

        result = strategy.start(grid, start, num_rounds=told["num_rounds"], timeout=7200, evaluate_fn=note)
        if len(result.train_metrics_clientapp) < told["num_rounds"]:
            sys.exit("no client has answered in some round")
        torch.save(result.arrays.to_torch_state_dict(), told["end"])

    run_simulation(
        server_app,
        client_app,
        num_clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": told["num_cpus"], "include_dashboard": False},
        },
    )
    print(json.dumps({"seconds": [after - before for before, after in pairwise(times)]}))
