"""One alarm of several scores: what is surprising about a sensor, each score in terms of probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import torch

COMBINED = {"energy": 0.5, "novelty": 0.5, "repeats": 3.0, "swap": 0.25}
"""What a unit of surprise of each score counts, as validation data with injected faults chose it."""

Scores = Mapping[str, torch.Tensor]


def combined(calm: Scores, scores: Scores) -> torch.Tensor:
    """Returns max(w_e u(energy) + w_n u(novelty), w_r repeats, w_s swap), w = COMBINED, u = surprise.

    calm and scores: by name, of any shape; of calm sequences the first two alone are looked at. Repeats and
    swap are logs of probabilities already, and are not ranked: they last for steps, so that the highest of a
    few hundred calm steps are those of one or two sequences.
    """
    odd = sum(COMBINED[name] * surprise(calm[name], scores[name]) for name in ("energy", "novelty"))
    assert isinstance(odd, torch.Tensor)
    told = (COMBINED[name] * scores[name] for name in ("repeats", "swap"))
    return torch.stack((odd, *told)).amax(dim=0)


def calm_combined(calm: Scores) -> torch.Tensor:
    """The same of calm sequences, [U, T], to set the threshold by: each is judged among the others."""
    num = len(next(iter(calm.values())))
    parts = []
    for number in range(num):
        others = torch.arange(num) != number
        reference, judged = (
            {name: score[rows] for name, score in calm.items()} for rows in (others, ~others)
        )
        parts.append(combined(reference, judged))
    return torch.cat(parts)


def surprise(calm: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Returns the p-value of scores among calm ones as -log p, in the shape of the scores.

    p = (1 + number of calm scores that are at least as large) / (1 + number of calm scores). Scores above all
    calm ones go on as the tail of an exponential density would, by (s - largest) / mean excess of the highest
    tenth over the others; they would be tied else.
    """
    reference = calm.flatten().sort().values
    num_above = len(reference) - torch.searchsorted(reference, score.contiguous())
    p_value = (num_above + 1) / (len(reference) + 1)
    num_tail = max(1, len(reference) // 10)
    excess = (reference[-num_tail:] - reference[-num_tail - 1]).mean().clamp_min(1e-6)
    return (score - reference[-1]).clamp_min(0) / excess - p_value.log()
