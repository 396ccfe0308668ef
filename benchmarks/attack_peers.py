"""Attacks of public programs behind one call: candidates for points of the box [0, 1]; passes are counted.

    search(model, points, labels, p, eps, steps) -> candidates

`eps` is the radius for attacks with a fixed one, None for minimal-norm attacks. Each program is optional:

    pip install torchattacks foolbox adv-lib        # adv-lib also imports torchvision and visdom
    AutoAttack: clone fra31/auto-attack and put the folder on PYTHONPATH

Parameters are those of the programs' defaults or their papers, except the number of steps; a constant step is
2.5 eps / steps (Madry et al. 2018). What a candidate is worth is judged by the caller, in float64.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Search = Callable[["Counted", Tensor, Tensor, float, float | None, int], Tensor]
NORMS = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}
HOW = {
    "torchattacks": "pip install torchattacks",
    "foolbox": "pip install foolbox",
    "adv_lib": "pip install adv-lib (it imports torchvision and visdom)",
    "autoattack": "clone github.com/fra31/auto-attack and put the folder on PYTHONPATH",
}


class Counted(nn.Module):
    """A model that counts the rows it sees, forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0
        self.eval()

    def forward(self, points: Tensor) -> Tensor:
        """Logits."""
        self.forwards += len(points)
        logits: Tensor = self.model(points)
        if logits.requires_grad:
            logits.register_hook(self._seen)
        return logits

    def _seen(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@dataclass(frozen=True)
class Peer:
    """One attack of a public program: `module` is what it needs, `norms` where it exists."""

    name: str
    module: str
    norms: tuple[float, ...]
    search: Search

    @property
    def there(self) -> bool:
        """Whether the program can be imported."""
        return importlib.util.find_spec(self.module) is not None


def candidates(
    peer: Peer, model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int
) -> Tensor:
    """What a peer answers, the same in every run; points [B, ...] float32, one candidate each."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer.search(model, points, labels, p, eps, steps).detach()


def _torchattacks(name: str, **how: Any) -> Search:
    def search(model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int) -> Tensor:
        import torchattacks

        options = dict(how)
        if eps is not None:
            options["eps"] = eps
        if name in ("PGD", "PGDL2"):
            assert eps is not None
            options |= {"steps": steps, "alpha": 2.5 * eps / steps}
        elif name in ("APGD", "APGDT", "FAB"):
            options |= {"steps": steps, "norm": NORMS[p], "seed": 0}
        elif name == "CW":
            options["steps"] = steps
        elif name == "EADL1":
            options["max_iterations"] = steps // options.get("binary_search_steps", 9)
        found: Tensor = getattr(torchattacks, name)(model, **options)(points, labels)
        return found

    return search


def _foolbox(name: str | dict[float, str], searches: int = 1, **how: Any) -> Search:
    """`searches`: binary search steps that share the steps."""

    def search(model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int) -> Tensor:
        import foolbox

        attack: Any = getattr(foolbox.attacks, name if isinstance(name, str) else name[p])
        options = dict(how)
        if "FastGradient" not in attack.__name__:
            options["steps"] = steps // searches
        if searches > 1:
            options["binary_search_steps"] = searches
        if eps is not None and "PGD" in attack.__name__:
            options["rel_stepsize"] = 2.5 / steps
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        criterion = foolbox.criteria.Misclassification(labels)
        radius = {} if eps is None else {"epsilon": eps}
        found: Tensor = attack(**options).run(wrapped, points, criterion, **radius)
        return found

    return search


def _adv_lib(name: str, searches: int = 1, **how: Any) -> Search:
    counts = {"ddn": "steps", "fmn": "steps", "pgd_linf": "steps", "pdpgd": "num_steps", "alma": "num_steps"}
    counts |= {"carlini_wagner_l2": "max_iterations"}

    def search(model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int) -> Tensor:
        import adv_lib.attacks

        options = dict(how)
        options[counts.get(name, "n_iter")] = steps // searches
        if searches > 1:
            options["binary_search_steps"] = searches
        if name in ("fmn", "pdpgd", "apgd", "apgd_targeted", "fab"):
            options["norm"] = p
        if name == "alma":
            options["distance"] = NORMS[p].lower()
        if name == "pgd_linf":
            options["relative_step_size"] = 2.5 / steps
        radius = {} if eps is None else {"ε" if name == "pgd_linf" else "eps": eps}
        found: Tensor = getattr(adv_lib.attacks, name)(model=model, inputs=points, labels=labels, **radius, **options)
        return found

    return search


def _apgd(loss: str, restarts: int = 1, targets: int = 0, large: bool = False) -> Search:
    """AutoAttack's APGD; `large`: its l1 schedule of radii (3 eps, 2 eps, eps)."""

    def search(model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int) -> Tensor:
        from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted

        options = {"n_iter": steps, "norm": NORMS[p], "n_restarts": restarts, "eps": eps, "seed": 0, "device": "cpu"}
        options["use_largereps"] = large and p == 1
        attack: Any = (
            APGDAttack_targeted(model, n_target_classes=targets, **options)
            if targets
            else APGDAttack(model, loss=loss, **options)
        )
        found: Tensor = attack.perturb(points, labels)
        return found

    return search


def _fab(targets: int = 0) -> Search:
    """AutoAttack's FAB without a radius: untargeted, or the nearest answer of one run a target."""

    def search(model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int) -> Tensor:
        from autoattack.fab_pt import FABAttack_PT

        attack: Any = FABAttack_PT(model, n_iter=steps, norm=NORMS[p], eps=1e10, seed=0, device="cpu")
        best, length = points.clone(), torch.full_like(labels, torch.inf, dtype=points.dtype)
        for target in range(2, 2 + max(targets, 1)):
            attack.target_class = target
            found = attack.attack_single_run(points, labels, is_targeted=targets > 0)
            now = torch.linalg.vector_norm((found - points).flatten(1), ord=p, dim=1)
            better = (model(found).argmax(1) != labels) & (now < length)
            length = torch.where(better, now, length)
            best[better] = found[better]
        return best

    return search


def _ensemble(version: str) -> Search:
    def search(model: Counted, points: Tensor, labels: Tensor, p: float, eps: float | None, steps: int) -> Tensor:
        from autoattack import AutoAttack

        attack = AutoAttack(model, norm=NORMS[p], eps=eps, seed=0, verbose=False, version=version, device="cpu")
        found: Tensor = attack.run_standard_evaluation(points, labels, bs=250)
        return found

    return search


ALL, ROUND = (1.0, 2.0, math.inf), (2.0, math.inf)
_FAST = {p: f"{norm}FastGradientAttack" for p, norm in NORMS.items()}
_FMN = {1.0: "L1FMNAttack", 2.0: "L2FMNAttack", math.inf: "LInfFMNAttack"}

PEERS = {
    peer.name: peer
    for peer in (
        Peer("torchattacks FGSM", "torchattacks", (math.inf,), _torchattacks("FGSM")),
        Peer("foolbox FGM", "foolbox", ALL, _foolbox(_FAST)),
        Peer("torchattacks PGD", "torchattacks", (math.inf,), _torchattacks("PGD")),
        Peer("torchattacks PGDL2", "torchattacks", (2.0,), _torchattacks("PGDL2")),
        Peer("foolbox PGD", "foolbox", ALL, _foolbox({p: f"{norm}PGD" for p, norm in NORMS.items()})),
        Peer("adv_lib PGD", "adv_lib", (math.inf,), _adv_lib("pgd_linf")),
        Peer("autoattack APGD-CE", "autoattack", ALL, _apgd("ce")),
        Peer("autoattack APGD-CE, large radii", "autoattack", (1.0,), _apgd("ce", large=True)),
        Peer("torchattacks APGD", "torchattacks", ROUND, _torchattacks("APGD")),
        Peer("autoattack APGD-DLR", "autoattack", ALL, _apgd("dlr")),
        Peer("adv_lib APGD-DLR", "adv_lib", ALL, _adv_lib("apgd")),
        Peer("autoattack APGD-T", "autoattack", ALL, _apgd("", targets=9)),
        Peer("autoattack APGD-T, large radii", "autoattack", (1.0,), _apgd("", targets=9, large=True)),
        Peer("autoattack standard", "autoattack", ALL, _ensemble("standard")),
        Peer("autoattack FAB", "autoattack", ALL, _fab()),
        Peer("autoattack FAB-T", "autoattack", ALL, _fab(targets=9)),
        Peer("foolbox CW", "foolbox", (2.0,), _foolbox("L2CarliniWagnerAttack", searches=9)),
        Peer("adv_lib CW", "adv_lib", (2.0,), _adv_lib("carlini_wagner_l2", searches=9)),
        Peer("foolbox CW, rate 0.1", "foolbox", (2.0,), _foolbox("L2CarliniWagnerAttack", searches=9, stepsize=0.1)),
        Peer("adv_lib CW, rate 0.1", "adv_lib", (2.0,), _adv_lib("carlini_wagner_l2", searches=9, learning_rate=0.1)),
        Peer("foolbox DDN", "foolbox", (2.0,), _foolbox("DDNAttack")),
        Peer("adv_lib DDN", "adv_lib", (2.0,), _adv_lib("ddn", levels=None)),
        Peer("foolbox FMN", "foolbox", ALL, _foolbox(_FMN)),
        Peer("adv_lib FMN", "adv_lib", ALL, _adv_lib("fmn")),
        Peer("adv_lib FMN, first step 10", "adv_lib", (math.inf,), _adv_lib("fmn", α_init=10)),
        Peer("adv_lib PDPGD", "adv_lib", ALL, _adv_lib("pdpgd")),
        Peer("adv_lib ALMA", "adv_lib", (1.0, 2.0), _adv_lib("alma")),
        Peer("foolbox EAD", "foolbox", (1.0,), _foolbox("EADAttack", searches=9, decision_rule="L1")),
        Peer("torchattacks EADL1", "torchattacks", (1.0,), _torchattacks("EADL1")),
    )
}


def missing() -> list[str]:
    """How to get the programs that are not there, one line each."""
    needed = {peer.module for peer in PEERS.values() if not peer.there}
    return [f"{module} is not installed, its rows are left out: {HOW[module]}" for module in sorted(needed)]
