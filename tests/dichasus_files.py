"""Small files as DICHASUS publishes them, each written and converted, in a process without anything else.

    python tests/dichasus_files.py FOLDER

A process that imports Dr.Jit after tensorflow may crash: tests read the results of this one instead.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from channels.dichasus import main

F = 32
# The channel of each antenna in two arrays of two rows and two columns.
ASSIGNMENTS = [[[5, 0], [7, 2]], [[1, 6], [3, 4]]]
_RNG = np.random.default_rng(8)
CSI = _RNG.normal(size=(12, 8, F, 2)).astype(np.float32)
POSITION_M = _RNG.normal(size=(12, 3))
CPO, STO = _RNG.uniform(-3, 3, size=(2, 8))
# Of the first file out of order and with a gap of half a second, of the second one later.
TIMES_S = {"hall-1": [0.0, 0.1, 0.7, 0.6, 0.05, 0.15], "hall-2": [9.0, 9.05, 9.1, 9.15, 9.2, 9.25]}


@dataclass(frozen=True)
class Case:
    """other: fields of every record in place of its own, None for none; spoil: done to the first file."""

    arguments: tuple[str, ...] = ()
    other: dict[str, Any] = field(default_factory=dict)
    spoil: Callable[[Path], object] = lambda path: None


CASES = {
    "taps": Case(),
    "whole": Case(("--every", "4", "--from", "3", "--all-subcarriers")),
    "no position": Case(other={"pos-tachy": None}),
    "seven antennas": Case(other={"csi": CSI[0, :7]}),
    "double precision": Case(other={"csi": CSI[0].astype(np.float64)}),
    "no tensor": Case(other={"csi": 1.0}),
    "nan": Case(other={"csi": CSI[0] * np.nan}),
    "two coordinates": Case(other={"pos-tachy": np.ones(2)}),
    "time as a tensor": Case(other={"time": np.ones(1)}),
    "taps beyond": Case(("--taps", "-5", "16")),
    "none left": Case(("--every", "20", "--from", "15")),
    "silent": Case(other={"csi": 0 * CSI[0]}),
    "missing": Case(spoil=lambda path: path.unlink()),
    "text": Case(spoil=lambda path: path.write_text("something else altogether")),
    "cut short": Case(spoil=lambda path: path.write_bytes(path.read_bytes()[:-9])),
    "empty": Case(spoil=lambda path: path.write_bytes(b"")),
}


def write_sidecars(folder: Path) -> None:
    """spec.json, and the offsets of hall-1 and, with the other sign, of hall-2."""
    antennas = [{"assignments": rows, "location": [0, 0, 1]} for rows in ASSIGNMENTS]
    (folder / "spec.json").write_text(json.dumps({"bandwidth": 50.056e6, "antennas": antennas}))
    for name, sign in (("hall-1", 1), ("hall-2", -1)):
        offsets = {"cpo": list(sign * CPO), "sto": list(sign * STO)}
        (folder / f"reftx-offsets-{name}.json").write_text(json.dumps(offsets))


def write_records(path: Path, time_s: list[float], first: int, other: dict[str, Any]) -> None:
    """Writes CSI[first:] and so on at these times."""
    import tensorflow as tf

    def feature(value: Any) -> Any:
        if isinstance(value, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        serialised = tf.io.serialize_tensor(value).numpy()
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[serialised]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, now_s in enumerate(time_s, first):
            fields = {"csi": CSI[number], "pos-tachy": POSITION_M[number], "time": now_s}
            fields |= {"snr": np.full(8, 20, np.float32), "cfo": np.zeros(8, np.float32), **other}
            features = {name: feature(value) for name, value in fields.items() if value is not None}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def convert_all(folder: Path) -> None:
    """Converts every case, below a folder of its name, and writes what came of each to results.json."""
    results = {}
    for name, case in CASES.items():
        place = folder / name
        place.mkdir()
        write_sidecars(place)
        files = [place / f"{hall}.tfrecords" for hall in TIMES_S]
        for number, file in enumerate(files):
            write_records(file, TIMES_S[file.stem], 6 * number, case.other)
        case.spoil(files[0])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*map(str, files), "--out", str(place / "out.h5"), *case.arguments])
        results[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    convert_all(Path(sys.argv[1]))
