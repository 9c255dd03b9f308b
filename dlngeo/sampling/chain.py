"""Markov chains: what a sampler is, how it is run, and what it returns."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlngeo import _check
from dlngeo._linalg import is_complex
from dlngeo.sampling.diagnostics import diagnose
from dlngeo.sampling.factors import Factors, named
from dlngeo.sampling.runs import store as _store
from dlngeo.sampling.runs.checkpoint import Checkpoint, read
from dlngeo.sampling.runs.checkpoint import header as header_of
from dlngeo.sampling.state import Draws, Standing, State

__all__ = ["Sampler", "Samples"]


@dataclass(eq=False)
class Samples:
    """Draws of one or more chains.

    Attributes
    ----------
    points : array, shape=[n_chains, n_draws, *point_shape]
        Points, after burn-in and thinning.
    statistics : dict of array, shape=[n_chains, n_draws]
        What the sampler reports at each draw: the energy, whether a proposal was accepted.
    state : dict of array
        Where the chains stand, to go on from; ``sampler.sample(samples, …)`` does.
    n_steps : int
        Steps done, burn-in included.
    status : str
        ``"complete"`` or ``"interrupted"``.
    settings : dict
        What the sampler was told.

    See Also
    --------
    dlngeo.sampling.Sampler
    dlngeo.sampling.sweep

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo.sampling import BrownianMotion
    >>> walk, start, rng = BrownianMotion(Euclidean(2), 0.1), np.zeros((3, 2)), np.random.default_rng(0)
    >>> first = walk.sample(start, 5, rng=rng)
    >>> second = walk.sample(first, 5, rng=rng)
    >>> both = np.concatenate([first.points, second.points], axis=1)
    >>> np.array_equal(both, walk.sample(start, 10, rng=0).points)
    True
    """

    points: np.ndarray
    statistics: dict[str, np.ndarray]
    state: State
    n_steps: int
    status: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Samples:
        """Read the draws of a checkpoint, of a run that is complete or not, and leave it as it is.

        Parameters
        ----------
        path : path
            What :meth:`Sampler.sample` got as ``checkpoint``.

        Raises
        ------
        CheckpointError
            If there is no checkpoint, or it is damaged.
        """
        while True:
            manifest = _store.read_manifest(Path(path))
            try:
                draws, standing = read(Path(path), manifest)
                break
            except _store.CheckpointError:
                if _store.read_manifest(Path(path)) == manifest:  # else the run went on meanwhile
                    raise
        header = manifest["header"]
        return _samples(draws, standing, manifest["status"], header["settings"], header["shape"])

    def observe(self, observable: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Evaluate a function of the points at all draws.

        Parameters
        ----------
        observable : callable
            Maps points, shape=[n, *point_shape], to values, shape=[n, …].

        Returns
        -------
        array, shape=[n_chains, n_draws, …]
        """
        flat = self.points.reshape(-1, *self.points.shape[2:])
        values = np.asarray(observable(flat))
        return values.reshape(*self.points.shape[:2], *values.shape[1:])

    def summary(self, **observables: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
        """Mean, Monte Carlo standard error, effective sample size and R-hat of observables.

        Parameters
        ----------
        **observables : callable
            Functions of the points by name, see :meth:`observe`; without any, the entries of the points themselves.
            Of complex ones the real and the imaginary part, ``name.real`` and ``name.imag``.

        Returns
        -------
        pandas.DataFrame
            A row for each entry of each observable, ``name`` or ``name[i, j]``, and the columns of
            :func:`dlngeo.sampling.diagnostics.diagnose`, of which ``mcse`` has ArviZ's name, ``mcse_mean``.
        """
        rows = {}
        for name, values in self._observed(observables).items():
            for index in np.ndindex(values.shape[2:]):
                label = f"{name}[{', '.join(map(str, index))}]" if index else name
                rows[label] = diagnose(values[:, :, *index])
        return pd.DataFrame.from_dict(rows, orient="index").rename(columns={"mcse": "mcse_mean"})

    def to_inference_data(self, **observables: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Give the draws to ArviZ, whose plots and statistics then apply.

        Parameters
        ----------
        **observables : callable
            Functions of the points by name, see :meth:`observe`; without any, the points themselves.

        Returns
        -------
        arviz.InferenceData, or xarray.DataTree from ArviZ 1.0 on
            With the groups ``posterior`` and ``sample_stats``.

        Raises
        ------
        ImportError
            If ArviZ is not installed.
        """
        logging.getLogger("arviz.preview").setLevel(logging.WARNING)  # it tells which successors are not installed
        try:
            import arviz
        except ImportError as error:
            raise ImportError("this needs ArviZ, of any version: pip install arviz.") from error
        groups = {"posterior": self._observed(observables), "sample_stats": self.statistics}
        groups = {name: group for name, group in groups.items() if group}
        if hasattr(arviz, "InferenceData"):
            return arviz.from_dict(groups["posterior"], sample_stats=groups.get("sample_stats"), attrs=self.settings)
        return arviz.from_dict(groups, attrs={"/": self.settings})

    def _observed(self, observables: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, np.ndarray]:
        found = {name: self.observe(function) for name, function in observables.items()} or {"points": self.points}
        # Diagnostics are those of real numbers.
        parts = {
            name: {f"{name}.real": values.real, f"{name}.imag": values.imag} if is_complex(values) else {name: values}
            for name, values in found.items()
        }
        return {name: values for part in parts.values() for name, values in part.items()}


class Sampler(ABC):
    """A Markov chain on batched points, whose whole state is a dictionary of arrays with the chains as leading axis.

    Implement :meth:`start`, :meth:`step`, :meth:`points` and :meth:`settings`; :meth:`sample` runs it.

    See Also
    --------
    dlngeo.sampling.Samples
    dlngeo.sampling.Langevin
    dlngeo.sampling.ConstrainedHMC

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.sampling import Sampler
    >>> class Walk(Sampler):
    ...     def start(self, points):
    ...         return {"x": points}
    ...     def step(self, state, rng):
    ...         return {"x": state["x"] + rng.standard_normal(state["x"].shape)}
    ...     def points(self, state):
    ...         return state["x"]
    ...     def settings(self):
    ...         return {"sampler": "Walk"}
    >>> walk = Walk().sample(np.zeros((10000, 1)), 25, rng=0)
    >>> walk.points.shape, bool(abs(walk.points[:, -1].var() - 25) < 2)
    ((10000, 25, 1), True)
    """

    #: What points hold: complex ones are refused by samplers of real ones.
    field: _check.Field = "real"

    @abstractmethod
    def start(self, points: Any) -> State:
        """State of chains at given points, shape=[n_chains, *point_shape], or at :class:`Factors`."""

    @abstractmethod
    def step(self, state: State, rng: np.random.Generator) -> State:
        """State after one step; it may reuse the arrays of the one given."""

    @abstractmethod
    def points(self, state: State) -> np.ndarray:
        """Points of a state, shape=[n_chains, *point_shape]."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Numbers and strings that determine the chain; a checkpoint of other settings is refused."""

    def statistics(self, state: State) -> State:
        """Report on a state: arrays by name, shape=[n_chains] each."""
        return {}

    def sample(
        self,
        initial_points: Any,
        n_steps: int,
        *,
        burn_in: int = 0,
        thin: int = 1,
        rng: Any = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        progress: bool | Callable[[int], Any] = False,
    ) -> Samples:
        """Run the chains.

        Parameters
        ----------
        initial_points : array-like, shape=[n_chains, *point_shape] or [*point_shape], or Samples, or dict, or tuple
            One chain starts at each point; or samples whose chains to continue, or a state. Samples go on as one long
            run would if ``rng`` is the generator that made them. Matrices of spectral metrics may be given as factors
            ``(u, lam, vt)`` of ``X = U Λ^N Vᵀ``, shape=[n_chains, m, r], [n_chains, r], [n_chains, r, n], where N is
            the depth of the metric, or 1 where it has no finite one: a dense X holds λ only above about ``10^{−16/N}``
            of the largest, 10⁻² at N = 8.
        n_steps : int
            Steps, burn-in included.
        burn_in : int
            Steps after which to begin to keep points.
        thin : int
            Keep a point every so many steps.
        rng : numpy.random.Generator or int, optional
            Generator or seed.
        checkpoint : path, optional
            Folder to keep the run in, see :mod:`dlngeo.sampling.runs.checkpoint`. If it holds this run, begun before
            and killed or interrupted at any moment, the run goes on bit for bit as if it never stopped; it may also get
            more steps. If it holds anything else, it is refused.
        checkpoint_every : int, optional
            Steps between checkpoints; by default every 30 seconds. There is always one at the end.
        progress : bool or callable
            Show a progress bar; or call this with the number of steps done, after each.

        Returns
        -------
        Samples
            Of fewer draws, with status ``"interrupted"``, if Ctrl-C was pressed: the chains and the generator stand
            after the last whole step.

        Raises
        ------
        CheckpointError
            If the checkpoint is not one of this run, damaged, in use, or of more steps.
        ValueError
            If the points have the wrong shape or are not finite, the numbers of steps are inconsistent, or a step
            fails: chains stop where they are rather than go on wrong.
        """
        n_steps, thin = _check.positive_integer(n_steps, "n_steps"), _check.positive_integer(thin, "thin")
        if _check.integer(burn_in, "burn_in", 0) >= n_steps:
            raise ValueError(f"burn_in must be at least 0 and below n_steps = {n_steps}, got {burn_in}.")
        if checkpoint_every is not None:
            checkpoint_every = _check.positive_integer(checkpoint_every, "checkpoint_every")
        generator = np.random.default_rng(rng)
        given = initial_points.state if isinstance(initial_points, Samples) else initial_points
        if isinstance(given, dict):
            state = _copy(given)
        else:
            given = named(given, self.field)
            state = self.start(given["points"] if "points" in given else Factors(**given))
        at, draws, status = Standing(state, 0, 0, generator.bit_generator.state), Draws([], []), "interrupted"
        shape = list(np.shape(self.points(state)))
        with ExitStack() as stack:
            file = None
            if checkpoint is not None:
                about = header_of(self.settings(), given, None if rng is None else at.rng, shape, burn_in, thin)

                def step(state: State) -> State:
                    return self.step(_copy(state), np.random.default_rng(0))

                file = stack.enter_context(Checkpoint(checkpoint, about, at, step, n_steps, checkpoint_every))
                draws, at = file.draws, file.standing
                generator = _restored(generator, at.rng)
            tick = stack.enter_context(_ticks(progress, n_steps))
            tick(at.n_steps)
            try:
                while at.n_steps < n_steps:
                    state = self.step(_copy(at.state), generator)
                    done = at.n_steps + 1
                    if done > burn_in and (done - burn_in) % thin == 0:
                        draws.points.append(np.asarray(self.points(state)))
                        draws.statistics.append(_copy(self.statistics(state)))
                    at = Standing(state, done, len(draws.points), generator.bit_generator.state)
                    tick(done)
                    if file is not None and done < n_steps:
                        file.append_if_due(draws, at)
                status = "complete"
            except KeyboardInterrupt:
                pass
            finally:
                generator.bit_generator.state = at.rng
                if file is not None:
                    file.append(draws, at, status)
        return _samples(draws, at, status, self.settings(), shape)


def _copy(arrays: Mapping[str, Any]) -> State:
    return {name: np.array(value, order="C") for name, value in arrays.items()}  # as files give them back


def _restored(generator: np.random.Generator, rng: Mapping[str, Any]) -> np.random.Generator:
    name = rng["bit_generator"]
    if generator.bit_generator.state["bit_generator"] != name:
        generator = np.random.Generator(getattr(np.random, name)())
    generator.bit_generator.state = rng
    return generator


@contextmanager
def _ticks(progress: bool | Callable[[int], Any], n_steps: int) -> Iterator[Callable[[int], Any]]:
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done: None
    else:
        from rich.progress import Progress  # which draws from Python's random as it is imported

        with Progress(transient=True) as bar:
            task = bar.add_task("sampling", total=n_steps)
            yield lambda done: bar.update(task, completed=done)


def _samples(draws: Draws, at: Standing, status: str, settings: dict[str, Any], shape: Sequence[int]) -> Samples:
    """Stack the draws; one that an interrupted step began is not among them."""
    rows = draws.statistics[: at.n_draws]
    columns = {name: np.stack([row[name] for row in rows], axis=1) for name in (rows[0] if rows else ())}
    points = np.stack(draws.points[: at.n_draws], axis=1) if rows else np.empty((shape[0], 0, *shape[1:]))
    return Samples(points, columns, at.state, at.n_steps, status, settings)
