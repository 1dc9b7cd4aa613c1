"""Rounds a second of federated training against the number of clients, and the ratio to Flower's simulation.

    python benchmarks/federated.py [--clients 10 100 1000 5000] [--flower 10 100 1000 5000] [--quick]

Both sides train one model (flower_side.py), from the same weights, on the same samples, by the same steps:
FedAvg of float32 models, all clients in each round, moments forgotten between rounds. Ours run in one
process, one after the other, over an ideal link, with a checkpoint after each round; beside the seconds of a
round are those of them that the processor worked for it, which others on the machine don't lengthen.
Flower's run by its simulation engine on --cpus Ray workers, in a virtual environment which this makes in
--venv (some 1 GB; pip's own settings hold for it), since it needs another Ray. Neither start-up nor the first
round is counted; a round's time is the least of those left. "apart" is how far the two sides' models lie
apart after all rounds, and "moved" how far they have come: the greatest difference of any number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from flower_side import PEAK_RATE, SAMPLES_PER_CLIENT, TinyJepa, make_data

from channels.links.ideal import IdealConfig, IdealLink
from nodes.training.air import Air
from nodes.training.federated import Federated
from nodes.training.federated_config import FederatedConfig
from nodes.training.ledger import Ledger
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.train import Stage

HERE = Path(__file__).resolve().parent
FLOWER = "flwr[simulation]==1.41.*"


@dataclass(frozen=True)
class Measured:
    """Seconds of each round but the first (cpu_s: of this process), and the model after the last."""

    seconds: list[float]
    cpu_s: list[float]
    tensors: dict[str, torch.Tensor]


def start_model() -> TinyJepa:
    """The model that all begin from."""
    torch.manual_seed(0)
    return TinyJepa()


def ours(num_clients: int, num_rounds: int, local_steps: int, kind: str, scratch: Path) -> Measured:
    """Our rounds, in this process."""
    model, (x, action) = start_model(), make_data(num_clients)
    samples = Samples(len(x))
    ledger = Ledger()
    times: dict[int, tuple[float, float]] = {}

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        # The first step of a round is its beginning; that of round 0 measures what a step costs.
        times.setdefault(ledger.rounds, (time.perf_counter(), time.process_time()))
        return {"total": model.loss(x[samples.own], action[samples.own])}

    stage = Stage(
        "encoder",
        model,
        batch_loss,
        num_rounds * local_steps,
        PEAK_RATE,
        torch.Generator().manual_seed(0),
        samples,
        lambda step: model.follow(),
    )
    config = FederatedConfig.model_validate(
        {"local_steps": local_steps, "optimizer_state": "reset", "update": {"kind": kind}}
    )
    link = IdealLink(IdealConfig())
    shares = list(torch.arange(len(x)).split(SAMPLES_PER_CLIENT))
    Federated(config, lambda samples: shares, Streams(0), Air(link, link), scratch, ledger).fit(stage)
    times[num_rounds] = time.perf_counter(), time.process_time()
    rounds = [times[number] for number in range(1, num_rounds + 1)]
    wall, cpu = ([b - a for a, b in pairwise(column)] for column in zip(*rounds, strict=True))
    return Measured(wall, cpu, model.state_dict())


def make_environment(folder: Path) -> Path:
    """Makes the virtual environment with torch and Flower, unless it is there; returns its Python."""
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        print(f"making {folder} with torch and {FLOWER}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        constraints = folder / "torch.txt"
        pins = (HERE.parent / "constraints.txt").read_text().splitlines()
        constraints.write_text("\n".join(pin for pin in pins if pin.startswith("torch==")) + "\n")
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-c", str(constraints), "torch", "numpy", FLOWER],
            check=True,
        )
        done.touch()
    return python


def flower(python: Path, num_clients: int, num_rounds: int, local_steps: int, num_cpus: int) -> Measured:
    """Flower's rounds, in an environment of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(start_model().state_dict(), folder / "start.pt")
        told = {
            "num_clients": num_clients,
            "num_rounds": num_rounds,
            "local_steps": local_steps,
            "num_steps": num_rounds * local_steps,
            "num_cpus": num_cpus,
            "start": str(folder / "start.pt"),
            "end": str(folder / "end.pt"),
        }
        (folder / "told.json").write_text(json.dumps(told))
        own = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_HOME": name,
            "OMP_NUM_THREADS": "1",
            # Its Ray gives up after 60 s otherwise, which a busy machine may take to start it.
            "RAY_raylet_start_wait_time_s": "600",
            # Its workers import the script: what is pickled from __main__ they can't all read.
            "PYTHONPATH": str(HERE),
        }
        done = subprocess.run(
            [str(python), "-c", "import flower_side; flower_side.main()", str(folder / "told.json")],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            cwd=folder,
        )
        if done.returncode:
            sys.exit(f"Flower's side failed:\n{done.stderr[-3000:]}")
        seconds = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
        return Measured(seconds[1:], [], torch.load(folder / "end.pt"))


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The greatest difference of any number of two models."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000, 5000])
    parser.add_argument(
        "--flower",
        type=int,
        nargs="*",
        default=[10, 100, 1000, 5000],
        help="sizes that Flower runs, none: no",
    )
    parser.add_argument("--rounds", type=int, default=4, help="at 1,000 clients and more it is 3 at most")
    parser.add_argument("--local-steps", type=int, default=1)
    parser.add_argument("--update", choices=["float32", "quantised"], default="float32", help="of ours")
    parser.add_argument("--cpus", type=int, default=2, help="Ray workers of Flower's")
    parser.add_argument("--venv", type=Path, default=Path.home() / ".cache" / "semcom-flower")
    parser.add_argument("--quick", action="store_true", help="10 and 100 clients, 2 rounds")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if told.quick:
        told.clients, told.rounds = [10, 100], 2
    sizes = [num for num in told.clients if num in told.flower]
    python = make_environment(told.venv) if sizes else Path()
    num = sum(tensor.numel() for tensor in TinyJepa().state_dict().values())
    print(
        f"{num} numbers, {SAMPLES_PER_CLIENT} samples a client, {told.local_steps} local step(s), "
        f"{told.update}; ours in one process, Flower on {told.cpus} CPUs\n"
    )
    print(
        f"{'clients':>8} {'ours (s)':>9} {'CPU (s)':>8} {'rounds/s':>9} {'MiB':>6} "
        f"{'Flower (s)':>11} {'rounds/s':>9} {'ratio':>7} {'apart':>9} {'moved':>9}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        ours(10, 2, told.local_steps, told.update, Path(name))  # builds what is built once
    for num_clients in told.clients:
        num_rounds = max(2, min(told.rounds, 3) if num_clients >= 1000 else told.rounds)
        with tempfile.TemporaryDirectory() as name:
            mine = ours(num_clients, num_rounds, told.local_steps, told.update, Path(name))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        each = min(mine.seconds)
        row = f"{num_clients:>8} {each:>9.3f} {min(mine.cpu_s):>8.3f} {1 / each:>9.4g} {peak:>6.0f}"
        if num_clients in sizes:
            theirs = flower(python, num_clients, num_rounds, told.local_steps, told.cpus)
            their = min(theirs.seconds)
            moved = apart(mine.tensors, start_model().state_dict())
            row += f" {their:>11.3f} {1 / their:>9.4g} {their / each:>7.2f}"
            row += f" {apart(mine.tensors, theirs.tensors):>9.2g} {moved:>9.2g}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
