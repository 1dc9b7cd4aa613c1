"""DICHASUS in the form in which it is published: what comes out of a file, and what is said of a bad one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from channels.csi_dataset import read_dataset
from channels.dichasus import calibrate, keep_taps, main

F = 32
# The channel of each antenna in two arrays of two rows and two columns.
ASSIGNMENTS = [[[5, 0], [7, 2]], [[1, 6], [3, 4]]]
RNG = np.random.default_rng(8)
CSI = RNG.normal(size=(12, 8, F, 2)).astype(np.float32)
POSITION_M = RNG.normal(size=(12, 3))
CPO, STO = RNG.uniform(-3, 3, size=(2, 8))


@pytest.fixture
def tf():
    return pytest.importorskip("tensorflow", reason="the extra tensorflow is not installed")


@pytest.fixture
def folder(tmp_path) -> Path:
    """The sidecars of two files, hall-1 and hall-2."""
    antennas = [{"assignments": rows, "location": [0, 0, 1]} for rows in ASSIGNMENTS]
    (tmp_path / "spec.json").write_text(json.dumps({"bandwidth": 50.056e6, "antennas": antennas}))
    for name, sign in (("hall-1", 1), ("hall-2", -1)):
        offsets = {"cpo": list(sign * CPO), "sto": list(sign * STO)}
        (tmp_path / f"reftx-offsets-{name}.json").write_text(json.dumps(offsets))
    return tmp_path


def write_records(tf, path: Path, time_s: list[float], first: int = 0, **other) -> None:
    """Records of CSI[first:] and so on at these times; `other` fields come instead, None for none at all."""

    def of_bytes(values):
        serialised = tf.io.serialize_tensor(values).numpy()
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[serialised]))

    def of_float(value):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, now_s in enumerate(time_s, first):
            fields = {
                "csi": of_bytes(CSI[number]),
                "pos-tachy": of_bytes(POSITION_M[number]),
                "time": of_float(now_s),
                "snr": of_bytes(np.full(8, 20, np.float32)),
                "cfo": of_bytes(np.zeros(8, np.float32)),
            }
            for name, value in other.items():
                if value is None:
                    del fields[name]
                else:
                    fields[name] = of_float(value) if isinstance(value, float) else of_bytes(value)
            example = tf.train.Example(features=tf.train.Features(feature=fields))
            writer.write(example.SerializeToString())


def converted(folder: Path, *arguments: str, names: tuple[str, ...] = ("hall-1", "hall-2")) -> list[str]:
    files = [str(folder / f"{name}.tfrecords") for name in names]
    return [*files, "--out", str(folder / "out.h5"), *arguments]


def expected_csi(numbers: list[int], sign: int, taps: tuple[int, int] | None = (-5, 7)) -> np.ndarray:
    response = calibrate(CSI[numbers, ..., 0] + 1j * CSI[numbers, ..., 1], sign * CPO, sign * STO)
    response = response if taps is None else keep_taps(response, *taps)
    return response[:, np.array(ASSIGNMENTS).reshape(2, 4)]


def test_records_become_a_data_set_in_the_order_of_time(tf, folder, capsys):
    # The first file out of order and with a gap of half a second, the second one later.
    write_records(tf, folder / "hall-1.tfrecords", [0.0, 0.1, 0.7, 0.6, 0.05, 0.15])
    write_records(tf, folder / "hall-2.tfrecords", [9.0, 9.05, 9.1, 9.15, 9.2, 9.25], first=6)
    assert main(converted(folder)) == 0
    assert capsys.readouterr().out == f"{folder / 'out.h5'}: 12 positions\n"
    found = read_dataset(folder / "out.h5")
    numbers = [0, 4, 1, 5, 3, 2]
    np.testing.assert_allclose(found.csi[:6], expected_csi(numbers, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.csi[6:], expected_csi(list(range(6, 12)), -1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.position_m, POSITION_M[[*numbers, *range(6, 12)]])
    assert found.time_s is not None
    np.testing.assert_allclose(found.time_s[:6], [0.0, 0.05, 0.1, 0.15, 0.6, 0.7], atol=1e-6)
    assert found.trajectory.tolist() == [0] * 4 + [1] * 2 + [2] * 6
    assert (found.bandwidth_hz, found.carrier_hz) == (50.056e6, 1.272e9)


def test_every_n_th_record_is_counted_on_over_the_files(tf, folder):
    write_records(tf, folder / "hall-1.tfrecords", [0.0, 0.05, 0.1, 0.15, 0.2])
    write_records(tf, folder / "hall-2.tfrecords", [9.0, 9.05, 9.1, 9.15, 9.2], first=5)
    assert main(converted(folder, "--every", "4", "--from", "2", "--all-subcarriers")) == 0
    found = read_dataset(folder / "out.h5")
    np.testing.assert_array_equal(found.position_m, POSITION_M[[2, 6]])
    np.testing.assert_allclose(found.csi[:1], expected_csi([2], 1, None), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.csi[1:], expected_csi([6], -1, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "arguments", "told"),
    [
        ({"pos-tachy": None}, [], "record 0 has no field pos-tachy (it has cfo, csi, snr, time)"),
        ({"csi": CSI[0, :7]}, [], "record 0: csi has shape [7, 32, 2], not float32 [8, any, 2]"),
        (
            {"csi": CSI[0].astype(np.float64)},
            [],
            "record 0: csi is no serialised tensor, float32 [8, any, 2]",
        ),
        ({"csi": 1.0}, [], "record 0: csi is no serialised tensor"),
        ({"csi": CSI[0] * np.nan}, [], "record 0: csi holds NaN or infinity"),
        ({"pos-tachy": np.ones(2)}, [], "record 0: pos-tachy has shape [2], not float64 [3]"),
        ({"time": np.ones(1)}, [], "record 0: time is [], not one finite number"),
        ({}, ["--taps", "-5", "16"], "record 0 has taps -16 to 15, not -5 to 16"),
        ({}, ["--every", "9", "--from", "8"], "of 3 records none is number 8 of 9"),
        ({"csi": 0 * CSI[0]}, [], "csi is zero throughout at position 0"),
    ],
)
def test_a_record_that_is_not_as_published_is_refused_in_one_line(tf, folder, capsys, other, arguments, told):
    write_records(tf, folder / "hall-1.tfrecords", [0.0, 0.05, 0.1], **other)
    assert main(converted(folder, *arguments, names=("hall-1",))) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (folder / "out.h5").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_text("something else altogether"), "is no TFRecord file, or broken after 0"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "is no TFRecord file, or broken after 2 records",
        ),
        (lambda path: path.write_bytes(b""), "holds no record"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tf, folder, capsys, spoil, told):
    write_records(tf, folder / "hall-1.tfrecords", [0.0, 0.05, 0.1])
    spoil(folder / "hall-1.tfrecords")
    assert main(converted(folder, names=("hall-1",))) == 2
    error = capsys.readouterr().err
    assert str(folder / "hall-1.tfrecords") in error
    assert told in error
    assert error.count("\n") == 1


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
    assert main(converted(folder, names=("hall-1",))) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_each_file_has_offsets_of_its_own(folder, capsys):
    given = ["--offsets", str(folder / "reftx-offsets-hall-1.json")]
    assert main(converted(folder, *given)) == 2
    assert "1 files of offsets for 2 of records: give one for each" in capsys.readouterr().err


def test_without_tensorflow_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(converted(folder)) == 2
    assert "reading TFRecords needs tensorflow: pip install '.[tensorflow]'" in capsys.readouterr().err
