"""Networks whose matrices are products of explicit layers, trained by torch.optim.SGD: what DepthSGD replaces."""

import copy

import torch
from torch.func import functional_call


def balanced_layers(x, depth):
    """Balanced layers of a matrix, first layer first."""
    u, s, vt = torch.linalg.svd(x.detach(), full_matrices=False)
    lam = torch.diag_embed(s ** (1 / depth))
    layers = [lam @ vt, *(lam.clone() for _ in range(depth - 2)), u @ lam]
    return [w.clone().requires_grad_() for w in layers]


def product(layers):
    x = layers[0]
    for w in layers[1:]:
        x = w @ x
    return x


class ExplicitLayers:
    """A model whose matrices of two axes are products of layers; the other parameters are its own."""

    def __init__(self, model, depth, **options):
        self.model, self.depth = copy.deepcopy(model), depth
        self.layers = {n: balanced_layers(p, depth) for n, p in model.named_parameters() if p.ndim == 2}
        self.rest = {n: p for n, p in self.model.named_parameters() if p.ndim != 2}
        every = [w for layers in self.layers.values() for w in layers] + list(self.rest.values())
        self.optimizer = torch.optim.SGD(every, **options)

    def parameters(self):
        return {n: product(layers) for n, layers in self.layers.items()} | self.rest

    def step(self, loss):
        self.optimizer.zero_grad()
        loss(lambda *x: functional_call(self.model, self.parameters(), x)).backward()
        self.optimizer.step()

    @torch.no_grad()
    def balance(self):
        for layers in self.layers.values():
            for w, value in zip(layers, balanced_layers(product(layers), self.depth), strict=True):
                w.copy_(value)
