#!/usr/bin/env python3
"""Check every adversarial input of a run folder, without torch and without robustcli.

    python scripts/verify_witnesses.py runs/<recipe>/seed-0 [--weights FILE]

Reads the checkpoint's bytes and evaluates the network in float64 numpy. Asks of every stored input: is its margin below
0, is it as far from the clean point as it claims (to 1e-9)? Asks of every answer that names one: is it there, is it of
that point, does it lie in the ball and in the box of that question? Prints one line of counts; exit code 1 if anything
fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-9
TYPES = {"F32": "<f4", "F64": "<f8"}
Arrays = dict[str, np.ndarray]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Arrays, str]:
    """Architecture, weights as stored, and the hash that names this network in results."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    architecture = json.loads(header.pop("__metadata__")["robustcli"])["architecture"]
    arrays = {
        name: np.frombuffer(body[slice(*item["data_offsets"])], dtype=TYPES[item["dtype"]]).reshape(item["shape"])
        for name, item in header.items()
    }
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return architecture, arrays, digest.hexdigest()


def windows(x: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """All k x k patches of [C, H, W]: [C, rows, columns, k, k]."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    return np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def per_channel(values: np.ndarray | list[float], x: np.ndarray) -> np.ndarray:
    """One value per channel, in the shape of one example."""
    return np.asarray(values, dtype=np.float64).reshape(-1, *[1] * (x.ndim - 1))


def apply(layer: dict[str, Any], weights: Arrays, x: np.ndarray) -> np.ndarray:
    """One layer on one example, float64."""
    match layer["type"]:
        case "relu":
            return np.maximum(x, 0)
        case "flatten":
            return x.reshape(-1)
        case "linear":
            return weights["weight"] @ x + weights["bias"]
        case "conv2d":
            patches = windows(x, layer["kernel"], layer["stride"], layer["padding"])
            return np.einsum("ocij,crsij->ors", weights["weight"], patches) + per_channel(weights["bias"], x)
        case "normalise":
            # The checkpoint's buffers, not the description: they are what the network computes with.
            return (x - per_channel(weights["mean"].ravel(), x)) / per_channel(weights["std"].ravel(), x)
        case "avgpool2d":
            return windows(x, layer["kernel"], layer["stride"] or layer["kernel"], 0).mean((-1, -2))
        case "batchnorm":
            deviation = np.sqrt(weights["running_var"] + layer["guard"])
            centred = (x - per_channel(weights["running_mean"], x)) / per_channel(deviation, x)
            return centred * per_channel(weights["weight"], x) + per_channel(weights["bias"], x)
    raise ValueError(f"unknown layer {layer['type']}")


def margin(architecture: dict[str, Any], arrays: Arrays, x: np.ndarray, label: int) -> float:
    """f_y - max of the other logits, float64."""
    for number, layer in enumerate(architecture["layers"]):
        prefix = f"layers.{number}."
        own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        x = apply(layer, {name: value.astype(np.float64) for name, value in own.items()}, x)
    return float(x[label] - np.delete(x, label).max())


def distance(delta: np.ndarray, norm: str) -> float:
    """The norm of a perturbation: l1, l2, linf or l<p>."""
    p = math.inf if norm == "linf" else float(norm[1:])
    return float(np.linalg.norm(delta.ravel(), p))


def questions(run: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every (question, answer) of the run whose last answer for a point names a stored input."""
    found = []
    for folder in sorted(path.parent for path in run.glob("results/*/question.json")):
        question = json.loads((folder / "question.json").read_text())
        for file in sorted(folder.glob("points*.jsonl")):
            last: dict[int, dict[str, Any]] = {}
            for line in file.read_text().splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue  # torn by a crash
                last[record["index"]] = record
            found += [(question, r) for r in last.values() if r["witness"] or r["verdict"] == "vulnerable"]
    return found


class Checker:
    """Collects what is wrong with the inputs of one run and one network."""

    def __init__(self, run: Path, weights: Path, box: tuple[float, float]) -> None:
        self.run, self.box = run, box
        self.architecture, self.arrays, self.model = read_checkpoint(weights)
        self.problems: list[str] = []
        self.counts = {"witnesses": 0, "answers": 0, "of another network": 0}
        self.known: dict[str, dict[str, np.ndarray]] = {}

    def claim(self, holds: bool, name: str, text: str) -> None:
        """Note a problem unless the claim holds."""
        if not holds:
            self.problems.append(f"{name}: {text}")

    def check_inputs(self) -> None:
        """Margin and distance of every stored input."""
        for path in sorted(self.run.glob("witnesses/*.npz")):
            with np.load(path, allow_pickle=False) as file:
                item = dict(file)
            self.known[path.name] = item
            if str(item["model"]) != self.model:
                self.counts["of another network"] += 1
                continue
            self.counts["witnesses"] += 1
            x, point = item["witness"], item["point"]
            found = margin(self.architecture, self.arrays, x, int(item["label"]))
            self.claim(x.dtype == point.dtype == np.float64, path.name, "is not float64")
            self.claim(found < 0, path.name, f"margin {found:g} is not below 0")
            self.claim(abs(found - item["margin"]) < 1e-6, path.name, f"margin is {found!r}, stored {item['margin']}")
            moved = distance(x - point, str(item["norm"]))
            self.claim(abs(moved - item["distance"]) < TOLERANCE, path.name, f"distance is {moved!r}, not as stored")

    def check_answers(self) -> None:
        """Every answer that names an input: it exists, belongs to the point, and lies in the ball of the question."""
        for question, record in questions(self.run):
            if question["model"] != self.model:
                self.counts["of another network"] += 1
                continue
            self.counts["answers"] += 1
            name = f"{question['command']} {question['norm']} point {record['index']}"
            if record["witness"] not in self.known:
                self.claim(False, name, f"its witness {record['witness']} is not stored")
                continue
            item = self.known[record["witness"]]
            same = (int(item["index"]), int(item["label"])) == (record["index"], record["label"])
            self.claim(same, name, "names the witness of another point")
            self.claim(str(item["model"]) == self.model, name, "names the witness against another network")
            radius = question["eps"] if question["eps"] is not None else record["distance_upper"]
            moved = distance(item["witness"] - item["point"], question["norm"])
            self.claim(moved <= radius + TOLERANCE, name, f"distance {moved!r} exceeds {radius!r}")
            if question["boxed"]:
                self.in_box(name, item["witness"])

    def in_box(self, name: str, x: np.ndarray) -> None:
        """The claim that x lies in the input box."""
        within = x.min() >= self.box[0] - TOLERANCE and x.max() <= self.box[1] + TOLERANCE
        self.claim(bool(within), name, f"leaves the box: {x.min()!r} to {x.max()!r}")


def main() -> int:
    """Check one run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, with witnesses/ and results/")
    parser.add_argument("--weights", type=Path, help="checkpoint; default: RUN/weights.safetensors")
    parser.add_argument("--box", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="input box")
    arguments = parser.parse_args()
    weights = arguments.weights or arguments.run / "weights.safetensors"
    checker = Checker(arguments.run, weights, tuple(arguments.box))
    checker.check_inputs()
    checker.check_answers()
    for problem in checker.problems[:20]:
        print(problem, file=sys.stderr)
    counts = ", ".join(f"{value} {key}" for key, value in checker.counts.items())
    print(f"{arguments.run}: {counts}, {len(checker.problems)} problems")
    return 1 if checker.problems else 0


if __name__ == "__main__":
    sys.exit(main())
