"""Tests of the padded convolution, which is used on a GPU, against torch's convolution."""

import pytest
import torch
from torch.nn import functional as F

from rr.backbones.padded_conv2d import PaddedConv2d


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    [(3, 8, 3, 1, 1), (16, 32, 3, 2, 1), (16, 32, 1, 2, 0), (16, 16, 3, 1, 1), (8, 3, 3, 1, 1)],
)
def test_padding_changes_neither_outputs_nor_gradients(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = PaddedConv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias).double()
    x = torch.randn(3, in_channels, 9, 8, dtype=torch.float64, requires_grad=True)
    padded = conv.forward_with_padded_channels(x)
    expected = F.conv2d(x, conv.weight, conv.bias, stride, padding)
    torch.testing.assert_close(padded, expected)
    torch.testing.assert_close(conv(x), expected)
    grad, inputs = torch.randn_like(expected), (x, *conv.parameters())
    torch.testing.assert_close(torch.autograd.grad(padded, inputs, grad), torch.autograd.grad(expected, inputs, grad))
