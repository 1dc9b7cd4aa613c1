"""A forecaster that is trained with supervision: an LSTM over what a trajectory has shown so far."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.train import Log, fit


class LstmConfig(BaseModel):
    """Size and training of the LSTM forecaster."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden_dim: int = Field(128, ge=4, le=4096, description="hidden units of the LSTM and of its head")
    num_layers: int = Field(1, ge=1, le=8, description="layers of the LSTM")
    num_steps: int = Field(600, ge=1, le=1_000_000, description="training steps")
    batch_size: int = Field(32, ge=1, le=65536, description="segments of trajectories in a training step")
    segment_steps: int = Field(
        64, ge=1, description="origins in a segment; trajectories are taken whole if shorter"
    )
    peak_rate: float = Field(3e-3, gt=0, le=1, description="largest learning rate")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the LSTM's outputs dropped in training")
    validate_every: int = Field(50, ge=1, description="training steps between looks at the validation error")


class Sequences(NamedTuple):
    """U trajectories of T steps: inputs [U, T, F], features or chart points; targets [U, T, P].

    targets are positions in metres (supervised) or chart points. displacement [U, T, P] or None: the way
    travelled since the first step by the velocities that forecasters are told
    (`scenarios.charting.forecasting.displacement`), in the units of the targets or any others.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    displacement: torch.Tensor | None = None


class LstmForecaster(nn.Module):
    """Maps inputs up to step t to the targets at t + h, for each of H look-aheads.

    (u_1 .. u_t) -> LSTM -> s_t; x_hat(t + h) = f(s_t, d(t + h) - d(t)), d the way travelled where velocities
    are known; f has one hidden layer, shared but for its last map, and adds to a linear readout of u_t. All
    numbers are standardised by the training trajectories.
    """

    input_mean: torch.Tensor
    input_scale: torch.Tensor
    target_mean: torch.Tensor
    target_scale: torch.Tensor
    step_scale: torch.Tensor
    move_scale: torch.Tensor

    def __init__(self, train: Sequences, look_ahead: Sequence[int], config: LstmConfig) -> None:
        super().__init__()
        self.look_ahead = tuple(look_ahead)
        self.target_dim = train.targets.shape[-1]
        num_inputs = train.inputs.shape[-1]
        num_moves = 0 if train.displacement is None else train.displacement.shape[-1]
        self.num_moves = num_moves
        self.lstm = nn.LSTM(num_inputs + num_moves, config.hidden_dim, config.num_layers, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.readout = nn.Linear(num_inputs, self.target_dim)
        self.body = nn.Linear(config.hidden_dim + num_moves, config.hidden_dim)
        self.heads = nn.ModuleList(
            nn.Linear(config.hidden_dim + num_moves, self.target_dim) for _ in self.look_ahead
        )
        self.register_buffer("input_mean", train.inputs.mean((0, 1)))
        self.register_buffer("input_scale", _deviation(train.inputs))
        self.register_buffer("target_mean", train.targets.mean((0, 1)))
        self.register_buffer("target_scale", _deviation(train.targets))
        if train.displacement is not None:
            steps = train.displacement.diff(dim=1)
            self.register_buffer("step_scale", _deviation(steps))
            furthest = max(self.look_ahead)
            self.register_buffer(
                "move_scale", _deviation(train.displacement[:, furthest:] - train.displacement[:, :-furthest])
            )

    def forward(self, inputs: torch.Tensor, displacement: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the forecasts made at every step whose targets lie within T: [U, T - max(h), H, P].

        inputs [U, T, F]; displacement [U, T, P]. A forecast at step t depends on inputs up to t alone, and on
        the displacement up to t + h.
        """
        values = (inputs - self.input_mean) / self.input_scale
        num = inputs.shape[1] - max(self.look_ahead)
        past = values
        if displacement is not None:
            moves = torch.diff(displacement, dim=1, prepend=displacement[:, :1]) / self.step_scale
            past = torch.cat([values, moves], dim=-1)
        state = self.dropout(self.lstm(past[:, :num])[0])
        base = self.readout(values[:, :num])
        forecasts = []
        for ahead, head in zip(self.look_ahead, self.heads, strict=True):
            told = state
            if displacement is not None:
                way = (displacement[:, ahead : num + ahead] - displacement[:, :num]) / self.move_scale
                told = torch.cat([state, way], dim=-1)
            hidden = torch.relu(self.body(told))
            told = hidden if displacement is None else torch.cat([hidden, way], dim=-1)
            forecasts.append(base + head(told))
        return torch.stack(forecasts, dim=2) * self.target_scale + self.target_mean

    @torch.no_grad()
    def predict(
        self, inputs: torch.Tensor, origins: Sequence[int], displacement: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the forecasts made at the origins, [U, O, H, P]; see `forward`.

        Raises SemcomError for origins whose furthest look-ahead is beyond the last step.
        """
        self.eval()
        num = inputs.shape[1] - max(self.look_ahead)
        if min(origins) < 0 or max(origins) >= num:
            raise SemcomError(f"origins have to be steps 0 to {num - 1}: later ones have no targets")
        return self(inputs, displacement)[:, list(origins)]


def train_lstm(
    train: Sequences,
    validation: Sequences,
    look_ahead: Sequence[int],
    config: LstmConfig,
    streams: Streams,
    first_origin: int = 0,
) -> tuple[LstmForecaster, Log]:
    """Trains an LSTM on segments of trajectories, keeps the weights best on validation, and tells its log.

    The loss is the mean distance |x_hat(t + h) - x(t + h)| in units of the targets' deviation, over all
    look-aheads and all origins with at least first_origin steps before them, as will be judged; validation
    trajectories are taken whole. Random streams:
    "lstm weights", "lstm batches". Raises SemcomError for trajectories shorter than the look-ahead.
    Source: Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9, 1997.
    """
    num, num_steps = train.inputs.shape[:2]
    if num_steps <= max(look_ahead) + first_origin:
        raise SemcomError(
            f"trajectories of {num_steps} steps are too short for a look-ahead of {max(look_ahead)} "
            f"from step {first_origin} on"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed("lstm weights"))
        model = LstmForecaster(train, look_ahead, config)
        best, best_weights = float("inf"), copy.deepcopy(model.state_dict())

        def error(part: Sequences) -> torch.Tensor:
            forecast = model(part.inputs, part.displacement)
            steps = torch.arange(forecast.shape[1])[:, None] + torch.tensor(look_ahead)
            miss = (forecast - part.targets[:, steps])[:, first_origin:] / model.target_scale.mean()
            return torch.sqrt(miss.square().sum(-1) + 1e-12).mean()

        length = min(num_steps, max(config.segment_steps, first_origin + 1) + max(look_ahead))

        def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            rows = torch.randint(num, (config.batch_size, 1), generator=generator)
            begin = torch.randint(num_steps - length + 1, (config.batch_size, 1), generator=generator)
            steps = begin + torch.arange(length)
            way = None if train.displacement is None else train.displacement[rows, steps]
            return {"total": error(Sequences(train.inputs[rows, steps], train.targets[rows, steps], way))}

        def keep_the_best(step: int) -> None:
            nonlocal best, best_weights
            if (step + 1) % config.validate_every and step + 1 < config.num_steps:
                return
            model.eval()
            with torch.no_grad():
                value = float(error(validation))
            model.train()
            if value < best:
                best, best_weights = value, copy.deepcopy(model.state_dict())

        generator = streams.torch_generator("lstm batches")
        log = fit(model, batch_loss, config.num_steps, config.peak_rate, generator, after_step=keep_the_best)
    model.load_state_dict(best_weights)
    model.eval()
    return model, log


def _deviation(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each dimension over trajectories and steps; 1 where there is none."""
    deviation = values.std((0, 1), correction=0)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
