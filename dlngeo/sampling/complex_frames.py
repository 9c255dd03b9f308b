r"""Langevin dynamics of complex matrices ``X = U Λ^N V*`` of rank r, at every real depth N.

The derivation is that of :mod:`dlngeo.sampling.compiled.steps`, with adjoints for transposes. A variation of X has the
core ``M = U* dX V = Ω_U Σ − Σ Ω_V + dΣ`` with anti-Hermitian Ω, so that for every pair, ``k = l`` included,

.. math:: M_{kl} \pm \bar M_{lk} = (\sigma_l \mp \sigma_k)(\Omega_U \pm \Omega_V)_{kl} + 2\,\delta_{kl}\,d\sigma_k
    \;(\text{of } + \text{ alone}).

The pairs (k, k) have an imaginary part, the phase ``Ω_U − Ω_V``; that of ``Ω_U + Ω_V`` is common to both frames and X
does not see it. The noise of the metric is ``M_kl = √(2h/β) φ_kl^{1/2} ξ_kl``, with real and imaginary parts of ξ
independent and standard normal. The volume ``∏_{k,l} φ_kl^{−1}``, with two real directions to an entry, makes that of
``y = √N λ`` the volume of flat complex r×c matrices, ``c = m + n − r``,

.. math:: J = \prod_{k<l} (y_k^2 - y_l^2)^2 \prod_k y_k^{2(c-r)+1} ,

so that λ moves as the singular values of those: Dyson's motion at β = 2, of Laguerre's kind. In the orthonormal frame
of the metric a step is ``K_kl = √(2h/β) ξ_kl − h φ_kl^{1/2} C_kl``, ``C = U* E′ V``. With ``q = tanh(x/2)/tanh(Nx/2)``,
``x = log λ_k/λ_l``, so that ``φ_N(σ_k, σ_l)^{1/2}/(σ_l ∓ σ_k) = q^{±1/2}/(λ_l ∓ λ_k)``, the flat matrix takes the part
``N^{−1/2}`` of it, which is all of its noise, and the frames turn by the rest:

.. math:: U' = U (1 + E^U) A, \quad V' = V (1 + E^V) B, \quad \Lambda + N^{-1/2} K = A \Lambda' B^*, \qquad
    (E^U \pm E^V)_{kl} = \frac{q^{\pm 1/2} - N^{-1/2}}{\lambda_l \mp \lambda_k} (K_{kl} \pm \bar K_{lk}) .

At ``k = l`` that is ``q = 1/N``: λ moves by ``N^{−1/2} Re K_kk``, and the phase by ``N^{1/2} Im K_kk/λ_k``, N times as
far as that of the flat matrix. For 1×1 matrices ``X = Y^N`` with Y in a plane, or at real N on a cone. Directions
outside of the frames have ``K = √(2h/β) ξ − h λ^{N−1} (1 − UU*) E′V``, of which the flat matrix takes ``N^{−1/2} K``
too, and frames turn by ``(1 − N^{−1/2}) K/λ``. No determinant has a sign to keep.

All of this is in NumPy, and with real arrays it is the step that is compiled for real matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlngeo._linalg import adjoint, haar_from
from dlngeo.sampling.compiled.steps import coefficients
from dlngeo.sampling.state import State

__all__ = ["advance"]

Array = np.ndarray


def _outside(frame: Array, vectors: Array) -> Array:
    return vectors - frame @ (adjoint(frame) @ vectors)


def _leave(frame: Array, flat: Array, step: Array, core: Array, noise: Array) -> tuple[Array, ...]:
    """Let the columns of ``frame · flat`` leave the frame by a step, and noise stay what it is."""
    wide, white = frame @ flat + step, frame @ core + noise
    frame = haar_from(wide)
    core = adjoint(frame) @ white
    return frame, adjoint(frame) @ wide, core, white - frame @ core


def _carry(old: Array, new: Array, *vectors: Array) -> list[Array]:
    """Carry vectors from the complement of one frame into that of another close to it, by an orthogonal matrix."""
    factor = (old + new) @ np.linalg.inv(np.eye(old.shape[2]) + adjoint(new) @ old)
    return [x - factor @ (adjoint(new) @ x) for x in vectors]


def advance(
    state: State, gradient: Array, radial: Array, noise: Sequence[Array], depth: float, h: float, temperature: float
) -> tuple[State, Array]:
    """Move chains by one step.

    Parameters
    ----------
    state : dict of array
        ``u``, shape=[chains, m, r], ``lam``, [chains, r], ``v``, [chains, n, r], and where the noise is to be averaged
        with that of the last step, ``kick``: that in the frames and, of frames that are not square, out of them, as
        rows, [chains, r, r + (m) + (n)].
    gradient : array, shape=[chains, m, n]
        ``E′``, or empty.
    radial : array, shape=[chains, r]
        A further force on λ.
    noise : sequence of array, shape=[chains, r, r], [chains, m, r], [chains, n, r]
        The second and third are not read where u and v are square.

    Returns
    -------
    state : dict of array
        The next.
    failed : array of bool, shape=[chains]
        Chains whose step is not finite, or lost rank.
    """
    frames, lam, white = [state["u"], state["v"]], state["lam"], list(noise)
    kick = state.get("kick", np.empty(0))
    amplitude, root, pair = math.sqrt(2 * h * temperature), 1 / math.sqrt(depth), np.arange(lam.shape[1])
    r, wide = len(pair), [side for side in (0, 1) if frames[side].shape[1] > len(pair)]
    for side in wide:
        white[1 + side] = _outside(frames[side], white[1 + side])
    steps = [amplitude * w for w in white]
    if kick.size:
        start = r
        steps[0] = amplitude * (white[0] + kick[..., :r]) / 2
        for side in wide:
            end = start + frames[side].shape[1]
            steps[1 + side] = amplitude * (white[1 + side] + adjoint(kick[..., start:end])) / 2
            start = end
    turn, stretch, normal = coefficients(lam, depth)
    above, below = np.triu(turn, 1), np.tril(turn)
    turn_plus, turn_minus = above - adjoint(above), below + adjoint(np.tril(turn, -1))
    if gradient.size:
        pulls = gradient @ frames[1], adjoint(gradient) @ frames[0]
        steps[0] = steps[0] - h * stretch * (adjoint(frames[0]) @ pulls[0])
        for side in wide:
            steps[1 + side] -= h * normal[:, 1:] * _outside(frames[side], pulls[side])
    plus, minus = turn_plus * (steps[0] + adjoint(steps[0])), turn_minus * (steps[0] - adjoint(steps[0]))
    turned = [q + q @ turn / 2 for q, turn in zip(frames, (plus + minus, plus - minus), strict=True)]
    for side in wide:
        turned[side] = turned[side] + normal[:, :1] * steps[1 + side]
    flat = root * steps[0]
    flat[:, pair, pair] += lam - h * radial
    finite = np.isfinite(flat).all(axis=(1, 2))
    for q in turned:
        finite &= np.isfinite(q).all(axis=(1, 2))
    if not finite.all():
        return state, np.asarray(~finite)
    for side in (0, 1):
        turned[side] = haar_from(turned[side])
    for side in wide:
        white[1 + side], steps[1 + side] = _carry(frames[side], turned[side], white[1 + side], steps[1 + side])
    for side in reversed(wide):
        across = adjoint if side else np.asarray
        found = _leave(turned[side], across(flat), root * steps[1 + side], across(white[0]), white[1 + side])
        turned[side], flat, white[0], white[1 + side] = found[0], across(found[1]), across(found[2]), found[3]
    a, s, rows = np.linalg.svd(flat)
    b = adjoint(rows)
    new = {**state, "u": turned[0] @ a, "lam": s, "v": turned[1] @ b}
    if kick.size:
        rotated = [adjoint(white[1 + side] @ (a if side else b)) for side in wide]
        new["kick"] = np.concatenate([adjoint(a) @ white[0] @ b, *rotated], axis=2)
    with np.errstate(over="ignore"):
        return new, np.logical_not((s[:, -1] > 0) & (s[:, 0] ** depth < math.inf))
