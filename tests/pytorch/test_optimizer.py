"""DepthSGD as an optimizer of PyTorch: groups, shapes, precisions, states, schedules, and what it refuses."""

import copy
import io
import warnings

import pytest

torch = pytest.importorskip("torch")

from dlngeo.torch import DepthSGD  # noqa: E402

nn = torch.nn
DOUBLE = torch.float64


def network():
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))


def data(dtype=torch.float32):
    return torch.randn(16, 2, 4, 4, dtype=dtype), torch.randint(3, (16,))


def train(model, optimizer, x, y, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def assert_equal(model, other, **tolerances):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), **({"rtol": 0, "atol": 0} | tolerances))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.1)])
def test_depth_one_is_sgd_to_the_bit(momentum, weight_decay, maximize):
    model, options = network(), {"lr": 0.05, "momentum": momentum, "weight_decay": weight_decay, "maximize": maximize}
    other = copy.deepcopy(model)
    train(model, DepthSGD(model.parameters(), depth=1, **options), *(batch := data()), 10)
    train(other, torch.optim.SGD(other.parameters(), **options), *batch, 10)
    assert_equal(model, other)


def test_vectors_are_those_of_sgd_at_any_depth():
    p, q = (nn.Parameter(torch.arange(4.0)) for _ in range(2))
    for x, optimizer in ((p, DepthSGD([p], 0.1, 5, momentum=0.9)), (q, torch.optim.SGD([q], 0.1, momentum=0.9))):
        for _ in range(3):
            x.grad = torch.ones(4)
            optimizer.step()
    assert torch.equal(p, q)


def test_groups_have_their_own_options():
    first, second, third = (nn.Parameter(torch.eye(3) * 0.5) for _ in range(3))
    groups = [{"params": [first], "depth": 2}, {"params": [second], "lr": 0.2}, {"params": [third], "depth": 1}]
    optimizer = DepthSGD(groups, lr=0.1, depth=4)
    for p in (first, second, third):
        p.grad = torch.eye(3)
    optimizer.step()
    lam = 0.5**0.25
    assert torch.allclose(first, torch.eye(3) * (0.5**0.5 - 0.1 * 0.5**0.5) ** 2)
    assert torch.allclose(second, torch.eye(3) * (lam - 0.2 * lam**3) ** 4)
    assert torch.allclose(third, torch.eye(3) * 0.4)


def moved(values, gradients, **options):
    params = [nn.Parameter(x.clone()) for x in values]
    optimizer = DepthSGD(params, 0.1, 3, momentum=0.5, weight_decay=0.1, **options)
    for _ in range(3):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params]


def test_batches_and_many_of_one_shape_are_matrices_one_by_one():
    x, g = torch.randn(2, 3, 5, 4, dtype=DOUBLE), torch.randn(2, 3, 5, 4, dtype=DOUBLE)
    one_by_one = torch.stack([moved([a], [b])[0] for a, b in zip(x.flatten(0, 1), g.flatten(0, 1), strict=True)])
    together = torch.stack(moved(list(x.flatten(0, 1)), list(g.flatten(0, 1))))
    torch.testing.assert_close(together, one_by_one)
    torch.testing.assert_close(moved([x], [g], batched=True)[0].flatten(0, 1), one_by_one)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolutions_are_matrices_of_their_outputs(memory_format):
    x, g = torch.randn(6, 2, 3, 3, dtype=DOUBLE), torch.randn(6, 2, 3, 3, dtype=DOUBLE)
    flat = moved([x.flatten(1)], [g.flatten(1)])[0]
    values = [a.to(memory_format=memory_format) for a in (x, g)]
    torch.testing.assert_close(moved(values[:1], values[1:])[0].flatten(1), flat)


def test_two_runs_are_one():
    torch.manual_seed(3)
    model, batch = network(), data()
    other = copy.deepcopy(model)
    for m in (model, other):
        train(m, DepthSGD(m.parameters(), 0.1, 3, momentum=0.9), *batch, 10)
    assert_equal(model, other)


@pytest.mark.parametrize("second_moment", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, DOUBLE])
def test_a_run_goes_on_bit_for_bit(dtype, second_moment):
    model, (x, y) = network().to(dtype), data(dtype)
    options = {"momentum": 0.9, "weight_decay": 1e-3, "second_moment": second_moment}
    optimizer = DepthSGD(model.named_parameters(), 0.03, 3, **options)
    train(model, optimizer, x, y, 5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, x, y, 5)
    file.seek(0)
    saved = torch.load(file)
    again = network().to(dtype)
    resumed = DepthSGD(again.named_parameters(), 0.1, 3)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(again, resumed, x, y, 5)
    assert_equal(model, again)


def test_a_loaded_state_is_nobody_elses():
    p = nn.Parameter(torch.randn(4, 3))
    optimizer = DepthSGD([p], 0.1, momentum=0.5)
    p.grad = torch.randn(4, 3)
    optimizer.step()
    other = DepthSGD([nn.Parameter(p.detach().clone())], 0.1)
    other.load_state_dict(optimizer.state_dict())
    (mine,), (theirs,) = optimizer.state.values(), other.state.values()
    assert mine["momentum_buffer"].data_ptr() != theirs["momentum_buffer"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_a_master_copy(dtype):
    """A thousand steps, each of which is lost in the rounding of the parameter, arrive where single precision does."""
    x = torch.randn(8, 8)
    p, q = nn.Parameter(x.to(dtype)), nn.Parameter(x.to(dtype).float())
    for param in (p, q):
        optimizer = DepthSGD([param], 1e-5, 3)
        for _ in range(1000):
            param.grad = torch.ones_like(param)
            optimizer.step()
    assert p.dtype is dtype
    torch.testing.assert_close(p.detach().float(), q.detach(), atol=2e-2, rtol=2e-2)
    assert float((q - x).detach().abs().max()) > 0.03


@pytest.mark.parametrize("dtype", [DOUBLE, torch.bfloat16])
def test_what_somebody_else_writes_is_where_the_next_step_starts(dtype):
    p = nn.Parameter(torch.randn(5, 4).to(dtype))
    optimizer = DepthSGD([p], 0.1, 3)
    for write in (lambda x: p.data.copy_(x), lambda x: p.detach().copy_(x)):
        p.grad = torch.randn(5, 4).to(dtype)
        optimizer.step()
        x = torch.randn(5, 4).to(dtype)
        write(x)
        p.grad = torch.randn(5, 4).to(dtype)
        q = nn.Parameter(x.clone())
        q.grad = p.grad.clone()
        optimizer.step()
        DepthSGD([q], 0.1, 3).step()
        torch.testing.assert_close(p, q)


def test_schedules_and_closures():
    model, (x, y) = network(), data()
    other = copy.deepcopy(model)
    optimizer = DepthSGD(model.parameters(), 0.2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(4):
        losses.append(float(optimizer.step(closure).detach()))
        schedule.step()
    assert losses == sorted(losses, reverse=True)
    for k in range(4):
        train(other, DepthSGD(other.parameters(), torch.tensor(0.2 * 0.5**k)), x, y, 1)
    assert_equal(model, other, rtol=1e-4, atol=1e-5)


def test_a_scaler_skips_what_overflows():
    model, (x, y) = network(), data()
    optimizer, scaler = DepthSGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**120)
    start = copy.deepcopy(model)
    for k in range(40):
        optimizer.zero_grad()
        scaler.scale(1e8 * nn.functional.cross_entropy(model(x), y) if k == 0 else model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        if k == 0:
            assert_equal(model, start)
    assert scaler.get_scale() < 2.0**120
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert float(model(x).square().mean()) < 0.9 * float(start(x).square().mean())


def test_a_compiled_model_is_trained_as_it_is():
    model, batch = network(), data()
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    train(compiled, DepthSGD(compiled.parameters(), 0.1), *batch, 3)
    train(other, DepthSGD(other.parameters(), 0.1), *batch, 3)
    assert_equal(model, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, 2.5, 64])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_zero_and_what_lacks_rank_say_so_and_stay_finite(depth, dtype):
    zero = nn.Parameter(torch.zeros(4, 3, dtype=dtype))
    deficient = nn.Parameter(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4)).to(dtype))
    start = deficient.detach().clone()
    optimizer = DepthSGD([("zero", zero), ("deficient", deficient)], 0.1 / depth**2, depth)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            zero.grad, deficient.grad = torch.ones_like(zero), torch.randn_like(deficient)
            optimizer.step()
    assert [str(w.message).split()[1] for w in caught] == ["zero", "deficient"]
    assert "group of depth 1" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert bool((zero.abs() < 1e-6).all())
    assert bool(torch.isfinite(deficient).all())
    assert float((deficient - start).norm()) > 1e-3


def test_repeated_singular_values_and_gradients_of_low_rank():
    for x in (torch.eye(5), torch.linalg.qr(torch.randn(8, 5))[0]):
        p = nn.Parameter(x.double())
        optimizer = DepthSGD([p], 0.1, 3)
        for _ in range(20):
            p.grad = torch.zeros_like(p)
            p.grad[0, 0] = p.detach()[0, 0] - 2
            optimizer.step()
        assert 1.5 < float(p[0, 0]) < 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, r"lr must be in \[0, inf\), got -1.0"),
        ({"lr": float("nan")}, ValueError, "lr must be in"),
        ({"lr": "fast"}, TypeError, "lr must be a real number, got 'fast'"),
        ({"depth": 0.5}, ValueError, r"depth must be in \[1, inf\), got 0.5"),
        ({"depth": float("inf")}, ValueError, "got inf"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be in"),
    ],
)
def test_options_out_of_range_are_refused(options, error, message):
    p = nn.Parameter(torch.eye(3))
    with pytest.raises(error, match=message):
        DepthSGD([p], **{"lr": 0.1, **options})
    optimizer = DepthSGD([p], 0.1)
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3))], **options})
    assert len(optimizer.param_groups) == 1


def test_gradients_that_are_not_finite_change_nothing():
    good, bad = (nn.Parameter(torch.eye(3)) for _ in range(2))
    optimizer = DepthSGD([{"params": [("good", good)]}, {"params": [("bad", bad)]}], 0.1)
    good.grad, bad.grad = torch.ones(3, 3), torch.full((3, 3), float("nan"))
    with pytest.raises(ValueError, match=r"the gradient of parameter bad of shape .3, 3. holds NaN"):
        optimizer.step()
    assert torch.equal(good, torch.eye(3))
    assert not optimizer.state


def test_what_is_no_real_dense_matrix_is_refused():
    with pytest.raises(TypeError, match=r"parameters must be real, got one of torch.complex64"):
        DepthSGD([nn.Parameter(torch.eye(3, dtype=torch.complex64))], 0.1)
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="sparse=False"):
        DepthSGD(embedding.parameters(), 0.1).step()


def test_steps_out_of_all_bounds_are_refused():
    p = nn.Parameter(torch.eye(3))
    p.grad = torch.full((3, 3), 1e30)
    with pytest.raises(OverflowError, match="lower lr"):
        DepthSGD([p], 1.0, 3).step()
    assert torch.equal(p, torch.eye(3))
    with pytest.raises(ValueError, match=r"lr · weight_decay / .1 − momentum. is 2"):
        DepthSGD([p], 1.0, 3, weight_decay=2.0).step()
