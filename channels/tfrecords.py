"""TFRecords: the records of a file and their fields, each checked. The one file that imports tensorflow.

It is for commands of their own: a process that imports Dr.Jit 1.5.0 after tensorflow 2.21 crashes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semcom.contracts import SemcomError


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file as they stand there, one at a time.

    Raises SemcomError without tensorflow, and for a file that is not there, broken, or without a record.
    """
    tf = _import_tensorflow()
    if not path.is_file():
        raise SemcomError(f"{path}: there is no such file: give the path of a TFRecord file")
    num_read = 0
    try:
        for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            yield record
            num_read += 1
    except tf.errors.OpError:
        raise SemcomError(
            f"{path} is no TFRecord file, or broken after {num_read} records: fetch it again"
        ) from None
    if num_read == 0:
        raise SemcomError(f"{path} holds no record: fetch it again")


def parse_fields(record: bytes, names: tuple[str, ...], told: str) -> Mapping[str, Any]:
    """Parses a record as tf.train.Example that has fields of these names.

    told: what the errors call the record. Raises SemcomError for what is no Example, or lacks a field.
    """
    from google.protobuf.message import DecodeError

    try:
        fields: Mapping[str, Any] = _import_tensorflow().train.Example.FromString(record).features.feature
    except DecodeError:
        raise SemcomError(f"{told} is no tf.train.Example: give another file") from None
    for name in names:
        if name not in fields:
            found = ", ".join(sorted(fields)) or "none"
            raise SemcomError(f"{told} has no field {name} (it has {found}): give another data set")
    return fields


def float_of(field: Any, told: str) -> float:
    """The one finite number of a field of floats; raises SemcomError where it holds anything else."""
    values = list(field.float_list.value)
    if len(values) != 1 or not math.isfinite(values[0]):
        raise SemcomError(f"{told} is {values}, not one finite number: give another file")
    return float(values[0])


def tensor_of(field: Any, dtype: type, shape: tuple[int | None, ...], told: str) -> np.ndarray:
    """The serialised tensor of a field of bytes, finite and of this type and shape; None is any length."""
    tf = _import_tensorflow()
    form = f"{np.dtype(dtype)} [{', '.join('any' if num is None else str(num) for num in shape)}]"
    try:
        (serialised,) = field.bytes_list.value
        values: np.ndarray = tf.io.parse_tensor(serialised, tf.as_dtype(dtype)).numpy()
    except (ValueError, tf.errors.OpError):
        raise SemcomError(f"{told} is no serialised tensor, {form}: give another file") from None
    if len(values.shape) != len(shape) or any(
        wanted not in (None, found) for found, wanted in zip(values.shape, shape, strict=True)
    ):
        raise SemcomError(
            f"{told} has shape {list(values.shape)}, not {form}: give files that belong together"
        )
    if not np.isfinite(values).all():
        raise SemcomError(f"{told} holds NaN or infinity: leave this file out")
    return values


def _import_tensorflow() -> Any:
    # Taken note of when tensorflow is imported: no lines about the processor's instructions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ModuleNotFoundError:
        raise SemcomError("reading TFRecords needs tensorflow: pip install '.[tensorflow]'") from None
    return tensorflow
