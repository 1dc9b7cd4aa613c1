"""The training of the bottleneck: the JEPA first, then all of it on error and bits together."""

from __future__ import annotations

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
from semcom.train import CENTRAL, Trainer

_ROWS_AT_ONCE = 512
_DENSITY_RATE = 0.02
_NUM_RATES = 4
"""Parts of the rate levels that have usual errors of their own."""


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
    trainer: Trainer = CENTRAL,
) -> tuple[BottleneckModel, Log]:
    """Trains it from scratch, each batch at a rate level t of its own, uniform from 0 to 1.

    loss = (e + price step^2 bits / M) / e_usual + e' / e'_usual, with e the receiver's NMSE of the clean
    channel and e' that of the sender's estimate, which would else learn to send nothing as long as it knows
    nothing; usual is what is so at their share, SNR and rate. For a unitary transform and many bits a bit is
    worth ln(2) / 6 squared steps (Gersho and Gray 1992, chapter 9).
    """
    model = make_bottleneck(inputs, told, array, seed)
    generator = Streams(seed).torch_generator("train elaa bottleneck")
    steps = inputs.training.model_copy(update={"num_steps_pretraining": told.num_steps_pretraining})
    inputs = TrainingInputs(inputs.model, steps)
    framed = [examples_in(grid, shown, model.patches) for grid in model.grids]
    tasks = [Task(inputs, examples, generator, trainer, may_mirror=True) for examples, _ in framed]
    log = pretrain_jepa(tasks[-1], model.jepa)
    with torch.no_grad():
        model.mean.copy_(framed[-1][0].clean.flatten(1).mean(dim=0))
    levels, before = CellLevels(torch.ones(NUM_CELLS * _NUM_RATES)), CellLevels()
    price = told.price / array.num_elements

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        level = float(torch.rand((), generator=generator))
        batch, clean, cell = tasks[model.grid_at(level)].draw(generator)
        at_rate = cell + NUM_CELLS * int(level * _NUM_RATES)
        estimate = model.estimate(batch)
        z_hat = model.round(model.analyse(estimate), level)
        errors = nmse(model.synthesise(z_hat, batch.place, level), clean)
        total = levels(errors, at_rate) + before(nmse(estimate, clean), cell)
        # Half of a batch says well enough what it costs, and is half the work.
        bits = model.bits(z_hat[::2], level)
        cost = price * model.amplitude(level) ** 2 * (bits / levels.level[at_rate[::2]]).mean()
        return {"nmse": errors.mean(), "bits": bits.mean(), "total": total + cost}

    log += tasks[0].fit("bottleneck", nn.ModuleList((model, levels, before)), batch_loss, told.num_steps)
    model.eval().requires_grad_(False)
    numbers = []
    for number, (examples, symbols) in enumerate(framed):
        sizes = torch.tensor(model.grids[number].sizes)
        getattr(model, f"frames{number}").copy_(count_symbols(symbols, sizes, int(sizes.max())))
        z = torch.empty(len(examples), model.num_latents)
        for rows in examples.order.split(_ROWS_AT_ONCE):
            z[rows] = model.analyse(model.estimate(examples.inputs[rows]))
        model.least[number] = z.amin(dim=0)
        model.most[number] = z.amax(dim=0)
        numbers.append(z)

    def density_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        level = float(torch.rand((), generator=generator))
        z = numbers[model.grid_at(level)]
        rows = tasks[0].examples.samples.draw((inputs.training.batch_size,), generator)
        return {"total": model.bits(model.round(z[rows], level), level).mean()}

    model.density.requires_grad_(True)
    log += tasks[0].fit("density", model.density, density_loss, told.num_steps_density, rate=_DENSITY_RATE)
    return model.requires_grad_(False), log
