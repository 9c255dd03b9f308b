"""The states of chains, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Draws", "Standing", "State"]

State = dict[str, np.ndarray]


class Standing(NamedTuple):
    """Where chains stand: all that the next step depends on.

    It is replaced as a whole, after each step. So an interruption, wherever it strikes, finds a consistent one.
    """

    state: State
    n_steps: int
    n_draws: int
    rng: Mapping[str, Any]


class Draws(NamedTuple):
    """Points and statistics, one entry for each draw."""

    points: list[np.ndarray]
    statistics: list[State]
