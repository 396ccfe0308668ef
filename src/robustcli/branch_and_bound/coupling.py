"""Bounds through parabolas above the first layer, over the box all together: the coupling that lines lack.

Lines above the ReLUs (all of them: `hulls`) let every neuron be at its worst at once, which no input can bring about.
Parabolas, relu(z) <= G t + k + d z^2 (`parabolas`), are bounded as one quadratic form: for e >= 0 and any b > 0

    sum_j e_j (W_j t)^2  <=  lambda sum_i b_i,     lambda = greatest eigenvalue of E^1/2 W diag(1/b) W' E^1/2,

for t in [-1, 1]^d. With G = W/2 and k = 1/(16 d) this is the Lagrange dual of Shor's semidefinite relaxation, with
multipliers for y (y - z) = 0 and t_i^2 <= 1, y eliminated (Raghunathan, Steinhardt and Liang 2018; Dathathri et al.
2020). The search follows lambda by one power iteration a step, in float32; what it finds is evaluated once in float64,
lambda by a Cholesky factorisation that succeeds.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR

from robustcli.branch_and_bound.hulls import in_room, moved
from robustcli.branch_and_bound.parabolas import TINY, Multipliers, Terms, terms
from robustcli.branch_and_bound.system import Functionals, System

RATES = {"slopes": 0.1, "shares": 0.05, "leans": 0.05, "tilts": 0.15, "curves": 0.1, "weights": 0.1, "against": 0.1}
AVERAGES = (0.9, 0.99)  # of Adam
POWERS = 16  # iterations towards the greatest eigenvalue
FACTORS = (1.1, 1.02, 1.005, 1.001)  # of what they reach, with which a factorisation is tried
ROUNDINGS = 512
FORMS = 1 << 19  # numbers in one batch of quadratic forms, or of W for them
NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 25}  # of multipliers in one batch


@dataclass(frozen=True)
class Course:
    """Steps of ascent, their rates times `decay` after every step."""

    steps: int
    decay: float


@torch.no_grad()
def raised(
    system: System,
    start: Functionals,
    signs: Tensor,
    course: Course,
    against: Functionals | None = None,
    begin: Multipliers | None = None,
    deadline: float = math.inf,
) -> tuple[Tensor, Multipliers]:
    """Lower bounds of R functionals over the domain that signs describe, and what gave them.

    Args:
        system: float64, one that `hulls.known` knows.
        start: float64.
        signs: of neurons that are fixed in all of them, [n] int8.
        course: of the search.
        against: one functional; the bounds need only hold where it is not positive. Any multiple of it may be added.
        begin: where to start.
        deadline: in seconds of `time.perf_counter`: functionals not begun by then get -inf.
    Returns:
        [R] float64, true in spite of rounding, -inf where they are no number; float32 multipliers.
    """
    exact = in_room(replace(system, hulls=None))
    rough = exact.to(torch.float32)
    start, limit = moved(start, system), None if against is None else moved(against, system)
    rough_start, rough_limit = start.to(torch.float32), None if limit is None else limit.to(torch.float32)
    begin = Multipliers.first(system, len(start)) if begin is None else begin
    bounds, found = [start.constants[:0]], [begin.take(slice(0, 0))]
    numbers = NUMBERS.get(signs.device.type, NUMBERS["cpu"])
    each = len(system.center) + 3 * system.layers[0].stop + system.size
    for index in torch.arange(len(start), device=signs.device).split(max(1, numbers // each)):
        if time.perf_counter() >= deadline:
            bounds.append(start.constants.new_full((len(index),), -torch.inf))
            found.append(begin.take(index))
            continue
        part = _search(rough, rough_start.take(index), signs, course, rough_limit, begin.take(index))
        bounds.append(_proved(exact, start.take(index), signs, part, limit))
        found.append(part)
    return torch.cat(bounds), Multipliers.joined(found)


def _search(
    system: System,
    start: Functionals,
    signs: Tensor,
    course: Course,
    against: Functionals | None,
    begin: Multipliers,
) -> Multipliers:
    free = {name: getattr(begin, name).clone().requires_grad_() for name in RATES}
    ascent = torch.optim.Adam(
        [{"params": [free[name]], "lr": rate} for name, rate in RATES.items()], betas=AVERAGES, maximize=True
    )
    rates = ExponentialLR(ascent, course.decay)
    here, whole = begin, system.forms.pixels[system.layers[0]]
    squared = whole.square()
    for _ in range(course.steps):
        with torch.enable_grad():
            parts = terms(system, start, signs, replace(here, **free), against)
            root = (parts.squares + TINY).sqrt()
            image = (root * here.vectors) @ whole
            eigenvalue = (image.square() / parts.weights).sum(1)
            eigenvalue = torch.maximum(eigenvalue, (parts.squares * (parts.weights.reciprocal() @ squared.T)).amax(1))
            bound = parts.value - eigenvalue * parts.weights.sum(1)
            ascent.zero_grad()
            bound.sum().backward()
        ascent.step()
        rates.step()
        turned = root.detach() * ((image / parts.weights).detach() @ whole.T)
        vectors = turned / torch.linalg.vector_norm(turned, dim=1, keepdim=True).clamp(min=TINY)
        here = replace(here, **{name: value.detach() for name, value in free.items()}, vectors=vectors).inside(signs)
        for name, value in free.items():
            value.copy_(getattr(here, name))
    return here


def _proved(
    system: System, start: Functionals, signs: Tensor, chosen: Multipliers, against: Functionals | None
) -> Tensor:
    """The bounds in float64, with all that rounding can have cost taken off.

    As in `passes.proved`, rounding is at most the number of operations times the sum of the absolute values of all
    products. With Z the sizes of the forms, |W|_1, |c| <= Z, those of a parabola are at most 8 (Z + d Z^2) of each
    neuron; `errors` move relu(z) by no more than themselves.
    """
    number = torch.finfo(system.dtype)
    parts = terms(system, start, signs, chosen.to(system.dtype).inside(signs), against)
    sizes, errors = system.forms.sizes, system.forms.errors
    first, start = system.layers[0], parts.start
    form = _greatest(system, parts, chosen.vectors.to(system.dtype)) * parts.weights.sum(1)
    size = parts.below.abs() @ sizes - parts.lost + start.sizes + form
    size = size + 8 * (parts.negative @ sizes[first] + parts.squares @ sizes[first].square())
    error = parts.below.abs() @ errors + parts.negative @ errors[first] + start.errors
    roundings = 8 * (system.size + len(system.center)) + ROUNDINGS
    lost = roundings * number.tiny * (1 + parts.below.abs().sum(1) + parts.negative.sum(1)) * (1 + sizes.sum())
    bound = parts.value - form - 2 * (roundings * number.eps * size + error + lost)
    return torch.where(bound.isnan(), -torch.inf, bound)


def _greatest(system: System, parts: Terms, vectors: Tensor) -> Tensor:
    """Upper bounds of lambda, [R], from vectors close to the eigenvectors.

    X X' with X = E^1/2 W diag(1/b)^1/2 is computed up to d + 32 roundings of its trace. Where a Cholesky factorisation
    of lambda I - X X' succeeds, that has no eigenvalue below -(n + 2) roundings of its trace (Higham 2002, theorem
    10.3; Rump 2006); where none does, the greatest row sum of |X X'| bounds lambda.
    """
    whole = system.forms.pixels[system.layers[0]]
    count, width = whole.shape
    one, eps = torch.eye(count, dtype=whole.dtype, device=whole.device), torch.finfo(whole.dtype).eps
    found = [whole.new_zeros(0)]
    for index in torch.arange(len(parts.value), device=whole.device).split(
        max(1, FORMS // (count * max(count, width)))
    ):
        x, root = whole * parts.weights[index].rsqrt().unsqueeze(1), parts.squares[index].sqrt()
        form, vector = (x @ x.mT) * root.unsqueeze(1) * root.unsqueeze(2), vectors[index].unsqueeze(2)
        for _ in range(POWERS):
            vector = form @ (vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp(min=TINY))
        reached = torch.linalg.vector_norm(vector, dim=(1, 2))
        greatest, trace = form.abs().sum(2).amax(1), form.diagonal(dim1=1, dim2=2).sum(1)
        for factor in FACTORS:
            tried = torch.minimum(reached * factor, greatest)
            _, failed = torch.linalg.cholesky_ex(tried.view(-1, 1, 1) * one - form)
            greatest = torch.where(failed == 0, tried, greatest)
        found.append(greatest + 2 * eps * ((width + 32) * trace + (count + 2) * (count * greatest + trace)))
    return torch.cat(found)
