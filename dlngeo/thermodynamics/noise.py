r"""Noise on the balanced weights, by its strengths along and across the orbits, and the law of the product under it."""

from __future__ import annotations

from dataclasses import dataclass

from dlngeo import _check

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise:
    r"""Noise of strength κ along horizontal directions, and ν = 0 or 1 along the orbits.

    .. math:: dX = -\operatorname{grad} (E - \nu S/\beta)\,dt + \sqrt{2\kappa/\beta}\,dB^g, \qquad
        \text{of law} \quad e^{-(\beta/\kappa)(E - \nu S/\beta)}\,d\mathrm{vol}_g ,

    is the motion of the product [1]_, with the entropy S of the orbits.

    Parameters
    ----------
    name : {"base", "isotropic"}
        ``"base"``: that of the metric, ν = 0. ``"isotropic"``: also along the orbits, ν = 1.
    kappa : float
        Anisotropy κ of isotropic noise. At κ = 0 the product moves without noise, and there is no law.

    Raises
    ------
    TypeError, ValueError
        If the name is another one, κ is not a number of at least 0, or not 1 where the noise is not isotropic.

    References
    ----------
    .. [1] G. Menon, A. Stromme, F.-X. Vacher, "Langevin dynamics with projected noise", arXiv:2602.12257.
    """

    name: str = "base"
    kappa: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("base", "isotropic"):
            raise ValueError(f"noise must be 'base' or 'isotropic', got {self.name!r}.")
        object.__setattr__(self, "kappa", 0.0 if self.kappa == 0 else _check.positive(self.kappa, "kappa"))
        if not self.vertical and self.kappa != 1:
            raise ValueError(f"kappa = {self.kappa:g} is the anisotropy of isotropic noise; pass noise='isotropic'.")

    @classmethod
    def of(cls, noise: str | Noise, kappa: float = 1.0) -> Noise:
        """Return the noise of a name, or as given, of which then ``kappa`` is left at 1."""
        if not isinstance(noise, Noise):
            return cls(noise, kappa)
        if kappa not in (1, noise.kappa):
            raise ValueError(f"kappa = {kappa} contradicts {noise}; leave it out.")
        return noise

    @property
    def vertical(self) -> float:
        """Strength ν along the orbits: how often the entropy enters the free energy."""
        return float(self.name == "isotropic")
