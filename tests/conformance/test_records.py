"""Run folders: nothing is lost, nothing is computed or overwritten that should not be."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from semcom.contracts import Record, SemcomError
from semcom.files import write_atomically
from semcom.records import COLUMNS, FinishedPoint, RunFolder, load_into

CONFIG = {"codec": {"bits": 8}, "weights": [1.0, 2.0]}


def create(path: Path, **changes: Any) -> RunFolder:
    return RunFolder.create(
        path, **{"scenario": "toy", "preset": "tiny", "config": CONFIG, "seeds": [0]} | changes
    )


def point(seed: int = 0, method: str = "ours", value: float = 1.0, **axes: float | str) -> FinishedPoint:
    record = Record("toy", method, seed, "score", value, "%", 10, {"load": 3})
    return FinishedPoint("main", method, seed, axes, [record])


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_records_have_the_columns_and_come_back(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point(value=0.5, interval=20)])
    records = RunFolder.open(tmp_path / "run").records
    assert list(records.columns) == [*COLUMNS, "interval", "load"]
    assert records.to_dict("records") == [
        {
            "scenario": "toy",
            "method": "ours",
            "seed": 0,
            "metric": "score",
            "value": 0.5,
            "unit": "%",
            "num_samples": 10,
            "result": "main",
            "interval": 20,
            "load": 3,
        }
    ]


def test_the_manifest_says_what_was_run(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point()])
    with create(tmp_path / "run", seeds=[2, 1]) as folder:
        folder.add([point(seed=1)])
    with create(tmp_path / "run"):
        pass  # a session that adds nothing is no source of what is there
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1, 2]
    assert manifest["config"] == CONFIG
    assert len(manifest["sessions"]) == 2
    assert {"python", "torch", "sionna", "ray"} <= manifest["versions"].keys()
    assert {"commit", "device", "started", "wall_time_s"} <= manifest.keys()
    assert "bits: 8" in (tmp_path / "run" / "config.yaml").read_text()


def test_finished_points_are_known_after_reopening(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point(interval=20)])
    with create(tmp_path / "run") as folder:
        assert folder.is_finished("main", "ours", 0, {"interval": 20.0})
        assert not folder.is_finished("main", "ours", 0, {"interval": 40})
        assert not folder.is_finished("main", "ours", 1, {"interval": 20})
        assert not folder.is_finished("main", "base", 0, {"interval": 20})
        assert not folder.is_finished("other", "ours", 0, {"interval": 20})
        with pytest.raises(SemcomError, match="already recorded"):
            folder.add([point(interval=20)])


def test_the_file_does_not_tell_in_how_many_goes_it_was_written(tmp_path: Path):
    points = [
        point(seed, method, seed / 7, interval=i) for i in (1, 2) for method in ("b", "a") for seed in (1, 0)
    ]
    with create(tmp_path / "once") as folder:
        folder.add(points)
    for each in reversed(points):
        with create(tmp_path / "often") as folder:
            folder.add([each])
    once, often = (tmp_path / name / "records.parquet" for name in ("once", "often"))
    assert once.read_bytes() == often.read_bytes()


def test_numbers_beside_words_are_kept_as_words(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point(interval=20), point(method="other", interval="never"), point(method="none")])
    values = dict(RunFolder.open(tmp_path / "run").records[["method", "interval"]].itertuples(index=False))
    assert (values["ours"], values["other"]) == ("20", "never")
    assert values["none"] != values["none"]  # missing


def test_an_axis_may_not_be_named_like_a_column(tmp_path: Path):
    with create(tmp_path / "run") as folder, pytest.raises(SemcomError, match="axis value"):
        folder.add([FinishedPoint("main", "ours", 0, {"value": 2.0}, point().records)])


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    target = tmp_path / "records.parquet"
    target.write_text("old")

    def half(file: Path) -> None:
        file.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(SemcomError, match="No space left"):
        write_atomically(target, half)
    assert contents(tmp_path) == {"records.parquet": b"old"}


def test_what_a_kill_leaves_behind_does_not_matter(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point()])
        folder.save_training("jepa", "k", 0, {"w": torch.zeros(2)}, [])
    leftovers = [tmp_path / "run" / ".part-1-records.parquet", tmp_path / "run" / "checkpoints" / ".part-1-x"]
    for leftover in leftovers:
        leftover.write_bytes(b"PAR1 and then nothing")
    assert len(RunFolder.open(tmp_path / "run").records) == 1
    with create(tmp_path / "run") as folder:
        assert len(folder.records) == 1
    assert not any(leftover.exists() for leftover in leftovers)
    # A kill before the first manifest: the folder holds nothing but a temporary file.
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / ".part-1-manifest.json").write_text("{")
    with create(tmp_path / "early") as folder:
        assert folder.records.empty


def test_folders_that_are_not_ours_are_refused_and_left_alone(tmp_path: Path):
    for name, file, text in [
        ("papers", "thesis.tex", "years of work"),
        ("web", "manifest.json", '{"name": "a web page"}'),
        ("list", "manifest.json", "[1, 2]"),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
        with pytest.raises(SemcomError, match="no run folder"):
            create(tmp_path / name)
        assert contents(tmp_path / name) == {file: text.encode()}
    with pytest.raises(SemcomError, match="no run folder"):
        RunFolder.open(tmp_path / "papers")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scenario": "other"}, "scenario toy, not other"),
        ({"config": {"codec": {"bits": 4}, "weights": [1.0, 2.0]}}, "codec.bits = 8, not 4"),
        ({"config": {"codec": {"bits": 8}}}, "weights"),
        ({"config": CONFIG | {"new": 1}}, "no new"),
        ({"axes": ["codec.bits"]}, "axes"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, changes: dict[str, Any], named: str
):
    with create(tmp_path / "run") as folder:
        folder.add([point()])
    before = contents(tmp_path / "run")
    with pytest.raises(SemcomError, match="holds a run with") as refusal:
        create(tmp_path / "run", **changes)
    assert named in str(refusal.value)
    assert contents(tmp_path / "run") == before


def test_a_folder_in_which_nothing_was_made_yet_takes_other_settings(tmp_path: Path):
    """A run whose data were refused leaves such a one, and is to be put right with the same command."""
    path, csi = tmp_path / "run", tmp_path / "csi.h5"
    csi.write_text("no HDF5")
    create(path, inputs=[csi]).close()
    csi.write_text("HDF5")
    with create(path, config={"codec": {"bits": 4}}, inputs=[csi]) as folder:
        assert folder.manifest["config"] == {"codec": {"bits": 4}}
        folder.save_training("ours", "key", 0, {"w": torch.ones(1)}, [])
    before = contents(path)
    with pytest.raises(SemcomError, match="holds a run with"):
        create(path)
    assert contents(path) == before


def test_a_place_that_can_not_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SemcomError, match=r"file/run can't be written \(Not a directory\)"):
        create(tmp_path / "file" / "run")


def test_two_processes_can_not_write_to_one_folder(tmp_path: Path):
    with create(tmp_path / "run"), pytest.raises(SemcomError, match="in use by another run"):
        create(tmp_path / "run")
    with create(tmp_path / "run"):
        pass


def test_a_truncated_file_is_named_and_left_alone(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point()])
    path = tmp_path / "run" / "records.parquet"
    for size in (0, 10, len(path.read_bytes()) - 5):
        path.write_bytes(path.read_bytes()[:size])
        before = contents(tmp_path / "run")
        for reopen in (create, RunFolder.open):
            with pytest.raises(SemcomError, match=r"records\.parquet is truncated or corrupt") as refusal:
                reopen(tmp_path / "run")
            assert "\n" not in str(refusal.value)
        assert contents(tmp_path / "run") == before


def test_a_checkpoint_comes_back_with_its_log(tmp_path: Path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "b": shared.T, "step": torch.tensor(7)}
    with create(tmp_path / "run") as folder:
        assert not folder.has_checkpoint("jepa", "key")
        # The second call is what happens after a kill between the log and the checkpoint.
        for loss in (3.0, 2.0):
            folder.save_training("jepa", "key", 1, tensors, [{"epoch": 0, "loss": loss}])
        folder.save_training("jepa", "other", 0, tensors, [{"epoch": 0, "loss": 5.0}])
        loaded = folder.load_checkpoint("jepa", "key")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    import pandas as pd

    log = pd.read_parquet(tmp_path / "run" / "training.parquet")
    assert log[["seed", "key", "loss"]].values.tolist() == [[0, "other", 5.0], [1, "key", 2.0]]


def test_a_bad_checkpoint_is_named(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        path = folder.save_training("jepa", "key", 0, {"w": torch.zeros(64)}, [])
        whole = path.read_bytes()
        for size in (0, 4, 40, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(SemcomError, match=r"jepa-key\.safetensors is truncated or corrupt"):
                folder.load_checkpoint("jepa", "key")
        path.write_bytes(whole)
        path.rename(folder.checkpoint_path("jepa", "other"))
        with pytest.raises(SemcomError, match="key = key, expected other"):
            folder.load_checkpoint("jepa", "other")
        with pytest.raises(SemcomError, match="is missing"):
            folder.load_checkpoint("jepa", "key")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weight": torch.zeros(2, 5)}, r"tensor weight has shape \[2, 5\], the model expects \[2, 3\]"),
        ({"bias": None}, r"tensor bias \[2\] is missing"),
        ({"scale": torch.zeros(4)}, r"tensor scale \[4\] is not in the model"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(changes: dict[str, torch.Tensor | None], named: str):
    module = torch.nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()} | changes
    with pytest.raises(SemcomError, match=f"checkpoint x: {named}"):
        load_into(module, {k: v for k, v in tensors.items() if v is not None}, "checkpoint x")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_checkpoint_that_fits_is_loaded():
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert not torch.equal(source.weight, target.weight)
    load_into(target, source.state_dict(), "checkpoint x")
    assert torch.equal(source.weight, target.weight)


def test_records_that_another_program_wrote_are_refused(tmp_path: Path):
    with create(tmp_path / "run") as folder:
        folder.add([point()])
    path = tmp_path / "run" / "records.parquet"
    pd.read_parquet(path).to_parquet(path)
    with pytest.raises(SemcomError, match="lost its list of finished points"):
        create(tmp_path / "run")


@pytest.mark.parametrize("change", [{"seeds": 3}, {"sessions": None}, {"config": [1]}, {"axes": "x"}])
def test_a_damaged_manifest_is_named(tmp_path: Path, change: dict[str, Any]):
    with create(tmp_path / "run") as folder:
        folder.add([point()])
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for use in (RunFolder.open, create):
        with pytest.raises(SemcomError, match=rf"manifest.json has no proper {next(iter(change))}"):
            use(tmp_path / "run")


def test_weights_that_are_no_numbers_are_refused():
    module = torch.nn.Linear(1, 1)
    tensors = {"weight": torch.full((1, 1), torch.nan), "bias": torch.zeros(1)}
    with pytest.raises(SemcomError, match="the checkpoint: tensor weight holds NaN or infinity"):
        load_into(module, tensors, "the checkpoint")


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    with pytest.raises(SemcomError, match=r"can't be written .*No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"


def test_the_manifest_names_what_a_run_reads_by_its_content(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("abc")
    other.write_text("")
    # The SHA-256 of "abc" and of nothing, from FIPS 180-2's examples and every sha256sum.
    known = {
        str(one): "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        str(other): "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
    create(tmp_path / "run", inputs=[one]).close()
    with create(tmp_path / "run", inputs=[one, other]) as folder:
        assert folder.manifest["inputs"] == known
        folder.add([point()])
    one.write_text("abd")
    before = contents(tmp_path / "run")
    with pytest.raises(SemcomError, match=r"holds a run on another .*one "):
        create(tmp_path / "run", inputs=[one])
    with pytest.raises(SemcomError, match="missing can't be read"):
        create(tmp_path / "run", inputs=[tmp_path / "missing"])
    assert contents(tmp_path / "run") == before
    create(tmp_path / "run", inputs=[other]).close()  # and who reads nothing new may go on
