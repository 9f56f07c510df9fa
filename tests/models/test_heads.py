"""Projection heads."""

from __future__ import annotations

import pytest
import torch

from fer_app.errors import ConfigError
from models.heads import Projection


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("kind", "width"), [("none", 12), ("linear", 5), ("mlp", 5)])
def test_codes_are_on_the_unit_sphere(kind, width):
    head = Projection(kind, 12, 5)
    z = head(torch.randn(7, 12) * 50)
    assert head.out_dim == width
    assert z.shape == (7, width)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(7))


def test_kinds_compute_what_they_say():
    r = torch.randn(3, 6)
    torch.testing.assert_close(Projection("none", 6, 4)(r), r / r.norm(dim=1, keepdim=True))
    linear = Projection("linear", 6, 4)
    code = r @ linear.net.weight.T + linear.net.bias
    torch.testing.assert_close(linear(r), code / code.norm(dim=1, keepdim=True))
    mlp = Projection("mlp", 6, 4)
    hidden = (r @ mlp.net[0].weight.T + mlp.net[0].bias).clamp(min=0)
    assert hidden.shape == (3, 6)
    code = hidden @ mlp.net[2].weight.T + mlp.net[2].bias
    torch.testing.assert_close(mlp(r), code / code.norm(dim=1, keepdim=True))


def test_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        z = Projection("mlp", 6, 4)(torch.randn(3, 6))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ConfigError, match="none, linear, mlp"):
        Projection("dense", 6, 4)
