"""Runs that are killed go on bit for bit, and what is no checkpoint of theirs is refused and left alone."""

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import stat
import time

import numpy as np
import pytest
from networks import SQUARES, assert_same, starts

from dlngeo.geomstats import FixedRankMatrices
from dlngeo.sampling import CheckpointError, ConstrainedHMC, Langevin, Sampler, Samples, WorkerLostError

N_STEPS = 60
OPTIONS = {"burn_in": 7, "thin": 2}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what a process wrote is there for others, however it ended


class Walk(Sampler):
    """A walk with a state of several types, one of them adapted, that draws a varying number of random numbers."""

    def __init__(self, size=1.0, push=0.0):
        self.size, self.push = size, push

    def start(self, points):
        chains = len(points)
        return {"x": points, "n": np.zeros(chains, np.int32), "scale": np.array(1.0), "up": np.zeros(chains, bool)}

    def step(self, state, rng):
        x, n = state["x"], state["n"] + 1
        x = 0.9 * x + self.push + self.size * state["scale"] * rng.standard_normal(x.shape)
        rng.integers(0, 10, size=int(n[0]) % 3, dtype=np.int32)  # leaves half a word in the generator
        return {"x": x, "n": n, "scale": np.tanh(state["scale"] + 0.01 * np.mean(x**2)), "up": x[:, 0] > 0}

    def points(self, state):
        return state["x"]

    def statistics(self, state):
        return {"up": state["up"], "size": np.sum(state["x"] ** 2, axis=-1)}

    def settings(self):
        return {"sampler": "Walk", "size": self.size, "numbers": (np.float64(1), np.int64(2)), "bound": np.inf}


SPACE = FixedRankMatrices(3, 4, 2, depth=3)
SAMPLERS = {
    "walk": Walk(),
    "langevin": Langevin(SPACE, lambda x: x, 2.0, 0.02, potential=lambda x: np.sum(x**2, axis=(1, 2)) / 2),
    "hmc": ConstrainedHMC(SPACE, SQUARES, None, 2.0, 0.2, 3),
}


def start(name="walk"):
    rng = np.random.default_rng(0)
    if name == "walk":
        return rng.standard_normal((3, 2))
    return starts(3, rng)


def run(path, name="walk", n_steps=N_STEPS, every=4, rng=5, **options):
    return SAMPLERS[name].sample(
        start(name), n_steps, rng=rng, checkpoint=path, checkpoint_every=every, **{**OPTIONS, **options}
    )


def whole(name="walk", n_steps=N_STEPS, rng=5):
    return SAMPLERS[name].sample(start(name), n_steps, rng=rng, **OPTIONS)


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def name_of(handle, folder):
    """Name of the open file, if it is in the folder, or of the folder."""
    inode = os.fstat(handle).st_ino
    return next(
        (path.name for path in [folder, *folder.rglob("*")] if path.exists() and path.stat().st_ino == inode), ""
    )


def interrupted_at(path, name="walk", n_steps=N_STEPS, after=30, every=13, **options):
    def press(done):
        if done == after:
            raise KeyboardInterrupt

    return run(path, name, n_steps, every, progress=press, **options)


# Killed


def child(path, name, calls):
    """Run in a process, mostly writing; with ``calls``, be killed before the file operation of that number."""
    os.fsync = lambda handle: time.sleep(0 if calls is not None else 0.002)
    if calls is not None:
        left = [calls]

        def counted(function):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        os.fsync = counted(os.fsync)
        os.rename, os.replace, os.unlink = counted(os.rename), counted(os.replace), counted(os.unlink)
    run(path, name, 12 if calls is not None else N_STEPS, every=4)


def process(*args):
    """Start a process that has everything imported, so that starting it costs nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dlngeo.sampling", "dlngeo.geomstats", "pytest"])
    out = context.Process(target=child, args=args)
    out.start()
    return out


@pytest.mark.parametrize("name", ["walk", pytest.param("langevin", marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_goes_on_bit_for_bit(name, tmp_path):
    path, moments, killed = tmp_path / "a", random.Random(name), []
    for _ in range(100):
        running = process(path, name, None)
        if len(killed) < 5:
            while not path.exists():
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.15))
            running.kill()
        running.join(60)
        if running.exitcode == 0:
            break
        assert running.exitcode == -signal.SIGKILL
        killed.append(Samples.load(path).n_steps)
    assert len(killed) > 1
    assert sorted(killed) == killed
    assert_same(Samples.load(path), whole(name))
    assert_same(run(path, name), whole(name))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_run_killed_before_any_file_operation_goes_on(tmp_path):
    path, expected = tmp_path / "a", whole(n_steps=12)
    for k in range(1000):
        shutil.rmtree(path, ignore_errors=True)
        running = process(path, "walk", k)
        running.join(60)
        if running.exitcode == 0:
            break
        assert running.exitcode == -signal.SIGKILL
        assert_same(run(path, n_steps=12), expected)
    assert 25 <= k < 100
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_all_is_on_the_disk_before_the_manifest_says_so(tmp_path, monkeypatch):
    path, replace, events = tmp_path / "a", os.replace, []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(name_of(handle, path)))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append(f"to {b}") or replace(a, b))
    run(path, n_steps=12)
    moves = [k for k, event in enumerate(events) if event == f"to {path / 'checkpoint.json'}"]
    assert len(moves) == 3  # it was made elsewhere
    assert {"part-3.npz", "state-3.npz", "checkpoint.json.partial", "a"} <= set(events[moves[-2] : moves[-1]])
    assert "a" in events[moves[-1] :]


# Interrupted, extended, reread


@pytest.mark.parametrize("after", [1, 7, 8, 33])
def test_ctrl_c_keeps_what_is_done(after, tmp_path):
    path = tmp_path / "a"
    first = interrupted_at(path, after=after)
    assert (first.n_steps, first.status) == (after, "interrupted")
    assert_same(Samples.load(path), first)
    assert_same(run(path), whole())


def test_a_complete_run_is_not_done_again_but_may_get_more_steps(tmp_path, monkeypatch):
    path = tmp_path / "a"
    run(path, n_steps=30)
    before = contents(path)
    steps = []
    monkeypatch.setattr(
        Walk, "step", lambda self, state, rng, step=Walk.step: steps.append(1) or step(self, state, rng)
    )
    assert_same(run(path, n_steps=30), whole(n_steps=30))
    assert len(steps) == 1 + 30  # the step that is compared, and the run without a checkpoint
    assert contents(path) == before
    assert_same(run(path, n_steps=45), whole(n_steps=45))
    assert Samples.load(path).n_steps == 45
    with pytest.raises(CheckpointError, match="has got to 45 steps, beyond the 30 asked for"):
        run(path, n_steps=30)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_the_generator_goes_on_too(kind, tmp_path):
    path = tmp_path / "a"
    there, here, again = (np.random.Generator(kind(3)) for _ in range(3))
    expected = whole(rng=there)
    interrupted_at(path, rng=here)
    assert_same(run(path, rng=again), expected)
    assert again.random() == there.random()
    # Without a generator, the one of the checkpoint goes on.
    assert_same(run(path, rng=None), expected)


def test_a_run_without_a_seed_goes_on(tmp_path):
    path = tmp_path / "a"
    first = interrupted_at(path, rng=None)
    second = run(path, rng=None)
    assert np.array_equal(second.points[:, : first.points.shape[1]], first.points)
    assert second.n_steps == N_STEPS
    with pytest.raises(CheckpointError, match="the random generator or seed differed"):
        run(path, rng=0)


def test_samples_go_on_under_a_checkpoint(tmp_path):
    generator, other = np.random.default_rng(1), np.random.default_rng(1)
    first = Walk().sample(start(), 10, rng=generator)
    Walk().sample(start(), 10, rng=other)
    expected = Walk().sample(first, 20, rng=generator)
    found = Walk().sample(first, 20, rng=other, checkpoint=tmp_path / "b", checkpoint_every=3)
    assert_same(found, expected)
    with pytest.raises(CheckpointError, match="initial points differed"):
        Walk().sample(found, 20, checkpoint=tmp_path / "b")


def test_what_is_written_grows_with_the_draws_that_are_new(tmp_path, monkeypatch):
    def written(every):
        sizes = []
        monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle)))
        options = {"checkpoint": tmp_path / str(every), "checkpoint_every": every}
        Walk().sample(np.zeros((50, 40)), 100, rng=0, **options)
        return sum(found.st_size for found in sizes if stat.S_ISREG(found.st_mode))

    draws = 50 * 40 * 100 * 8
    assert written(50) > draws
    assert written(5) < 1.6 * draws  # 18 checkpoints more, each with the state and some attributes


def test_by_default_time_decides(tmp_path, monkeypatch):
    now, steps = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def tick(done):
        steps.append(json.loads((tmp_path / "a" / "checkpoint.json").read_text())["n_steps"])
        now[0] += 11

    run(tmp_path / "a", n_steps=10, every=None, progress=tick)
    assert steps == [0, 0, 0, 2, 2, 2, 5, 5, 5, 8, 8]


def test_a_run_that_goes_on_is_read_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "a"
    interrupted_at(path, after=20)
    load, meanwhile = np.load, [lambda: run(path)]

    def slow(*args, **options):
        while meanwhile:
            meanwhile.pop()()
        return load(*args, **options)

    monkeypatch.setattr(np, "load", slow)
    assert_same(Samples.load(path), whole())
    assert not meanwhile


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_samples_and_errors_are_copied_whole(again, tmp_path):
    run(tmp_path / "a")
    samples = Samples.load(tmp_path / "a")
    assert_same(again(samples), samples)
    assert again(samples).settings == samples.settings
    assert samples == samples  # by identity: arrays have no truth
    assert samples != again(samples)
    lost = again(WorkerLostError("killed", [{"k": 1}]))
    assert (str(lost), lost.cells) == ("killed", [{"k": 1}])
    with pytest.raises(CheckpointError) as caught:
        Samples.load(tmp_path)
    assert (type(again(caught.value)), str(again(caught.value))) == (CheckpointError, str(caught.value))


def test_numpy_and_json_read_it(tmp_path):
    path = tmp_path / "a"
    run(path)
    about = json.loads((path / "checkpoint.json").read_text())
    assert (about["n_steps"], about["status"]) == (N_STEPS, "complete")
    parts = [np.load(path / f"part-{k}.npz") for k in range(1, about["part"] + 1)]
    assert np.array_equal(
        np.concatenate([part["points"] for part in parts if "points" in part], axis=1), whole().points
    )
    assert {file.name for file in path.glob("state-*")} == {"state-0.npz", f"state-{about['part']}.npz"}


# Refused


@pytest.mark.parametrize("kind", ["truncated", "emptied", "flipped", "missing"])
def test_every_damaged_file_is_an_error_and_nothing_is_lost(kind, tmp_path):
    path = tmp_path / "a"
    run(path, n_steps=14, every=5)
    files = [path / "checkpoint.json", path / "state-0.npz", path / "state-3.npz", *path.glob("part-?.npz")]
    assert sorted(files) == sorted(path.iterdir())
    assert len(files) == 7
    for file in files:
        good = file.read_bytes()
        if kind == "missing":
            file.unlink()
        else:
            middle = len(good) // 2
            flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
            file.write_bytes({"truncated": good[:middle], "emptied": b"", "flipped": flipped}[kind])
        before = contents(path)
        message = (
            "is no checkpoint" if (kind, file.name) == ("missing", "checkpoint.json") else rf"is damaged: {file.name} "
        )
        for read in (Samples.load, lambda path: run(path, n_steps=14)):
            with pytest.raises(CheckpointError, match=message) as caught:
                read(path)
            assert str(path) in str(caught.value)
        assert contents(path) == before
        file.write_bytes(good)
    assert_same(run(path), whole())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thin": 3}, "thin differed, 2 and now 3"),
        ({"burn_in": 8}, "burn_in differed, 7 and now 8"),
        ({"rng": 6}, "the random generator or seed differed"),
        ({"rng": np.random.Generator(np.random.MT19937(5))}, "the random generator or seed differed"),
    ],
    ids=["thin", "burn-in", "seed", "generator"],
)
def test_another_run_is_refused(options, message, tmp_path):
    path = tmp_path / "a"
    interrupted_at(path)
    before = contents(path)
    with pytest.raises(CheckpointError, match=message):
        run(path, **options)
    assert contents(path) == before
    assert_same(run(path), whole())


@pytest.mark.parametrize(
    ("sampler", "points", "message"),
    [
        (Walk(size=2.0), start(), "other settings: size was 1.0 and is now 2.0"),
        (Walk(push=0.1), start(), "a step from its start leads elsewhere"),
        (Walk(), start() + 1e-12, "the initial points differed"),
        (Walk(), start()[:2], r"the shape of the points differed, \[3, 2\] and now \[2, 2\]"),
        (SAMPLERS["langevin"], start("langevin"), "other settings"),
    ],
    ids=["settings", "potential", "start", "shape", "sampler"],
)
def test_another_chain_is_refused(sampler, points, message, tmp_path):
    path = tmp_path / "a"
    interrupted_at(path)
    before = contents(path)
    with pytest.raises(CheckpointError, match=message):
        sampler.sample(points, N_STEPS, rng=5, checkpoint=path, **OPTIONS)
    assert contents(path) == before


def test_a_potential_that_the_settings_do_not_name_is_refused(tmp_path):
    path = tmp_path / "a"
    run(path, "langevin", n_steps=10)
    stiff = Langevin(SPACE, lambda x: 2 * x, 2.0, 0.02, potential=lambda x: np.sum(x**2, axis=(1, 2)))
    with pytest.raises(CheckpointError, match="leads elsewhere"):
        stiff.sample(start("langevin"), N_STEPS, rng=5, checkpoint=path, **OPTIONS)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    file, folder, zarr, later = (tmp_path / name for name in ("file", "folder", "zarr", "later"))
    file.write_text("mine")
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    zarr.mkdir()
    (zarr / "zarr.json").write_text("{}")
    run(later, n_steps=10)
    manifest = later / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    before = contents(tmp_path)
    refused = [(file, "is a file"), (folder, "no checkpoint.json"), (zarr, "a store of zarr"), (later, "format 2")]
    for path, message in refused:
        with pytest.raises(CheckpointError, match=message):
            run(path)
        with pytest.raises(CheckpointError):
            Samples.load(path)
    assert contents(tmp_path) == before
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        Samples.load(tmp_path / "absent")


def test_an_empty_folder_and_a_missing_one_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert_same(run(path, n_steps=10), whole(n_steps=10))


def test_two_runs_at_once_are_refused(tmp_path):
    path = tmp_path / "a"

    def meanwhile(done):
        if done == 20:
            with pytest.raises(CheckpointError, match="in use by another run"):
                run(path)

    assert_same(run(path, progress=meanwhile), whole())


def test_what_a_failing_step_left_is_kept(tmp_path):
    path, step = tmp_path / "a", Walk.step
    failing = Walk()
    calls = 0

    def until(state, rng):
        nonlocal calls
        calls += 1
        if calls == 12:  # one of them is the step that is compared, twice
            raise ValueError("too long a step")
        return step(failing, state, rng)

    failing.step = until
    with pytest.raises(ValueError, match="too long a step"):
        failing.sample(start(), N_STEPS, rng=5, checkpoint=path, **OPTIONS)
    assert Samples.load(path).n_steps == 9
    assert_same(run(path), whole())


def test_settings_and_states_that_no_file_can_hold_are_refused(tmp_path):
    class Opaque(Walk):
        def settings(self):
            return {"potential": np.sum}

    class Boxed(Walk):
        def step(self, state, rng):
            return {**super().step(state, rng), "n": np.array([None] * 3)}

    with pytest.raises(TypeError, match="settings must be numbers"):
        Opaque().sample(start(), 5, rng=0, checkpoint=tmp_path / "a")
    with pytest.raises(TypeError, match="holds Python objects"):
        Boxed().sample(start(), 5, rng=0, checkpoint=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_writing_waits_for_the_end(tmp_path, monkeypatch):
    path, written = tmp_path / "a", []

    def press(handle):
        written.append(name_of(handle, tmp_path))
        if written.count("part-3.npz") == 1 and written[-1] == "part-3.npz":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    monkeypatch.setattr(os, "fsync", press)
    first = run(path)
    assert [name for name in written if name.startswith("part-")] == [f"part-{k}.npz" for k in range(4)]
    assert (first.n_steps, first.status) == (12, "interrupted")
    assert_same(Samples.load(path), first)
    assert_same(run(path), whole())
