"""`robust model`: the architectures, published and shipped networks, and importing other people's."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from robustcli.errors import CheckpointError, UsageError, nearest

if TYPE_CHECKING:
    from robustcli.networks.checkpoints import Checkpoint
    from robustcli.networks.importing import CleanCheck, Imported
    from robustcli.networks.network import Network

app = typer.Typer(no_args_is_help=True, help="Networks: architectures, published models, import, inspection.")

Json = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run folder. Default: the file's.")]
Out = Annotated[Path | None, typer.Option("--out", help="Checkpoint to write. Default: runs/NAME/seed-0.")]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Do not measure the clean error.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite another network at the same place.")]


def _print_json(value: Any) -> None:
    sys.stdout.write(json_text.dumps(value, indent=2) + "\n")


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


@app.command("architectures")
def architectures(
    shape: Annotated[str, typer.Option("--shape", help="Input shape that the units are counted for.")] = "1,28,28",
    json: Json = False,
) -> None:
    """The named architectures: layers, paper, hidden units."""
    from robustcli.networks.architectures import ALIASES, PATTERNS, catalogue

    rows = catalogue(_integers(shape, "--shape"))
    if json:
        _print_json({"architectures": rows, "patterns": list(PATTERNS)})
        return
    table = _table("name", "units", "layers", "paper", right=("units",))
    table.columns[0].no_wrap = True
    for row in rows:
        units = "-" if row["hidden_units"] is None else str(row["hidden_units"])
        table.add_row(row["name"], units, row["layers"], row["paper"])
    console = Console(highlight=False)
    console.print(table)
    console.print("\n16k4s2p1: convolution, 16 channels, kernel 4, stride 2, padding 1. fc100: fully")
    console.print(f"connected. 7*: seven of them. units: ReLUs for inputs {shape}.")
    console.print("Other names: " + ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items()))
    console.print("Families: " + ", ".join(PATTERNS), markup=False)


@app.command("list")
def list_models(json: Json = False) -> None:
    """Published networks that can be fetched, and trained ones that come with this program."""
    from robustcli.networks import published, shipped

    rows: list[dict[str, Any]] = []
    for item in published.PUBLISHED.values():
        state = "here" if published.local_file(item) else "fetch"
        figures = {"clean_error": item.figures.get("clean_error"), "robust_error": item.figures.get("robust_error")}
        trained = {"norm": item.norm, "eps": item.eps}
        where = {"dataset": item.dataset, "architecture": item.architecture, "licence": item.licence}
        rows.append({"name": item.name, "state": state, **where, **trained, **figures, "what": item.title})
    rows += [_shipped_row(name) for name in shipped.names()]
    if json:
        _print_json(rows)
        return
    table = _table("name", "state", "data set", "trained for", "clean", "robust", right=("clean", "robust"))
    table.columns[0].no_wrap = True
    for row in rows:
        radius = "" if row["norm"] is None or row["eps"] is None else f"{row['norm']} {row['eps']:g}"
        errors = (_percent(row["clean_error"]), _percent(row["robust_error"]))
        table.add_row(row["name"], row["state"], row["dataset"] or "", radius, *errors)
    console = Console(highlight=False)
    console.print(table)
    console.print("\nfetch: published, `robust model fetch NAME` gets it. here: published, on disk.")
    console.print("shipped: part of this program. clean, robust: test error and proved bound on the")
    console.print("robust error, as printed by the authors or stored with the network.")


def _shipped_row(name: str) -> dict[str, Any]:
    from robustcli.networks import shipped
    from robustcli.networks.metadata import read_metadata

    path = shipped.find(name)
    assert path is not None
    data = read_metadata(path)
    figures = {"clean_error": data.figures.get("test_error"), "robust_error": data.figures.get("robust_error")}
    where = {"dataset": data.dataset, "architecture": data.architecture.get("name"), "licence": data.licence}
    what = f"recipe {data.recipe}" if data.recipe else "trained network"
    return {"name": name, "state": "shipped", **where, "norm": data.norm, "eps": data.eps, **figures, "what": what}


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A published network, see `robust model list`.")],
    out: Out = None,
    no_check: NoCheck = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download the authors' file (official address, pinned sha256), check it, and import it as a finished run."""
    from robustcli.networks import published
    from robustcli.networks.importing import import_network

    item = published.published(name)
    notes = Console(stderr=True, quiet=quiet or json, highlight=False)
    if published.local_file(item) is None:
        notes.print(f"downloading {item.url}", soft_wrap=True)
    file, _ = published.fetch(name)
    notes.print(f"{file}: sha256 as pinned", soft_wrap=True)
    _show_import(import_network(file, out, name=name, check=not no_check, replace_other=force), json)


@app.command("import")
def import_model(
    path: Annotated[
        Path, typer.Argument(help="NAME.json or NAME.npz of a plain-array bundle, or a PyTorch state dict.")
    ],
    name: Name = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", "-a", help="For state dicts. Default: the one that fits.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Data set it was trained on.")] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Normalisation its authors put in front, per channel.")
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="As --mean: inputs become (x - mean) / std.")] = None,
    stage: Annotated[int | None, typer.Option("--stage", min=0, help="Which network of a cascade. Default: 0.")] = None,
    out: Out = None,
    no_check: NoCheck = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Store another program's network as a finished run. Nothing in the file is ever executed."""
    from robustcli.networks.importing import import_network

    if (mean is None) != (std is None):
        raise UsageError("--mean and --std belong together", "give both, one number per channel")
    normalise = None
    if mean is not None and std is not None:
        normalise = (_numbers(mean, "--mean"), _numbers(std, "--std"))
    imported = import_network(
        path,
        out,
        name=name,
        architecture=architecture,
        dataset=dataset,
        normalise=normalise,
        stage=stage,
        check=not no_check,
        replace_other=force,
    )
    _show_import(imported, json)


def _show_import(imported: Imported, json: bool) -> None:
    if json:
        document = imported.metadata.model_dump(mode="json")
        _print_json({"path": str(imported.path), "notes": list(imported.origin.notes), **document})
        return
    network, origin = imported.network, imported.origin
    console = Console(highlight=False)
    console.print(
        f"{origin.name}: {network.name}, {network.parameter_count} weights, {network.hidden_units} hidden units"
    )
    for note in origin.notes:
        console.print(note, soft_wrap=True, markup=False)
    console.print(_check_text(imported.check, origin.dataset, origin.where), soft_wrap=True)
    if origin.source:
        console.print(f"from {origin.source}, licence {origin.licence or 'not stated'}", soft_wrap=True)
    console.print(f"stored in {imported.path}", soft_wrap=True)


def _check_text(check: CleanCheck, dataset: str | None, where: str | None) -> str:
    printed = (
        f"published {_percent(check.published)} ({where})" if check.published is not None else "no published figure"
    )
    if check.measured is None:
        return f"clean error not checked: {check.reason}; {printed}"
    text = f"clean error {_percent(check.measured)} on {check.points} {dataset} test points"
    if check.partial:
        return f"{text} (not the whole split, so not compared); {printed}"
    return f"{text}; {printed}"


@app.command("show")
def show(
    which: Annotated[str, typer.Argument(metavar="PATH|RUN", help="A checkpoint, a run folder, or a run's name.")],
    json: Json = False,
) -> None:
    """The layers of a network with shapes and weights, where it comes from, its figures; checks that it is intact."""
    from robustcli.networks.checkpoints import load

    checkpoint = load(locate(which))
    if json:
        document = {"path": str(checkpoint.path), "layers": _layer_rows(checkpoint.network)}
        _print_json({**document, **checkpoint.metadata.model_dump(mode="json")})
        return
    console = Console(highlight=False)
    console.print(_layer_table(checkpoint.network))
    console.print()
    console.print(_facts(checkpoint))


def locate(which: str) -> Path:
    """The checkpoint meant by a path, a run folder, the name of a run or of a shipped network.

    Raises:
        CheckpointError: when there is none.
    """
    from robustcli.networks import shipped
    from robustcli.results.runs import RunFolder, all_runs, runs_root

    path = Path(which)
    if path.is_file():
        return path
    if path.is_dir() and RunFolder(path).finished:
        return RunFolder(path).weights
    finished = [run for run in all_runs(runs_root()) if run.finished]
    named = [run for run in finished if which in (run.name, f"{run.name}/seed-{run.seed}")]
    named += [run for run in finished if path.is_dir() and run.path.resolve().parent == path.resolve()]
    if named:
        return named[0].weights
    found = shipped.find(which)
    if found is not None:
        return found
    near = nearest(which, [*(run.name for run in finished), *shipped.names()])
    raise CheckpointError(
        f"no checkpoint, run or shipped network {which!r}",
        f"did you mean {near!r}?" if near else "robust model list names what can be had",
    )


def _layer_rows(network: Network) -> list[dict[str, Any]]:
    """One row a layer: type, sizes, output shape, number of weights."""
    rows: list[dict[str, Any]] = []
    shape = network.input_shape
    for layer in network.layers:
        shape = getattr(layer, "out_shape", shape)
        weights = sum(weight.numel() for weight in layer.parameters())
        rows.append({**_describe(layer), "output": list(shape), "weights": weights})
    return rows


def _describe(layer: Any) -> dict[str, Any]:
    return {key: value for key, value in layer.describe().items() if key not in ("in", "out")}


def _layer_table(network: Network) -> Table:
    table = _table("", "layer", "output", "weights", right=("weights", "output"))
    table.add_row("", "input", "x".join(map(str, network.input_shape)), "")
    for number, row in enumerate(_layer_rows(network), start=1):
        words = " ".join(
            f"{key} {_short(value)}" for key, value in row.items() if key not in ("type", "output", "weights")
        )
        output = "x".join(map(str, row["output"]))
        table.add_row(str(number), f"{row['type']} {words}".strip(), output, str(row["weights"] or ""))
    return table


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _facts(checkpoint: Checkpoint) -> Table:
    """Two columns: what is known of the network, empty entries left out."""
    network, data = checkpoint.network, checkpoint.metadata
    epochs = f"{data.epoch} of {data.epochs}" if data.epoch is not None else None
    facts: dict[str, Any] = {
        "architecture": f"{network.name}, {network.hidden_units} hidden units, {network.parameter_count} weights",
        "classes": network.classes,
        "data set": data.dataset,
        "trained for": f"{data.norm} {data.eps:g}" if data.norm and data.eps is not None else None,
        "recipe": data.recipe,
        "seed": data.seed,
        "epochs": epochs,
        "source": data.source,
        "licence": data.licence,
        "created": data.created,
        "precision": str(network.dtype).removeprefix("torch."),
        "weights": f"intact, sha256 {data.weights_sha256[:16]}",
        "written by": ", ".join(
            f"{name} {data.versions[name]}" for name in ("robustcli", "torch") if name in data.versions
        ),
    }
    for name, value in data.figures.items():
        is_share = value is not None and name.endswith("error")
        facts[name.replace("_", " ")] = _percent(value) if is_share else _short(value)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, ""):
            table.add_row(name, str(value))
    return table


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sides = ()
    if not sides or min(sides) < 1:
        raise UsageError(f"{option} {text!r} is not a shape", "write 1,28,28 or 561")
    return sides


def _numbers(text: str, option: str) -> tuple[float, ...]:
    from robustcli.norms import radius

    try:
        return tuple(radius(part.strip()) for part in text.split(","))
    except UsageError as error:
        raise UsageError(
            f"{option} {text!r}: {error.message}", "write one number per channel: 0.49,0.48,0.45"
        ) from error
