"""Functions with hand-written vector-Jacobian products, for autograd boxes and PyTorch tensors alike.

An :class:`Operation` computes on plain arrays. Called with arrays that autograd or PyTorch is tracing, it registers
itself there with the products it was given, which are Operations again: derivatives of derivatives come from the
same rules. Neither library is imported unless one of its arrays is passed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["Operation", "is_traced", "untraced"]


def _host(array: Any) -> str | None:
    """Name of the library that traces the array, if one does."""
    if type(array) is np.ndarray:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        # A tensor in forward mode is traced too, so that PyTorch refuses it: there are no such rules here.
        forward = torch.autograd.forward_ad.unpack_dual(array).tangent is not None
        return "torch" if forward or (array.requires_grad and torch.is_grad_enabled()) else None
    tracer = sys.modules.get("autograd.tracer")
    return "autograd" if tracer is not None and isinstance(array, tracer.Box) else None


def is_traced(*arrays: Any) -> bool:
    """Whether autograd or PyTorch is recording the history of any of the arrays."""
    return any(type(array) is not np.ndarray and _host(array) is not None for array in arrays)


def untraced(array: Any) -> Any:
    """Return the values of an array, without its history."""
    host = _host(array)
    if host == "autograd":
        return untraced(array._value)  # boxes nest, one for every order of derivative
    return array.detach() if host == "torch" else array


class Operation:
    """A function ``value(context, *arrays)`` and its vector-Jacobian products.

    Parameters
    ----------
    value : callable
        Function of a context, which is passed through untouched, and of arrays.
    products : sequence of callable
        For the i-th array, the function ``(context, cotangent, *arrays)`` that returns the gradient in it of the
        pairing of ``value`` with ``cotangent``.

    Notes
    -----
    Traced arrays are broadcast to one shape first, by the tracing library, which sums the gradients back: the
    products see arrays of one shape and return arrays of that shape.
    """

    def __init__(
        self, value: Callable[..., Any], products: Sequence[Callable[..., Any]], name: str | None = None
    ) -> None:
        self.value, self.products = value, tuple(products)
        self.name = name or value.__name__

    def __call__(self, context: Any, *arrays: Any) -> Any:
        hosts = {_host(array) for array in arrays} - {None}
        if not hosts:
            return self.value(context, *arrays)
        if "torch" in hosts:
            import torch

            return self._in_torch(context, *torch.broadcast_tensors(*map(torch.as_tensor, arrays)))
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
