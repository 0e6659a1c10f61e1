"""verify on small networks."""

from __future__ import annotations

import copy

import pytest
import torch
from small_nets import small_net
from torch import nn

import convofconv as coc


def test_verify_returns_the_largest_relative_difference_and_restores_the_mode(x):
    model = small_net()
    model[3].eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[6].bias += 1e-3
    expected = 1e-3 / model.eval()(x).abs().max().item()
    model.train()
    model[3].eval()
    assert coc.verify(model, other, x, tolerance=1) == pytest.approx(expected, rel=1e-3)
    assert model.training
    assert not model[3].training
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_verify_allows_by_default_for_half_precision(dtype, autocast, x):
    model = coc.convert(small_net().eval(), "coc", coc.Config(init="kaiming"))
    plain = coc.reparameterize(model)
    if autocast:
        with torch.autocast("cpu", dtype=dtype):
            error = coc.verify(model, plain, x)
    else:
        error = coc.verify(model.to(dtype), plain.to(dtype), x.to(dtype))
    assert 1e-5 < error < 4 * torch.finfo(dtype).eps
    with torch.no_grad():
        plain[0].weight.mul_(1.1)
    with pytest.raises(coc.VerificationError, match=r"tolerance 0\.0"):
        coc.verify(model.to(dtype), plain.to(dtype), x.to(dtype))


def test_verify_names_the_first_layer_that_differs(x):
    model = coc.convert(small_net())
    plain = coc.reparameterize(model)
    with torch.no_grad():
        plain[3].weight += 0.1
        plain[0].weight *= 1 + 1e-8
    with pytest.raises(coc.VerificationError, match=r"outputs differ by .* the first layer that differs is 3 \("):
        coc.verify(model, plain, x)


class NormAndActivation(nn.BatchNorm2d):
    """As timm's: a layer with parameters of its own, and a part."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def test_verify_names_a_layer_that_holds_its_activation(x):
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3), NormAndActivation(8)))
    plain = coc.reparameterize(model)
    with torch.no_grad():
        plain[1].bias += 1
    with pytest.raises(coc.VerificationError, match=r"the first layer that differs is 1(\.act)? \("):
        coc.verify(model, plain, x)


class Outside(nn.Sequential):
    factor = 1.0

    def forward(self, y):
        return {"out": [super().forward(y) * self.factor]}


def test_verify_says_when_the_difference_is_outside_the_layers(x):
    model, other = Outside(nn.Conv2d(3, 4, 3)), Outside(nn.Conv2d(3, 4, 3))
    other.load_state_dict(model.state_dict())
    assert coc.verify(model, other, x) == 0
    other.factor = 2.0
    with pytest.raises(coc.VerificationError, match="the difference is outside the layers"):
        coc.verify(model, other, x)


class InPlace(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, y):
        return y.mul_(self.factor)


def test_verify_is_not_fooled_by_models_that_work_in_place_nor_by_complex_or_empty_evidence(x):
    with pytest.raises(coc.VerificationError):
        coc.verify(InPlace(2), InPlace(7), x)
    assert coc.verify(InPlace(2), InPlace(2), x) == 0
    with pytest.raises(coc.VerificationError):
        coc.verify(InPlace(1), InPlace(1j), torch.ones(2, dtype=torch.complex64))
    with pytest.raises(coc.VerificationError, match="differ by inf"):
        coc.verify(InPlace(1), InPlace(1), torch.full((2,), float("nan")))
    with pytest.raises(coc.VerificationError, match="differ by inf"):
        coc.verify(InPlace(1), InPlace(-1), torch.tensor([0.0, float("inf")]))


def test_verify_takes_positional_and_keyword_inputs():
    bilinear = nn.Bilinear(2, 3, 4)
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    assert coc.verify(bilinear, bilinear, (a, b)) == 0
    assert coc.verify(bilinear, bilinear, {"input1": a, "input2": b}) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_verify_does_not_let_non_finite_values_pass(value, x):
    model = small_net()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[6].bias[0] = value
    with pytest.raises(coc.VerificationError, match="differ by inf"):
        coc.verify(model, other, x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coc.verify(small_net(), 3, 4), coc.ArgumentTypeError, "plain must be an nn.Module, got int"),
        (lambda: coc.verify(nn.Identity(), nn.Identity(), "x"), coc.ArgumentTypeError, "contains no tensor"),
        (lambda: coc.verify(nn.ReLU(), nn.ReLU(), torch.ones(1), tolerance=-1), coc.ConfigError, "got -1"),
    ],
)
def test_verify_names_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("way", ["older", "newer"])
def test_verify_and_folding_compute_in_float32_where_tf32_is_allowed(way, x):
    """GPUs round convs to TF32 by default, by more than the tolerance; here it is only seen that it is switched off."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if way == "newer" and not hasattr(cudnn, "conv"):
        pytest.skip("this torch has no fp32_precision")

    def allowed():
        if way == "older":
            return torch.get_float32_matmul_precision() != "highest", cudnn.allow_tf32
        return matmul.fp32_precision == "tf32", cudnn.conv.fp32_precision == "tf32"

    before = torch.get_float32_matmul_precision()
    if way == "older":
        torch.set_float32_matmul_precision("high")
    else:
        of_products, of_convs = matmul.fp32_precision, cudnn.conv.fp32_precision
        matmul.fp32_precision = cudnn.conv.fp32_precision = "tf32"
    try:
        assert allowed() == (True, True)
        seen = []

        class Watching(coc.KernelMap):
            def forward(self, weight):
                seen.append(allowed())
                return weight

        model = coc.convert(small_net(), Watching)
        del seen[:]
        plain = coc.reparameterize(model)
        coc.verify(model, plain, x)
        assert set(seen) == {(False, False)}
        assert allowed() == (True, True)
    finally:
        if way == "older":
            torch.set_float32_matmul_precision(before)
        else:
            matmul.fp32_precision, cudnn.conv.fp32_precision = of_products, of_convs


def test_what_somebody_set_by_torchs_newer_way_for_convs_alone_stays():
    """It must not be asked for by the older one, which torch refuses then."""
    cudnn = torch.backends.cudnn
    if not hasattr(cudnn, "conv"):
        pytest.skip("this torch has no fp32_precision")
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"
    try:
        coc.reparameterize(coc.convert(nn.Conv2d(3, 8, 3)))
        assert cudnn.conv.fp32_precision == "ieee"
    finally:
        cudnn.conv.fp32_precision = before
