"""The label decoder against torch's attention and a slow, obvious reading of DETR's layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.label_decoder import Attention, LabelDecoder, simplex


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3, 0.0), nn.MultiheadAttention(12, 3, batch_first=True)
    for p in ours.parameters():
        nn.init.normal_(p, std=0.5)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    tokens = [torch.randn(2, n, 12, requires_grad=True) for n in (4, 5, 5)]
    (taken, weights), (expected, expected_weights) = ours(*tokens), theirs(*tokens)
    torch.testing.assert_close(taken, expected)
    torch.testing.assert_close(weights, expected_weights)
    for own, other in zip(*(torch.autograd.grad(out.sum(), tokens) for out in (taken, expected)), strict=True):
        torch.testing.assert_close(own, other)


def slow_attention(p: dict[str, Tensor], name: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of one sample, with two heads, query by query."""
    q, k, v = (
        x @ p[f"{name}.{part}.weight"].T + p[f"{name}.{part}.bias"]
        for part, x in (("query", queries), ("key", keys), ("value", values))
    )
    width = q.shape[1] // 2
    rows = []
    for i in range(len(q)):
        heads = []
        for h in (slice(0, width), slice(width, 2 * width)):
            scores = torch.stack([q[i, h] @ k[j, h] / math.sqrt(width) for j in range(len(k))]).exp()
            heads.append(sum(s * v[j, h] for j, s in enumerate(scores / scores.sum())))
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ p[f"{name}.proj.weight"].T + p[f"{name}.proj.bias"]


def slow_logits(decoder: LabelDecoder, memory: Tensor) -> Tensor:
    """Of one sample: DETR's layers, then for every label a linear layer of its own."""
    p = dict(decoder.named_parameters())
    where = p["queries"]
    labels = torch.zeros_like(where)
    for i in range(len(decoder.layers)):
        name = f"layers.{i}"

        def norm(x: Tensor, which: str, name: str = name) -> Tensor:
            return F.layer_norm(x, x.shape[1:], p[f"{name}.{which}.weight"], p[f"{name}.{which}.bias"])

        asked = labels + where
        labels = norm(labels + slow_attention(p, f"{name}.self_attn", asked, asked, labels), "norm1")
        labels = norm(labels + slow_attention(p, f"{name}.cross_attn", labels + where, memory, memory), "norm2")
        hidden = (labels @ p[f"{name}.ffn.0.weight"].T + p[f"{name}.ffn.0.bias"]).clamp(min=0)
        labels = norm(labels + hidden @ p[f"{name}.ffn.3.weight"].T + p[f"{name}.ffn.3.bias"], "norm3")
    labels = F.layer_norm(labels, labels.shape[1:], p["norm.weight"], p["norm.bias"])
    return torch.stack([p["weight"][k] @ labels[k] + p["bias"][k] for k in range(len(labels))])


def make_decoder() -> LabelDecoder:
    torch.manual_seed(0)
    decoder = LabelDecoder(3, 8, depth=2, num_heads=2, ffn_dim=10)
    for parameter in decoder.parameters():  # so that biases and norms count
        nn.init.normal_(parameter, std=0.5)
    return decoder.eval()


def test_logits_and_gradients_equal_the_slow_ones() -> None:
    decoder, memory = make_decoder(), torch.randn(2, 5, 8)
    decoded, weights = decoder(memory)
    ours = decoder.logits(decoded)
    slow = torch.stack([slow_logits(decoder, sample) for sample in memory])
    assert decoded.shape == (2, 3, 8)
    assert weights.shape == (2, 3, 5)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3))
    torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-5)
    parameters = list(decoder.parameters())
    for own, other in zip(
        *(torch.autograd.grad(logits.square().sum(), parameters) for logits in (ours, slow)), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_labels_have_no_order() -> None:
    """A label is its query and its linear layer, wherever it stands."""
    decoder, memory = make_decoder(), torch.randn(2, 5, 8)
    before, order = decoder.logits(decoder(memory)[0]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        for parameter in (decoder.queries, decoder.weight, decoder.bias):
            parameter.copy_(parameter[order])
    torch.testing.assert_close(decoder.logits(decoder(memory)[0]), before[:, order])


@pytest.mark.parametrize(("num_points", "dim"), [(2, 2), (7, 7), (8, 192)])
def test_a_simplex_is_regular_and_turned_by_chance(num_points: int, dim: int) -> None:
    torch.manual_seed(0)
    points, others = simplex(num_points, dim), simplex(num_points, dim)
    expected = torch.full((num_points, num_points), -1 / (num_points - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(points @ points.T, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(points, others)


def test_spread_queries_are_as_long_as_random_ones() -> None:
    torch.manual_seed(0)
    decoder = LabelDecoder(8, 192)
    before = decoder.queries.detach().norm(dim=1).mean()
    decoder.spread_queries()
    lengths = decoder.queries.detach().norm(dim=1)
    torch.testing.assert_close(lengths, lengths.mean().expand(8))
    assert lengths.mean() == pytest.approx(float(before), rel=0.1)


def test_dropout_is_for_training_alone() -> None:
    decoder, memory = make_decoder(), torch.randn(2, 5, 8)
    assert torch.equal(decoder(memory)[0], decoder(memory)[0])
    decoder.train()
    (one, weights), (other, other_weights) = decoder(memory), decoder(memory)
    assert not torch.equal(one, other)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3))  # maps are told without dropout
    torch.testing.assert_close(other_weights.sum(dim=2), torch.ones(2, 3))


def test_sizes_that_do_not_fit_are_refused() -> None:
    for sizes in ({"num_heads": 3}, {"num_heads": 2, "depth": 0}):
        with pytest.raises(ConfigError, match="label decoder of width 8"):
            LabelDecoder(3, 8, **sizes)
    for count in (1, 9):
        with pytest.raises(ConfigError, match="does not fit"):
            simplex(count, 8)
