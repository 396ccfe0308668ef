"""Progress of a training on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from robustcli.results.schema import EpochRecord, EvaluationRecord
    from robustcli.training.state import Place

LINE_EVERY = 10.0
"""Seconds between two lines of progress where no terminal can show a bar."""


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Progress on stderr: a bar with the time left on a terminal, now and then a line elsewhere."""

    def __init__(self, console: Console, epochs: int, verbose: bool, stages: int = 1) -> None:
        self.console, self.verbose, self.stages = console, verbose, stages
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self.epochs, self.tested = epochs, ""
        self.task: Any = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """One sentence for the user."""
        self.console.print(text, soft_wrap=True, markup=False)

    def step(self, done: int, total: int, place: Place) -> None:
        """Move the bar."""
        if self.task is None:
            self.task = self.bar.add_task("", total=total, completed=done - 1, words="")
            self.bar.start()
        loss = place.sums.loss / max(place.sums.points, 1)
        epoch = f"epoch {place.epoch}/{self.epochs}"
        if self.stages > 1:
            epoch = f"stage {1 + (place.epoch - 1) * self.stages // self.epochs}/{self.stages} {epoch}"
        self.bar.update(self.task, completed=done, description=epoch, words=f"loss {loss:.4f}{self.tested}")

    def epoch(self, record: EpochRecord, epochs: int) -> None:
        """Note the epoch's figures; print them where wanted."""
        error = record.test_error
        self.tested = "" if error is None else f"  test {100 * error:.2f} %"
        if record.certified_error:
            name, value = list(record.certified_error.items())[-1]
            self.tested += f"  held out: {name} {100 * value:.1f} % open"
        due = not self.console.is_terminal and time.monotonic() - self.last_line >= LINE_EVERY
        if not (self.verbose or due or (record.epoch == epochs and not self.console.is_terminal)):
            return
        self.last_line = time.monotonic()
        parts = "".join(f"  {name} {value:.4g}" for name, value in record.parts.items())
        self.note(
            f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}{parts}  train {100 * record.train_error:.2f} %"
            f"{self.tested}  lr {record.learning_rate:g}  {record.seconds:.1f} s"
        )

    def evaluating(self, epoch: int, done: int, total: int) -> None:
        """Say so beside the bar, which stands still meanwhile."""
        if self.task is not None:
            self.bar.update(self.task, description=f"epoch {epoch}/{self.epochs}", words=f"evaluated {done}/{total}")

    def evaluated(self, record: EvaluationRecord, epochs: int) -> None:
        """Print the bounds; at most 80 columns."""
        words = "".join(f"  {norm} {100 * upper:.1f} %" for norm, upper in record.upper.items())
        self.note(f"epoch {record.epoch}  KW bound{words}  {duration(record.seconds)}")
