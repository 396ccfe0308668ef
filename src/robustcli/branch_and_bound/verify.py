"""One point, completely: every open target's margin is proved positive on all domains, or a counterexample is found.

    pool = the open targets, nothing split
    while the pool is not empty:
        take the domains with the lowest bounds, split each, bound the children in one batch, keep those not proved
        look at the network where each bound is attained: the minimisers are good candidates for counterexamples

(exact_verification: Bunel et al. 2020; Xu et al. 2021; Wang et al. 2021.) A child's bound is at least its parent's. A
domain without an open neuron is decided exactly (`leaves`), so the search ends by itself. Verdicts rest on float64
bounds that are safe against rounding, and on points that the float64 network misclassifies, on nothing else.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.attacks.verify import confirm
from robustcli.balls import Ball
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound import coupling, hulls
from robustcli.branch_and_bound.beginnings import Beginning
from robustcli.branch_and_bound.branching import choose
from robustcli.branch_and_bound.descent import activations, descend
from robustcli.branch_and_bound.domains import Domains
from robustcli.branch_and_bound.leaves import closed
from robustcli.branch_and_bound.optimiser import INSIDE, LONG, ROOT, Ascent, Schedule, ascend
from robustcli.branch_and_bound.passes import proved
from robustcli.branch_and_bound.refinement import refined
from robustcli.branch_and_bound.system import System
from robustcli.branch_and_bound.wrong_side import tightened
from robustcli.errors import RobustError
from robustcli.networks.network import Network
from robustcli.results.schema import Verdict

NUMBERS = {"cpu": 1 << 17, "cuda": 1 << 22}  # of theta and pixels in one batch of domains
DOMAINS = (8, 512)  # at least and at most in one batch
AT_ONCE = 3  # splits of a domain in one go while the pool is small
ATTACKED = 16  # domains of a batch from whose minimisers counterexamples are looked for
HULLS = Schedule(60, 0.1, 0.0, 0.95)
COUPLED = coupling.Course(100, 0.965)
PLAIN = 16  # domains of all targets, about, before each target gets parabolas and lines of its own
SHORT = 256  # domains before the hidden bounds are refined
PART = 2048  # domains of a part before it is divided
MANY = 4096  # domains after which each is optimised for longer
REFINED = 0.5  # share of the time left that this may take
SURE = 1e-6  # relative: above this a float32 bound is taken to be positive, until float64 says so


@dataclass(frozen=True)
class Outcome:
    """The answer for one point.

    Args:
        verdict: robust, vulnerable or unknown.
        margin_lower: proved lower bound on every margin asked for.
        witness: a misclassified point of the ball, [1, *input_shape] float64, and its margin.
        reason: why unknown.
        nodes: domains bounded, the roots included; depth: the most splits in one of them.
        neurons: unstable neurons of the system.
        seconds: all together.
    """

    verdict: Verdict
    margin_lower: float
    witness: Tensor | None
    witness_margin: float | None
    reason: str | None
    nodes: int
    depth: int
    neurons: int
    seconds: float

    def details(self) -> dict[str, object]:
        """For the record of a point."""
        return {"nodes": self.nodes, "depth": self.depth, "neurons": self.neurons, "seconds": round(self.seconds, 4)}


def verify(
    network: Network,
    exact: Network,
    ball: Ball,
    label: int,
    layers: Sequence[Bounds],
    targets: Sequence[int],
    margins: Sequence[float],
    *,
    seconds: float | None = None,
    nodes: int | None = None,
) -> Outcome:
    """Decide one point.

    Args:
        network: as stored; only looks for counterexamples.
        exact: its float64 copy.
        ball: one ball, float64; l1, l2 or linf, with or without the box.
        label: the true class.
        layers: sound hidden bounds, each [1, *shape]; the tighter they are, the shorter the search.
        targets: the classes still open.
        margins: the bounds already proved for them.
        seconds: limit, or None.
        nodes: limit on domains bounded, or None; the same number gives the same answer.
    """
    search = _Search(network, exact, ball, label, layers, targets, margins, seconds, nodes)
    try:
        return search.run()
    except RobustError as error:
        return search.outcome("unknown", error.message)


class _Search:
    def __init__(
        self,
        network: Network,
        exact: Network,
        ball: Ball,
        label: int,
        layers: Sequence[Bounds],
        targets: Sequence[int],
        margins: Sequence[float],
        seconds: float | None,
        nodes: int | None,
    ) -> None:
        self.started = time.perf_counter()
        self.deadline = math.inf if seconds is None else self.started + seconds
        self.limit = math.inf if nodes is None else nodes
        self.network, self.exact, self.ball, self.label, self.layers = network, exact, ball, label, layers
        self.labels = torch.tensor([label], device=ball.center.device)
        self.targets = list(targets)
        self.margins = torch.tensor(list(margins), dtype=torch.float64, device=ball.center.device)
        self.pool: list[tuple[float, int, Domains]] = []  # by bound, then by age, so that runs repeat
        self.nodes = self.depth = self.neurons = self.count = 0
        self.open = list(range(len(self.targets)))
        self.tied = False  # whether a leaf stayed open
        self.witness: Tensor | None = None
        self.witness_margin = math.inf

    def run(self) -> Outcome:
        """A short search; then one with tighter hidden bounds."""
        if self.open:
            self.begin(SHORT)
        if self.goes_on():
            stop = time.perf_counter() + REFINED * (self.deadline - time.perf_counter())
            self.layers = refined(self.exact, self.ball, self.layers, self.batch, stop)
            self.begin(math.inf)
        if self.witness is not None:
            return self.outcome("vulnerable")
        if self.open:
            return self.outcome("unknown", "node limit" if self.nodes >= self.limit else "time limit")
        if self.tied:
            return self.outcome("unknown", "a fully split domain stayed open: a tie up to rounding")
        return self.outcome("robust")

    def begin(self, nodes: float) -> None:
        """From the whole ball with the hidden bounds known; `nodes` domains at most, shared by the open targets.

        Lines of its own above the first layer are found for each target that the triangle's leave open, where the ball
        is one that they are known for; each is then searched by itself, the worst first.
        """
        rows = torch.zeros(len(self.targets), self.exact.classes, dtype=torch.float64, device=self.ball.center.device)
        rows[:, self.label] += 1.0
        rows[torch.arange(len(self.targets)), self.targets] -= 1.0
        system = System.of(self.exact, self.ball, self.layers, rows)
        if not hulls.known(system):
            self.search(Beginning.plain(system, self.open), nodes)
            return
        self.search(Beginning.plain(system, self.open), min(PLAIN, nodes) if math.isfinite(nodes) else 0)
        if self.goes_on():
            found = self.hulled(Beginning.plain(system, self.open))
            for beginning in found:
                if self.goes_on() and math.isinf(nodes):
                    self.divide(beginning)
                elif self.goes_on():
                    self.search(beginning, nodes / len(found))

    def goes_on(self) -> bool:
        """Whether there is something left to prove, and leave to."""
        in_time = self.nodes < self.limit and time.perf_counter() < self.deadline
        return bool(self.open) and self.witness is None and in_time

    def hulled(self, plain: Beginning) -> list[Beginning]:
        """Each target by itself with its lines, the worst first; without those that parabolas or lines alone prove."""
        system, found = plain.system, []
        signs = torch.zeros_like(system.lower, dtype=torch.int8)
        coupled, _ = coupling.raised(system, system.margins.take(plain.targets), signs, COUPLED, deadline=self.deadline)
        self.margins[plain.targets] = torch.maximum(self.margins[plain.targets], coupled)
        for part in hulls.raised(system, system.margins.take(plain.targets), plain.slopes, HULLS):
            targets = plain.targets[part.index]
            self.margins[targets] = torch.maximum(self.margins[targets], part.proved)
            found += [
                Beginning(
                    replace(system, hulls=part.hulls.take(row)),
                    targets[[row]],
                    part.theta[[row]],
                    plain.signs[[row]],
                )
                for row in range(len(targets))
            ]
        self.nodes += len(found)
        self.open = [target for target in self.open if not self.margins[target] > 0]
        found = [beginning for beginning in found if int(beginning.targets) in self.open]
        return sorted(found, key=lambda beginning: float(self.margins[beginning.targets]))

    def search(self, beginning: Beginning, nodes: float) -> None:
        """Until nothing is open, a counterexample is found, or a limit is reached, that of `nodes` among them."""
        targets = beginning.targets
        self.explore(beginning, nodes)
        for value, _, domain in self.pool:
            self.floors[domain.targets] = self.floors[domain.targets].clamp(max=value)
        self.margins[targets] = torch.maximum(self.margins[targets], self.floors[targets])
        done = set(targets.tolist()) - {int(domain.targets) for _, _, domain in self.pool}
        self.open = [target for target in self.open if target not in done]

    def divide(self, beginning: Beginning) -> None:
        """One target, by parts of the ball small enough for a short search once the bounds of neurons are those of the
        part's wrong side; each half of a part that is not gets bounds of its own."""
        target = int(beginning.targets)
        margin = beginning.system.margins.take(beginning.targets)
        waiting = [beginning]
        while waiting and self.goes_on():
            part = waiting.pop()
            found = tightened(replace(part.system, hulls=None), margin, part.signs[0], self.deadline)
            if found is None:
                continue
            part = self.on_wrong_side(part, *found)
            self.explore(part, PART)
            if self.pool and self.goes_on():
                root = Domains.roots(part.targets, part.slopes, self.margins[part.targets], part.signs)
                unit = choose(part.system.to(torch.float32), root, 1)[0]
                if int(unit[0]) < 0:
                    self.tied = True  # a domain without an open neuron that its own search left open
                    continue
                for half in root.split(unit).signs.split(1):
                    waiting.append(replace(part, signs=half, slopes=part.slopes * (half == 0)))
            elif self.pool:
                waiting.append(part)
        if not waiting and self.witness is None:
            self.open.remove(target)
            if not self.tied:
                self.margins[target] = self.margins[target].clamp(min=0.0)

    def on_wrong_side(self, part: Beginning, system: System, signs: Tensor) -> Beginning:
        """The part with bounds of neurons, and lines above, of its own."""
        margin = system.margins.take(part.targets)
        slopes = adaptive(Bounds(system.lower, system.upper)).to(torch.float32)
        (found,) = hulls.raised(system, margin, slopes.unsqueeze(0), HULLS, signs)
        return Beginning(replace(system, hulls=found.hulls.take(0)), part.targets, found.theta, signs.unsqueeze(0))

    def explore(self, beginning: Beginning, nodes: float) -> None:
        """Bound and split from a beginning; what stays open is in the pool, what was closed in the floors."""
        system, targets = beginning.system, beginning.targets
        self.system, self.rough = system, system.to(torch.float32)
        self.neurons = system.size
        self.enough = SURE * float(system.margins.sizes.max())
        numbers = NUMBERS.get(targets.device.type, NUMBERS["cpu"])
        self.batch = min(max(numbers // (system.size + len(system.center) + 1), DOMAINS[0]), DOMAINS[1])
        self.pool, last = [], self.nodes + nodes
        self.floors = torch.full_like(self.margins, torch.inf)
        known = self.margins[targets].clamp(max=0.0)
        self.bound(Domains.roots(targets, beginning.slopes, known, beginning.signs), ROOT)
        while self.pool and self.goes_on() and self.nodes < last:
            self.split()

    def split(self) -> None:
        """Take the worst domains, split them, bound their children."""
        room = max(1, int(min(self.batch, self.limit - self.nodes)) // 2)
        taken = [heapq.heappop(self.pool)[2] for _ in range(min(room, len(self.pool)))]
        domains = Domains.joined(taken)
        levels = min(AT_ONCE, 1 + int(math.log2(room / len(taken))))
        units = choose(self.rough, domains, levels)
        whole = (domains.signs != 0).all(1)
        for row in whole.nonzero().squeeze(1).tolist():
            self.leaf(domains.take(slice(row, row + 1)))
        domains, units = domains.take(~whole), units[~whole]
        for level in range(units.shape[1] if len(domains) else 0):
            if bool((units[:, level] < 0).any()):
                break  # a domain with fewer open neurons: the rest waits for the next round
            domains = domains.split(units[:, level])
            units = units.repeat(2, 1)
        if len(domains):
            self.bound(domains, INSIDE if self.nodes < MANY else LONG)

    def bound(self, domains: Domains, schedule: Schedule) -> None:
        """Bound domains; those not proved go to the pool."""
        self.nodes += len(domains)
        self.depth = max(self.depth, int(domains.depth.max()))
        domains = self.without(domains, domains.proved > 0)
        if not len(domains):
            return
        rough, start = self.rough.margins.take(domains.targets), self.system.margins.take(domains.targets)
        found = ascend(self.rough, rough, domains.signs, domains.theta, schedule, self.enough)
        lower = proved(self.system, start, domains.signs, found.theta)
        domains = replace(domains, theta=found.theta, proved=torch.maximum(lower, domains.proved))
        self.attack(domains, found)
        domains = self.without(domains, domains.proved > 0)
        for row, value in enumerate(domains.proved.tolist()):
            self.count += 1
            heapq.heappush(self.pool, (value, self.count, domains.take(slice(row, row + 1))))

    def without(self, domains: Domains, done: Tensor) -> Domains:
        """The domains that are not closed; the bounds of the others are noted."""
        if not bool(done.any()):
            return domains
        self.floors.scatter_reduce_(0, domains.targets[done], domains.proved[done], "amin")
        return domains.take(~done)

    def attack(self, domains: Domains, found: Ascent) -> None:
        """Is the network wrong where a bound is attained, or near by? Asked of the domains with the worst bounds."""
        if self.witness is not None:
            return
        worst = domains.proved.argsort(stable=True)[:ATTACKED]
        worst = worst[~(domains.proved[worst] > 0)]
        if not len(worst):
            return
        start = self.rough.margins.take(domains.targets[worst].repeat(2))
        near, value = descend(self.rough, start, torch.cat([found.points[worst], found.means[worst]]))
        hits = near[value <= self.enough]
        if len(hits):
            points = self.ball.center.flatten(1).repeat(len(hits), 1)
            points[:, self.system.coordinates] = hits.to(torch.float64)
            self.judge(points.view(-1, *self.ball.center.shape[1:]))
        best = int(value.argmin())
        if self.witness is None and float(value[best]) < -float(domains.proved[worst[0]]):
            self.search_piece(near[best], int(domains.targets[worst].repeat(2)[best]))

    def search_piece(self, x: Tensor, target: int) -> None:
        """The nearest counterexample in the linear piece around x [d]: exact where descent stops at a kink."""
        z, _ = activations(self.rough, x.unsqueeze(0))
        signs = torch.where(z[0] > 0, -1, 1).to(torch.int8)
        _, candidate = closed(self.exact, self.ball, self.label, self.layers, self.system, signs, self.targets[target])
        if candidate is not None:
            self.judge(candidate)

    def judge(self, points: Tensor) -> None:
        """Keep the point with the smallest margin if it is misclassified."""
        many = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        judged = confirm(self.exact, self.ball.take(many), self.labels[many], points)
        hits = torch.where(judged.success, judged.margins, torch.inf)
        best = int(hits.argmin())
        if bool(judged.success[best]):
            self.witness, self.witness_margin = judged.points[best : best + 1], float(hits[best])

    def leaf(self, domain: Domains) -> None:
        """Decide a domain without open neurons."""
        target = self.targets[int(domain.targets[0])]
        settled, candidate = closed(
            self.exact, self.ball, self.label, self.layers, self.system, domain.signs[0], target
        )
        if candidate is not None:
            self.judge(candidate)
        settled = settled and bool((domain.signs != 0).all())
        self.tied |= not settled
        floor = domain.proved.clamp(min=0.0) if settled else domain.proved
        self.floors[domain.targets] = torch.minimum(self.floors[domain.targets], floor)

    def outcome(self, verdict: Verdict, reason: str | None = None) -> Outcome:
        """The answer with what is known so far."""
        return Outcome(
            verdict=verdict,
            margin_lower=float(self.margins.min()) if len(self.margins) else math.inf,
            witness=self.witness,
            witness_margin=self.witness_margin if self.witness is not None else None,
            reason=reason,
            nodes=self.nodes,
            depth=self.depth,
            neurons=self.neurons,
            seconds=time.perf_counter() - self.started,
        )
