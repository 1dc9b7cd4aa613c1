"""What a training costs: bits, airtime, energy, training steps and time, in one account."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from nodes.training.costs import StepCost
from nodes.transfer import TransferReport


@dataclass
class Ledger:
    """Sums over all rounds and clients.

    bits_up, bits_down: payloads and headers of all segments put on the air, lost ones included. airtime_s,
    energy_j: of what devices send, as in Delivery. num_steps: training steps at the clients, all together;
    duration_s: rounds one after the other, each as long as the slowest that was waited for, or the deadline
    if somebody missed it. updates_missing: not sent, lost or late; updates_rejected: received and not used.
    Of a split training updates are turns, and encoders handed over or sent to be averaged; steps_lost: those
    that were not completed, for something that did not arrive or a loss that was not finite.
    device_flops: floating-point operations of all steps of all clients; device_memory_bytes: what a step
    takes at one of them, the most over the stages (see nodes.training.costs). wall_s: the time that it took
    here, another each time.
    """

    rounds: int = 0
    bits_up: int = 0
    bits_down: int = 0
    airtime_s: float = 0.0
    energy_j: float = 0.0
    num_steps: int = 0
    duration_s: float = 0.0
    updates_asked: int = 0
    updates_missing: int = 0
    updates_rejected: int = 0
    steps_lost: int = 0
    device_flops: int = 0
    device_memory_bytes: int = 0
    wall_s: float = field(default=0.0, compare=False)

    def add_up(self, report: TransferReport) -> None:
        """Counts what clients sent."""
        self.bits_up += int((report.header_bits + report.payload_bits).sum())
        self.airtime_s += float(report.airtime_s.sum())
        self.energy_j += float(report.energy_j.sum())

    def add_down(self, report: TransferReport) -> None:
        """Counts what the base station sent to each client."""
        self.bits_down += int((report.header_bits + report.payload_bits).sum())

    def add_steps(self, num_steps: int, cost: StepCost) -> None:
        """Counts training steps at clients that cost this much each."""
        self.num_steps += num_steps
        self.device_flops += num_steps * cost.flops
        if num_steps:
            self.device_memory_bytes = max(self.device_memory_bytes, cost.memory_bytes)

    def row(self) -> dict[str, float | int]:
        """The account as a row of a log."""
        return asdict(self)
