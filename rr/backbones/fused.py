"""Fused layers of Conv-4 for training on a CPU in float32.

Calling the layers one by one reads or writes each activation about fifteen times. The fused forward pass needs two
passes over it: one for the batch statistics, and one to normalize and pool. The backward pass also needs two. For each
block, only the convolution output is stored. The `nn.BatchNorm2d` modules still hold the parameters and the running
statistics.

The results are bit-identical for any number of threads, except for those of torch's convolutions.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rr.backbones import planar_kernel, pooling_kernel
from rr.compute.batch_norm import update_running_stats
from rr.compute.buffers import BufferPool
from rr.compute.thread_pool import parallel_for

# One thread processes activations with fewer values, because waking the other threads takes longer than it saves.
MIN_PARALLEL_VALUES = 200_000

_buffers = BufferPool(max_buffers=8)  # for two blocks, full and last mini-batches, and two graphs at a time


def can_fuse(images_BCHW: Tensor, layers: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> bool:
    """Return whether the fused functions can replace these layers.

    They require float32 tensors on a CPU, and batch norms in training mode with running statistics. They support
    neither autocast nor torch.compile.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    tensors = [images_BCHW]
    for conv, norm in layers:
        is_batch_norm = type(norm) is nn.BatchNorm2d  # and not a SyncBatchNorm
        if not (is_batch_norm and norm.training and norm.track_running_stats and norm.affine and norm.momentum):
            return False
        tensors += [*conv.parameters(), *norm.parameters()]
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def conv_bn_relu_pool_train(x_BCHW: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Apply a 3×3 convolution, batch norm, ReLU and 2×2 average pooling: (B, C, H, W) to (B, F, H // 2, W // 2).

    This is fast for few input channels. The number of output channels must be even. Only first derivatives are
    available.
    """
    out, mean, var = _ConvBnReluPool.apply(
        x_BCHW.contiguous(memory_format=torch.channels_last), conv.weight, norm.weight, norm.bias, norm.eps
    )
    update_running_stats(norm, mean, var, x_BCHW.numel() // x_BCHW.shape[1])
    return out


def bn_relu_pool_train(conv_BCHW: Tensor, norm: nn.BatchNorm2d, window: tuple[int, int]) -> Tensor:
    """Apply batch norm, ReLU and average pooling: (B, C, H, W) to (B, C, H // rows, W // columns).

    Args:
        conv_BCHW: the output of a convolution, float32.
        norm: the batch norm, whose running statistics are updated.
        window: numbers of rows and columns of a pooling window.

    Returns:
        The pooled activation. Only first derivatives are available.
    """
    out, mean, var = _BnReluPool.apply(
        conv_BCHW.contiguous(memory_format=torch.channels_last), norm.weight, norm.bias, norm.eps, window
    )
    update_running_stats(norm, mean, var, conv_BCHW.numel() // conv_BCHW.shape[1])
    return out


class _ConvBnReluPool(torch.autograd.Function):
    """Return the output, the batch mean and the biased batch variance of a block, including the convolution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BHWC, weight_FC9 = _channels_last(x), weight.detach().flatten(2).contiguous().numpy()
        B, H, W, _ = x_BHWC.shape
        F = len(weight_FC9)
        num_tiles, run = _num_tiles(B, planar_kernel.TILE), functools.partial(_run_kernel, B * H * W * F)
        conv_BFP = _buffers.empty((B, F, H * (W + 1)))
        partial_sums_2TF = np.empty((2, num_tiles, F))
        run(num_tiles, planar_kernel.convolve_and_sum, x_BHWC, weight_FC9, conv_BFP, partial_sums_2TF)
        mean_F, var_F = _mean_and_var(partial_sums_2TF, B * H * W)
        norm_3F = _norm_params(mean_F, var_F, gain, bias, eps)
        out_BhwF = np.empty((B, H // 2, W // 2, F), np.float32)
        run(num_tiles, planar_kernel.normalize_relu_pool, conv_BFP, W, norm_3F, out_BhwF)

        mean, var = torch.from_numpy(mean_F), torch.from_numpy(var_F)
        ctx.save_for_backward(
            x, weight, gain, torch.from_numpy(conv_BFP), torch.from_numpy(norm_3F), (var + eps).rsqrt()
        )
        ctx.mark_non_differentiable(mean, var)
        return torch.from_numpy(out_BhwF).permute(0, 3, 1, 2), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gain = ctx.saved_tensors[:3]
        conv_BFP, norm_3F, inverse_std_F = (t.numpy() for t in ctx.saved_tensors[3:])
        x_BHWC, grad_BhwF = _channels_last(x), _channels_last(grad)
        B, H, W, C = x_BHWC.shape
        flipped_CF33 = weight.detach().flip(2, 3).transpose(0, 1)
        flipped_CF9 = torch.cat((flipped_CF33, torch.zeros_like(flipped_CF33[: C % 2]))).flatten(2).contiguous().numpy()
        F = len(gain)
        num_tiles, run = _num_tiles(B, planar_kernel.TILE), functools.partial(_run_kernel, B * H * W * F)
        partial_sums_2TF = np.empty((2, num_tiles, F))
        run(num_tiles, planar_kernel.sum_bn_gradients, conv_BFP, W, norm_3F, grad_BhwF, partial_sums_2TF)
        grad_gain, grad_bias, bn_terms_2F = _norm_gradients(partial_sums_2TF, gain, inverse_std_F, B * H * W)
        grad_x_BHWC = np.empty((B if ctx.needs_input_grad[0] else 0, H, W, C), np.float32)
        partial_sums_TFC9 = np.empty((num_tiles, F, C, 9))
        run(
            num_tiles, planar_kernel.weight_and_input_gradients,
            x_BHWC, flipped_CF9, conv_BFP, norm_3F, bn_terms_2F, grad_BhwF, grad_x_BHWC, partial_sums_TFC9,
        )  # fmt: skip
        grad_x = torch.from_numpy(grad_x_BHWC).permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None
        grad_weight = torch.from_numpy(partial_sums_TFC9.sum(0)).to(weight.dtype).reshape(weight.shape)
        return grad_x, grad_weight, grad_gain, grad_bias, None


class _BnReluPool(torch.autograd.Function):
    """Return the output, the batch mean and the biased batch variance of a block whose convolution torch computes."""

    @staticmethod
    def forward(
        ctx: Any, conv: Tensor, gain: Tensor, bias: Tensor, eps: float, window: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        conv_BHWC = _channels_last(conv)
        B, H, W, C = conv_BHWC.shape
        num_tiles, run = _num_tiles(B, pooling_kernel.TILE), functools.partial(_run_kernel, conv.numel())
        partial_sums_2TC = np.empty((2, num_tiles, C))
        run(num_tiles, pooling_kernel.sum_values_and_squares, conv_BHWC, partial_sums_2TC)
        mean_C, var_C = _mean_and_var(partial_sums_2TC, B * H * W)
        norm_3C = _norm_params(mean_C, var_C, gain, bias, eps)
        out_BhwC = np.empty((B, H // window[0], W // window[1], C), np.float32)
        run(num_tiles, pooling_kernel.normalize_relu_pool, conv_BHWC, norm_3C, *window, out_BhwC)

        mean, var = torch.from_numpy(mean_C), torch.from_numpy(var_C)
        ctx.save_for_backward(conv, gain, torch.from_numpy(norm_3C), (var + eps).rsqrt())
        ctx.window = window
        ctx.mark_non_differentiable(mean, var)
        return torch.from_numpy(out_BhwC).permute(0, 3, 1, 2), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        conv, gain = ctx.saved_tensors[:2]
        norm_3C, inverse_std_C = (t.numpy() for t in ctx.saved_tensors[2:])
        conv_BHWC, grad_BhwC = _channels_last(conv), _channels_last(grad)
        B, H, W, C = conv_BHWC.shape
        num_tiles, run = _num_tiles(B, pooling_kernel.TILE), functools.partial(_run_kernel, conv.numel())
        partial_sums_2TC = np.empty((2, num_tiles, C))
        run(num_tiles, pooling_kernel.sum_bn_gradients, conv_BHWC, norm_3C, *ctx.window, grad_BhwC, partial_sums_2TC)
        grad_gain, grad_bias, bn_terms_2C = _norm_gradients(partial_sums_2TC, gain, inverse_std_C, B * H * W)
        grad_conv_BHWC = np.empty_like(conv_BHWC)
        run(
            num_tiles, pooling_kernel.conv_output_gradient,
            conv_BHWC, norm_3C, bn_terms_2C, *ctx.window, grad_BhwC, grad_conv_BHWC,
        )  # fmt: skip
        return torch.from_numpy(grad_conv_BHWC).permute(0, 3, 1, 2), grad_gain, grad_bias, None, None


def _channels_last(tensor_BCHW: Tensor) -> np.ndarray:
    return tensor_BCHW.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _mean_and_var(partial_sums_2TC: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the biased variance (float64) from the sums and sums of squares of each tile.

    The difference of squares is accurate enough, because the sums are float64 and their terms are float32.
    """
    mean_C, square_C = partial_sums_2TC.sum(1) / count
    with np.errstate(invalid="ignore", over="ignore"):  # if the network diverges, the result is NaN, as in torch
        return mean_C, np.maximum(square_C - mean_C**2, 0)


def _norm_params(mean_C: np.ndarray, var_C: np.ndarray, gain: Tensor, bias: Tensor, eps: float) -> np.ndarray:
    """Return mean, scale and bias (float32) such that a normalized value is `(value - mean) * scale + bias`."""
    scale_C = gain.detach().numpy() / np.sqrt(var_C + eps)
    return np.stack((mean_C, scale_C, bias.detach().numpy())).astype(np.float32)


def _norm_gradients(
    partial_sums_2TC: np.ndarray, gain: Tensor, inverse_std_C: np.ndarray, count: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return the gradients of gain and bias, and the two terms that batch norm subtracts in the gradient of its input.

    Let g be the gradient with respect to the input of ReLU, and x̂ the normalized value. The gradient with respect to
    the input of batch norm is `gain * inverse_std * (g - mean(g) - x̂ * mean(g * x̂))` (Ioffe and Szegedy 2015). The
    first term is returned as it is, the second one without its factor `value - mean`.
    """
    total_C, cross_C = partial_sums_2TC.sum(1)
    scale_C = gain.detach().numpy() * inverse_std_C
    bn_terms_2C = np.stack((scale_C * total_C, scale_C * inverse_std_C**2 * cross_C)) / count
    gradients = torch.from_numpy(np.stack((inverse_std_C * cross_C, total_C))).to(gain.dtype)
    return gradients[0], gradients[1], bn_terms_2C.astype(np.float32)


def _num_tiles(num_images: int, tile_size: int) -> int:
    return -(-num_images // tile_size)


def _run_kernel(num_values: int, num_tiles: int, kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on all tiles of an activation, with torch's number of threads or, for few values, with one."""
    num_threads = 1 if num_values < MIN_PARALLEL_VALUES else torch.get_num_threads()
    parallel_for(functools.partial(kernel, *arguments), num_tiles, num_threads)
