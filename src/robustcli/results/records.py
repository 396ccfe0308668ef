"""The report for machines: csv with a line a row, and one JSON document."""

from __future__ import annotations

import csv
import io

from robustcli.norms import NORMS
from robustcli.results.collect import Report
from robustcli.results.perturbations import DistanceRow
from robustcli.results.rows import Row
from robustcli.results.scores import UNION

PLAIN = (
    "kind", "name", "recipe", "seed", "seeds", "model", "dataset", "partial", "boxed", "points", "range",
    "test_error", "test_error_range", "test_error_here",
)  # fmt: skip
FIGURES = (
    "mean_lower",
    "mean_upper",
    "median_lower",
    "median_upper",
    "mean_lower_all",
    "mean_upper_all",
    "share_exact",
)


def json_text(report: Report) -> str:
    """The whole report; figures that were not measured are absent or null."""
    return report.model_dump_json(by_alias=True, indent=2) + "\n"


def csv_text(report: Report) -> str:
    """One line a row, fractions in [0, 1]; `distance` lines carry the smallest perturbations. Not measured: empty."""
    lines = [_errors(row) for row in report.rows] + [_distances(row) for row in report.distances]
    norms = sorted({norm for row in report.distances for norm in row.norms}, key=lambda norm: (norm not in NORMS, norm))
    heads = [
        *PLAIN,
        *(f"eps_{norm}" for norm in NORMS),
        *(f"{norm}_{end}" for norm in (*NORMS, UNION) for end in ("lower", "upper")),
        *(f"distance_{norm}_{figure}" for norm in norms for figure in FIGURES),
        *dict.fromkeys(key for line in lines for key in line if key.startswith("distance_") and key.endswith("_mean")),
        "notes",
    ]
    canvas = io.StringIO()
    writer = csv.DictWriter(canvas, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return canvas.getvalue()


def _errors(row: Row) -> dict[str, object]:
    return {
        **{key: getattr(row, key) for key in PLAIN},
        **{f"eps_{norm}": eps for norm, eps in row.eps.items()},
        **{f"{norm}_lower": value for norm, value in row.lower.items()},
        **{f"{norm}_upper": value for norm, value in row.upper.items()},
        "notes": "; ".join(row.notes),
    }


def _distances(row: DistanceRow) -> dict[str, object]:
    return {
        "kind": "distance",
        **{key: getattr(row, key) for key in PLAIN if hasattr(row, key)},
        **{
            f"distance_{norm}_{figure}": figures[figure]
            for norm, figures in row.norms.items()
            for figure in FIGURES
            if figure in figures
        },
        **{
            f"distance_{norm}_{method}_mean": figures["mean"]
            for norm, methods in row.methods.items()
            for method, figures in methods.items()
            if "mean" in figures
        },
    }
