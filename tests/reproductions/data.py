"""Learning on real covariances in the geometry of every depth, beside the metrics of geomstats.

Run it as ``python tests/reproductions/data.py [--quick] [--out DIR]``. The data ship with geomstats (``load_emg``):
muscular activity of two persons, eight electrodes, five signs of the hand. Finished cells are kept in
``DIR/geodesics.jsonl``: an interrupted run goes on from there. At its end it writes ``geodesics.json`` (all cells),
``geodesics-table.md`` and ``geodesics.png``; ``--draw`` writes them from what there is. A full run takes a quarter of
an hour on two cores that are shared.

Each window of a second is centred, and its covariance divided by the mean variance of the person's channels. Nothing is
filtered. Windows keep two seconds from each change of sign.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import threadpoolctl
from cells import stored
from geomstats.datasets.utils import load_emg
from geomstats.geometry.spd_matrices import (
    SPDAffineMetric,
    SPDBuresWassersteinMetric,
    SPDEuclideanMetric,
    SPDLogEuclideanMetric,
    SPDMatrices,
)
from geomstats.learning.frechet_mean import FrechetMean
from geomstats.learning.kmeans import RiemannianKMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import adjusted_rand_score

from dlngeo.errors import GeodesicError
from dlngeo.geomstats import DLNMetric

METRICS: dict[str, tuple[Any, dict[str, Any]]] = {
    "depth 1": (DLNMetric, {"depth": 1}),
    "depth 2": (DLNMetric, {"depth": 2}),
    "depth 3": (DLNMetric, {"depth": 3}),
    "depth ∞": (DLNMetric, {"depth": math.inf}),
    "Euclidean": (SPDEuclideanMetric, {}),
    "Bures–Wasserstein": (SPDBuresWassersteinMetric, {}),
    "log-Euclidean": (SPDLogEuclideanMetric, {}),
    "affine-invariant": (SPDAffineMetric, {}),
}
PERSONS = ("mg", "rr")
SIGNS = ("rest", "rock", "paper", "scissors", "ok")
# Samples of 4 ms in a window, and left out at a change of sign.
LENGTH, MARGIN = 250, 500
# Windows of each sign in each of the twelve recordings of a person. Distances of all pairs are dear.
WINDOWS = {"mean": 2, "drift": 2, "nearest mean": 2, "neighbours": 1, "clusters": 1}
NEIGHBOURS, COMPONENTS, STARTS = 5, (1, 2, 5), 3


class Data(NamedTuple):
    """Covariances, shape=[n, 8, 8], the signs, and of each the recording, of which six make a session."""

    x: np.ndarray
    sign: np.ndarray
    recording: np.ndarray

    @property
    def session(self) -> np.ndarray:
        """First or second."""
        return self.recording // 6

    def part(self, chosen: np.ndarray) -> Data:
        """Some of the windows."""
        return Data(*(a[chosen] for a in self))


def covariances(person: str, windows: int) -> Data:
    """Covariances of the windows of a person."""
    table = load_emg()
    table = table[table["exp"].str.startswith(person)]
    new = (table["label"] != table["label"].shift()) | (table["exp"] != table["exp"].shift())
    x, sign, recording = [], [], []
    for count, (_, trial) in enumerate(table.groupby(new.cumsum())):
        channels = trial[[f"c{i}" for i in range(8)]].to_numpy(float)
        for place in (np.arange(windows) + 0.5) / windows:
            start = MARGIN + int(place * (len(channels) - 2 * MARGIN - LENGTH))
            x.append(np.cov(channels[start : start + LENGTH].T))
            sign.append(SIGNS.index(trial["label"].iloc[0]))
            recording.append(count // len(SIGNS))
    covariance = np.array(x)
    return Data(covariance * (8 / np.trace(covariance.mean(axis=0))), np.array(sign), np.array(recording))


def space_of(metric: str) -> Any:
    """The positive definite matrices with a metric."""
    kind, options = METRICS[metric]
    return SPDMatrices(8, equip=False).equip_with_metric(kind, **options)


def mean(space: Any, x: np.ndarray) -> np.ndarray:
    """Fréchet mean, by geomstats."""
    estimator = FrechetMean(space)
    if hasattr(estimator, "optimizer"):
        estimator.set(max_iter=60, epsilon=1e-9)
    return estimator.fit(x).estimate_


def coordinates(space: Any, logs: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Coordinates of tangent vectors in an orthonormal basis, by descending variance, shape=[n, ≤ 36]."""
    gram = np.array([space.metric.inner_product(0 * logs + log, logs, base) for log in logs]).reshape(len(logs), -1)
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    order = np.argsort(values)[::-1][: space.dim]
    order = order[values[order] > 1e-12 * values[order[0]]]
    return vectors[:, order] * np.sqrt(values[order])


def mean_and_variation(space: Any, data: Data) -> dict[str, Any]:
    """Fréchet mean, what principal geodesics explain of the variance around it, and how well signs are told there.

    Principal geodesics are those of the logarithms at the mean, orthogonal in the metric; signs are told by a linear
    discriminant with shrinkage in them, of a recording by the eleven others.
    """
    centre, seconds = timed(lambda: mean(space, data.x))
    logs = space.metric.log(data.x, centre)
    about = coordinates(space, logs, centre)
    rest = float(np.sqrt(space.metric.squared_norm(logs.mean(axis=0), centre).item()))
    power = np.sum((about - about.mean(axis=0)) ** 2, axis=0)
    power = np.sort(power)[::-1] / power.sum()
    hits = []
    for k in np.unique(data.recording):
        train = data.recording != k
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(about[train], data.sign[train])
        hits.append(float(np.mean(model.predict(about[~train]) == data.sign[~train])))
    return {
        "seconds": seconds,
        "rest": rest / math.sqrt(float(np.mean(np.sum(about**2, axis=1)))),
        "explained": [float(power[:k].sum()) for k in COMPONENTS],
        "accuracy": hits,
    }


def neighbours(space: Any, data: Data) -> dict[str, Any]:
    """Signs told by the nearest neighbours: from other recordings, and from the other session alone."""
    first, second = np.triu_indices(len(data.x), 1)
    distances, seconds = timed(lambda: space.metric.dist(data.x[first], data.x[second]))
    table = np.zeros((len(data.x), len(data.x)))
    table[first, second] = table[second, first] = np.ravel(distances)
    out: dict[str, Any] = {"seconds": seconds, "pairs": len(first)}
    for name, group in (("accuracy", data.recording), ("across", data.session)):
        others = np.where(group[:, None] == group, np.inf, table)
        nearest = np.argsort(others, axis=1)[:, :NEIGHBOURS]
        # A draw goes to the nearest: votes fall off by less than one over all neighbours.
        votes = np.zeros((len(data.x), len(SIGNS)))
        for rank in range(NEIGHBOURS):
            np.add.at(votes, (np.arange(len(data.x)), data.sign[nearest[:, rank]]), 1 - 0.01 * rank)
        right = votes.argmax(axis=1) == data.sign
        out[name] = [float(right[data.recording == k].mean()) for k in np.unique(data.recording)]
    return out


def nearest_mean(space: Any, data: Data) -> dict[str, Any]:
    """Signs told by the nearest mean of a sign in the other session, by recording."""
    hits, spent = {}, 0.0
    for session in (0, 1):
        train, test = data.part(data.session == session), data.part(data.session != session)

        def fit(train: Data = train) -> np.ndarray:
            return np.stack([mean(space, train.x[train.sign == k]) for k in range(len(SIGNS))])

        centres, seconds = timed(fit)
        spent += seconds
        apart = np.stack([np.ravel(space.metric.dist(test.x, centre)) for centre in centres], axis=1)
        right = apart.argmin(axis=1) == test.sign
        hits |= {k: float(right[test.recording == k].mean()) for k in np.unique(test.recording)}
    return {"seconds": spent, "accuracy": [hits[k] for k in sorted(hits)]}


def clusters(space: Any, data: Data) -> dict[str, Any]:
    """K-means of geomstats from a few starts, the same windows for all metrics."""
    agreement, spent = [], 0.0
    for start in range(STARTS):
        rng = np.random.default_rng(start)
        init = data.x[[rng.choice(np.flatnonzero(data.sign == k)) for k in range(len(SIGNS))]]
        # The centres are written into what is given.
        estimator = RiemannianKMeans(space, n_clusters=len(SIGNS), init=init.copy(), max_iter=20)
        _, seconds = timed(lambda estimator=estimator: estimator.fit(data.x))
        spent += seconds
        agreement.append(float(adjusted_rand_score(data.sign, estimator.labels_)))
    return {"seconds": spent / STARTS, "agreement": agreement}


def drift(space: Any, data: Data) -> dict[str, Any]:
    """Geodesics fitted to the first five recordings of a session, as far from the sixth as the mean of the five is not.

    Regression is that of the logarithms at the mean, on the number of the recording. The ratio is that of the squared
    distances of the geodesic's end and of the mean.
    """
    ratios, spent = [], 0.0
    for session in (0, 1):
        for sign in range(len(SIGNS)):
            own = data.part((data.session == session) & (data.sign == sign))
            time_of = own.recording % 6
            early, late = own.x[time_of < 5], own.x[time_of == 5]

            def fit(early: np.ndarray = early, t: np.ndarray = time_of[time_of < 5]) -> tuple[Any, Any]:
                centre = mean(space, early)
                logs, t = space.metric.log(early, centre), t - t.mean()
                return centre, np.tensordot(t / (t @ t), logs, 1)

            (centre, slope), seconds = timed(fit)
            spent += seconds
            try:
                end = space.metric.exp(3 * slope, centre)
            except GeodesicError:
                end = np.full_like(centre, np.nan)
            if not np.all(np.isfinite(end)) or np.linalg.eigvalsh(end)[0] <= 0:
                ratios.append(math.inf)  # the geodesic has left the space
                continue
            errors = [np.sum(np.square(space.metric.dist(late, point))) for point in (end, centre)]
            ratios.append(float(errors[0] / errors[1]))
    return {"seconds": spent, "ratios": ratios}


TASKS: dict[str, Callable[[Any, Data], dict[str, Any]]] = {
    "mean": mean_and_variation,
    "drift": drift,
    "nearest mean": nearest_mean,
    "neighbours": neighbours,
    "clusters": clusters,
}


def timed(f: Callable[[], Any]) -> tuple[Any, float]:
    """Value of a function, and the seconds of processor time that it took."""
    start = time.process_time()
    value = f()
    return value, time.process_time() - start


def cells() -> Iterator[dict[str, str]]:
    """What is to be run, the cheap tasks first."""
    for task in TASKS:
        for metric in METRICS:
            for person in PERSONS:
                yield {"task": task, "metric": metric, "person": person}


def compute(cell: dict[str, str], quick: bool) -> dict[str, Any]:
    """Run one cell."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with threadpoolctl.threadpool_limits(1):
        space, data = space_of(cell["metric"]), covariances(cell["person"], 1 if quick else WINDOWS[cell["task"]])
        space.metric.dist(data.x[:3], mean(space, data.x[:3]))  # compiles what is compiled
        return {**cell, "windows": len(data.x), **TASKS[cell["task"]](space, data)}


def key(cell: dict[str, Any]) -> tuple[str, ...]:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("task", "metric", "person"))


def main() -> None:
    """Run what is not yet run, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one window of each trial")
    parser.add_argument("--draw", action="store_true", help="run nothing; write table and picture from what there is")
    parser.add_argument("--out", type=Path, default=Path("geodesics"), help="folder (default: geodesics)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = stored(key, arguments.out / "geodesics.jsonl", arguments.out / "geodesics.json")
    done = {key(r) for r in results}
    wanted = [] if arguments.draw else [cell for cell in cells() if key(cell) not in done]
    try:
        with (arguments.out / "geodesics.jsonl").open("a") if wanted else nullcontext() as file:
            if wanted:
                file.write("\n")  # the last line may have been cut short
            parallel = joblib.Parallel(n_jobs=2, return_as="generator_unordered", pre_dispatch=4)
            for result in parallel(joblib.delayed(compute)(cell, arguments.quick) for cell in wanted):
                results.append(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
                sys.stderr.write(f"{', '.join(key(result))}: {result['seconds']:.2f} s\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
    sys.path.insert(0, str(Path(__file__).parent))
    from data_report import write

    write(results, arguments.out)


if __name__ == "__main__":
    main()
