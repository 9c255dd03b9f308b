"""Files of checkpoints: arrays and a few attributes in a zarr group, written to the disk before they are counted on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "CheckpointError",
    "Part",
    "arrayed",
    "digest_of",
    "lock",
    "plain",
    "read_manifest",
    "read_part",
    "remove_abandoned",
    "sync",
    "uninterrupted",
    "write_manifest",
    "write_part",
]

Arrays = dict[str, np.ndarray]

_FORMAT = 1
_MANIFEST = "zarr.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be continued or read; it is left as it is."""


class Part(NamedTuple):
    """What a part of a checkpoint holds: new arrays, chained by their digests, and the state after them."""

    arrays: Arrays
    state: Arrays
    rng: Any
    n_steps: int
    digest: str


def write_part(root: Path, number: int, arrays: Arrays, state: Arrays, rng: Any, n_steps: int, before: str) -> str:
    """Write one part to the disk, in place of one of that number, and return its digest."""
    groups = {"arrays": arrays, "state": state}
    for name, array in ((name, array) for group in groups.values() for name, array in group.items()):
        if array.dtype.hasobject:
            raise TypeError(f"the array {name!r} holds Python objects; checkpoints hold arrays of numbers.")
    digest = digest_of(arrays, before)
    attributes = {
        "names": {kind: list(group) for kind, group in groups.items()},
        "rng": rng,
        "n_steps": n_steps,
        "digest": digest,
        "state_digest": digest_of(state, json.dumps([n_steps, rng], sort_keys=True)),
    }
    folder = root / str(number)
    # Mode w removes first what a killed process left there.
    group = import_zarr().open_group(folder, mode="w", zarr_format=3, attributes=attributes)
    for kind, named in groups.items():
        for name, array in named.items():
            group.create_array(
                f"{kind}/{name}",
                data=array,
                chunks=tuple(max(1, size) for size in array.shape),
                compressors=None,  # random digits do not compress
                chunk_key_encoding={"name": "default", "separator": "."},  # no folder for each chunk
                config={"write_empty_chunks": True},
            )
    for place, _, files in os.walk(folder):
        for file in files:
            sync(Path(place, file))
        sync(Path(place))
    return digest


def read_part(root: Path, number: int, *, before: str | None = None, state: bool = False) -> Part:
    """Read a part, with its arrays if the digest before it is given, and its state if asked for.

    Raises
    ------
    CheckpointError
        If something is missing or its digest is not that of its arrays.
    """
    found: dict[str, Arrays] = {"arrays": {}, "state": {}}
    what = f"part {number}"
    try:
        group = import_zarr().open_group(root / what.removeprefix("part "), mode="r", zarr_format=3)
        attributes = dict(group.attrs)
        rng, n_steps, digest = attributes["rng"], attributes["n_steps"], attributes["digest"]
        for kind, wanted in (("arrays", before is not None), ("state", state)):
            for name in attributes["names"][kind] if wanted else ():
                what = f"{kind}/{name} in part {number}"
                found[kind][name] = np.asarray(group[f"{kind}/{name}"][...])
        what = f"part {number}"
        good = before is None or digest_of(found["arrays"], before) == digest
        if state and good:
            rest = json.dumps([n_steps, rng], sort_keys=True)
            good = digest_of(found["state"], rest) == attributes["state_digest"]
    except Exception as error:  # whatever zarr and JSON make of a damaged file
        raise damaged(root, what) from error
    if not good:
        raise damaged(root, what)
    return Part(found["arrays"], found["state"], rng, n_steps, digest)


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Say in one move which part is the last."""
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"dlngeo_checkpoint": {"format": _FORMAT, **manifest}},
    }
    temporary = root / f"{_MANIFEST}.partial"
    temporary.write_text(json.dumps(group, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    sync(temporary)
    sync(root)
    temporary.replace(root / _MANIFEST)
    sync(root)


def read_manifest(root: Path) -> dict[str, Any]:
    """Read which part is the last, and how far the run got.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or its first file is damaged.
    """
    try:
        attributes = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))["attributes"]
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{root} is no checkpoint: it has no {_MANIFEST}; give another path.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(root, _MANIFEST) from error
    manifest = attributes.get("dlngeo_checkpoint") if isinstance(attributes, dict) else None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{root} is a store of zarr and no checkpoint; give another path.")
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(
            f"{root} is a checkpoint of format {manifest.get('format')}; this version reads format {_FORMAT}."
        )
    if not {"header", "part", "digest", "n_steps", "n_draws", "status"} <= manifest.keys():
        raise damaged(root, _MANIFEST)
    return manifest


def digest_of(arrays: Mapping[str, np.ndarray], before: str = "") -> str:
    """SHA-256 digest of names, types, shapes and entries, after a text."""
    hashed = hashlib.sha256(before.encode())
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
    """Hold Ctrl-C back until the end of the block; the threads of zarr would go on writing after it."""
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


def import_zarr() -> Any:
    """Import zarr, or say how to get it."""
    try:
        import zarr
    except ImportError as error:
        raise ImportError("checkpoints need zarr: pip install 'dlngeo[sampling]'.") from error
    return zarr
