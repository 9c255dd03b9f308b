"""Checkpoints of chains: a run that is killed at any moment goes on bit for bit.

A checkpoint is a folder of plain files. Those of its parts are written once and never changed:

- ``part-0.npz`` holds the state one step after the start, under a fixed generator. A checkpoint is continued only by a
  chain that makes the same step, so not under another potential;
- ``part-1.npz, part-2.npz, …`` hold the draws since the part before, so that going on costs what is new;
- ``state-0.npz`` and ``state-k.npz`` hold the state at the start, and after the last part.

Each part names the SHA-256 digest of the file before and of its state. The manifest, ``checkpoint.json``, says which
part is the last, with its digest. It is replaced last, in one move, after all else has reached the disk: what a killed
process left half-written is never read, and gives way to the next part. NumPy and JSON read all of it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dlngeo.sampling.runs import store as _store
from dlngeo.sampling.runs.store import CheckpointError, uninterrupted
from dlngeo.sampling.state import Draws, Standing, State

__all__ = ["Checkpoint", "CheckpointError", "read"]

_TOLERANCE = 1e-6  # of the step that is compared; other processors and libraries round differently
_PERIOD = 30.0  # seconds between checkpoints
_STATISTIC = "statistics/"


class Checkpoint:
    """The checkpoint of one run, locked against other runs while it is open.

    It is of the chain that a header determines, see :func:`header`, whose state of the generator is not compared if it
    is None; that stood where ``standing`` says at the start, makes ``step`` under a fixed generator, and is to get to
    ``n_steps``. One is made every so many steps, by default every 30 seconds.

    Attributes
    ----------
    draws : Draws
        The draws found there.
    standing : Standing
        Where the chains stand after them.
    """

    def __init__(
        self,
        path: str | Path,
        header: dict[str, Any],
        standing: Standing,
        step: Callable[[State], State],
        n_steps: int,
        every: int | None = None,
    ) -> None:
        self.path, self._every, self._when = Path(path).resolve(), every, time.monotonic()
        header = _store.plain(header)
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file and no checkpoint; give another path.")
        if not self.path.exists() or not any(self.path.iterdir()):
            self._lock = self._create(header, standing, step)
        else:
            self._lock = _store.lock(self.path)
        try:
            self._manifest = _store.read_manifest(self.path)
            _compare(self.path, self._manifest["header"], header)
            if self._manifest["n_steps"] > n_steps:
                raise CheckpointError(
                    f"{self.path} has got to {self._manifest['n_steps']} steps, beyond the {n_steps} asked for; ask "
                    "for at least as many."
                )
            parts = _parts(self.path, self._manifest)
            self.draws, self.standing = _unpacked(self.path, parts, self._manifest)
            _compare_step(self.path, parts[0], step)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._lock)

    def append_if_due(self, draws: Draws, standing: Standing) -> None:
        """Call :meth:`append` if it is time."""
        if self._every is not None:
            due = standing.n_steps - self._manifest["n_steps"] >= self._every
        else:
            due = time.monotonic() - self._when > _PERIOD
        if due:
            self.append(draws, standing, "interrupted")

    def append(self, draws: Draws, standing: Standing, status: str) -> None:
        """Add what is new of all draws, and where the chains stand, ``"complete"`` or ``"interrupted"``."""
        last = self._manifest
        if (standing.n_steps, status) == (last["n_steps"], last["status"]):
            return
        with uninterrupted():
            part = last["part"] + 1
            new = _stacked(draws, last["n_draws"], standing.n_draws)
            digest = _write(self.path, part, new, standing, last["digest"])
            manifest = {**last, "part": part, "digest": digest, **_progress(standing, status)}
            _store.write_manifest(self.path, manifest)
            self._manifest, self._when = manifest, time.monotonic()
            if last["part"] > 0:
                _store.state_file(self.path, last["part"]).unlink(missing_ok=True)

    def _create(self, header: dict[str, Any], standing: Standing, step: Callable[[State], State]) -> int:
        """Make the checkpoint beside its path, move it there, and return the lock."""
        probe = step(standing.state)
        parent, prefix = self.path.parent, f".{self.path.name}-"
        parent.mkdir(parents=True, exist_ok=True)
        with uninterrupted():
            _store.remove_abandoned(parent, prefix)
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            lock = _store.lock(folder)
            try:
                folder.chmod(0o755)
                digest = _write(folder, 0, probe, standing, "")
                manifest = {"header": header, "part": 0, "digest": digest, **_progress(standing, "interrupted")}
                _store.write_manifest(folder, manifest)
                try:
                    folder.rename(self.path)
                except OSError as error:
                    raise CheckpointError(
                        f"{self.path} was made by another run meanwhile; give each its own."
                    ) from error
                _store.sync(parent)
            except BaseException:
                os.close(lock)
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return lock


def header(
    settings: dict[str, Any], start: State, rng: Any, shape: list[int], burn_in: int, thin: int
) -> dict[str, Any]:
    """Say what determines a run: the start by its digest, and the generator, unless any will do, by its state."""
    digest = _store.digest_of({name: np.asarray(array) for name, array in start.items()})
    return {"settings": settings, "burn_in": burn_in, "thin": thin, "shape": shape, "start": digest, "rng": rng}


def read(path: Path, manifest: dict[str, Any]) -> tuple[Draws, Standing]:
    """Read all draws of a checkpoint, and where its chains stand; refused if it went on since the manifest."""
    return _unpacked(path, _parts(path, manifest), manifest)


def _parts(path: Path, manifest: dict[str, Any]) -> list[_store.Part]:
    """Read all parts, from the last, whose digest the manifest knows, to the first."""
    digest, last, parts = manifest["digest"], manifest["part"], []
    for number in range(last, -1, -1):
        parts.append(_store.read_part(path, number, digest, state=number in (0, last)))
        digest = parts[-1].before
    return parts[::-1]


def _unpacked(path: Path, parts: list[_store.Part], manifest: dict[str, Any]) -> tuple[Draws, Standing]:
    draws, last = Draws([], []), parts[-1]
    for part in parts[1:]:
        if part.arrays:
            draws.points.extend(np.moveaxis(part.arrays["points"], 1, 0))
            names = [name for name in part.arrays if name != "points"]
            for k in range(part.arrays["points"].shape[1]):
                draws.statistics.append({name.removeprefix(_STATISTIC): part.arrays[name][:, k] for name in names})
    if (last.n_steps, len(draws.points)) != (manifest["n_steps"], manifest["n_draws"]):
        raise _store.damaged(path, "its record of progress")
    return draws, Standing(last.state, last.n_steps, len(draws.points), _store.arrayed(last.rng))


def _write(root: Path, number: int, arrays: State, standing: Standing, before: str) -> str:
    arrays, state = ({name: np.asarray(array) for name, array in group.items()} for group in (arrays, standing.state))
    return _store.write_part(root, number, arrays, state, _store.plain(standing.rng), standing.n_steps, before)


def _stacked(draws: Draws, first: int, last: int) -> State:
    """Draws from ``first`` to ``last``, with the chains as leading axis."""
    if first == last:
        return {}
    rows = draws.statistics[first:last]
    columns = {f"{_STATISTIC}{name}": np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
    return {"points": np.stack(draws.points[first:last], axis=1), **columns}


def _progress(standing: Standing, status: str) -> dict[str, Any]:
    return {"n_steps": standing.n_steps, "n_draws": standing.n_draws, "status": status}


def _compare(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse the checkpoint of another run, and say in what it is another."""
    for name in sorted(there["settings"].keys() | here["settings"].keys()):
        a, b = there["settings"].get(name), here["settings"].get(name)
        if a != b:
            raise CheckpointError(
                f"{path} is a checkpoint of other settings: {name} was {a!r} and is now {b!r}. Give the settings it "
                "was made with, or another path."
            )
    words = {"start": "the initial points", "rng": "the random generator or seed", "shape": "the shape of the points"}
    for name, value in here.items():
        if there.get(name) != value and not (name == "rng" and value is None):
            values = "" if name in ("start", "rng") else f", {there.get(name)!r} and now {value!r}"
            raise CheckpointError(
                f"{path} is a checkpoint of another run: {words.get(name, name)} differed{values}. Give what it was "
                "made with, or another path."
            )


def _compare_step(path: Path, start: _store.Part, step: Callable[[State], State]) -> None:
    here, there = step(start.state), start.arrays
    if here.keys() != there.keys() or not all(_close(np.asarray(here[name]), there[name]) for name in there):
        raise CheckpointError(
            f"{path} is a checkpoint of another chain: a step from its start leads elsewhere. Restore the potential it "
            "was made with, or give another path."
        )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind not in "fc":
        return np.array_equal(a, b)
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
