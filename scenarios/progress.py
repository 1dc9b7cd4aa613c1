"""How far the stages of a command are, shown while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

SECONDS_BETWEEN_LINES = 15.0


class Progress(Protocol):
    """Shows how far a stage of `total` items is; the stage yields a function that counts n more.

    warn: for what a training logged in its rows under "warning".
    """

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]: ...

    def warn(self, text: str) -> None: ...


class BarProgress:
    """A progress bar, for a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows one stage as a bar with the time spent and the time left."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=total)
            yield partial(bars.advance, task)

    def warn(self, text: str) -> None:
        """Writes a warning above the bars."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)


class LineProgress:
    """A line now and then, for logs and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Writes a line at the start, at the end, and in between at most every 15 seconds."""
        count, last = 0, time.monotonic()

        def advance(num: int) -> None:
            nonlocal count, last
            count += num
            if count == total or time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                self.write(f"{name}: {count}/{total}")

        self.write(f"{name}: 0/{total}")
        yield advance

    def warn(self, text: str) -> None:
        """Writes a warning."""
        self.write(f"warning: {text}")
