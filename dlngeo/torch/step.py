r"""One step of gradient descent on balanced layers, written on their product.

A matrix ``X = U Σ Vᵀ`` is the product of N balanced layers with singular values ``Λ = Σ^{1/N}``. Where a step changes
the p-th layer by ``−lr (W_N ⋯ W_{p+1})ᵀ B (W_{p−1} ⋯ W_1)ᵀ`` and multiplies it by ``1 − ε``, the product of the
stepped layers is, with ``K = −lr UᵀBV`` and ``L = −lr (1 − UUᵀ)BV``, ``R`` likewise for the rows,

.. math:: X' = (U \Sigma^{-1/2} C + L \Sigma^{1/2})\, C^{N-2}\, (C \Sigma^{-1/2} V^\top + \Sigma^{1/2} R^\top), \qquad
   C = (1 - \varepsilon) \Lambda^2 + \Sigma^{1/2} K \Sigma^{1/2}.

It is the second-order retraction of :mod:`dlngeo.matrices.retraction`, and exists at real N while no eigenvalue of C
reaches the negative half-axis. Powers are held as ``C^n = Λ^n (1 + E_n) Λ^n`` with E_n of the size of the step, so that
nothing is rounded to the size of X and what does not move keeps all of its digits.

All arrays are tensors with any number of batch axes in front.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Theorems 10–12.
.. [2] S. Arora, N. Cohen and E. Hazan, "On the optimization of deep networks: implicit acceleration by
   overparameterization", ICML 2018, arXiv:1802.06509, Theorem 1: the flow of which this is a step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Covector",
    "Factors",
    "balanced",
    "covector",
    "covector_of",
    "descend",
    "factorise",
    "is_finite",
    "move",
    "of_pair",
    "product",
    "squared_norm",
]


class Factors(NamedTuple):
    """``X = U Σ Vᵀ`` of rank r: u of shape (…, m, r), s (…, r), vt (…, r, n).

    See Also
    --------
    dlngeo.torch.step.factorise
    dlngeo.torch.step.product

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import Factors, product
    >>> product(Factors(torch.eye(2, 1), torch.tensor([3.0]), torch.eye(1, 2))).tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """

    u: Tensor
    s: Tensor
    vt: Tensor


class Covector(NamedTuple):
    """``core = UᵀBV``, ``left = (1 − UUᵀ)BV``, ``right = UᵀB(1 − VVᵀ)``; None where U or V is square.

    See Also
    --------
    dlngeo.torch.step.covector
    dlngeo.torch.step.Factors

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import Factors, covector
    >>> f = Factors(torch.eye(3, 1), torch.ones(1), torch.eye(1, 2))
    >>> b = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 0.0]])
    >>> [part.tolist() for part in covector(f, b)]  # of b, what is zero here is not tangent at this rank
    [[[1.0]], [[0.0], [3.0], [4.0]], [[0.0, 2.0]]]
    """

    core: Tensor
    left: Tensor | None
    right: Tensor | None


def factorise(x: Tensor) -> Factors:
    """Thin SVD of ``x``.

    See Also
    --------
    dlngeo.torch.step.product
    dlngeo.torch.step.of_pair

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import factorise, product
    >>> x = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    >>> f = factorise(x)
    >>> torch.allclose(f.s, torch.tensor([5.0, 0.0]), atol=1e-5), torch.allclose(product(f), x, atol=1e-5)
    (True, True)
    """
    return Factors(*torch.linalg.svd(x, full_matrices=False))


def product(f: Factors) -> Tensor:
    """``U Σ Vᵀ``.

    See Also
    --------
    dlngeo.torch.step.Factors
    dlngeo.torch.step.factorise

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import factorise, product
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> torch.allclose(product(factorise(x)), x, atol=1e-5)
    True
    """
    return (f.u * f.s.unsqueeze(-2)) @ f.vt


def of_pair(a: Tensor, b: Tensor) -> Factors:
    """SVD of ``a b`` for a of shape (…, m, r) and b (…, r, n), in O((m + n) r²).

    See Also
    --------
    dlngeo.torch.step.balanced
    dlngeo.torch.step.factorise

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import of_pair
    >>> f = of_pair(torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0, 2.0]]))
    >>> torch.allclose(f.s, torch.tensor([10.0]))  # 5 · 2
    True
    """
    (q_left, at_left), (q_right, at_right) = torch.linalg.qr(a), torch.linalg.qr(b.mT)
    u, s, vt = _svd(at_left @ at_right.mT)
    return Factors(q_left @ u, s, vt @ q_right.mT)


def balanced(f: Factors) -> tuple[Tensor, Tensor]:
    """``(U Σ^{1/2}, Σ^{1/2} Vᵀ)``.

    See Also
    --------
    dlngeo.torch.step.of_pair
    dlngeo.balanced_weights

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import balanced, factorise
    >>> x = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    >>> a, b = balanced(factorise(x))
    >>> torch.allclose(a @ b, x, atol=1e-5), torch.allclose(a.mT @ a, b @ b.mT, atol=1e-5)
    (True, True)
    """
    root = f.s.sqrt()
    return f.u * root.unsqueeze(-2), root.unsqueeze(-1) * f.vt


def covector(f: Factors, b: Tensor) -> Covector:
    """Blocks of a covector of shape (…, m, n).

    See Also
    --------
    dlngeo.torch.step.Covector
    dlngeo.torch.step.covector_of

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import covector, factorise
    >>> x, b = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> f = factorise(x)
    >>> core, left, right = covector(f, b)
    >>> torch.allclose((f.u @ core + left) @ f.vt, b, atol=1e-5), right  # V is square
    (True, None)
    """
    return covector_of(f, b @ f.vt.mT, None if _is_square(f.vt) else f.u.mT @ b)


def covector_of(f: Factors, bv: Tensor, ub: Tensor | None) -> Covector:
    """Blocks of a covector from ``bv = BV`` and ``ub = UᵀB``, which is not needed where V is square.

    See Also
    --------
    dlngeo.torch.step.covector

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import covector, covector_of, factorise
    >>> f, b = factorise(torch.ones(3, 2)), torch.arange(6.0).reshape(3, 2)
    >>> pairs = zip(covector_of(f, b @ f.vt.mT, None), covector(f, b))
    >>> [x is None and y is None or torch.equal(x, y) for x, y in pairs]
    [True, True, True]
    """
    core = f.u.mT @ bv
    left = None if _is_square(f.u) else bv - f.u @ core
    right = None if ub is None or _is_square(f.vt) else ub - core @ f.vt
    return Covector(core, left, right)


def _is_square(a: Tensor) -> bool:
    return a.shape[-2] == a.shape[-1]


def descend(x: Tensor, f: Factors, b: Covector, lr: float, depth: float, shrink: float = 0.0) -> Tensor:
    """Return the product of layers of ``x``, stepped along ``−lr B`` and multiplied by ``1 − shrink``.

    ``f`` is its SVD, thin but not cut. What is added to ``x`` is computed by itself, so that rounding is of the size of
    the step. At integer depth it is defined for every step. At other depths, a step so long that the power of C does
    not exist is taken by Euler's method in the metric. Singular values below the smallest normal number, and at depths
    between integers below 1e-24 of the largest, move as if they were that number, which differs from zero at depths of
    tens.

    Raises
    ------
    OverflowError
        If the end is not finite.

    See Also
    --------
    dlngeo.torch.step.move
    dlngeo.torch.step.squared_norm
    dlngeo.torch.DepthSGD

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import balanced, covector, descend, factorise
    >>> x, b = torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    >>> f = factorise(x)
    >>> second, first = balanced(f)
    >>> layers = (second - 0.1 * b @ first.mT) @ (first - 0.1 * second.mT @ b)
    >>> torch.allclose(descend(x, f, covector(f, b), 0.1, 2), layers, atol=1e-5)
    True
    """
    halves = _halves(f, b, lr, depth, shrink)
    if halves is None:
        left, right = _euler(f, b, lr, depth, shrink)
        return _finite(left @ right)
    left, null_left, middle, right, null_right = halves
    if null_left is None and null_right is None:
        turned = _times(left, f.s, middle)
        core = turned + (_times(None, f.s, middle) + turned) @ right.mT
        return _finite(x + f.u @ (core if middle is None else core + middle) @ f.vt)
    left = f.u @ left if null_left is None else f.u @ left + null_left
    right = f.vt.mT @ right if null_right is None else f.vt.mT @ right + null_right
    turned = _times(left, f.s, middle)
    end = x + turned @ f.vt + (_times(f.u, f.s, middle) + turned) @ right.mT
    return _finite(end if middle is None else end + f.u @ middle @ f.vt)


def move(f: Factors, b: Covector, lr: float, depth: float, shrink: float = 0.0) -> Factors:
    """Return the factors of the end of :func:`descend` from a matrix of any rank, never formed, at the same rank.

    At depth 1, and where Euler's method is used, the end is the truncated SVD.

    See Also
    --------
    dlngeo.torch.step.descend
    dlngeo.torch.step.Factors

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import covector, descend, factorise, move, product
    >>> x, b = torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    >>> f = factorise(x)
    >>> end = move(f, covector(f, b), 0.1, 3)
    >>> torch.allclose(product(end), descend(x, f, covector(f, b), 0.1, 3), atol=1e-5)
    True
    """
    r, halves = f.s.shape[-1], _halves(f, b, lr, depth, shrink)
    if halves is None:
        u, s, vt = of_pair(*_euler(f, b, lr, depth, shrink))
        return Factors(u[..., :r], s[..., :r], vt[..., :r, :])
    left, null_left, middle, right, null_right = halves
    one = torch.eye(r, dtype=left.dtype, device=left.device)
    left = f.u @ (one + left) if null_left is None else f.u @ (one + left) + null_left
    right = f.vt.mT @ (one + right) if null_right is None else f.vt.mT @ (one + right) + null_right
    (q_left, at_left), (q_right, at_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    a, s, ct = _svd(_times(at_left, f.s, middle) @ at_right.mT)
    return Factors(q_left @ a, s, ct @ q_right.mT)


def _times(left: Tensor | None, s: Tensor, middle: Tensor | None) -> Tensor:
    """``left (Σ + middle)``, where None is 1 to the left and 0 in the middle."""
    if left is None:
        return torch.diag_embed(s) if middle is None else torch.diag_embed(s) + middle
    scaled = left * s.unsqueeze(-2)
    return scaled if middle is None else scaled + left @ middle


def _halves(
    f: Factors, b: Covector, lr: float, depth: float, shrink: float
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None] | None:
    """Return ``l, L, m, r, R`` of ``(U (1 + l) + L) (Σ + m) (V (1 + r) + R)ᵀ``; None where powers do not exist."""
    whole = depth == int(depth)
    half = depth // 2 if whole else depth / 2
    lam = _layer(f.s, depth)
    square = b.left is None and b.right is None
    powers = None if half == 0 else _powers(lam, -lr * b.core, depth, half, shrink, square)
    if powers is None:
        return None
    first, before, power = powers
    odd = depth / 2 - half
    middle = None if odd == 0 else _between(lam ** (depth / 2), first, lam ** (depth / 2))

    def null(block: Tensor | None, before: Tensor) -> Tensor | None:
        if block is None:
            return None
        return -lr * block @ _between(lam ** (depth / 2 + half - 1), _plus_one(before), lam ** (odd - 1))

    right = None if b.right is None else b.right.mT
    return (
        _between(lam**-odd, power, lam**odd),
        null(b.left, before),
        middle,
        _between(lam**-odd, power.mT, lam**odd),
        null(right, before.mT),
    )


def _layer(s: Tensor, depth: float) -> Tensor:
    """Λ, with the bounds from below that :func:`descend` states."""
    s = s.clamp_min(torch.finfo(s.dtype).tiny)
    if depth != int(depth):
        s = torch.maximum(s, 1e-24 * s.amax(-1, keepdim=True))
    return s ** (1 / depth)


def _powers(
    lam: Tensor, core: Tensor, depth: float, half: float, shrink: float, square: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """``E_1``, ``E_{half−1}``, which square matrices do not need, and ``E_half``; None where they do not exist."""
    ends = lam ** (depth / 2 - 1)
    first = _between(ends, core, ends)
    first.diagonal(dim1=-2, dim2=-1).sub_(shrink)
    if half == int(half):
        zero = torch.zeros_like(first)
        if square or half == 1:
            return first, zero, _power(lam, first, int(half))
        before = _power(lam, first, int(half) - 1)
        return first, before, _joined(lam, first, 1, before, int(half) - 1)
    double = lam.double()
    values, vectors = torch.linalg.eig(_between(double, _plus_one(first.double()), double))
    if bool(((values.real <= 0) & (values.imag == 0)).any()):
        return None
    inverse = torch.linalg.inv(vectors)

    def power_of(n: float) -> Tensor:
        root = ((vectors * values.unsqueeze(-2) ** n) @ inverse).real
        return _plus_one(_between(double**-n, root, double**-n), -1).to(lam.dtype)

    return first, power_of(half - 1), power_of(half)


def _power(lam: Tensor, first: Tensor, n: int) -> Tensor:
    """``E_n`` by squaring."""
    result, done = first, 1
    for digit in bin(n)[3:]:
        result, done = _joined(lam, result, done, result, done), 2 * done
        if digit == "1":
            result, done = _joined(lam, first, 1, result, done), done + 1
    return result


def _joined(lam: Tensor, x: Tensor, m: int, y: Tensor, n: int) -> Tensor:
    """``E_{m+n}`` from ``E_m`` and ``E_n``."""
    x, y = _between(lam**-n, x, lam**n), _between(lam**m, y, lam**-m)
    return x + y + x @ y


def _between(left: Tensor, a: Tensor, right: Tensor) -> Tensor:
    """``diag(left) A diag(right)``."""
    return left.unsqueeze(-1) * a * right.unsqueeze(-2)


def _plus_one(a: Tensor, sign: int = 1) -> Tensor:
    a = a.clone()
    a.diagonal(dim1=-2, dim2=-1).add_(sign)
    return a


def _svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD in double precision, so that the digits of small singular values of single precision are kept."""
    _finite(a)
    u, s, vt = torch.linalg.svd(a.double(), full_matrices=False)
    return u.to(a.dtype), s.to(a.dtype), vt.to(a.dtype)


def is_finite(a: Tensor) -> bool:
    """Whether all entries are, by way of their sum, which is so but for overflow.

    See Also
    --------
    dlngeo.torch.step.descend

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import is_finite
    >>> is_finite(torch.tensor([1.0, torch.inf])), is_finite(torch.tensor([3e38, 3e38]))  # whose sum overflows
    (False, True)
    """
    return bool(torch.isfinite(a.sum())) or bool(torch.isfinite(a).all())


def _finite(a: Tensor) -> Tensor:
    if not is_finite(a):
        raise OverflowError(f"the step leaves the numbers of {a.dtype}; lower lr.")
    return a


def _cometric(s: Tensor, depth: float) -> tuple[Tensor, Tensor]:
    """``φ(s_k, s_l) = (s_k s_l)^{1−1/N} sinh(ℓ)/sinh(ℓ/N)`` with ``ℓ = log s_k/s_l``, and ``φ(s_k, 0)``."""
    lam = _layer(s, depth)
    gap = torch.log(lam).unsqueeze(-1) - torch.log(lam).unsqueeze(-2)
    quotient = torch.where(gap == 0, depth, torch.sinh(depth * gap) / torch.sinh(gap))
    return _between(lam ** (depth - 1), quotient, lam ** (depth - 1)), lam ** (2 * depth - 2)


def squared_norm(f: Factors, b: Covector, depth: float) -> Tensor:
    """``⟨B, A_X B⟩``, shape (…): the sum of the squares of the gradients of all layers.

    See Also
    --------
    dlngeo.torch.step.descend
    dlngeo.torch.step.covector

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch.step import balanced, covector, factorise, squared_norm
    >>> x, b = torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    >>> f = factorise(x)
    >>> second, first = balanced(f)
    >>> of_layers = (b @ first.mT).square().sum() + (second.mT @ b).square().sum()
    >>> torch.allclose(squared_norm(f, covector(f, b), 2), of_layers, rtol=1e-4)
    True
    """
    phi, null = _cometric(f.s, depth)
    total = (phi * b.core.square()).sum((-2, -1))
    if b.left is not None:
        total = total + (null.unsqueeze(-2) * b.left.square()).sum((-2, -1))
    if b.right is not None:
        total = total + (null.unsqueeze(-1) * b.right.square()).sum((-2, -1))
    return total


def _euler(f: Factors, b: Covector, lr: float, depth: float, shrink: float) -> tuple[Tensor, Tensor]:
    """Return two factors of ``(1 − shrink)^N X − lr A_X B``, of r or 2r columns and rows."""
    phi, null = _cometric(f.s, depth)
    core, null = -lr * phi * b.core, -lr * null
    left, right = f.u @ (core + torch.diag_embed(f.s * (1 - shrink) ** depth)), f.vt
    if b.left is not None:
        left = left + b.left * null.unsqueeze(-2)
    if b.right is not None:
        left, right = torch.cat((left, f.u), -1), torch.cat((right, null.unsqueeze(-1) * b.right), -2)
    return left, right
