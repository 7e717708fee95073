"""Fused layers of Conv-4 for training on a CPU in float32.

Calling the layers one by one reads or writes each activation about fifteen times. The fused forward pass needs two
passes over it: one to compute the batch statistics, and one to normalize and pool. The backward pass needs only one:
batch norm first needs sums, but these are computed from two small arrays that the forward pass stores, with one value
per pooling window. The `nn.BatchNorm2d` modules still hold the parameters and the running statistics.

The results are bit-identical for any number of threads, except where torch computes the convolution.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rr.backbones import batch_norm_kernel, channels_last_kernel, planar_kernel
from rr.compute.batch_norm import count_batch_and_get_stats
from rr.compute.buffers import BufferPool
from rr.compute.thread_pool import parallel_for

# A single thread processes activations with fewer values, because waking the other threads would take longer than it
# would save.
MIN_PARALLEL_VALUES = 200_000

_buffers = BufferPool(max_buffers=24)  # 3 per block × 2 blocks × 2 batch sizes (full, last) × 2 graphs at a time


def can_fuse(images_BCHW: Tensor, layers: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> bool:
    """Return whether the fused functions can replace these layers.

    The fused functions require float32 tensors on a CPU, and batch norms in training mode with running statistics. They
    support neither autocast nor torch.compile.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    tensors = [images_BCHW]
    for conv, norm in layers:
        if not (norm.training and norm.track_running_stats and norm.affine and norm.momentum):
            return False
        tensors += [*conv.parameters(), *norm.parameters()]
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def conv_bn_relu_pool_train(x_BCHW: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Apply a 3×3 convolution, batch norm, ReLU and 2×2 average pooling: (B, C, H, W) to (B, F, H // 2, W // 2).

    This is fast if there are few input channels. The number of output channels must be even. The running statistics of
    `norm` are updated. Only first derivatives are supported.
    """
    return _ConvBnReluPool.apply(x_BCHW.contiguous(), conv.weight, norm.weight, norm.bias, norm)


def bn_relu_pool_train(conv_BCHW: Tensor, norm: nn.BatchNorm2d, window: tuple[int, int]) -> Tensor:
    """Apply batch norm, ReLU and average pooling: (B, C, H, W) to (B, C, H // rows, W // columns).

    Args:
        conv_BCHW: the output of a convolution, float32.
        norm: the batch norm, whose running statistics are updated.
        window: the number of rows and columns in a pooling window.

    Returns:
        The pooled activation. Only first derivatives are supported.
    """
    conv_BCHW = conv_BCHW.contiguous(memory_format=torch.channels_last)
    return _BnReluPool.apply(conv_BCHW, norm.weight, norm.bias, norm, window)


class _ConvBnReluPool(torch.autograd.Function):
    """A block, including the convolution. All tensors are contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        x_BCHW, weight_FC9 = x.detach().numpy(), weight.detach().flatten(2).contiguous().numpy()
        B, _, H, W = x_BCHW.shape
        F = len(weight_FC9)
        num_tiles, num_values = _num_tiles(B, planar_kernel.TILE), B * H * W * F
        conv_BFP = _buffers.empty((B, F, H * (W + 1)))
        partial_sums_2TF = np.empty((2, num_tiles, F))
        _run_kernel(
            num_values, num_tiles, planar_kernel.convolve_and_sum, x_BCHW, weight_FC9, conv_BFP, partial_sums_2TF
        )
        norm_3F, inverse_std_F = _compute_norm_and_update_stats(partial_sums_2TF, B * H * W, norm)
        out_BFhw, centered_BFhw = (_buffers.empty((B, F, H // 2, W // 2)) for _ in range(2))
        active_BFhw = np.empty(out_BFhw.shape, np.uint8)
        _run_kernel(
            out_BFhw.size, num_tiles, planar_kernel.normalize_relu_pool,
            conv_BFP, W, norm_3F, out_BFhw, active_BFhw, centered_BFhw,
        )  # fmt: skip
        arrays = (conv_BFP, active_BFhw, centered_BFhw, norm_3F, inverse_std_F)
        ctx.save_for_backward(x, weight, gain, *map(torch.from_numpy, arrays))
        return torch.from_numpy(out_BFhw)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gain = (t.detach() for t in ctx.saved_tensors[:3])
        conv_BFP, active_BFhw, centered_BFhw, norm_3F, inverse_std_F = (t.numpy() for t in ctx.saved_tensors[3:])
        x_BCHW, grad_BFhw = x.numpy(), grad.contiguous().numpy()
        B, C, H, W = x_BCHW.shape
        # The input gradient is a convolution with this weight. The kernel computes two channels at a time, so an odd
        # number of channels is padded with zeros.
        flipped_CF33 = weight.flip(2, 3).transpose(0, 1)
        padded_CF33 = nn.functional.pad(flipped_CF33, (0, 0, 0, 0, 0, 0, 0, C % 2))
        flipped_CF9 = padded_CF33.flatten(2).contiguous().numpy()
        F = len(gain)
        num_tiles, num_values = _num_tiles(B, planar_kernel.TILE), B * H * W * F
        partial_sums_2TF = np.empty((2, num_tiles, F))
        _run_kernel(
            grad_BFhw.size, num_tiles, planar_kernel.sum_bn_gradients,
            grad_BFhw, active_BFhw, centered_BFhw, partial_sums_2TF,
        )  # fmt: skip
        grads_2F, bn_terms_2F = batch_norm_kernel.compute_gradients_and_bn_terms(
            partial_sums_2TF, gain.numpy(), inverse_std_F, B * H * W
        )
        grad_x_BCHW = np.empty((B if ctx.needs_input_grad[0] else 0, C, H, W), np.float32)
        partial_sums_TFC9 = np.empty((num_tiles, F, C, 9))
        _run_kernel(
            num_values, num_tiles, planar_kernel.weight_and_input_gradients,
            x_BCHW, flipped_CF9, conv_BFP, norm_3F, bn_terms_2F, grad_BFhw, grad_x_BCHW, partial_sums_TFC9,
        )  # fmt: skip
        grad_x = torch.from_numpy(grad_x_BCHW) if ctx.needs_input_grad[0] else None
        grad_weight = torch.from_numpy(partial_sums_TFC9.sum(0)).to(weight.dtype).reshape(weight.shape)
        return grad_x, grad_weight, *torch.from_numpy(grads_2F), None


class _BnReluPool(torch.autograd.Function):
    """A block whose convolution is computed by torch. All tensors are channels-last."""

    @staticmethod
    def forward(
        ctx: Any, conv: Tensor, gain: Tensor, bias: Tensor, norm: nn.BatchNorm2d, window: tuple[int, int]
    ) -> Tensor:
        conv_BHWC = _channels_last(conv)
        B, H, W, C = conv_BHWC.shape
        num_tiles = _num_tiles(B, channels_last_kernel.TILE)
        partial_sums_2TC = np.empty((2, num_tiles, C))
        _run_kernel(conv.numel(), num_tiles, channels_last_kernel.sum_values_and_squares, conv_BHWC, partial_sums_2TC)
        norm_3C, inverse_std_C = _compute_norm_and_update_stats(partial_sums_2TC, B * H * W, norm)
        shape = (B, H // window[0], W // window[1], C)
        out_BhwC, active_BhwC, centered_BhwC = (np.empty(shape, np.float32) for _ in range(3))
        _run_kernel(
            conv.numel(), num_tiles, channels_last_kernel.normalize_relu_pool,
            conv_BHWC, norm_3C, *window, out_BhwC, active_BhwC, centered_BhwC,
        )  # fmt: skip
        arrays = (active_BhwC, centered_BhwC, norm_3C, inverse_std_C)
        ctx.save_for_backward(conv, gain, *map(torch.from_numpy, arrays))
        ctx.window = window
        return torch.from_numpy(out_BhwC).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        conv, gain = ctx.saved_tensors[:2]
        active_BhwC, centered_BhwC, norm_3C, inverse_std_C = (t.numpy() for t in ctx.saved_tensors[2:])
        conv_BHWC, grad_BhwC = _channels_last(conv), _channels_last(grad)
        B, H, W, C = conv_BHWC.shape
        num_tiles = _num_tiles(B, channels_last_kernel.TILE)
        partial_sums_2TC = np.empty((2, num_tiles, C))
        inverse_area = 1 / (ctx.window[0] * ctx.window[1])
        _run_kernel(
            grad_BhwC.size, num_tiles, channels_last_kernel.sum_bn_gradients,
            grad_BhwC, active_BhwC, centered_BhwC, inverse_area, partial_sums_2TC,
        )  # fmt: skip
        gain_C = gain.detach().numpy()
        grads_2C, bn_terms_2C = batch_norm_kernel.compute_gradients_and_bn_terms(
            partial_sums_2TC, gain_C, inverse_std_C, B * H * W
        )
        grad_conv_BHWC = np.empty_like(conv_BHWC)
        _run_kernel(
            conv.numel(), num_tiles, channels_last_kernel.conv_output_gradient,
            conv_BHWC, norm_3C, bn_terms_2C, *ctx.window, grad_BhwC, grad_conv_BHWC,
        )  # fmt: skip
        return torch.from_numpy(grad_conv_BHWC).permute(0, 3, 1, 2), *torch.from_numpy(grads_2C), None, None


def _channels_last(tensor_BCHW: Tensor) -> np.ndarray:
    return tensor_BCHW.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _compute_norm_and_update_stats(
    partial_sums_2TC: np.ndarray, count: int, norm: nn.BatchNorm2d
) -> tuple[np.ndarray, np.ndarray]:
    """Return the result of `batch_norm_kernel.compute_norm_and_update_stats` for `norm`, and count the batch."""
    running_mean, running_var, momentum = count_batch_and_get_stats(norm)
    parameters = (norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps, momentum)
    running_stats = (running_mean.numpy(), running_var.numpy())
    return batch_norm_kernel.compute_norm_and_update_stats(partial_sums_2TC, count, *parameters, *running_stats)


def _num_tiles(num_images: int, tile_size: int) -> int:
    return -(-num_images // tile_size)


def _run_kernel(num_values: int, num_tiles: int, kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on all tiles of an activation, with torch's number of threads or, for few values, with one."""
    num_threads = 1 if num_values < MIN_PARALLEL_VALUES else torch.get_num_threads()
    parallel_for(functools.partial(kernel, *arguments), num_tiles, num_threads)
