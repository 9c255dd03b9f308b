"""Adapters: the pair moves as the low-rank matrix does, and the module survives what is done to modules."""

import copy
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dlngeo.pymanopt import FixedRank  # noqa: E402
from dlngeo.torch import DepthAdapter, DepthSGD, adapt, to_lora  # noqa: E402

nn = torch.nn
DOUBLE = torch.float64


def adapter(m=9, n=7, rank=3, depth=3, start=0.5, dtype=DOUBLE, **options):
    return DepthAdapter(nn.Linear(n, m, dtype=dtype), rank, depth, start=start, **options)


def step(x, g, optimizer):
    """One step down a linear function ``⟨G, X⟩`` of the weight, by autograd through the forward pass."""
    optimizer.zero_grad()
    ((x(torch.eye(x.in_features, dtype=g.dtype)) - (0 if x.bias is None else x.bias)) * g.T).sum().backward()
    optimizer.step()


def update(x):
    return (x.a @ x.b).detach()


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 2.5, 16])
@pytest.mark.parametrize(("m", "n", "rank"), [(9, 7, 3), (6, 8, 6), (5, 5, 5), (4, 6, 1)])
def test_the_pair_moves_by_the_retraction_of_the_fixed_rank_manifold(m, n, rank, depth):
    """Against :class:`dlngeo.pymanopt.FixedRank` in NumPy: the Riemannian gradient, and its retraction."""
    x = adapter(m, n, rank, depth)
    g = torch.randn(m, n, dtype=DOUBLE)
    manifold = FixedRank(m, n, rank, depth)
    lr = 0.1 / depth
    optimizer = DepthSGD(x.parameters(), lr)
    for _ in range(4):
        point = tuple(part.numpy() for part in x.factors())
        gradient = manifold.euclidean_to_riemannian_gradient(point, g.numpy())
        u, s, vt = manifold.retraction(point, -lr * gradient)
        step(x, g, optimizer)
        np.testing.assert_allclose(update(x), u @ np.diag(s) @ vt, atol=1e-11)
        torch.testing.assert_close(x.a.T @ x.a, x.b @ x.b.T)  # balanced
        torch.testing.assert_close(x.s, torch.as_tensor(np.sort(s)[::-1].copy()))


def projected(point, b):
    left, right = (np.eye(len(x)) - x @ x.T for x in (point[0], point[2].T))
    return b - left @ b @ right


def test_momentum_is_that_of_the_projected_covector():
    """B is kept as an m×n matrix here, and projected to the tangent space where it is made and where it goes."""
    x, g, mu, lr = adapter(), torch.randn(4, 9, 7, dtype=DOUBLE), 0.8, 0.05
    manifold = FixedRank(9, 7, 3, 3)
    optimizer = DepthSGD(x.parameters(), lr, momentum=mu)
    b = np.zeros((9, 7))
    for gradient in g:
        point = tuple(part.numpy() for part in x.factors())
        b = projected(point, mu * projected(point, b) + gradient.numpy())
        u, s, vt = manifold.retraction(point, -lr * manifold.euclidean_to_riemannian_gradient(point, b))
        step(x, gradient, optimizer)
        np.testing.assert_allclose(update(x), u @ np.diag(s) @ vt, atol=1e-11)


@pytest.mark.parametrize("second_moment", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(5, 4), (4, 5)])
@pytest.mark.parametrize("depth", [2, 3])
def test_at_full_rank_it_is_the_matrix_itself(depth, shape, second_moment):
    x = adapter(*shape, 4, depth)
    p = nn.Parameter(update(x))
    options = {"lr": 0.05, "depth": depth, "momentum": 0.5, "weight_decay": 0.2, "second_moment": second_moment}
    mine, plain = DepthSGD(x.parameters(), **options), DepthSGD([p], **options)
    for g in torch.randn(5, *shape, dtype=DOUBLE):
        step(x, g, mine)
        p.grad = g
        plain.step()
    torch.testing.assert_close(update(x), p.detach())


def test_its_own_depth_counts_and_the_rest_of_the_group_has_the_groups():
    x, head = adapter(depth=5), nn.Parameter(torch.eye(3, dtype=DOUBLE))
    other = copy.deepcopy(x)
    g = torch.randn(9, 7, dtype=DOUBLE)
    head.grad = torch.eye(3, dtype=DOUBLE)
    optimizer = DepthSGD([head, *x.parameters()], 0.1, depth=2)
    step(x, g, optimizer)
    step(other, g, DepthSGD(other.parameters(), 0.1, depth=5))
    torch.testing.assert_close(update(x), update(other), rtol=0, atol=0)
    assert torch.equal(head, torch.eye(3, dtype=DOUBLE))  # its gradient was cleared
    with pytest.raises(ValueError, match="came without the other"):
        DepthSGD([x.a], 0.1)


def test_the_start_is_balanced_and_that_of_the_generator():
    first, second = (adapter(start=1e-3, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(update(first), update(second))
    torch.testing.assert_close(first.s, torch.full((3,), 1e-3, dtype=DOUBLE))
    torch.testing.assert_close(first.a.T @ first.a, first.b @ first.b.T)
    single = adapter(start=1e-3, dtype=torch.float32, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(update(single).double(), update(first), rtol=1e-5, atol=1e-9)
    assert not torch.equal(update(first), update(adapter(start=1e-3)))


@pytest.mark.parametrize("bias", [True, False])
def test_forward_merge_and_unmerge(bias):
    linear = nn.Linear(7, 9, bias=bias, dtype=DOUBLE)
    before, x = linear.weight.detach().clone(), torch.randn(2, 5, 7, dtype=DOUBLE)
    y = linear(x).detach()
    layer = DepthAdapter(linear, 3, start=0.5)
    expected = y + x @ update(layer).T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), expected)
    assert layer.merge().merge() is layer
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.base(x), expected)
    torch.testing.assert_close(layer.unmerge().unmerge().base.weight, before)
    torch.testing.assert_close(layer(x), expected)
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["a", "b"]


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "to": lambda x: copy.deepcopy(x).to(torch.float32).to(DOUBLE),
    "half": lambda x: copy.deepcopy(x).to(torch.bfloat16),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_still_pairs(name):
    original = nn.Sequential(adapter(depth=4), nn.ReLU())
    model = COPIES[name](original)
    g = torch.randn(9, 7, dtype=model[0].a.dtype)
    step(model[0], g, DepthSGD(model.parameters(), 0.1))
    step(original[0], g.to(DOUBLE), DepthSGD(original.parameters(), 0.1))
    tolerance = {"pickle": 1e-14, "deepcopy": 1e-14, "to": 1e-5, "half": 2e-2}[name]
    torch.testing.assert_close(update(model[0]).to(DOUBLE), update(original[0]), atol=tolerance, rtol=tolerance)
    assert model[0].a.depth_pair[0] is model[0].b.depth_pair[0]
    assert model[0].a.depth_pair[0] is not original[0].a.depth_pair[0]


@pytest.mark.parametrize("second_moment", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.bfloat16])
def test_saved_and_loaded_it_goes_on_bit_for_bit(dtype, second_moment):
    x, g = adapter(depth=4, dtype=dtype), torch.randn(6, 9, 7).to(dtype)
    optimizer = DepthSGD(x.parameters(), 0.05, momentum=0.9, weight_decay=0.1, second_moment=second_moment)
    for gradient in g[:3]:
        step(x, gradient, optimizer)
    file = io.BytesIO()
    torch.save([x.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    states = torch.load(file)
    other = adapter(depth=2, dtype=dtype)
    again = DepthSGD(other.parameters(), 1.0)
    other.load_state_dict(states[0])
    again.load_state_dict(states[1])
    for gradient in g[3:]:
        step(x, gradient, optimizer)
        step(other, gradient, again)
    assert other.depth == 4
    assert torch.equal(update(x), update(other))


def test_parameters_that_a_state_brings_along_are_still_pairs():
    x, g = adapter(), torch.randn(9, 7, dtype=DOUBLE)
    state = {key: value.clone() for key, value in x.state_dict().items() if "extra" not in key}
    other = adapter()
    other.load_state_dict(state, assign=True, strict=False)
    for layer in (x, other):
        step(layer, g, DepthSGD(layer.parameters(), 0.05))
    torch.testing.assert_close(update(other), update(x))


def test_half_a_pair_does_not_move_alone():
    x = adapter()
    x.b.requires_grad_(False)
    before = update(x)
    with pytest.raises(ValueError, match="one half has no gradient"):
        step(x, torch.randn(9, 7, dtype=DOUBLE), DepthSGD(x.parameters(), 0.1))
    assert torch.equal(update(x), before)


def test_a_merged_state_is_loaded_as_merged():
    x, y = adapter(), adapter()
    y.load_state_dict(x.merge().state_dict())
    probe = torch.randn(2, 7, dtype=DOUBLE)
    assert y.merged
    torch.testing.assert_close(y(probe), x(probe))


def transformer():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 2)


def test_a_model_is_adapted_by_names():
    model, x = transformer(), torch.randn(2, 5, 8)
    before = model(x).detach()
    shapes = {n: p.shape for n, p in model.named_parameters()}
    assert adapt(model, ["layers.0.linear*", "*.out_proj"], 2, 4, start=1e-6) is model
    names = [n for n, m in model.named_modules() if isinstance(m, DepthAdapter)]
    assert names == [
        "layers.0.self_attn.out_proj",
        "layers.0.linear1",
        "layers.0.linear2",
        "layers.1.self_attn.out_proj",
    ]
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [f"{n}.{f}" for n in names for f in "ab"]
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)
    start = [model.get_submodule(n).factors() for n in names]
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer, losses = DepthSGD(model.parameters(), 0.5, momentum=0.5), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - before.roll(1, 0)).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    for n, old in zip(names, start, strict=True):
        assert not torch.equal(model.get_submodule(n).s, old.s)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert len(shapes) + 8 == len(list(model.parameters()))
    model.eval()
    with torch.no_grad():
        assert bool(torch.isfinite(model(x)).all())


def test_a_layer_in_two_places_has_one_adapter():
    linear = nn.Linear(4, 4)
    model = adapt(nn.Sequential(linear, nn.ReLU(), linear), "*", 2)
    assert model[0] is model[2]


def test_what_cannot_be_adapted_is_refused_by_name():
    model = transformer()
    with pytest.raises(ValueError, match=r"'head' matches no linear layer; .* layers\.0\.self_attn\.out_proj"):
        adapt(model, ["*.linear1", "head"], 2)
    with pytest.raises(ValueError, match=r"rank 9 exceeds min\(m, n\) = 8"):
        adapt(model, "*", 9)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(TypeError, match=r"adapts an nn\.Linear, got ReLU"):
        DepthAdapter(nn.ReLU(), 2)
    for start in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="start must be positive and finite"):
            adapter(start=start)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        adapter(depth=0.5)


def test_under_another_optimizer_it_is_lora():
    x = adapter()
    other = copy.deepcopy(x)
    g = torch.randn(9, 7, dtype=DOUBLE)
    step(x, g, torch.optim.SGD([x.a, x.b], 0.1))
    torch.testing.assert_close(x.a.detach(), (other.a - 0.1 * g @ other.b.T).detach())
    u, s, vt = x.factors()
    torch.testing.assert_close((u * s) @ vt, update(x))


def test_a_zero_pair_stays_finite():
    x = adapter()
    with torch.no_grad():
        x.a[:, 0], x.b[0] = 0.0, 0.0
    optimizer = DepthSGD(x.parameters(), 0.1, momentum=0.9)
    with pytest.warns(UserWarning, match="zero but for rounding"):
        step(x, torch.randn(9, 7, dtype=DOUBLE), optimizer)
    step(x, torch.randn(9, 7, dtype=DOUBLE), optimizer)
    assert bool(torch.isfinite(x.a).all())
    assert bool(torch.isfinite(x.b).all())


def test_peft_takes_it_for_lora():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    plain, x = copy.deepcopy(model), torch.randn(4, 6)
    adapt(model, "0", 2, start=0.7)
    model[2] = DepthAdapter(model[2], 3, start=0.4)
    config, state = to_lora(model)
    lora = peft.get_peft_model(plain, peft.LoraConfig(**config))
    result = peft.set_peft_model_state_dict(lora, state)
    assert not result.unexpected_keys
    torch.testing.assert_close(lora(x), model(x))
    assert float((lora(x) - lora.unload()(x)).detach().abs().max()) > 1e-3
    with pytest.raises(ValueError, match="no DepthAdapter"):
        to_lora(nn.Linear(3, 3))
