"""Functions with hand-written vector-Jacobian products, for autograd boxes, PyTorch tensors and JAX arrays alike.

An :class:`Operation` computes on plain arrays. Called with arrays that autograd, PyTorch or JAX is tracing, it
registers itself there with the products it was given, which are Operations again: derivatives of derivatives come from
the same rules. No library is imported unless one of its arrays is passed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["Operation", "has_values", "in_jax", "is_traced", "untraced"]


def _host(array: Any) -> str | None:
    """Name of the library that traces the array, if one does."""
    if type(array) is np.ndarray:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        # A tensor in forward mode is traced too, so that PyTorch refuses it: there are no such rules here.
        forward = torch.autograd.forward_ad.unpack_dual(array).tangent is not None
        return "torch" if forward or (array.requires_grad and torch.is_grad_enabled()) else None
    if in_jax(array):
        return "jax" if isinstance(array, sys.modules["jax"].core.Tracer) else None
    tracer = sys.modules.get("autograd.tracer")
    return "autograd" if tracer is not None and isinstance(array, tracer.Box) else None


def in_jax(array: Any) -> bool:
    """Whether the array is one of JAX, traced or not."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def has_values(array: Any) -> bool:
    """Whether the values of an array can be looked at: JAX may trace a function before there are any."""
    return _host(array) != "jax"


def is_traced(*arrays: Any) -> bool:
    """Whether autograd, PyTorch or JAX is recording the history of any of the arrays."""
    return any(type(array) is not np.ndarray and _host(array) is not None for array in arrays)


def untraced(array: Any) -> Any:
    """Return the values of an array, without its history; a tracer of JAX as it is."""
    host = _host(array)
    if host == "autograd":
        return untraced(array._value)  # boxes nest, one for every order of derivative
    return array.detach() if host == "torch" else array


def _require_real(arrays: Sequence[Any], host: str) -> None:
    """Refuse complex arrays of a library whose gradients of real functions are the conjugates of PyTorch's."""
    if any(np.dtype(a.dtype).kind == "c" for a in arrays if hasattr(a, "dtype")):
        raise NotImplementedError(
            f"functions of complex matrices are not differentiated by {host}, whose gradients are conjugates; use "
            "PyTorch, or the closed forms (docs/complex.md)."
        )


class Operation:
    """A function ``value(context, *arrays)`` and its vector-Jacobian products.

    Parameters
    ----------
    value : callable
        Function of a context, which is passed through untouched, and of arrays, the first of which is the point.
    products : sequence of callable
        For the i-th array, the function ``(context, cotangent, *arrays)`` that returns the gradient in it of the
        pairing of ``value`` with ``cotangent``.
    name : str, optional
        Name in error messages. Defaults to that of ``value``.
    scalar : bool
        Whether the value is one number for each matrix, not a matrix.

    Notes
    -----
    Traced arrays are broadcast to one shape first, by the tracing library, which sums the gradients back: the
    products see arrays of one shape and return arrays of that shape.

    JAX calls ``value`` back on NumPy arrays, when there are values: ``context.at(x)`` must then return the context at
    the point ``x``. So products may use of a context only what does not depend on the values of the point.
    """

    def __init__(
        self,
        value: Callable[..., Any],
        products: Sequence[Callable[..., Any]],
        name: str | None = None,
        scalar: bool = False,
    ) -> None:
        self.value, self.products, self.scalar = value, tuple(products), scalar
        self.name = name or value.__name__

    def __call__(self, context: Any, *arrays: Any) -> Any:
        if any(map(in_jax, arrays)):
            _require_real(arrays, "JAX")
            import jax.numpy as jnp

            dtype = jnp.result_type(*arrays, float)
            return self._in_jax(context, *jnp.broadcast_arrays(*(jnp.asarray(a, dtype) for a in arrays)))
        hosts = {_host(array) for array in arrays} - {None}
        if not hosts:
            return self.value(context, *arrays)
        if "torch" in hosts:
            import torch

            return self._in_torch(context, *torch.broadcast_tensors(*map(torch.as_tensor, arrays)))
        _require_real(arrays, "autograd")
        import autograd.numpy as anp

        shape = np.broadcast_shapes(*map(np.shape, arrays))
        padded = (anp.reshape(a, (1,) * (len(shape) - len(a.shape)) + a.shape) for a in arrays)
        return self._in_autograd(context, *(anp.broadcast_to(a, shape) for a in padded))

    @functools.cached_property
    def _in_autograd(self) -> Callable[..., Any]:
        from autograd.extend import defvjp, primitive

        traced = primitive(functools.wraps(self.value)(lambda context, *arrays: self.value(context, *arrays)))

        def rule(product: Callable[..., Any]) -> Callable[..., Any]:
            return lambda answer, context, *arrays: lambda cotangent: product(context, cotangent, *arrays)

        defvjp(traced, *map(rule, self.products), argnums=range(1, len(self.products) + 1))
        return traced

    @functools.cached_property
    def _in_torch(self) -> Callable[..., Any]:
        import torch

        value, products = self.value, self.products

        class Traced(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, context: Any, *arrays: Any) -> Any:
                ctx.context = context
                ctx.save_for_backward(*arrays)
                return value(context, *arrays)

            @staticmethod
            def backward(ctx: Any, cotangent: Any) -> tuple[Any, ...]:
                needed = zip(products, ctx.needs_input_grad[1:], strict=True)
                arrays = ctx.saved_tensors
                return None, *(p(ctx.context, cotangent, *arrays) if need else None for p, need in needed)

        Traced.__name__ = self.name
        return Traced.apply

    @functools.cached_property
    def _in_jax(self) -> Callable[..., Any]:
        import jax

        def call(context: Any, *arrays: Any) -> Any:
            x = arrays[0]
            shape = x.shape[:-2] if self.scalar else x.shape

            def back(*arrays: Any) -> np.ndarray:
                plain = [np.asarray(array) for array in arrays]
                return np.asarray(self.value(context.at(plain[0]), *plain), x.dtype)

            if all(map(has_values, arrays)):  # errors are raised as they are
                return jax.numpy.asarray(back(*arrays))
            result = jax.ShapeDtypeStruct(shape, x.dtype)
            return jax.pure_callback(back, result, *arrays, vmap_method="broadcast_all")

        # Which derivatives are asked for is told by the structure of what is saved: None or an empty tuple.
        def forward(context: Any, *primals: Any) -> Any:
            arrays = tuple(p.value for p in primals)
            return traced(context, *arrays), (arrays, tuple(() if p.perturbed else None for p in primals))

        def backward(context: Any, saved: Any, cotangent: Any) -> tuple[Any, ...]:
            arrays, needed = saved
            if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
                return (None,) * len(arrays)
            needs = zip(self.products, needed, strict=True)
            return tuple(None if need is None else p(context, cotangent, *arrays) for p, need in needs)

        call.__name__ = self.name
        traced = jax.custom_vjp(call, nondiff_argnums=(0,))
        traced.defvjp(forward, backward, symbolic_zeros=True)
        return traced
