"""FLOPs and peak memory of work on meta tensors, against sums taken by hand; cards by name."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pipeline.errors import UserError
from pipeline.work.cost import CARDS, Cost, counted, find_card, hours, tensors_of

SIDE = 64
MAPS = 8 * SIDE * SIDE * 4
"""Bytes of 8 channels."""


def test_a_convolution_costs_what_it_multiplies_and_what_is_alive() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3)))
        picture = torch.empty(1, 8, SIDE, SIDE)
    weights = 3 * 8 * 8 * 9 * 4
    with torch.inference_mode():
        cost = counted(lambda: layers(picture), tensors_of(layers))
    assert cost.flops == 3 * 2 * 8 * 8 * 9 * SIDE * SIDE
    # the picture, which the caller holds, what a layer reads and what it writes
    assert cost.memory == weights + 3 * MAPS


def test_training_keeps_what_the_backward_pass_reads() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3)))
        picture = torch.empty(1, 8, SIDE, SIDE)
    weights = 3 * 8 * 8 * 9 * 4
    cost = counted(lambda: layers(picture).sum().backward(), tensors_of(layers))
    # forward; then the gradient of each weight, and of each layer's input but the picture's
    assert cost.flops == (3 + 3 + 2) * 2 * 8 * 8 * 9 * SIDE * SIDE
    assert 4 * MAPS + weights <= cost.memory <= 6 * MAPS + 2 * weights


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_backward_pass_of_a_grouped_convolution_is_twice_its_forward_pass(
    kind: type[nn.Conv2d | nn.ConvTranspose2d], groups: int
) -> None:
    with torch.device("meta"):
        layer, picture = kind(8, 8, 3, padding=1, groups=groups), torch.empty(2, 8, SIDE, SIDE, requires_grad=True)
    cost = counted(lambda: layer(picture).sum().backward())
    assert cost.flops == 3 * 2 * 2 * 8 * (8 // groups) * 9 * SIDE * SIDE


def test_attention_keeps_no_table_of_pairs() -> None:
    heads = torch.empty(1, 2, 4096, 8, device="meta")
    cost = counted(lambda: scaled_dot_product_attention(heads, heads, heads))
    assert cost.flops == 2 * 2 * 2 * 4096 * 4096 * 8
    assert cost.memory < 4 * heads.nbytes


def test_costs_add_up() -> None:
    first, second = Cost(10, 5), Cost(1, 7)
    assert first.times(3).then(second) == Cost(31, 7)


def test_hours_are_flops_over_rate_and_utilisation() -> None:
    assert hours(1e15, find_card("1000"), 0.5) == pytest.approx(2 / 3600)
    assert find_card("NVIDIA H100").memory == 80 * 10**9 and find_card("rtx 4090").rate == 165.2e12
    assert all(find_card(card.name) == card for card in CARDS)
    for wrong in ("h1000x", "-3", "nan", "inf", ""):
        with pytest.raises(UserError, match=r"^--card is .*: name one of a100, .*, or give a rate in TFLOPS"):
            find_card(wrong)
