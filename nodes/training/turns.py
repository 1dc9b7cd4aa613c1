"""Turns: clients that grew apart are brought into one latent space before their models are averaged."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from nodes.training.alignment import Alignment, absorb, absorb_input, prepare_anchors
from nodes.training.consensus import align_all
from semcom.contracts import SemcomError
from semcom.encoders import ParallelMlpEncoder
from semcom.latent_layers import LatentLayers

_HEADER = struct.Struct(">HHH")
TURN_HEADER_BITS = 8 * _HEADER.size
"""Of anchors and turns: how many rows, dimensions of a block, and blocks, 16 bits each."""


def encode_anchors(z: torch.Tensor, num_blocks: int) -> bytes:
    """Returns embeddings of N anchors, float32 [N, D], as bytes: 32 bits a number behind the header."""
    num, dim = z.shape
    if num > 0xFFFF or dim // num_blocks > 0xFFFF or dim % num_blocks:
        raise SemcomError(f"anchors {list(z.shape)} in {num_blocks} blocks can't be sent: take fewer")
    head = _HEADER.pack(num, dim // num_blocks, num_blocks)
    return head + _to_bytes(z)


def find_turns(anchors: Mapping[int, bytes]) -> tuple[dict[int, bytes], list[str]]:
    """Finds one frame for many clients; returns each one's turn as bytes, and which were left out, and why.

    Each block of dimensions has a generalised Procrustes consensus of its own (see align_all), rotations,
    reflections and shifts without scales. The client of the lowest number is the reference and gets no turn.
    Left out, and not turned, is whose anchors fix no rotation. A turn is the header, and for each block the
    rotation [D, D] and the shifts from and to, [D] each, 32 bits a number.
    """
    blocks: dict[int, torch.Tensor] = {}
    reasons = []
    for client in sorted(anchors):
        try:
            z = _decode_anchors(anchors[client])
            for part in z:
                prepare_anchors(part, f"client {client}", centered=True)
            if blocks and z.shape != next(iter(blocks.values())).shape:
                raise SemcomError(f"client {client} sent anchors of another shape")
            blocks[client] = z
        except SemcomError as error:
            reasons.append(f"not aligned: {error}")
    if len(blocks) < 2:
        return {}, reasons
    num_blocks, num, dim = next(iter(blocks.values())).shape
    found = [align_all({client: z[n] for client, z in blocks.items()}) for n in range(num_blocks)]
    turns = {}
    for client in sorted(blocks)[1:]:
        parts = [each.alignments[client] for each in found]
        rows = [torch.cat((part.rotation, part.shift_from[None], part.shift_to[None])) for part in parts]
        turns[client] = _HEADER.pack(num, dim, num_blocks) + _to_bytes(torch.stack(rows))
    return turns, reasons


def decode_turn(payload: bytes) -> list[Alignment]:
    """Returns a turn's alignments, one for each block."""
    _, dim, num_blocks = _HEADER.unpack_from(payload)
    rows = _from_bytes(payload).reshape(num_blocks, dim + 2, dim).double()
    return [Alignment(part[:dim], 1.0, part[dim], part[dim + 1], math.nan, True) for part in rows]


@torch.no_grad()
def absorb_turn(layers: LatentLayers, parts: Sequence[Alignment]) -> None:
    """Turns a model's latent space, in place: every embedding z that it gives is aligned from now on.

    What it reads off embeddings, and what it predicts in the turned frame, stays as it was.
    Raises SemcomError, changing nothing, for another number of blocks.
    """
    if len(parts) != layers.num_blocks:
        raise SemcomError(f"a turn of {len(parts)} blocks for embeddings of {layers.num_blocks}")
    whole = Alignment(
        torch.block_diag(*(part.rotation for part in parts)),
        1.0,
        torch.cat([part.shift_from for part in parts]),
        torch.cat([part.shift_to for part in parts]),
        math.nan,
        True,
    )
    for output in layers.outputs:
        if isinstance(output, ParallelMlpEncoder):
            _absorb_in_each(output, parts)
        else:
            _replace(output, absorb(output, whole))
    for layer in layers.inputs:
        _replace(layer, absorb_input(layer, whole))
    for step in layers.steps:
        _replace(step, absorb(step, whole, shifted=False))


def _absorb_in_each(encoder: ParallelMlpEncoder, parts: Sequence[Alignment]) -> None:
    """W_r' = W_r R_r, b_r' = (b_r - shift_from) R_r + shift_to: its maps take rows."""
    weight, bias = encoder.weights[-1], encoder.biases[-1]
    for sensor, part in enumerate(parts):
        weight[sensor] = weight[sensor].double() @ part.rotation
        bias[sensor] = part.apply(bias[sensor].double())


def _replace(layer: nn.Linear, by: nn.Linear) -> None:
    # In place: the optimiser and the module know the old one's weights.
    layer.weight.copy_(by.weight)
    if layer.bias is not None:
        layer.bias.copy_(by.bias)


def _to_bytes(numbers: torch.Tensor) -> bytes:
    return numbers.detach().cpu().float().contiguous().numpy().astype(">f4").tobytes()


def _from_bytes(payload: bytes) -> torch.Tensor:
    numbers = np.frombuffer(payload, ">f4", offset=_HEADER.size)
    return torch.from_numpy(numbers.astype(np.float32))


def _decode_anchors(payload: bytes) -> torch.Tensor:
    """Anchors by block, [num_blocks, N, D of a block]."""
    num, dim, num_blocks = _HEADER.unpack_from(payload)
    return _from_bytes(payload).reshape(num, num_blocks, dim).transpose(0, 1)
