"""DepthSGD is gradient descent on layers: to rounding where they are balanced after each step, to O(lr) where not."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from explicit_layers import ExplicitLayers, balanced_layers, product  # noqa: E402

from dlngeo.kernels import DepthKernel  # noqa: E402
from dlngeo.matrices.frame import Blocks, Frame  # noqa: E402
from dlngeo.matrices.retraction import retract  # noqa: E402
from dlngeo.torch import DepthSGD  # noqa: E402
from dlngeo.torch.step import Covector, Factors, covector, descend, move  # noqa: E402
from dlngeo.torch.step import product as product_of  # noqa: E402

nn = torch.nn


def models():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {
            "linear": (nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 4)), (9, 5)),
            "relu": (nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)), (9, 5)),
            "transformer": (nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), (3, 5, 8)),
        }


def problem(name):
    """A network in double precision, and its loss as a function of how it is applied."""
    model, shape = models()[name]
    model = model.double()
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.randn_like(model(x))
    return model, lambda apply: ((apply(x) - y) ** 2).mean()


def trained(model, loss, steps, **options):
    model = copy.deepcopy(model)
    optimizer = DepthSGD(model.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return detached(model.named_parameters())


def detached(parameters):
    return {n: p.detach() for n, p in parameters}


def explicit(model, loss, steps, balance, **options):
    layers = ExplicitLayers(model, **options)
    for _ in range(steps):
        layers.step(loss)
        if balance:
            layers.balance()
    return detached(layers.parameters().items())


def distance(x, y):
    return max(float((x[n] - y[n]).norm() / y[n].norm()) for n in x)


over_models = pytest.mark.parametrize("name", ["linear", "relu", "transformer"])


@over_models
@pytest.mark.parametrize("depth", [2, 3, 4, 7])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_it_is_layers_that_are_balanced_after_each_step(name, depth, weight_decay):
    model, loss = problem(name)
    options = {"lr": 0.1, "depth": depth, "weight_decay": weight_decay}
    end = trained(model, loss, 20, **options)
    assert distance(end, explicit(model, loss, 20, True, **options)) < 1e-12
    assert distance(end, detached(model.named_parameters())) > 1e-2  # and they have moved


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


@over_models
@pytest.mark.parametrize(("momentum", "weight_decay", "lr"), [(0.0, 0.0, 0.1), (0.0, 0.2, 0.1), (0.5, 0.2, 0.04)])
def test_layers_that_nobody_balances_are_followed_to_first_order(name, momentum, weight_decay, lr):
    """Their imbalance after a fixed time is O(lr); so is what their buffers lag behind by, at a fixed momentum."""
    model, loss = problem(name)
    rates, errors = lr / 2 ** np.arange(4), []
    for k, rate in enumerate(rates):
        options = {"lr": rate, "depth": 3, "momentum": momentum, "weight_decay": weight_decay}
        steps = 20 * 2**k
        errors.append(distance(trained(model, loss, steps, **options), explicit(model, loss, steps, False, **options)))
    assert 0.85 < slope(rates[1:], errors[1:]) < 1.4, errors
    assert errors[-1] < 4e-3


def random_factors(m, n, r, s, dtype=None):
    dtype = dtype or torch.float64
    u, v = (torch.linalg.qr(torch.randn(d, r, dtype=torch.float64))[0] for d in (m, n))
    return Factors(u.to(dtype), torch.as_tensor(s, dtype=dtype), v.mT.to(dtype))


@pytest.mark.parametrize(("m", "n", "r"), [(6, 6, 6), (8, 5, 5), (5, 8, 5), (9, 7, 3), (7, 7, 2)])
@pytest.mark.parametrize("depth", [2, 3, 4, 7, 64, 1.3, 2.5, 3.7, 11.5])
def test_a_step_is_the_retraction_of_the_metric(m, n, r, depth):
    """Against :func:`dlngeo.matrices.retraction.retract`, which shares no code, at integer and at other depths."""
    f = random_factors(m, n, r, np.linspace(0.4, 1.6, r))
    g = torch.randn(m, n, dtype=torch.float64)
    lr = 0.02
    frame = Frame(f.u.numpy(), f.s.numpy(), f.vt.numpy(), DepthKernel(depth))
    b = covector(f, g)
    null = f.s.numpy() ** (2 - 2 / depth)
    z = Blocks(
        -lr * frame.phi * b.core.numpy(),
        None if b.left is None else -lr * b.left.numpy() * null,
        None if b.right is None else -lr * b.right.numpy().T * null,
    )
    u, s, vt = retract(frame, z)
    new = move(f, b, lr, depth)
    np.testing.assert_allclose(product_of(new), u @ np.diag(s) @ vt, atol=1e-12 * depth)
    assert float((product_of(new) - product_of(f)).norm()) > 1e-3


def test_between_integers_it_is_between_them():
    f, g = random_factors(5, 5, 5, [0.3, 0.5, 0.8, 1.1, 1.2]), torch.randn(5, 5, dtype=torch.float64)
    b = covector(f, g)
    for depth in (2, 3, 6):
        near = product_of(move(f, b, 0.1, depth + 1e-7, 0.02))
        torch.testing.assert_close(near, product_of(move(f, b, 0.1, depth, 0.02)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [2.5, 1.5])
def test_a_step_too_long_for_a_power_is_eulers(depth):
    """The layers' C gets a negative eigenvalue: Euler's step in the metric, by the literal Schur multiplier."""
    f = random_factors(6, 5, 3, [0.5, 0.8, 1.1])
    g = (f.u * 3) @ f.vt + 0.1 * torch.randn(6, 5, dtype=torch.float64)
    b = covector(f, g)
    s = np.concatenate((f.s.numpy(), np.zeros(3)))
    u, v = np.linalg.qr(np.hstack((f.u, np.eye(6)[:, :3])))[0], np.linalg.qr(np.hstack((f.vt.mT, np.eye(5)[:, :2])))[0]
    u[:, :3], v[:, :3] = f.u, f.vt.mT
    phi = np.array([[0.0 if a == b == 0 else DepthKernel(depth)(a, b) for b in s[:5]] for a in s])
    target = product_of(f).numpy() - u @ (phi * (u.T @ g.numpy() @ v)) @ v.T
    left, values, right = np.linalg.svd(target)
    cut = (left[:, :3] * values[:3]) @ right[:3]
    np.testing.assert_allclose(product_of(move(f, b, 1.0, depth)), cut, atol=1e-12)


@pytest.mark.parametrize("depth", [3, 2.5])
def test_turned_bases_give_the_turned_step(depth):
    """X ↦ QXR with G ↦ QGR: the metric is invariant."""
    x, g = (torch.randn(6, 4, dtype=torch.float64) for _ in range(2))
    q, r = (torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0] for d in (6, 4))
    ends = []
    for left, right in ((torch.eye(6).double(), torch.eye(4).double()), (q, r)):
        p = nn.Parameter(left @ x @ right)
        optimizer = DepthSGD([p], 0.02, depth, momentum=0.5, weight_decay=0.1)
        for _ in range(5):
            p.grad = left @ (g + (left.T @ p.detach() @ right.T) ** 3) @ right
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(ends[1], q @ ends[0] @ r, atol=1e-12, rtol=0)
    assert float((ends[0] - x).norm()) > 0.05


@pytest.mark.parametrize("depth", [2, 3, 64])
def test_small_singular_values_keep_their_digits(depth):
    """Down to 1e-12, against the products of layers in the frame, in 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    s = np.array([1.0, 0.3, 1e-3, 1e-7, 1e-12])
    f = random_factors(5, 5, 5, s)
    core = torch.randn(5, 5, dtype=torch.float64)
    core = core * torch.as_tensor(np.sqrt(np.minimum.outer(s, s) / np.maximum.outer(s, s)))  # short against each
    lr, shrink = 1e-3, 1e-4
    with mpmath.workdps(60):
        lam = [mpmath.mpf(x) ** (mpmath.mpf(1) / depth) for x in s]
        x = mpmath.eye(5)
        for p in range(1, depth + 1):
            w = mpmath.matrix(5, 5)
            for i in range(5):
                for j in range(5):
                    w[i, j] = -lr * mpmath.mpf(float(core[i, j])) * lam[i] ** (depth - p) * lam[j] ** (p - 1)
                w[i, i] += (1 - mpmath.mpf(shrink)) * lam[i]
            x = w * x
        expected = np.sort(np.array([float(v) for v in mpmath.svd_r(x, compute_uv=False)]))[::-1]
    new = move(f, Covector(core, None, None), lr, depth, shrink)
    np.testing.assert_allclose(np.sort(new.s.numpy())[::-1], expected, rtol=1e-9)


@pytest.mark.parametrize("depth", [1.5, 2.5, 3.4])
def test_between_integers_zeros_are_the_limit_of_small_singular_values(depth):
    s, g = np.array([1.0, 0.8, 0.3, 0.0, 0.0]), torch.randn(5, 5, dtype=torch.float64)
    f = random_factors(5, 5, 5, s)
    ends = []
    for tail in (0.0, 1e-16, 1e-40):
        near = f._replace(s=torch.as_tensor(s + tail * (s == 0)))
        x = product_of(near)
        ends.append(descend(x, near, covector(near, g), 0.02, depth))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-8)
    torch.testing.assert_close(ends[0], ends[2], rtol=0, atol=1e-8)


def test_single_precision_keeps_the_digits_of_small_singular_values_of_pairs():
    s = np.geomspace(1, 1e-12, 40)
    f = random_factors(60, 50, 40, s)
    b = Covector(torch.randn(40, 40) * torch.as_tensor(np.minimum.outer(s, s)).float(), None, None)
    exact = move(f, Covector(b.core.double(), None, None), 0.1, 3)
    single = move(Factors(*(x.float() for x in f)), b, 0.1, 3)
    torch.testing.assert_close(single.s.double(), exact.s, rtol=1e-4, atol=0)
    assert float((exact.s / f.s - 1).abs().max()) > 1e-2


def test_nothing_moves_where_there_is_no_gradient():
    """At depth 64 in single precision rounding λ^64 would show."""
    f = random_factors(20, 20, 20, np.geomspace(1, 1e-9, 20), torch.float32)
    new = move(f, Covector(torch.zeros(20, 20), None, None), 0.1, 64)
    torch.testing.assert_close(new.s, f.s, rtol=1e-6, atol=0)


def test_layers_and_the_step_agree_on_what_a_layer_is():
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(product(balanced_layers(x, 5)), x)


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (6, 4)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_second_moment_is_that_of_all_layers(momentum, depth, rows, columns):
    """Layers stepped by their gradients over the root of a mean of squares that they share, and balanced again."""
    torch.manual_seed(0)
    x, y = (torch.randn(12, d, dtype=torch.float64) for d in (columns, rows))
    start = torch.randn(rows, columns, dtype=torch.float64) / 3
    p, layers = torch.nn.Parameter(start.clone()), balanced_layers(start, depth)
    optimizer = DepthSGD([p], 0.02, depth, momentum, second_moment=0.9)
    mean, buffer = 0.0, torch.zeros_like(start)

    def loss(matrix):
        return (x @ matrix.T - y).square().mean()

    for step in range(1, 16):
        optimizer.zero_grad()
        loss(p).backward()
        optimizer.step()
        whole = product(layers).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(whole), whole)
        squares = sum(g.square().sum() for g in torch.autograd.grad(loss(product(layers)), layers))
        mean = 0.9 * mean + 0.1 * squares
        buffer = momentum * buffer + gradient
        scaled = buffer / (mean / (1 - 0.9**step)).sqrt()
        slopes = torch.autograd.grad((product(layers) * scaled).sum(), layers)
        layers = balanced_layers(product([w - 0.02 * g for w, g in zip(layers, slopes, strict=True)]), depth)
        torch.testing.assert_close(p.detach(), product(layers).detach(), rtol=1e-11, atol=1e-12)
    assert (p - start).norm() > 0.1 * start.norm()


def test_the_second_moment_takes_the_units_of_the_loss_out():
    ends = []
    for unit in (1.0, 1e6):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(3, 4, 6, dtype=torch.float64))
        optimizer = DepthSGD([p], 0.01, 3, 0.9, second_moment=0.99, batched=True)
        for _ in range(5):
            optimizer.zero_grad()
            (unit * (p - 1).square().sum()).backward()
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=0)
