"""The mean of clients' models, weighted by their samples, with one model in memory at a time."""

from __future__ import annotations

import torch

from nodes.training.contracts import ClientUpdate
from nodes.training.tensors import Tensors, averaged_names, find_fault, flatten, unflatten
from semcom.contracts import SemcomError


class WeightedMean:
    """A running mean over clients: sum_k n_k w_k / sum_k n_k, n_k the samples of client k (McMahan et al.
    2017, algorithm 1).

    Updates come one by one, in any order, and means over different clients can be merged. The sum is kept
    as two float64 numbers, one for what the other rounds off (Knuth's two-sum; Ogita, Rump and Oishi 2005,
    algorithm 4.4): about 106 bits, so that float32 models give the same mean in whatever order and groups
    they came in. Of a single client it is that client's model, bit for bit. Integer and bool tensors (step
    counters, flags) are never averaged: they are those of the client with the most samples, of the lowest
    number where several have as many. The updates added must not be changed afterwards.
    """

    def __init__(self, global_tensors: Tensors) -> None:
        self._like = dict(global_tensors)
        self._names = averaged_names(self._like)
        self._others = [name for name in self._like if name not in set(self._names)]
        self._high = torch.zeros_like(flatten(self._like, self._names))
        self._low = torch.zeros_like(self._high)
        self._clients: set[int] = set()
        self._sole: ClientUpdate | None = None
        self._leader: tuple[int, int, dict[str, torch.Tensor]] | None = None
        self.num_samples = 0

    @property
    def num_clients(self) -> int:
        """How many clients' updates are in the mean."""
        return len(self._clients)

    def add(self, update: ClientUpdate) -> None:
        """Adds one client's update; raises SemcomError for a faulty one, and for a client's second."""
        fault = find_fault(update, self._like)
        if fault is not None:
            raise SemcomError(f"{fault}: screen updates before they are aggregated")
        self._note({update.client}, update.num_samples)
        self._add_sum(flatten(update.tensors, self._names).mul_(update.num_samples))
        self._sole = update if len(self._clients) == 1 else None
        others = {name: update.tensors[name] for name in self._others}
        self._follow((-update.num_samples, update.client, others))

    def merge(self, other: WeightedMean) -> None:
        """Adds what another mean of the same model holds; raises SemcomError for a client in both."""
        self._note(other._clients, other.num_samples)
        self._add_sum(other._high.clone())
        self._low += other._low
        self._sole = (self._sole or other._sole) if len(self._clients) == 1 else None
        if other._leader is not None:
            self._follow(other._leader)

    def vector(self) -> torch.Tensor:
        """Returns the mean of the P floating-point numbers, float64 [P]; raises SemcomError for no update."""
        if self._sole is not None:
            return flatten(self._sole.tensors, self._names)
        if not self._clients:
            raise SemcomError("there is no update to average: wait for one, or keep the global model")
        return (self._high + self._low) / self.num_samples

    def result(self) -> dict[str, torch.Tensor]:
        """Returns the mean model in the global one's types; raises SemcomError for no update."""
        return self.with_floats(unflatten(self.vector(), self._names, self._like))

    def with_floats(self, floats: Tensors) -> dict[str, torch.Tensor]:
        """Returns a model of these floating-point tensors and the integer and bool ones of the mean."""
        others = self._leader[2] if self._leader is not None else {}
        return {name: floats[name] if name in floats else others[name].clone() for name in self._like}

    def _note(self, clients: set[int], num_samples: int) -> None:
        twice = self._clients & clients
        if twice:
            raise SemcomError(f"client {min(twice)} sent two updates in one round: one of them has to go")
        self._clients |= clients
        self.num_samples += num_samples

    def _add_sum(self, term: torch.Tensor) -> None:
        """Adds a term, whose memory is used up."""
        total = self._high + term
        rest = total - self._high
        # (high - (total - rest)) + (term - rest), in the memory that there is.
        self._low += self._high.sub_(total - rest).add_(term.sub_(rest))
        self._high = total

    def _follow(self, leader: tuple[int, int, dict[str, torch.Tensor]]) -> None:
        if self._leader is None or leader[:2] < self._leader[:2]:
            self._leader = leader
