"""The training of the bottleneck: the JEPA first, then all of it on error and bits together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from channels.near_field import NearFieldConfig
from scenarios.elaa.bottleneck import BottleneckConfig, BottleneckModel
from scenarios.elaa.coding_frame import examples_in
from scenarios.elaa.examples import NUM_CELLS, Examples
from scenarios.elaa.task import CellLevels, Log, Task, TrainingInputs, nmse
from scenarios.elaa.training import pretrain_jepa
from semcom.codecs.range_coding import count_symbols
from semcom.rng import Streams

_ROWS_AT_ONCE = 512
_DENSITY_RATE = 0.02


def make_bottleneck(
    inputs: TrainingInputs, told: BottleneckConfig, array: NearFieldConfig, seed: int
) -> BottleneckModel:
    """A model with its starting weights; the process-wide random state stays as it was."""
    streams = Streams(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed("weights elaa bottleneck"))
        return BottleneckModel(inputs.model, told, array, streams.torch_generator("elaa bottleneck density"))


def train_bottleneck(
    seed: int,
    shown: Examples,
    array: NearFieldConfig,
    inputs: TrainingInputs,
    told: BottleneckConfig,
    scratch: Path | None = None,
) -> tuple[BottleneckModel, Log]:
    """Trains it from scratch: loss = e / e_usual + price(t) bits, each batch at a rate level t of its own.

    e is the NMSE of the clean channel and e_usual what is usual at its share, SNR and rate; the price falls
    from first_price to last_price geometrically as t rises.
    """
    model = make_bottleneck(inputs, told, array, seed)
    generator = Streams(seed).torch_generator("train elaa bottleneck")
    steps = inputs.training.model_copy(update={"num_steps_pretraining": told.num_steps_pretraining})
    inputs = TrainingInputs(inputs.model, steps)
    framed = [examples_in(grid, shown, model.patches) for grid in model.grids]
    tasks = [Task(inputs, examples, generator, scratch, may_mirror=True) for examples, _ in framed]
    log = pretrain_jepa(tasks[-1], model.jepa)
    with torch.no_grad():
        model.mean.copy_(framed[-1][0].clean.flatten(1).mean(dim=0))
    levels = CellLevels(torch.ones(NUM_CELLS * told.num_levels))
    last = told.num_levels - 1

    def draw_level(generator: torch.Generator) -> float:
        return float(torch.rand((), generator=generator)) * last

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        level = draw_level(generator)
        price = told.first_price * (told.last_price / told.first_price) ** (level / last)
        batch, clean, cell = tasks[model.grid_at(level)].draw(generator)
        z = model.analyse(batch)
        # Half of a batch says well enough what it costs, and is half the work.
        bits = model.relaxed_bits(z[::2], level, generator).mean()
        errors = nmse(model.synthesise(model.round(z, level), batch.place, level), clean)
        error = levels(errors, cell + NUM_CELLS * round(level))
        return {"nmse": errors.mean(), "bits": bits, "total": error + price * bits}

    log += tasks[0].fit("bottleneck", nn.ModuleList((model, levels)), batch_loss, told.num_steps)
    model.eval().requires_grad_(False)
    numbers = []
    for number, (examples, symbols) in enumerate(framed):
        sizes = torch.tensor(model.grids[number].sizes)
        getattr(model, f"frames{number}").copy_(count_symbols(symbols, sizes, int(sizes.max())))
        z = torch.empty(len(examples), model.num_latents)
        for rows in examples.order.split(_ROWS_AT_ONCE):
            z[rows] = model.analyse(examples.inputs[rows])
        model.least[number] = z.amin(dim=0)
        model.most[number] = z.amax(dim=0)
        numbers.append(z)

    def density_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        level = draw_level(generator)
        z = numbers[model.grid_at(level)]
        rows = torch.randint(0, len(z), (inputs.training.batch_size,), generator=generator)
        return {"total": model.relaxed_bits(z[rows], level, generator).mean()}

    model.density.requires_grad_(True)
    log += tasks[0].fit("density", model.density, density_loss, told.num_steps_density, rate=_DENSITY_RATE)
    return model.requires_grad_(False), log
