"""Training of the charts that w-jepa is compared with: siamese, autoencoder, supervised, odometry."""

from __future__ import annotations

import torch
from torch import nn

from scenarios.charting.task import KnownDissimilarities, Log, Task, draw_rows, pair_term, set_scales
from semcom.contracts import SemcomError


def train_siamese(task: Task) -> Log:
    """Fits the distances on the chart to the fused geodesic dissimilarities of training positions."""
    known = KnownDissimilarities(task)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        term = pair_term(task, known(), generator)
        return {"dissimilarity": term, "total": term}

    return task.fit("model", task.model, batch_loss, task.inputs.training.num_steps_baseline)


def train_autoencoder(task: Task) -> Log:
    """Rebuilds the features of all arrays from the two dimensions of the chart."""
    size = task.features[0, 0].numel()
    hidden = 4 * task.inputs.model.head_dim
    decoder = nn.Sequential(nn.Linear(2, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
    decoder.append(nn.Linear(hidden, size))
    features = task.features.flatten(0, 1)
    # Components count by what they hold, and were scaled to unit deviation: that is undone.
    weight = task.model.features.projection.norm(dim=1).square().reciprocal().flatten()
    weight = weight / weight.mean()

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = draw_rows(task, generator)
        chart = task.model.head(task.embed_rows(rows, generator))
        error = ((decoder(chart) - features[rows].flatten(1)).square() * weight).mean()
        return {"reconstruction": error, "total": error}

    module = nn.ModuleList((task.model, decoder))
    return task.fit("model", module, batch_loss, task.inputs.training.num_steps_baseline)


def train_supervised(task: Task) -> Log:
    """Regresses the position itself: the upper bound of what the encoders can tell."""
    position_m = task.data.train.position_m.flatten(0, 1)
    centre = position_m.mean(dim=0)
    scale = (position_m - centre).square().sum(dim=1).mean().sqrt()
    task.model.scale_m.copy_(scale)
    wanted = (position_m - centre) / scale

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = draw_rows(task, generator)
        error = (task.model.head(task.embed_rows(rows, generator)) - wanted[rows]).square().mean()
        return {"position": error, "total": error}

    return task.fit("model", task.model, batch_loss, task.inputs.training.num_steps_baseline)


def train_odometry(task: Task) -> Log:
    """Holds the chart to the velocities as w-jepa does, and nothing else: what a JEPA adds shows beside it.

    The same pairs and the same start on the dissimilarity; no prediction, no regulariser. Raises SemcomError
    where no velocities are known.
    """
    if not task.data.knows_velocity:
        raise SemcomError("the chart odometry needs velocities: leave it out of evaluation.charts")
    model, config, train = task.model, task.inputs.training, task.data.train
    moved, num_steps = set_scales(task), config.num_steps_baseline
    known = KnownDissimilarities(task) if config.pretraining_share > 0 else None

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if known is not None and step / num_steps < config.pretraining_share:
            term = pair_term(task, known(), generator)
            return {"dissimilarity": term, "total": term}
        user = task.samples.draw((config.num_pairs, 1), generator)
        first, last = torch.randint(0, train.num_steps, (2, config.num_pairs), generator=generator)
        rows = user[:, 0] * train.num_steps
        one, other = model.head(task.embed_rows(torch.cat((rows + first, rows + last)), generator)).chunk(2)
        gone = moved[user[:, 0], last] - moved[user[:, 0], first]
        term = (other - one - gone).square().mean()
        return {"odometry": term, "total": term}

    return task.fit("model", model, batch_loss, num_steps)
