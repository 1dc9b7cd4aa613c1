"""Results from data without a time axis: charts of single snapshots, clean and noisy, whole and quantised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.charting import score_chart
from channels.csi_cache import open_cache
from scenarios.charting.config import ChartingConfig, RayTracedData
from scenarios.charting.measures import drawn_points, score_records
from scenarios.charting.snapshot import SnapshotConfig, Snapshots, observe
from scenarios.charting.snapshot_baselines import snapshot_baseline
from scenarios.charting.snapshot_training import SnapshotModel, train_snapshot
from scenarios.charting.sources import load_dataset
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.recorded import content_hash
from semcom.codecs.catalogue import make_codec
from semcom.codecs.names import codec_config
from semcom.contracts import FittedCodec, Record, SemcomError
from semcom.records import load_into
from semcom.rng import Streams

_UNCODED = "none"


def observation_name(config: SnapshotConfig) -> str:
    """Names an observation as records do: clean, or 0 dB x 10."""
    return "clean" if config.snr_db is None else f"{config.snr_db:g} dB x {config.num_averages}"


def _observations(config: ChartingConfig) -> dict[str, SnapshotConfig]:
    told = config.snapshot
    found = [
        SnapshotConfig(snr_db=snr_db, num_averages=told.num_averages)
        for snr_db in ((None,) if told.clean else ()) + told.snr_db
    ]
    return {observation_name(each): each for each in found}


def snapshot_job(config: ChartingConfig, observation: str, seed: int) -> TrainingJob:
    """Makes the job that trains the JEPA of single snapshots; the model's name tells the observation."""
    version = (
        open_cache(config.data.scene, seed).name
        if isinstance(config.data, RayTracedData)
        else content_hash(config.data.path)
    )
    told = {
        "trains": f"snapshot {observation}",
        "training": config.snapshot.training.model_dump(mode="json"),
        "file": version,
        "seed": seed,
        "version": 1,
    }
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    return TrainingJob("w-jepa-" + observation.replace(" ", "-"), seed, key, config)


def snapshot_jobs(config: ChartingConfig, seed: int) -> list[TrainingJob]:
    """Lists the trainings, one for each observation. Raises SemcomError as check_snapshots does."""
    check_snapshots(config)
    return [snapshot_job(config, name, seed) for name in _observations(config)]


def check_snapshots(config: ChartingConfig) -> None:
    """Raises SemcomError unless the data are of one linear array of one polarisation, as views assume."""
    if isinstance(config.data, RayTracedData):
        scene = config.data.scene
        num_arrays, num_rows, crossed = scene.num_arrays, scene.num_rows, scene.polarisation == "cross"
        told = "set data.scene.num_arrays = 1, data.scene.num_rows = 1 and data.scene.polarisation = V"
    else:
        dataset = load_dataset(config, 0)
        num_arrays, num_rows, crossed = dataset.csi.shape[1], dataset.num_rows, False
        told = f"store csi as [positions, antennas, subcarriers] in {config.data.path}, or time_s with it"
    if num_arrays > 1 or num_rows > 1 or crossed:
        raise SemcomError(
            "data without a time axis are charted as single snapshots of one linear array, these are of "
            f"{num_arrays} with {num_rows} rows and {2 if crossed else 1} polarisations: {told}"
        )


def _snapshots(config: ChartingConfig, observation: str, seed: int) -> Snapshots:
    csi = torch.from_numpy(load_dataset(config, seed).csi)
    return observe(csi, _observations(config)[observation], seed)


def train_snapshot_job(job: TrainingJob) -> Trained:
    """Trains the JEPA of single snapshots."""
    config = job.config
    assert isinstance(config, ChartingConfig)
    (observation,) = (
        name for name in _observations(config) if snapshot_job(config, name, job.seed).key == job.key
    )
    snapshots = _snapshots(config, observation, job.seed)
    model, log = train_snapshot(snapshots, job.seed, config.snapshot.training)
    return Trained(model.state_dict(), log)


def snapshot_points(config: ChartingConfig, seeds: Sequence[int]) -> list[Point]:
    """Lists the points: every method for each observation, and w-jepa by each codec.

    Raises SemcomError as check_snapshots does.
    """
    check_snapshots(config)
    listed: list[tuple[str, dict[str, float | int | str]]] = []
    for name in _observations(config):
        for method in config.snapshot.methods:
            codecs = (_UNCODED, *config.snapshot.codecs) if method == "w-jepa" else (_UNCODED,)
            listed += [(method, {"observation": name, "codec": codec}) for codec in codecs]
    return [Point("snapshot", method, seed, at) for method, at in listed for seed in seeds]


@dataclass(frozen=True)
class SnapshotQuestion:
    """A point, with the weights of its model where it has one."""

    config: ChartingConfig
    point: Point
    weights: Mapping[str, torch.Tensor] | None


def answer_snapshot(question: SnapshotQuestion) -> list[Record]:
    """Computes the records of one point: all positions are charted, and all are evaluated."""
    config, point = question.config, question.point
    snapshots = _snapshots(config, str(point.axes["observation"]), point.seed)
    rows: list[Record] = []
    if question.weights is None:
        chart = snapshot_baseline(point.method, snapshots, point.seed)
    else:
        model = SnapshotModel(config.snapshot.training, snapshots)
        load_into(model, question.weights, f"the checkpoint of {point.method}, seed {point.seed}")
        with torch.no_grad():
            z = model.eval().encode(snapshots.moments())
            if point.axes["codec"] != _UNCODED:
                codec = make_codec(codec_config(str(point.axes["codec"])), z.shape[1]).eval()
                if isinstance(codec, FittedCodec):
                    codec.fit(model.calibration)
                payloads = codec.encode(z)
                z = codec.decode(payloads)
                bits = 8 * sum(map(len, payloads)) / len(payloads)
                rows.append(
                    Record("charting", point.method, point.seed, "payload_bits_per_report", bits, "bit",
                           len(payloads), {})
                )  # fmt: skip
            chart = model.chart(z).double().numpy()
    position_m = load_dataset(config, point.seed).position_m[:, :2]
    # Positions that nothing joins: each may be on either side of the halves.
    generator = Streams(point.seed).numpy_generator("charting-halves")
    score = score_chart(np.asarray(chart, dtype=np.float64), position_m, generator)
    return rows + score_records(point, score) + drawn_points(point, chart, position_m)
