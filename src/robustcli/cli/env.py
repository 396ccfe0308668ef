"""`robust env`: what this machine has - versions, devices, MIP solvers and their licences, data, folders."""

from __future__ import annotations

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def env(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Show versions, devices, MIP solvers with their licence limits, data sets and folders found on this machine."""
    found = survey()
    if json:
        typer.echo(jsonlib.dumps(found, indent=2))
        return
    show(found)


def survey() -> dict[str, Any]:
    """Everything `robust env` knows, as one JSON object: versions, hardware, devices, solvers, data, folders."""
    from robustcli.results import provenance

    return {
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
        "devices": devices(),
        "solvers": solvers(),
        "data": data(),
        "folders": folders(),
    }


def devices() -> list[dict[str, Any]]:
    """The CPU with torch's threads, then every CUDA device with its memory in GiB."""
    import torch

    found: list[dict[str, Any]] = [{"device": "cpu", "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        found.append({"device": f"cuda:{index}", "name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)})
    return found


def solvers() -> list[dict[str, Any]]:
    """Every known MIP solver: version, licence kind (open, full, size-limited, expired, missing), limits."""
    from robustcli.mip.solver import SOLVERS

    found = []
    for name, make in SOLVERS.items():
        solver = make()
        licence = solver.licence()
        found.append(
            {
                "name": name,
                "version": solver.version(),
                "licence": licence.kind,
                "usable": licence.usable,
                "variables": licence.variables,
                "rows": licence.rows,
                "text": licence.text,
            }
        )
    return found


def data() -> list[dict[str, Any]]:
    """Every data set by name: status, folder and rows per split."""
    from robustcli.data.checking import survey as look
    from robustcli.data.specs import names

    found = []
    for name in names():
        state = look(name)
        rows = {split: part.rows for split, part in state.splits.items()}
        found.append({"name": name, "status": state.status, "folder": state.folder, "rows": rows})
    return found


def folders() -> dict[str, str | None]:
    """Where data is searched and cached, and where runs go."""
    from robustcli.data.sources import ENVIRONMENT, cache_folder
    from robustcli.results.runs import runs_root

    return {
        "cache": str(cache_folder()),
        "data": os.environ.get(ENVIRONMENT),
        "runs": str(Path(runs_root()).absolute()),
    }


def show(found: dict[str, Any]) -> None:
    """A table of two columns; long values wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    versions = dict(found["versions"])
    commit, _, changes = (found["commit"] or "").partition("+")
    built = f" ({commit[:12]}{' with changes' if changes else ''})" if commit else ""
    table.add_row("robustcli", versions.pop("robustcli", "?") + built)
    solver_packages = ("highspy", "gurobipy")
    table.add_row("versions", ", ".join(f"{name} {v}" for name, v in versions.items() if name not in solver_packages))
    table.add_row("hardware", found["hardware"])
    for device in found["devices"]:
        if "threads" in device:
            more = f"{device['threads']} thread{'s' * (device['threads'] != 1)}"
        else:
            more = f"{device['name']}, {device['memory_gib']} GiB"
        table.add_row(device["device"], more)
    for solver in found["solvers"]:
        words = [solver["version"], f"{solver['licence']} licence" if solver["variables"] else None, solver["text"]]
        table.add_row(solver["name"], Text(", ".join(filter(None, words)), style="" if solver["usable"] else "yellow"))
    for item in found["data"]:
        table.add_row(item["name"], describe(item))
    for name, folder in found["folders"].items():
        table.add_row(f"{name} folder", folder or "-")
    Console(highlight=False).print(table)


def describe(item: dict[str, Any]) -> str:
    """One data set in words."""
    rows = ", ".join(f"{split} {count}" for split, count in item["rows"].items() if count)
    return ", ".join(filter(None, [item["status"], rows])) + (f", in {item['folder']}" if item["folder"] else "")
