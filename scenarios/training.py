"""Trains the jobs of a command, those that have no checkpoint yet, each in its mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.process import one_thread
from nodes.training.collaboration import account, make_trainer
from nodes.training.federated import Federated
from nodes.training.groups import train_in_groups
from nodes.training.personal import merge, train_each
from scenarios.contracts import Scenario, Trained, TrainingJob
from scenarios.progress import Progress
from semcom.records import RunFolder
from semcom.train import Central

if TYPE_CHECKING:
    import torch

    from nodes.cluster import Cluster


@dataclass(frozen=True)
class Beside:
    """What workers do when no training waits for one: jobs, each of so many points, and where results go."""

    jobs: Sequence[Callable[[], Any]]
    num_points: Sequence[int]
    done: Callable[[int, Any], None]


_NOTHING = Beside((), (), lambda index, result: None)


def train_missing(
    scenario: Scenario,
    jobs: Sequence[TrainingJob],
    cluster: Cluster,
    folder: RunFolder,
    progress: Progress,
    beside: Beside = _NOTHING,
) -> dict[str, Mapping[str, torch.Tensor]]:
    """Trains the jobs that have no checkpoint, and returns the tensors of all, by key, from disk.

    Reading them back makes a resumed run compute with the very same numbers as an uninterrupted one. Nothing
    is done beside where nothing is trained.
    """
    by_key = {job.key: job for job in jobs}
    missing = [job for job in by_key.values() if not folder.has_checkpoint(job.model, job.key)]
    if missing:
        name = "training and simulating" if beside.jobs else "training"
        with progress.stage(name, len(missing) + sum(beside.num_points)) as advance:

            def save(index: int, trained: Trained) -> None:
                job = missing[index]
                folder.save_training(
                    job.model, job.key, job.seed, trained.tensors, trained.log, job.mode, job.setting
                )
                for row in trained.log:
                    if text := row.get("warning"):
                        progress.warn(f"{job.model}, seed {job.seed}: {text}")
                advance(1)

            def scratch(index: int) -> Path:
                return folder.scratch_path(missing[index].model, missing[index].key)

            spread = [index for index in range(len(missing)) if is_spread(missing[index], cluster)]
            whole = [index for index in range(len(missing)) if index not in spread]
            # The workers of a cluster that was joined may not see this folder.
            places = [scratch(index) if cluster.address is None else None for index in whole]
            calls: list[Callable[[], Any]] = [
                partial(train_job, scenario, missing[index], place)
                for index, place in zip(whole, places, strict=True)
            ]

            def take(at: int, result: Any) -> None:
                if at < len(whole):
                    save(whole[at], result)
                    return
                beside.done(at - len(whole), result)
                advance(beside.num_points[at - len(whole)])

            cluster.map(_call, [*calls, *beside.jobs], take)
            for index in spread:
                with one_thread():
                    trained = train_job(scenario, missing[index], scratch(index), cluster)
                save(index, trained)
    return {key: folder.load_checkpoint(job.model, key) for key, job in by_key.items()}


def is_spread(job: TrainingJob, cluster: Cluster) -> bool:
    """Whether a job is led from here, its clients in groups on the cluster's actors: one such job at a time.

    All others run whole, as many at once as there are workers: those too whose clients each run a training of
    their own.
    """
    collaboration = getattr(job.config, "collaboration", None)
    if job.mode != "federated" or collaboration is None or cluster.num_workers == 0:
        return False
    return not collaboration.federated.is_personal


def train_job(
    scenario: Scenario, job: TrainingJob, scratch: Path | None, cluster: Cluster | None = None
) -> Trained:
    """Trains one model in the job's mode; the log ends with the account of what that cost, if it is kept.

    Where clients end with models of their own, all are in the result: see nodes.training.personal.

    scratch: an existing folder of this job alone. What a training that is stopped leaves there, the same job
    finds again, and goes on from it to the same result. None: there is no such place. cluster: on which the
    clients of a job that is_spread are trained, if not here, to the same result.
    """
    collaboration = getattr(job.config, "collaboration", None)
    if collaboration is None:
        return scenario.train(job, Central(scratch))
    trainer = make_trainer(job.mode, collaboration, job.seed, scratch, is_counted=job.is_counted)
    program = partial(scenario.train, job)
    if isinstance(trainer, Federated) and trainer.config.is_personal:
        results = train_each(program, trainer, collaboration.num_clients)
        trained = Trained(*merge(results)) if trainer.config.sharing != "all" else results[0]
    elif isinstance(trainer, Federated) and cluster is not None and is_spread(job, cluster):
        trained = train_in_groups(program, trainer, collaboration.num_clients, cluster)
    else:
        trained = program(trainer)
    return Trained(trained.tensors, [*trained.log, *account(trainer)])


def _call(job: Callable[[], Any]) -> Any:
    return job()
