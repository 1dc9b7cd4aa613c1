"""The kinds of reports that sub-arrays send: what is made of a patch, and a patch of what arrives."""

from __future__ import annotations

from dataclasses import dataclass

from scenarios.elaa.local_wave import NUM_OF_WAVE, embed_wave, rebuild_wave
from scenarios.elaa.methods import Embed, Rebuild, raw_csi, raw_values


@dataclass(frozen=True)
class Report:
    """How a report is made, and read; of m elements it has num_alone + 2 m numbers."""

    embed: Embed
    rebuild: Rebuild
    num_alone: int

    def dim(self, subarray_size: int) -> int:
        """How many numbers a report has."""
        return self.num_alone + 2 * subarray_size


_RAW = Report(raw_csi, raw_values, 0)
_WAVE = Report(embed_wave, rebuild_wave, NUM_OF_WAVE)


def report_of(method: str) -> Report:
    """The kind of report that a method over the fronthaul sends."""
    return _RAW if method.startswith("raw-") else _WAVE
