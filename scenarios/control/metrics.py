"""The control scenario's metrics: from what a cell counted and did to records."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from channels.catalogue import uses_a_channel
from channels.downlink import DownlinkConfig, NoDownlinkConfig, needs_a_channel
from nodes.contracts import CellOutcome
from nodes.downlink import DOWNLINK_COUNTERS
from scenarios.contracts import Point
from scenarios.control.cells import Setting
from scenarios.control.config import ControlConfig
from semcom.contracts import Record

SUPPORTED_SCORE = 0.74
"""A device is supported when its control score is at least this (Girgis et al., arXiv 2406.04853)."""


def make_records(
    config: ControlConfig,
    point: Point,
    setting: Setting,
    outcome: CellOutcome,
) -> list[Record]:
    """Makes the records of one point: the command's error by age for `horizon`, else score and bits."""
    count, world = outcome.counters, outcome.world
    num, num_steps = len(world["alive"]), config.evaluation.num_steps
    step_ms = 1e3 * config.plant.step_s

    def record(metric: str, value: float, unit: str, num_samples: int = num, **axes: float) -> Record:
        return Record(
            "control", point.method, point.seed, metric, float(value), unit, num_samples, dict(axes)
        )

    if point.result == "horizon":
        errors = nmae_by_age(world, setting.interval_steps)
        num_alive = int(world["alive"].sum())
        return [
            record("nmae", value, "1", num_alive, horizon_ms=step_ms * age)
            for age, value in enumerate(errors)
        ]
    score = world["in_band"].mean(axis=1)
    sent = max(1, int(count["packets_sent"].sum()))
    header, payload = int(count["header_bits"].sum()), int(count["payload_bits"].sum())
    padding = int(count["padding_bits"].sum())
    records = [
        record("control_score", score.mean(), "1"),
        record("survival", world["alive"].mean(), "1"),
        record("uplink_bits_per_step", (header + payload) / num / num_steps, "bit"),
        record("packet_bits", (header + payload) / sent, "bit"),
        record("header_bits", header / sent, "bit"),
        record("payload_bits", payload / sent, "bit"),
        record("entropy_bits", count["entropy_bits"].sum() / max(1, count["packets_delivered"].sum()), "bit"),
        record("padding_bits", padding / sent, "bit"),
        record("transport_block_bits", (header + payload + padding) / sent, "bit"),
        record("packets_per_step", count["packets_sent"].sum() / num / num_steps, "1"),
        # Of no packets there is no loss.
        record("packet_loss", 1 - count["packets_delivered"].sum() / sent, "1")
        if count["packets_sent"].any()
        else record("packet_loss", math.nan, "1", 0),
        record("packets_unsent", count["packets_offered"].sum() - count["packets_sent"].sum(), "1"),
        record("packets_refused", count["packets_refused"].sum(), "1"),
    ]
    if uses_a_channel(setting.link):
        uses, camera = count["channel_uses"].sum() / sent, config.camera
        numbers = 2 * camera.num_colors * camera.height_px * camera.width_px
        records += [
            record("channel_uses", uses, "1"),
            record("bandwidth_ratio", uses / numbers, "1"),
            record("supported_devices", (score >= SUPPORTED_SCORE).sum(), "1"),
            record("age_of_information", step_ms * count["age_steps"].mean() / num_steps, "ms"),
            record("channel_uses_per_step", count["channel_uses"].sum() / num / num_steps, "1"),
            record("airtime_per_step", count["airtime_s"].sum() / num / num_steps, "s"),
            record("energy_per_step", count["energy_j"].sum() / num / num_steps, "J"),
        ]
    records += [record(*row) for row in _downlink_rows(setting.downlink, count, num * num_steps)]
    return records


def _downlink_rows(
    downlink: DownlinkConfig, count: Mapping[str, np.ndarray], device_steps: int
) -> list[tuple[str, float, str]]:
    """Metric, value and unit of what the commands took, if they went over a link at all."""
    if isinstance(downlink.link, NoDownlinkConfig):
        return []
    total = {name: float(count[name].sum()) for name in DOWNLINK_COUNTERS}
    sent = max(1.0, total["downlink_packets_sent"])
    bits = total["downlink_header_bits"] + total["downlink_payload_bits"]
    unsent = total["downlink_packets_offered"] - total["downlink_packets_sent"]
    rows = [
        ("downlink_bits_per_step", bits / device_steps, "bit"),
        ("downlink_packets_per_step", total["downlink_packets_sent"] / device_steps, "1"),
        ("downlink_packet_loss", total["downlink_packets_lost"] / sent, "1"),
        ("downlink_packets_unsent", unsent, "1"),
        ("downlink_padding_bits", total["downlink_padding_bits"] / sent, "bit"),
        ("stale_commands", total["downlink_stale_steps"] / device_steps, "1"),
    ]
    if needs_a_channel(downlink):
        rows += [
            ("downlink_channel_uses_per_step", total["downlink_channel_uses"] / device_steps, "1"),
            ("downlink_airtime_per_step", total["downlink_airtime_s"] / device_steps, "s"),
            ("downlink_energy_per_step", total["downlink_energy_j"] / device_steps, "J"),
        ]
    return rows


def nmae_by_age(world: Mapping[str, np.ndarray], interval_steps: int) -> np.ndarray:
    """NMAE = mean |u_hat - u| / (max u - min u) over surviving episodes, by steps since the last update.

    u is the teacher's command in the true state at that step; the range is taken over the same episodes.
    """
    alive = world["alive"]
    num_steps = world["command_n"].shape[1] // interval_steps * interval_steps
    if not alive.any() or not num_steps:
        return np.full(interval_steps, np.nan)
    command = world["command_n"][alive, :num_steps]
    teacher = world["teacher_command_n"][alive, :num_steps]
    error = np.abs(command - teacher).reshape(len(command), -1, interval_steps).mean(axis=(0, 1))
    return error / max(1e-9, float(teacher.max() - teacher.min()))
