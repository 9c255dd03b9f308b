"""Files of checkpoints: arrays in ``.npz`` and a manifest in JSON, written to the disk before they are counted on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CheckpointError", "Part"]

Arrays = dict[str, np.ndarray]

_FORMAT = 1
_MANIFEST = "checkpoint.json"
_ABOUT = "dlngeo.about"  # JSON, among the arrays of a part


class CheckpointError(ValueError):
    """A checkpoint that cannot be continued or read; it is left as it is.

    See Also
    --------
    dlngeo.sampling.Sampler
    dlngeo.sampling.sweep

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo.sampling import BrownianMotion, CheckpointError
    >>> walk, start = BrownianMotion(Euclidean(2), 0.1), np.zeros((3, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     half = walk.sample(start, 5, rng=0, checkpoint=folder)
    ...     whole = walk.sample(start, 10, rng=0, checkpoint=folder)  # five steps more
    ...     try:
    ...         walk.sample(start, 10, rng=1, checkpoint=folder)
    ...     except CheckpointError:
    ...         print("refused,", np.array_equal(whole.points[:, :5], half.points))
    refused, True
    """


class Part(NamedTuple):
    """What a part of a checkpoint holds: new arrays, the state after them, and the digest of the part before."""

    arrays: Arrays
    state: Arrays
    rng: Any
    n_steps: int
    before: str


def write_part(root: Path, number: int, arrays: Arrays, state: Arrays, rng: Any, n_steps: int, before: str) -> str:
    """Write one part to the disk, in place of one of that number, and return its digest."""
    about = {"before": before, "rng": rng, "n_steps": n_steps, "state": _write(state_file(root, number), state)}
    return _write(root / f"part-{number}.npz", {**arrays, _ABOUT: np.array(json.dumps(about))})


def read_part(root: Path, number: int, digest: str, *, state: bool = False) -> Part:
    """Read the part of a digest, and the state after it if asked for; refused unless both are what was written."""
    arrays = _read(root, root / f"part-{number}.npz", digest)
    about = json.loads(arrays.pop(_ABOUT).item())
    found = _read(root, state_file(root, number), about["state"]) if state else {}
    return Part(arrays, found, about["rng"], about["n_steps"], about["before"])


def state_file(root: Path, number: int) -> Path:
    """Where the state after a part is."""
    return root / f"state-{number}.npz"


def _write(path: Path, arrays: Arrays) -> str:
    """Write arrays to the disk, and return the digest of the file."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"the array {name!r} holds Python objects; checkpoints hold arrays of numbers.")
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:  # random digits do not compress
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    sync(path)
    return _digest(path)


def _read(root: Path, path: Path, digest: str) -> Arrays:
    """Read the arrays of a file, of which nothing is looked at unless all of it is what was written."""
    try:
        if _digest(path) == digest:
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
    except OSError as error:
        raise damaged(root, path.name) from error
    raise damaged(root, path.name)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Say in one move which part is the last."""
    temporary = root / f"{_MANIFEST}.partial"
    about = {"format": _FORMAT, **manifest}
    text = json.dumps({**about, "sha256": _seal(about)}, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    sync(root)
    temporary.replace(root / _MANIFEST)
    sync(root)


def read_manifest(root: Path) -> dict[str, Any]:
    """Read which part is the last, and how far the run got; refused if there is no checkpoint, or this is damaged."""
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
        seal = manifest.pop("sha256")
    except (FileNotFoundError, NotADirectoryError):
        why = "it is a store of zarr" if (root / "zarr.json").exists() else f"it has no {_MANIFEST}"
        raise CheckpointError(f"{root} is no checkpoint of this version: {why}; give another path.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(root, _MANIFEST) from error
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(
            f"{root} is a checkpoint of format {manifest.get('format')}; this version reads format {_FORMAT}."
        )
    if _seal(manifest) != seal:
        raise damaged(root, _MANIFEST)
    return manifest


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 digest of names, types, shapes and entries."""
    hashed = hashlib.sha256()
    for name, array in arrays.items():
        hashed.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def plain(value: Any) -> Any:
    """Turn what settings and generators consist of into what JSON gives back unchanged."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"settings must be numbers, strings and lists of them, got {value!r} of {type(value).__name__}.")


def arrayed(value: Any) -> Any:
    """Undo :func:`plain` in the state of a generator."""
    if isinstance(value, dict):
        if value.keys() == {"array", "dtype"}:
            return np.array(value["array"], dtype=value["dtype"])
        return {name: arrayed(entry) for name, entry in value.items()}
    return value


def lock(folder: Path) -> int:
    """Lock a folder, and return the handle to close; the lock goes with the process, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise CheckpointError(f"{folder} is in use by another run; give each its own.") from error
    return handle


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove checkpoints that were never moved to their place, and whose process is gone."""
    for folder in parent.iterdir():
        if folder.name.startswith(prefix) and re.fullmatch(r"[a-z0-9_]{8}", folder.name.removeprefix(prefix)):
            try:
                os.close(lock(folder))
            except (CheckpointError, OSError):
                continue
            shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, so that no part is begun again that the manifest counts on."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    pressed = False

    def note(*_: Any) -> None:
        nonlocal pressed
        pressed = True

    handler = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


def damaged(root: Path, what: str) -> CheckpointError:
    """Say what is wrong, and that nothing was touched."""
    return CheckpointError(
        f"the checkpoint {root} is damaged: {what} is missing or not what was written. It is left as it is; restore it "
        "from a copy, or give another path to start again."
    )
