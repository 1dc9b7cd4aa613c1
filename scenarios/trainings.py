"""Trainings side by side: which jobs, by modes and the values of settings, and what becomes of their logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from analysis import figures
from analysis.drift import drift_figure
from analysis.trainings import setting_text, training_figure, training_table
from nodes.training.collaboration import MODES, check_collaboration
from scenarios.contracts import Scenario, TrainingJob
from scenarios.settings import sweep_cells
from semcom.contracts import SemcomError
from semcom.records import RunFolder

_OF_ALL_MODES = "collaboration."


def parse_modes(text: str) -> list[str]:
    """Reads modes that commas separate. Raises SemcomError for one that there isn't, or given twice."""
    modes = [mode.strip() for mode in text.split(",")]
    for index, mode in enumerate(modes):
        if mode not in MODES:
            raise SemcomError(f"unknown mode {mode}: choose from {', '.join(MODES)}")
        if mode in modes[:index]:
            raise SemcomError(f"mode {mode} is given twice: keep one of them")
    return modes


def plan_trainings(
    scenario: Scenario,
    config: BaseModel,
    axes: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    modes: Sequence[str],
) -> list[TrainingJob]:
    """Lists the jobs of every combination of modes, axes' values and seeds, each once.

    With one mode and no axes, all models that the mode trains. Otherwise, so that like is compared with like,
    the JEPA alone, which every mode trains; a job names the values of those axes that it depends on. The
    JEPA's central training is counted. Raises SemcomError for the first combination that is refused.
    """
    is_compared = len(modes) > 1 or bool(axes)
    jobs: dict[str, TrainingJob] = {}
    for coordinates, cell in sweep_cells(config, axes):
        for mode in modes:
            setting = setting_text({key: value for key, value in coordinates.items() if _matters(key, mode)})
            for seed in seeds:
                listed = scenario.training_jobs(cell, seed, mode)
                own = _jepa_job(scenario, cell, listed)
                if own is not None and mode == "central":
                    collaboration = getattr(cell, "collaboration", None)
                    if collaboration is not None:
                        check_collaboration(collaboration, mode, is_counted=True)
                for job in [own] if is_compared else listed:
                    if job is None:
                        raise SemcomError(
                            f"{scenario.name} has no JEPA to train in mode {mode} with these settings: "
                            "modes and axes compare trainings of the JEPA"
                        )
                    told = replace(job, setting=setting, is_counted=job is own and mode == "central")
                    jobs.setdefault(job.key, told)
    return list(jobs.values())


def _jepa_job(scenario: Scenario, config: BaseModel, jobs: Sequence[TrainingJob]) -> TrainingJob | None:
    """The job of the JEPA with this very configuration: results may ask for others with another one."""
    named = [job for job in jobs if job.model == scenario.jepa and job.config == config]
    return named[0] if named else None


def _matters(key: str, mode: str) -> bool:
    """Whether a training in this mode depends on a setting."""
    if not key.startswith(_OF_ALL_MODES):
        return True
    part = key.removeprefix(_OF_ALL_MODES)
    if mode == "central":
        # What the radio costs is counted once, for the first.
        return part.startswith("central.raw")
    return part.partition(".")[0] not in {*MODES} - {mode}


def uncounted(jobs: Sequence[TrainingJob], folder: RunFolder) -> list[str]:
    """Says which jobs were trained before without what they cost: a line for each."""
    rows = folder.trainings
    counted = set(rows.loc[rows["stage"] == "account", "key"]) if "stage" in rows else set()
    return [
        f"{job.model}, seed {job.seed}: it was trained by `semcom run`, which doesn't count bits: "
        f"delete {folder.checkpoint_path(job.model, job.key)} to count them, or give another --out"
        for job in jobs
        if job.is_counted and folder.has_checkpoint(job.model, job.key) and job.key not in counted
    ]


def draw_trainings(folder: RunFolder, target: Path) -> list[Path]:
    """Draws the score of trainings against their bits, and how far clients drift; those that there are."""
    rows = folder.trainings
    drawn = {"training_bits": training_figure(rows), "training_drift": drift_figure(rows)}
    return [
        path
        for name, figure in drawn.items()
        if figure is not None
        for path in figures.save(figure, target, name)
    ]


def tabulate_trainings(folder: RunFolder) -> list[tuple[str, pd.DataFrame]]:
    """The table of trainings by mode and setting, if any were accounted for."""
    table = training_table(folder.trainings)
    title = "trainings: mean and 95 % interval over seeds"
    return [(title, table)] if len(table) else []
