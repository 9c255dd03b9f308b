"""Markov chains: what a sampler is, how it is run, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.progress import Progress

from dlngeo import _check

__all__ = ["Sampler", "Samples", "State"]

State = dict[str, np.ndarray]


@dataclass
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
    """

    points: np.ndarray
    statistics: dict[str, np.ndarray]
    state: State
    n_steps: int
    status: str
    settings: dict[str, Any] = field(default_factory=dict)

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

    def to_inference_data(self, **observables: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Give the draws to ArviZ, whose diagnostics (R-hat, effective sample size, plots) then apply.

        Parameters
        ----------
        **observables : callable
            Functions of the points by name, see :meth:`observe`; without any, the points themselves.

        Returns
        -------
        arviz.InferenceData
            With the groups ``posterior`` and ``sample_stats``.

        Raises
        ------
        ImportError
            If ArviZ is not installed.
        """
        posterior = {name: self.observe(function) for name, function in observables.items()} or {"points": self.points}
        return _arviz().from_dict(posterior=posterior, sample_stats=self.statistics or None, attrs=self.settings)

    def summary(self, **observables: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Mean, Monte Carlo standard error, effective sample size and R-hat of observables, by ArviZ.

        Parameters
        ----------
        **observables : callable
            Functions of the points by name, see :meth:`observe`.

        Returns
        -------
        pandas.DataFrame
        """
        return _arviz().summary(self.to_inference_data(**observables), kind="all", round_to="none")


class Sampler(ABC):
    """A Markov chain on batched points, whose whole state is a dictionary of arrays with the chains as leading axis.

    Implement :meth:`start`, :meth:`step`, :meth:`points` and :meth:`settings`; :meth:`sample` runs it.
    """

    @abstractmethod
    def start(self, points: np.ndarray) -> State:
        """State of chains at given points, shape=[n_chains, *point_shape]."""

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
        progress: bool = False,
    ) -> Samples:
        """Run the chains.

        Parameters
        ----------
        initial_points : array-like, shape=[n_chains, *point_shape] or [*point_shape], or Samples, or dict
            One chain starts at each point; or samples whose chains to continue, or a state.
        n_steps : int
            Steps, burn-in included.
        burn_in : int
            Steps after which to begin to keep points.
        thin : int
            Keep a point every so many steps.
        rng : numpy.random.Generator or int, optional
            Generator or seed.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Samples
            Of fewer draws, with status ``"interrupted"``, if Ctrl-C was pressed.

        Raises
        ------
        ValueError
            If the points have the wrong shape or are not finite, the numbers of steps are inconsistent, or a step
            fails: chains stop where they are rather than go on wrong.
        """
        n_steps, thin = _check.positive_integer(n_steps, "n_steps"), _check.positive_integer(thin, "thin")
        if not 0 <= burn_in < n_steps:
            raise ValueError(f"burn_in must be at least 0 and below n_steps = {n_steps}, got {burn_in}.")
        generator = np.random.default_rng(rng)
        given = initial_points.state if isinstance(initial_points, Samples) else initial_points
        if isinstance(given, dict):
            state = {name: value.copy() for name, value in given.items()}
        else:
            state = self.start(_initial(initial_points))
        points: list[np.ndarray] = []
        statistics: list[State] = []
        done, status = 0, "complete"
        with Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task("sampling", total=n_steps)
            try:
                while done < n_steps:
                    state = self.step(state, generator)
                    done += 1
                    if done > burn_in and (done - burn_in) % thin == 0:
                        points.append(self.points(state))
                        statistics.append({name: np.array(value) for name, value in self.statistics(state).items()})
                    bar.advance(task)
            except KeyboardInterrupt:
                status = "interrupted"
        if points:
            stacked = np.stack(points, axis=1)
        else:
            like = self.points(state)
            stacked = np.empty((len(like), 0, *like.shape[1:]))
        names = statistics[0] if statistics else {}
        columns = {name: np.stack([row[name] for row in statistics], axis=1) for name in names}
        return Samples(stacked, columns, state, done, status, self.settings())


def _initial(points: Any) -> np.ndarray:
    points = np.array(points, dtype=float)
    if not np.isfinite(points).all():
        raise ValueError("the initial points hold NaN or infinite entries; start from points of the space.")
    return points


def _arviz() -> Any:
    try:
        import arviz
    except ImportError as error:
        raise ImportError("diagnostics need ArviZ: pip install 'dlngeo[sampling]'.") from error
    return arviz
