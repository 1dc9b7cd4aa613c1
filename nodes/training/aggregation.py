"""Strategies of aggregation: what the base station makes of its clients' models.

Names, parameters and defaults are those of Flower 1.41 (flwr.serverapp.strategy). Where a paper and Flower
differ, Flower's rule holds, and the strategy's docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from nodes.training.averaging import WeightedMean
from nodes.training.contracts import ClientUpdate
from nodes.training.krum import krum_scores
from nodes.training.tensors import Tensors, averaged_names, column_blocks, flatten, unflatten
from semcom.contracts import SemcomError


class FedAvg(BaseModel):
    """The mean of the clients' models, weighted by their samples (McMahan et al. 2017, algorithm 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fedavg"] = "fedavg"


class FedProx(BaseModel):
    """FedAvg of clients whose loss has `proximal_term` added (Li et al. 2020, algorithm 2).

    The paper draws clients by their samples and averages evenly; here, as in Flower, the mean is FedAvg's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fedprox"] = "fedprox"
    proximal_mu: float = Field(0.0, ge=0, description="weight mu of the proximal term; 0 is FedAvg")


class FedAdam(BaseModel):
    """A step of Adam along D = FedAvg's mean - global model (Reddi et al. 2021, algorithm 2).

    m = beta_1 m + (1 - beta_1) D, v = beta_2 v + (1 - beta_2) D^2, w = w + eta_t m / (sqrt(v) + tau), with m
    and v zero at first. With bias correction eta_t = eta sqrt(1 - beta_2^(t+1)) / (1 - beta_1^(t+1)) in round
    t = 1, 2, ..., as Flower has it since 2024: Kingma and Ba's factor, one round ahead. The paper's
    algorithm has none, eta_t = eta, starts from v >= tau^2 and writes D as a plain mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fedadam"] = "fedadam"
    eta: float = Field(0.1, gt=0, description="learning rate at the base station")
    eta_l: float = Field(0.1, gt=0, description="not used: clients train at the scenario's own rate")
    beta_1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment, over rounds")
    beta_2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment, over rounds")
    tau: float = Field(1e-3, gt=0, description="added to the root of the second moment")
    bias_correction: bool = Field(True, description="Flower's; false: the paper's algorithm, without it")


class FedMedian(BaseModel):
    """The median of each number over the clients, whatever their samples (Yin et al. 2018, algorithm 1).

    Of an even number of clients it is the mean of the two in the middle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fedmedian"] = "fedmedian"


class FedTrimmedAvg(BaseModel):
    """The mean of each number without its k least and k greatest values (Yin et al. 2018, algorithm 1).

    k = floor(beta n) of n clients, and samples don't count; of few clients it may be 0. The product is that
    of the decimal number: 0.29 of 100 clients are 29, where Flower's floating-point product cuts 28.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fedtrimmedavg"] = "fedtrimmedavg"
    beta: float = Field(0.2, ge=0, lt=0.5, description="share of the clients that is cut off at either end")


class Krum(BaseModel):
    """The model of the client with the least score (Blanchard et al. 2017, section 4; see krum_scores).

    Of clients with the same score it is that of the lowest number. It takes n >= 2 f + 3 clients; Flower
    goes on with fewer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["krum"] = "krum"
    num_malicious_nodes: int = Field(0, ge=0, description="f: clients that may lie, at most")


class MultiKrum(BaseModel):
    """FedAvg of the m clients with the least scores (Blanchard et al. 2017, section 4; see krum_scores).

    The paper takes their plain mean; here, as in Flower, samples are weights. Of clients with the same score
    the lowest numbers are taken. It takes n >= 2 f + 3 clients, and n >= m + f, so that m honest ones are
    among them; Flower goes on with fewer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["multikrum"] = "multikrum"
    num_malicious_nodes: int = Field(0, ge=0, description="f: clients that may lie, at most")
    num_nodes_to_select: int = Field(1, ge=1, description="m: clients whose models are averaged")


AggregationConfig = Annotated[
    FedAvg | FedProx | FedAdam | FedMedian | FedTrimmedAvg | Krum | MultiKrum,
    Field(discriminator="kind"),
]

MeanStrategy = FedAvg | FedProx | FedAdam
"""Strategies which need no more than the clients' mean: `step_to_mean` takes it, with no list of updates."""

_MOMENTS = ("first_moment", "second_moment")


def aggregate(
    config: AggregationConfig, global_tensors: Tensors, updates: Sequence[ClientUpdate], state: Tensors
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns the next global model, and the strategy's state for the next round.

    The state is FedAdam's moments and its count of rounds, and empty for the others; it starts empty, and
    can be saved as safetensors. Sums are float64, and the model has the global one's types. The order of the
    updates doesn't matter. Integer and bool tensors (step counters, flags) are never averaged: they are
    those of the client with the most samples, among those that Krum takes; all floating-point ones are
    treated as weights. What is returned shares no memory with what was given. Raises SemcomError for no
    updates, a faulty one (see find_fault), two of one client, fewer clients than the strategy needs, and a
    state of another model.
    """
    if not updates:
        raise SemcomError("there is no update to aggregate: wait for one, or keep the global model")
    updates = sorted(updates, key=lambda update: update.client)
    # Whatever the strategy, the mean checks each update and finds the tensors that are never averaged.
    mean = WeightedMean(global_tensors)
    for update in updates:
        mean.add(update)
    if isinstance(config, MeanStrategy):
        return step_to_mean(config, global_tensors, mean, state)
    if isinstance(config, Krum | MultiKrum):
        chosen = WeightedMean(global_tensors)
        for index in _select(config, global_tensors, updates):
            chosen.add(updates[index])
        return chosen.result(), {}
    names = averaged_names(global_tensors)
    rule: Callable[[np.ndarray], np.ndarray] = _median
    if isinstance(config, FedTrimmedAvg):
        rule = partial(_trimmed_mean, beta=config.beta)
    columns = [
        torch.from_numpy(rule(np.sort(np.ascontiguousarray(block.numpy().T), axis=1)))
        for block in column_blocks([update.tensors for update in updates], names)
    ]
    vector = torch.cat(columns) if columns else torch.zeros(0, dtype=torch.float64)
    return mean.with_floats(unflatten(vector, names, global_tensors)), {}


def step_to_mean(
    config: MeanStrategy, global_tensors: Tensors, mean: WeightedMean, state: Tensors
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns what `aggregate` does, from the mean of the updates: no two models need be held at once.

    Raises SemcomError for a mean of no updates, and a state of another model.
    """
    if not isinstance(config, FedAdam):
        return mean.result(), {}
    names = averaged_names(global_tensors)
    start = flatten(global_tensors, names)
    first, second, num_rounds = _moments(state, names, global_tensors)
    difference = mean.vector() - start
    first = config.beta_1 * first + (1 - config.beta_1) * difference
    second = config.beta_2 * second + (1 - config.beta_2) * difference.square()
    num_rounds += 1
    eta = config.eta
    if config.bias_correction:
        eta *= (1 - config.beta_2 ** (num_rounds + 1)) ** 0.5 / (1 - config.beta_1 ** (num_rounds + 1))
    vector = start + eta * first / (second.sqrt() + config.tau)
    moments = {name: torch.empty(global_tensors[name].shape, dtype=torch.float64) for name in names}
    new_state = {"num_rounds": torch.tensor(num_rounds)}
    for prefix, moment in zip(_MOMENTS, (first, second), strict=True):
        parts = unflatten(moment, names, moments)
        new_state |= {f"{prefix}.{name}": part for name, part in parts.items()}
    return mean.with_floats(unflatten(vector, names, global_tensors)), new_state


def _moments(
    state: Tensors, names: Sequence[str], global_tensors: Tensors
) -> tuple[torch.Tensor, torch.Tensor, int]:
    if not state:
        zeros = torch.zeros_like(flatten(global_tensors, names))
        return zeros, zeros, 0
    shapes = {f"{prefix}.{name}": global_tensors[name].shape for prefix in _MOMENTS for name in names}
    shapes["num_rounds"] = torch.Size()
    for name in sorted(shapes.keys() | state.keys()):
        if name not in shapes or name not in state or shapes[name] != state[name].shape:
            raise SemcomError(f"FedAdam's state is of another model, see {name!r}: start without a state")
    first, second = (flatten(state, [f"{prefix}.{name}" for name in names]) for prefix in _MOMENTS)
    return first, second, int(state["num_rounds"])


def check_num_clients(config: AggregationConfig, num_clients: int) -> None:
    """Raises SemcomError for fewer clients' updates than a strategy can choose among: Krum's n >= 2 f + 3."""
    if not isinstance(config, Krum | MultiKrum):
        return
    num_selected = config.num_nodes_to_select if isinstance(config, MultiKrum) else 1
    num_malicious = config.num_malicious_nodes
    needed = max(2 * num_malicious + 3, num_selected + num_malicious)
    if num_clients < needed:
        selected = f" and num_nodes_to_select = {num_selected}" if isinstance(config, MultiKrum) else ""
        raise SemcomError(
            f"{config.kind} with num_malicious_nodes = {num_malicious}{selected} takes {needed} clients or "
            f"more, and {num_clients} take part: lower it, or have more clients take part"
        )


def _select(config: Krum | MultiKrum, global_tensors: Tensors, updates: Sequence[ClientUpdate]) -> list[int]:
    num_selected = config.num_nodes_to_select if isinstance(config, MultiKrum) else 1
    num_malicious = config.num_malicious_nodes
    check_num_clients(config, len(updates))
    models = [update.tensors for update in updates]
    scores = krum_scores(models, averaged_names(global_tensors), global_tensors, num_malicious)
    chosen: list[int] = np.argsort(scores, kind="stable")[:num_selected].tolist()
    return chosen


def _median(ordered: np.ndarray) -> np.ndarray:
    """The median of each row of sorted numbers."""
    num = ordered.shape[1]
    median: np.ndarray = (ordered[:, (num - 1) // 2] + ordered[:, num // 2]) / 2
    return median


def _trimmed_mean(ordered: np.ndarray, beta: float) -> np.ndarray:
    """The mean of each row of sorted numbers without its ends."""
    num = ordered.shape[1]
    # A little more, so that a product like 0.29 * 100 = 28.999999999999996 isn't one client short.
    cut = min(int(beta * num + 1e-9), (num - 1) // 2)
    mean: np.ndarray = ordered[:, cut : num - cut].mean(axis=1)
    return mean


def proximal_term(
    parameters: Mapping[str, torch.Tensor], global_tensors: Tensors, proximal_mu: float
) -> torch.Tensor:
    """Returns FedProx's addition to a client's loss: (mu / 2) |w - w_global|^2 (Li et al. 2020, eq. 2).

    parameters: what the client trains, by name (dict(model.named_parameters())); the term is differentiable
    in them. global_tensors: the global model's at the round's start, which may have more. The square is the
    paper's: Flower's example for clients adds up norms that aren't squared. Raises SemcomError for a
    parameter that the global model lacks or has in another shape.
    """
    term = torch.zeros(())
    for name, parameter in parameters.items():
        if name not in global_tensors or global_tensors[name].shape != parameter.shape:
            raise SemcomError(f"the global model has no {name!r} of shape {list(parameter.shape)}")
        term = term + (parameter - global_tensors[name].detach()).square().sum()
    return proximal_mu / 2 * term
