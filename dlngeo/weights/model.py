"""The weights of a linear network of PyTorch, which is imported by nobody but those who have such a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["Model", "is_model", "layers_of_model"]

Model = Any  # a torch.nn.Sequential of torch.nn.Linear, or one torch.nn.Linear


def is_model(value: Any) -> bool:
    """Whether ``value`` is a module of PyTorch.

    See Also
    --------
    dlngeo.weights.model.layers_of_model

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from dlngeo.weights.model import is_model
    >>> is_model(torch.nn.Linear(3, 2)), is_model([np.eye(2)])
    (True, False)
    """
    torch = sys.modules.get("torch")  # without it nothing is one
    return torch is not None and isinstance(value, torch.nn.Module)


def layers_of_model(model: Model) -> tuple[list[Any], list[Any]]:
    """Return the weights of a linear network, first layer first, and the biases that it has.

    Parameters
    ----------
    model : torch.nn.Module
        A ``Linear`` layer, or a ``Sequential`` of such and of ``Identity``, nested or not.

    Returns
    -------
    weights : list of torch.nn.Parameter, shape=[d_p, d_{p−1}]
        The parameters themselves, with their history for autograd.
    biases : list of torch.nn.Parameter, shape=[d_p]

    Raises
    ------
    TypeError
        If another module is in it: its product with the layers is no matrix.

    See Also
    --------
    dlngeo.weights.model.is_model
    dlngeo.end_to_end

    Examples
    --------
    >>> from torch import nn
    >>> from dlngeo.weights.model import layers_of_model
    >>> weights, biases = layers_of_model(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Identity(), nn.Linear(2, 4)))
    >>> [tuple(w.shape) for w in weights], [tuple(b.shape) for b in biases]
    ([(2, 3), (4, 2)], [(4,)])
    """
    from torch import nn

    layers: list[Any] = []
    for name, module in _leaves(model, ""):
        if isinstance(module, nn.Linear):
            layers.append(module)
        elif not isinstance(module, nn.Identity):
            raise TypeError(
                f"{name or 'the model'} is a {type(module).__name__}; only Linear layers in a Sequential make a deep "
                "linear network. Pass the weight matrices of its linear layers as a list, first layer first."
            )
    return [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]


def _leaves(module: Any, name: str) -> Iterator[tuple[str, Any]]:
    from torch import nn

    if type(module) is nn.Sequential:
        for k, child in enumerate(module):
            yield from _leaves(child, f"{name or 'module '}{'.' if name else ''}{k}")
    else:
        yield name, module
