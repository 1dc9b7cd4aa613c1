"""How much an error in each direction of the embedding hurts control: the weight of task-weighted codecs."""

from __future__ import annotations

import torch

from scenarios.control.models import MotionModel

HORIZON_STEPS = 8
_NUM_EMBEDDINGS = 512


def task_weight(model: MotionModel) -> torch.Tensor:
    """Returns W = sum_h E[g_h g_h^T], float64 [D, D], g_h the gradient of the command h steps later.

    To first order, an error e in an embedding that is received changes the commands u_0, ..., u_7 that
    follow from it, rolled out by the predictor under those very commands, by e^T W e in the sum of squares,
    in units of the command scale. The mean is over calibration embeddings. A model without a predictor holds
    its command: h = 0 alone.
    """
    z = model.calibration[:_NUM_EMBEDDINGS].detach().clone().requires_grad_()
    with torch.enable_grad():
        predicted, commands = z, [model.actor(z)]
        for _ in range(HORIZON_STEPS - 1 if model.predictor is not None else 0):
            assert model.predictor is not None
            predicted = model.predictor(predicted, commands[-1])
            commands.append(model.actor(predicted))
        gradients = [torch.autograd.grad(command.sum(), z, retain_graph=True)[0] for command in commands]
    stacked = torch.cat(gradients).double()
    return stacked.T @ stacked / len(z)
