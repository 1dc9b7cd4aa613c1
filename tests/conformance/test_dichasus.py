"""DICHASUS in the form in which it is published: what comes out of a file, and what is said of a bad one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dichasus_files
import numpy as np
import pytest
from dichasus_files import ASSIGNMENTS, CPO, CSI, POSITION_M, STO

from channels.csi_dataset import read_dataset
from channels.dichasus import calibrate, keep_taps, main

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the extra tensorflow is not installed"
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """The folder in which each case of dichasus_files was converted, by one process."""
    folder: Path = tmp_path_factory.mktemp("dichasus")
    # It imports what this process can import.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, dichasus_files.__file__, str(folder)], check=True, env=environment)
    return folder


def result_of(folder: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())[case]
    return found


def expected_csi(numbers: list[int], sign: int, taps: tuple[int, int] | None) -> np.ndarray:
    response = calibrate(CSI[numbers, ..., 0] + 1j * CSI[numbers, ..., 1], sign * CPO, sign * STO)
    response = response if taps is None else keep_taps(response, *taps)
    return response[:, np.array(ASSIGNMENTS).reshape(2, 4)]


@needs_tensorflow
def test_records_become_a_data_set_in_the_order_of_time(converted):
    path = converted / "taps" / "out.h5"
    assert result_of(converted, "taps") == {"code": 0, "out": f"{path}: 12 positions\n", "err": ""}
    found = read_dataset(path)
    numbers = [0, 4, 1, 5, 3, 2]
    np.testing.assert_allclose(found.csi[:6], expected_csi(numbers, 1, (-5, 7)), rtol=1e-5, atol=1e-6)
    second = expected_csi(list(range(6, 12)), -1, (-5, 7))
    np.testing.assert_allclose(found.csi[6:], second, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.position_m, POSITION_M[[*numbers, *range(6, 12)]])
    assert found.time_s is not None
    np.testing.assert_allclose(found.time_s[:6], [0.0, 0.05, 0.1, 0.15, 0.6, 0.7], atol=1e-6)
    assert found.trajectory.tolist() == [0] * 4 + [1] * 2 + [2] * 6
    assert (found.bandwidth_hz, found.carrier_hz) == (50.056e6, 1.272e9)


@needs_tensorflow
def test_every_n_th_record_is_counted_on_over_the_files(converted):
    found = read_dataset(converted / "whole" / "out.h5")
    np.testing.assert_array_equal(found.position_m, POSITION_M[[3, 7, 11]])
    np.testing.assert_allclose(found.csi[:1], expected_csi([3], 1, None), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.csi[1:], expected_csi([7, 11], -1, None), rtol=1e-5, atol=1e-6)


@needs_tensorflow
@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("no position", "hall-1.tfrecords, record 0 has no field pos-tachy (it has cfo, csi, snr, time)"),
        ("seven antennas", "record 0: csi has shape [7, 32, 2], not float32 [8, any, 2]"),
        ("double precision", "record 0: csi is no serialised tensor, float32 [8, any, 2]"),
        ("no tensor", "record 0: csi is no serialised tensor"),
        ("nan", "record 0: csi holds NaN or infinity"),
        ("two coordinates", "record 0: pos-tachy has shape [2], not float64 [3]"),
        ("time as a tensor", "record 0: time is [], not one finite number"),
        ("taps beyond", "record 0 has taps -16 to 15, not -5 to 16"),
        ("none left", "of 12 records none is number 15 of 20"),
        ("silent", "csi is zero throughout at position 0"),
        ("missing", "hall-1.tfrecords: there is no such file"),
        ("text", "hall-1.tfrecords is no TFRecord file, or broken after 0 records"),
        ("cut short", "hall-1.tfrecords is no TFRecord file, or broken after 5 records"),
        ("empty", "hall-1.tfrecords holds no record"),
    ],
)
def test_records_that_are_not_as_published_are_refused_in_one_line(converted, case, told):
    found = result_of(converted, case)
    assert found["code"] == 2
    assert told in found["err"]
    assert str(converted / case) in found["err"] or case == "none left"
    assert found["err"].count("\n") == 1
    assert not (converted / case / "out.h5").exists()


@pytest.fixture
def folder(tmp_path) -> Path:
    dichasus_files.write_sidecars(tmp_path)
    return tmp_path


def arguments(folder: Path, *names: str) -> list[str]:
    return [*(str(folder / f"{name}.tfrecords") for name in names), "--out", str(folder / "out.h5")]


def other_spec(**other):
    def spoil(folder: Path) -> None:
        spec = json.loads((folder / "spec.json").read_text())
        (folder / "spec.json").write_text(json.dumps(spec | other))

    return spoil


def with_offsets(**offsets):
    return lambda folder: (folder / "reftx-offsets-hall-1.json").write_text(json.dumps(offsets))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "spec.json").unlink(), "spec.json is not there"),
        (lambda folder: (folder / "spec.json").write_text("{"), "spec.json can't be read as JSON"),
        (
            other_spec(antennas=[{"location": [0, 0, 1]}]),
            "has no bandwidth, or no antennas with their assign",
        ),
        (other_spec(antennas=[{"assignments": [[0, 1], [2]]}]), "spec.json has arrays of several shapes"),
        (other_spec(antennas=[{"assignments": [[0, 1], [2, 2]]}]), "don't name each channel once"),
        (other_spec(bandwidth=-1), "or the bandwidth is not above 0"),
        (
            lambda folder: (folder / "reftx-offsets-hall-1.json").unlink(),
            "reftx-offsets-hall-1.json is not th",
        ),
        (with_offsets(cpo=[0.0] * 8), "reftx-offsets-hall-1.json: sto is missing or no list of 8 numbers"),
        (with_offsets(cpo=[0.0] * 7, sto=[0.0] * 8), "cpo is missing or no list of 8 numbers"),
        (with_offsets(cpo=[0.0] * 8, sto=[float("nan")] * 8), "sto is missing or no list of 8 numbers"),
        (lambda folder: (folder / "out.h5").touch(), "out.h5 is there already: remove it"),
    ],
)
def test_sidecars_that_do_not_belong_are_refused_in_one_line(folder, capsys, spoil, told):
    spoil(folder)
    assert main(arguments(folder, "hall-1")) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_each_file_has_offsets_of_its_own(folder, capsys):
    given = ["--offsets", str(folder / "reftx-offsets-hall-1.json")]
    assert main([*arguments(folder, "hall-1", "hall-2"), *given]) == 2
    assert "1 files of offsets for 2 of records: give one for each" in capsys.readouterr().err


def test_without_tensorflow_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(arguments(folder, "hall-1")) == 2
    assert "reading TFRecords needs tensorflow: pip install '.[tensorflow]'" in capsys.readouterr().err
