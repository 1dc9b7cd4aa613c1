"""Named arrays in HDF5 files: read, written whole or not at all, and checked, one line for what is wrong.

`told` names the file in errors, and the key under which it was given: "data.path = FILE".
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semcom.contracts import SemcomError


def read_arrays(
    path: Path,
    told: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    attributes: Sequence[str] = (),
    beside: str | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads datasets by name, without the optional ones that are missing, and attributes of the file.

    Attributes are unchecked, None where missing; they may also stand at the dataset `beside`, and count
    there first. Raises SemcomError for a file that is not there or no HDF5, and a missing dataset.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = {}
            for name in (*required, *optional):
                data = file.get(name)
                if isinstance(data, h5py.Dataset):
                    found[name] = data
                elif data is not None or name in required:
                    raise _missing(file, name, told)
            owners = [found[beside]] if beside in found else []
            held = {name: _attribute([*owners, file], name) for name in attributes}
            return {name: np.asarray(data[()]) for name, data in found.items()}, held
    except FileNotFoundError:
        raise SemcomError(f"{told}: there is no such file: give the path of an HDF5 file") from None
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise SemcomError(f"{told} can't be read as HDF5 ({reason}): give another file") from None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Writes datasets and attributes of the file, without those that are None: whole, or not at all.

    Raises SemcomError where the file can't be written.
    """
    import h5py

    part = path.with_name(f"{path.name}.part")
    try:
        with h5py.File(part, "w") as file:
            for name, data in arrays.items():
                file[name] = data
            file.attrs.update({name: value for name, value in attributes.items() if value is not None})
        os.replace(part, path)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise SemcomError(f"{path} can't be written ({reason}): give another place") from None


def check_finite(data: np.ndarray, told: str, name: str) -> None:
    """Raises SemcomError, with the first one's place, where an array holds NaN or infinity."""
    finite = np.isfinite(data)
    if not finite.all():
        raise SemcomError(
            f"{told}: {name} holds NaN or infinity, first at {first_place(~finite)}: mend or remove it"
        )


def single_precision(data: np.ndarray, told: str, name: str) -> np.ndarray:
    """Returns complex64 or float32. Raises SemcomError for values that are too large for it."""
    with np.errstate(over="ignore"):
        values = data.astype(np.complex64 if np.iscomplexobj(data) else np.float32, copy=False)
    if np.isinf(values).any():
        raise SemcomError(f"{told}: {name} has values too large for single precision: scale it down")
    return values


def positive_number(value: Any, told: str, name: str) -> float | None:
    """Returns an attribute as a number, None for None. Raises SemcomError unless it is above 0."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise SemcomError(f"{told}: attribute {name} is {value!r}, no number above 0: mend or remove it")
    return number


def first_place(wrong: np.ndarray) -> list[int]:
    """Returns the indices of the first True, in the order of storage."""
    return [int(index) for index in np.unravel_index(int(wrong.argmax()), wrong.shape)]


@dataclass(frozen=True)
class Rows:
    """The rows that the arrays of a file have in common: num of them, each a `row`, as many as `leader` has.

    They belong to pieces (trajectories, sequences), in each of which time runs on.
    """

    told: str
    row: str
    leader: str
    num: int

    def check_length(self, data: np.ndarray, name: str) -> None:
        """Raises SemcomError for an array with another number of rows."""
        if len(data) != self.num:
            raise SemcomError(
                f"{self.told}: {name} has {len(data)} rows, {self.leader} has {self.num}: "
                f"store one for each {self.row}"
            )

    def pieces(self, data: np.ndarray, name: str) -> np.ndarray:
        """Returns the piece of each row, int64 [N].

        Raises SemcomError for other than whole numbers [N], and pieces whose rows are not together.
        """
        if data.dtype.kind not in "iu" or data.ndim != 1:
            raise SemcomError(
                f"{self.told}: {name} has type {data.dtype} and shape {data.shape}: "
                f"store whole numbers [{self.row}s]"
            )
        self.check_length(data, name)
        piece = data.astype(np.int64)
        starts = np.concatenate([[0], 1 + np.flatnonzero(np.diff(piece))])
        _, first = np.unique(piece[starts], return_index=True)
        again = np.setdiff1d(starts, starts[first])
        if again.size:
            raise SemcomError(
                f"{self.told}: {name} {piece[again[0]]} goes on at {self.row} {again[0]} after another one: "
                f"store the {self.row}s of each together"
            )
        return piece

    def check_order(self, time_s: np.ndarray, piece: np.ndarray, name: str) -> None:
        """Raises SemcomError where time [N] doesn't run on within a piece."""
        late = 1 + np.flatnonzero((np.diff(time_s) <= 0) & (np.diff(piece) == 0))
        if late.size:
            at = late[0]
            raise SemcomError(
                f"{self.told}: time_s doesn't run on in {name} {piece[at]}: {time_s[at]:g} s at {self.row} "
                f"{at} after {time_s[at - 1]:g} s: store each {name} in the order of time"
            )


def _missing(file: Any, name: str, told: str) -> SemcomError:
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    found = ", ".join(names[:8]) or "none"
    return SemcomError(f"{told} has no dataset {name} (it has {found}): store it under this name")


def _attribute(owners: Sequence[Any], name: str) -> Any:
    return next((owner.attrs[name] for owner in owners if name in owner.attrs), None)
