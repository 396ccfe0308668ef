"""How tight are the bounds? Per point and class: KW dual, CROWN, triangle LP, LP with tightened layers, exact minimum.

    python scripts/lp_tightness.py --recipe digits-fc-kw-linf --points 50 --exact 10 --out tightness

The study of 003, figure 11 and appendix B, with more rungs on the ladder. Dual, CROWN and LP stand on the same hidden
bounds, the dual's; `LP, tight layers` on those that linear programs tighten. Exact minima (linf only) come from a MIP
solver, up to its tolerances, where it finishes in time. Also counted: units that the bounds settle (figure 10), and the
indicators d and r of 004. Writes `tightness.json`, and `tightness.png` where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins
from robustcli.bounds.dual import dual
from robustcli.bounds.indicators import IndexSets, tightness
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.errors import RobustError
from robustcli.evaluation.session import Selection, Session, open_session
from robustcli.mip.encoding import encode
from robustcli.mip.formulations import FORMULATIONS, choose, objective
from robustcli.mip.solver import candidates
from robustcli.mip.triangle import tighten, triangle
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import any_exponent

LADDER = ("KW dual", "CROWN", "LP", "LP, tight layers", "exact")


def minima(network: Network, ball: Ball, rows: Tensor, layers: list[Bounds], seconds: float) -> list[float]:
    """Exact minima of the margins over an linf ball, NaN where the solver does not finish in `seconds`, [T]."""
    encoding = encode(network, ball, layers, rows[0]).in_units()
    solver, formulation = choose(encoding, candidates())
    problem = FORMULATIONS[formulation][0](encoding)
    found = []
    for target in range(rows.shape[1]):
        asked = objective(problem, encoding, target)
        outcome = solver.minimise(asked, seconds=seconds, stop_below=-math.inf, stop_above=math.inf)
        found.append(outcome.bound if outcome.status == "optimal" else math.nan)
    return found


def study(network: Network, ball: Ball, label: Tensor, exact: float) -> dict[str, Any]:
    """All rungs for one point: lower bounds on every margin, and the seconds they took."""
    rows, targets = margin_rows(label, network.classes, torch.float64)
    margins: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}

    def rung(name: str, bounds: Callable[[], list[float]]) -> None:
        start = time.perf_counter()
        margins[name] = bounds()
        seconds[name] = round(time.perf_counter() - start, 4)

    start = time.perf_counter()
    first = dual(network, ball, rows)
    margins["KW dual"], seconds["KW dual"] = first.margins[0].tolist(), round(time.perf_counter() - start, 4)
    layers = first.layers
    rung("CROWN", lambda: backward_margins(network, ball, rows, layers, adaptive)[0].tolist())
    rung("LP", lambda: triangle(network, ball, rows, layers).margins.tolist())
    tight: list[Bounds] = []

    def tightened() -> list[float]:
        tight.extend(tighten(network, ball, layers))
        return triangle(network, ball, rows, tight).margins.tolist()

    rung("LP, tight layers", tightened)
    if exact > 0 and math.isinf(ball.p):
        rung("exact", lambda: minima(network, ball, rows, tight, exact))
    sets, indicators = IndexSets.of(layers), tightness(network, ball, rows, first)
    return {
        "targets": targets[0].tolist(),
        "margins": margins,
        "seconds": seconds,
        "active": sets.active[0].tolist(),
        "inactive": sets.inactive[0].tolist(),
        "unstable": sets.unstable[0].tolist(),
        "d": indicators.gap[0].tolist(),
        "r": indicators.distance[0].tolist(),
    }


def summary(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over points and classes: each rung's distance to the best one known, points it proves, seconds a point."""
    names = [name for name in LADDER if any(name in point["margins"] for point in points)]
    table = {
        name: torch.tensor([point["margins"].get(name, [math.nan] * len(point["targets"])) for point in points])
        for name in names
    }
    best = torch.stack([values.nan_to_num(-math.inf) for values in table.values()]).amax(0)

    def rung(name: str, values: Tensor) -> dict[str, Any]:
        finished = values.isfinite()
        gaps = (best - values)[finished]
        return {
            "mean_gap": float(gaps.mean()) if len(gaps) else None,
            "largest_gap": float(gaps.max()) if len(gaps) else None,
            "finished": len(gaps) / values.numel(),
            "robust": int((values > 0).all(1).sum()),
            "mean_seconds": sum(point["seconds"].get(name, 0.0) for point in points) / len(points),
        }

    return {name: rung(name, values) for name, values in table.items()} | {
        "mean_units": {
            kind: torch.tensor([point[kind] for point in points], dtype=torch.float64).mean(0).tolist()
            for kind in ("active", "inactive", "unstable")
        },
        "mean_d": float(torch.tensor([point["d"] for point in points]).mean()),
        "mean_r": float(torch.tensor([point["r"] for point in points]).mean()),
    }


def plot(points: list[dict[str, Any]], path: Path, title: str) -> bool:
    """Lower bounds on the margins of all points and classes, sorted by the LP's; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = [(point, t) for point in points for t in range(len(point["targets"]))]
    pairs.sort(key=lambda pair: pair[0]["margins"]["LP"][pair[1]])
    figure, (levels, gaps) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    program = [point["margins"]["LP"][t] for point, t in pairs]
    for name, colour in zip(LADDER, ("#c44e52", "#dd8452", "#4c72b0", "#55a868", "#222222"), strict=True):
        values = [point["margins"].get(name, [math.nan] * len(point["targets"]))[t] for point, t in pairs]
        if any(math.isfinite(value) for value in values):
            levels.plot(values, ".", markersize=3, color=colour, label=name)
            differences = [value - middle for value, middle in zip(values, program, strict=True)]
            gaps.plot(differences, ".", markersize=3, color=colour)
    levels.axhline(0, color="grey", linewidth=0.6)
    levels.set(xlabel="linear program", ylabel="lower bound on the margin", title=title)
    gaps.set(xlabel="linear program", ylabel="lower bound minus the LP's", title="differences")
    levels.legend(frameon=False, markerscale=3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True


def plain(value: Any) -> Any:
    """JSON knows finite numbers only: what did not finish is null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--norm", default="linf", choices=["linf", "l1"])
    parser.add_argument("--eps", help="default: the recipe's")
    parser.add_argument("--no-box", action="store_true")
    parser.add_argument("--points", default="50", help="the first N test points; misclassified ones are left out")
    parser.add_argument("--exact", type=float, default=0.0, metavar="SECONDS", help="for each exact minimum; 0: none")
    parser.add_argument("--out", type=Path, default=Path("tightness"))
    return parser.parse_args()


def asked(session: Session, norm: str) -> tuple[Ball, Tensor]:
    """The balls around the correctly classified points, and their labels."""
    index = torch.tensor(session.indices)
    points, labels = session.data.points(index).double(), session.data.labels_tensor(index)
    right = session.exact(points).argmax(1) == labels
    return Ball.around(points[right], session.eps(norm), any_exponent(norm), session.box()), labels[right]


@torch.no_grad()
def main() -> None:
    options = arguments()
    session = open_session(
        Selection(
            recipe=options.recipe,
            checkpoint=options.checkpoint,
            runs=options.runs,
            norm=options.norm,
            eps=options.eps,
            boxed=False if options.no_box else None,
            points=options.points,
            device="cpu",
        )
    )
    ball, labels = asked(session, options.norm)
    points = []
    for row in range(ball.size):
        points.append(study(session.exact, ball.take(slice(row, row + 1)), labels[row : row + 1], options.exact))
        print(f"\r{row + 1}/{ball.size}", end="", flush=True)
    print("\r", end="")
    found = summary(points)
    for name in [name for name in LADDER if name in found]:
        figures = found[name]
        gap = "      none" if figures["mean_gap"] is None else f"{figures['mean_gap']:10.4f}"
        print(
            f"{name:16s}  mean gap{gap} of {figures['finished']:4.0%}  robust {figures['robust']:5d} of {ball.size}  "
            f"{figures['mean_seconds']:8.3f} s a point"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    document = {
        "network": session.source,
        "norm": options.norm,
        "eps": session.eps(options.norm),
        "boxed": session.box() is not None,
        "summary": found,
        "points": points,
    }
    (options.out / "tightness.json").write_text(json.dumps(plain(document), indent=1) + "\n")
    title = f"{session.exact.name}, {options.norm} {session.eps(options.norm):g}"
    if not plot(points, options.out / "tightness.png", title):
        print("no plot: matplotlib is not installed")


if __name__ == "__main__":
    try:
        main()
    except RobustError as error:
        raise SystemExit(f"error: {error}") from error
