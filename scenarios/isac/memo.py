"""What was computed before, within bounds: the same frames pass a codec in one cell after the other."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Memo(Generic[Answer]):
    """Answers to the last `num_kept` different questions; what was asked longest ago is forgotten first.

    Questions are kept as hashes of 16 bytes. A pickled copy knows none.
    """

    def __init__(self, num_kept: int) -> None:
        self.num_kept = num_kept
        self._answers: dict[bytes, Answer] = {}

    def __reduce__(self) -> tuple[type[Memo[Answer]], tuple[int]]:
        return Memo, (self.num_kept,)

    def answer(self, question: bytes, compute: Callable[[], Answer]) -> Answer:
        """Returns what `compute` returned when the same was asked before, and else calls it."""
        key = blake2b(question, digest_size=16).digest()
        # Taken out and put in again: a dict's order is then that of the last use.
        found = self._answers.pop(key) if key in self._answers else compute()
        self._answers[key] = found
        if len(self._answers) > self.num_kept:
            del self._answers[next(iter(self._answers))]
        return found
