"""What long work will take, told before it begins."""

from __future__ import annotations

import math
import statistics

from robustcli.evaluation.cascade import Budget, State, unstable
from robustcli.networks.network import Network

NUMBER = 8 + 4  # bytes: forms are kept in float64 and in float32
WORKING = 64 * 2**20  # bytes of one batch of domains


class Forecast:
    """Counts the points that quick bounds leave open.

    Args:
        network: that is verified.
        budget: with the limits per point.
    """

    def __init__(self, network: Network, budget: Budget) -> None:
        self.inputs, self.budget = math.prod(network.input_shape), budget
        self.neurons: list[int] = []

    def add(self, state: State) -> None:
        """More open points."""
        self.neurons += unstable(state)

    @property
    def memory(self) -> int:
        """Bytes for the point with most undecided neurons: each is a form in the inputs and in the others."""
        most = max(self.neurons, default=0)
        return NUMBER * most * (most + self.inputs) + WORKING

    def __str__(self) -> str:
        count, limit = len(self.neurons), self.budget.time_limit
        if not count:
            return "forecast: the quick bounds decide every point"
        nodes = f"until {self.budget.max_nodes} nodes each" if self.budget.max_nodes else "without limit"
        time = nodes if limit is None else f"at most {count} x {limit:g} s = {duration(count * limit)}"
        return (
            f"forecast: {count} point{'s' * (count > 1)} open, {statistics.fmean(self.neurons):.0f} undecided neurons "
            f"each (at most {max(self.neurons)}); about {self.memory / 2**20:.0f} MB, {time}"
        )


def duration(seconds: float) -> str:
    """Rounded for reading: 45 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
