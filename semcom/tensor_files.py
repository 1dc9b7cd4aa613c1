"""Named tensors in safetensors files, with what else a checkpoint tells as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from semcom.contracts import SemcomError
from semcom.files import write_atomically

Tensors = Mapping[str, torch.Tensor]


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Writes tensors to one file, whole or not at all. Raises SemcomError if it can't be."""
    # safetensors refuses tensors that share memory or have gaps.
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, lambda file: save_file(whole, file, dict(metadata)))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads what `write_tensors` wrote; raises what safetensors raises for a file that it can't read."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return tensors, dict(file.metadata() or {})


def write_progress(path: Path, tensors: Tensors, told: Mapping[str, object]) -> None:
    """Writes the progress of a training: tensors, and what goes into JSON."""
    write_tensors(path, tensors, {"progress": json.dumps(told)})


def read_progress(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads what `write_progress` wrote. Raises SemcomError, naming the file, for a damaged one."""
    try:
        tensors, metadata = read_tensors(path)
        if "progress" not in metadata:
            raise ValueError("it holds no progress that this version reads")
        return tensors, dict(json.loads(metadata["progress"]))
    except Exception as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception | str) -> SemcomError:
    """Makes the error for a checkpoint that a training can't go on from."""
    return SemcomError(f"checkpoint {path} can't be read ({error}): delete it to train anew")
