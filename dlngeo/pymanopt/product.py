"""Products of manifolds, for second-order solvers too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pymanopt.manifolds import product
from pymanopt.manifolds.manifold import Manifold

from dlngeo.pymanopt.balanced import Balanced

__all__ = ["Product"]


class Product(product.Product):
    """The product of manifolds, as that of pymanopt, with the ``embedding`` of its factors, which Hessians need.

    A point is a list of points of the factors. Costs, and derivatives given by hand, take all arrays one after the
    other and return as many: the derivatives by u, s and vt on a :class:`~dlngeo.pymanopt.FixedRank`, not a matrix. A
    point of :class:`~dlngeo.pymanopt.Balanced` weights of one layer is here that one array.

    Parameters
    ----------
    manifolds : sequence of pymanopt manifold
        The factors; no products.

    Raises
    ------
    ValueError
        If one is a product.

    See Also
    --------
    dlngeo.FixedRank
    dlngeo.pymanopt.from_geomstats

    Examples
    --------
    >>> from dlngeo.pymanopt import FixedRank
    >>> int(Product([FixedRank(5, 4, 2), FixedRank(3, 3, 1)]).dim)
    19
    """

    def __init__(self, manifolds: Sequence[Manifold]) -> None:
        super().__init__([_Bare(m) if isinstance(m, Balanced) and m.depth == 1 else m for m in manifolds])

    def embedding(self, point: Any, tangent_vector: Any) -> Any:
        """List of what the factors make of their parts of a tangent vector."""
        return self._dispatch("embedding")(point, tangent_vector)


def _unpacked(name: str) -> Callable[..., Any]:
    def method(self: Any, *arrays: Any) -> Any:
        value = getattr(self.layers, name)(*([a] for a in arrays))
        return value[0] if isinstance(value, list | tuple) else value

    return method


class _Bare(Manifold):
    """Balanced weights of one layer, whose points and vectors are arrays in place of lists of one."""

    def __init__(self, layers: Balanced) -> None:
        self.layers = layers
        super().__init__(str(layers), layers.dim, point_layout=1)

    @property
    def typical_dist(self) -> float:
        return self.layers.typical_dist

    random_point, retraction, exp, inner_product, norm, zero_vector, random_tangent_vector = map(
        _unpacked,
        ("random_point", "retraction", "exp", "inner_product", "norm", "zero_vector", "random_tangent_vector"),
    )
    log, dist, pair_mean = map(_unpacked, ("log", "dist", "pair_mean"))
    projection, to_tangent_space, embedding, transport = map(
        _unpacked, ("projection", "to_tangent_space", "embedding", "transport")
    )
    euclidean_to_riemannian_gradient = _unpacked("euclidean_to_riemannian_gradient")
    euclidean_to_riemannian_hessian = _unpacked("euclidean_to_riemannian_hessian")
