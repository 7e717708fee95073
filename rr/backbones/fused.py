"""Conv-4 blocks in training mode on a CPU in float32: first convolutions, and batch norm, ReLU, pooling in one.

The layers one by one pass about fifteen times over each activation. Here the forward pass goes over it once for the
statistics and once to normalise and pool, the backward pass likewise; of a block only the convolution's result is kept.
``nn.BatchNorm2d`` stays the owner of parameters and running statistics. Results are the same bits for any number of
threads, but for torch's own convolutions.
"""

import collections
import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rr.backbones import planar_kernel, pooling_kernel
from rr.compute.batch_norm import update_running_statistics
from rr.compute.thread_pool import share

# Values of an activation below which handing tiles to other threads costs more than it saves.
SERIAL_VALUES = 200_000


def usable(images_BCHW: Tensor, layers: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> bool:
    """Whether the fused form stands in for these layers: float32 on a CPU, training with running statistics."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    tensors = [images_BCHW]
    for convolution, norm in layers:
        plain = type(norm) is nn.BatchNorm2d  # and not one that is synchronised between processes
        if not (plain and norm.training and norm.track_running_stats and norm.affine and norm.momentum):
            return False
        tensors += [*convolution.parameters(), *norm.parameters()]
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def convolve_norm_pool(x_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """3x3 convolution, batch norm, ReLU and 2x2 average pooling: (B, C, H, W) to (B, F, H // 2, W // 2).

    Meant for few input channels and an even number of output channels. Has first derivatives only.
    """
    out, mean, var = _PlanarBlock.apply(
        x_BCHW.contiguous(memory_format=torch.channels_last), convolution.weight, norm.weight, norm.bias, norm.eps
    )
    update_running_statistics(norm, mean, var, x_BCHW.numel() // x_BCHW.shape[1])
    return out


def norm_pool(conv_BCHW: Tensor, norm: nn.BatchNorm2d, window: tuple[int, int]) -> Tensor:
    """Batch norm, ReLU and average pooling: (B, C, H, W) to (B, C, H // rows, W // columns). First derivatives only."""
    out, mean, var = _NormPool.apply(
        conv_BCHW.contiguous(memory_format=torch.channels_last), norm.weight, norm.bias, norm.eps, window
    )
    update_running_statistics(norm, mean, var, conv_BCHW.numel() // conv_BCHW.shape[1])
    return out


class _PlanarBlock(torch.autograd.Function):
    """Pooled output, mean and biased variance of a block whose convolution is ours."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BHWC, weight_FC9 = _channels_last(x), weight.detach().flatten(2).contiguous().numpy()
        B, H, W, _ = x_BHWC.shape
        F = len(weight_FC9)
        tiles, run = _tiles(B, planar_kernel.TILE), functools.partial(_run, B * H * W * F)
        conv_BFP = _buffer((B, F, H * (W + 1)))
        partial_2TF = np.empty((2, tiles, F))
        run(tiles, planar_kernel.convolve_and_sum, x_BHWC, weight_FC9, conv_BFP, partial_2TF)
        mean_F, var_F = _moments(partial_2TF, B * H * W)
        norm_3F = _norm(mean_F, var_F, gain, bias, eps)
        out_BhwF = np.empty((B, H // 2, W // 2, F), np.float32)
        run(tiles, planar_kernel.normalise_and_pool, conv_BFP, W, norm_3F, out_BhwF)

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
        tiles, run = _tiles(B, planar_kernel.TILE), functools.partial(_run, B * H * W * F)
        partial_2TF = np.empty((2, tiles, F))
        run(tiles, planar_kernel.sum_gradients, conv_BFP, W, norm_3F, grad_BhwF, partial_2TF)
        grad_gain, grad_bias, parts_2F = _norm_gradients(partial_2TF, gain, inverse_std_F, B * H * W)
        grad_x_BHWC = np.empty((B if ctx.needs_input_grad[0] else 0, H, W, C), np.float32)
        partial_TFC9 = np.empty((tiles, F, C, 9))
        run(
            tiles, planar_kernel.backward,
            x_BHWC, flipped_CF9, conv_BFP, norm_3F, parts_2F, grad_BhwF, grad_x_BHWC, partial_TFC9,
        )  # fmt: skip
        grad_x = torch.from_numpy(grad_x_BHWC).permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None
        grad_weight = torch.from_numpy(partial_TFC9.sum(0)).to(weight.dtype).reshape(weight.shape)
        return grad_x, grad_weight, grad_gain, grad_bias, None


class _NormPool(torch.autograd.Function):
    """Pooled output, mean and biased variance after a convolution by torch."""

    @staticmethod
    def forward(
        ctx: Any, conv: Tensor, gain: Tensor, bias: Tensor, eps: float, window: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        conv_BHWC = _channels_last(conv)
        B, H, W, C = conv_BHWC.shape
        tiles, run = _tiles(B, pooling_kernel.TILE), functools.partial(_run, conv.numel())
        partial_2TC = np.empty((2, tiles, C))
        run(tiles, pooling_kernel.sum_values, conv_BHWC, partial_2TC)
        mean_C, var_C = _moments(partial_2TC, B * H * W)
        norm_3C = _norm(mean_C, var_C, gain, bias, eps)
        out_BhwC = np.empty((B, H // window[0], W // window[1], C), np.float32)
        run(tiles, pooling_kernel.normalise_and_pool, conv_BHWC, norm_3C, *window, out_BhwC)

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
        tiles, run = _tiles(B, pooling_kernel.TILE), functools.partial(_run, conv.numel())
        partial_2TC = np.empty((2, tiles, C))
        run(tiles, pooling_kernel.sum_gradients, conv_BHWC, norm_3C, *ctx.window, grad_BhwC, partial_2TC)
        grad_gain, grad_bias, parts_2C = _norm_gradients(partial_2TC, gain, inverse_std_C, B * H * W)
        out_BHWC = np.empty_like(conv_BHWC)
        run(
            tiles, pooling_kernel.backward, conv_BHWC, norm_3C, parts_2C, *ctx.window, grad_BhwC, out_BHWC
        )  # fmt: skip
        return torch.from_numpy(out_BHWC).permute(0, 3, 1, 2), grad_gain, grad_bias, None, None


def _channels_last(tensor_BCHW: Tensor) -> np.ndarray:
    return tensor_BCHW.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _moments(partial_2TC: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance, float64: exact enough for the difference, as the values summed are float32."""
    mean_C, square_C = partial_2TC.sum(1) / count
    with np.errstate(invalid="ignore", over="ignore"):  # a network that has diverged: NaN, as from torch
        return mean_C, np.maximum(square_C - mean_C**2, 0)


def _norm(mean_C: np.ndarray, var_C: np.ndarray, gain: Tensor, bias: Tensor, eps: float) -> np.ndarray:
    """Mean, scale and bias, float32: a normalised value is ``(value - mean) * scale + bias``."""
    scale_C = gain.detach().numpy() / np.sqrt(var_C + eps)
    return np.stack((mean_C, scale_C, bias.detach().numpy())).astype(np.float32)


def _norm_gradients(
    partial_2TC: np.ndarray, gain: Tensor, inverse_std_C: np.ndarray, count: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Gradients by gain and bias, and what batch norm takes off a gradient: a constant and a multiple of the value."""
    total_C, cross_C = partial_2TC.sum(1)
    scale_C = gain.detach().numpy() * inverse_std_C
    parts_2C = np.stack((scale_C * total_C, scale_C * inverse_std_C**2 * cross_C)) / count
    gradients = torch.from_numpy(np.stack((inverse_std_C * cross_C, total_C))).to(gain.dtype)
    return gradients[0], gradients[1], parts_2C.astype(np.float32)


@functools.lru_cache(maxsize=4)  # two blocks, full and last batches
def _free_buffers(shape: tuple[int, ...]) -> collections.deque[np.ndarray]:
    return collections.deque(maxlen=2)


def _buffer(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array with any content, whose memory is used again once nothing refers to the array.

    Fresh pages for the largest activations cost about a tenth of a step.
    """
    free = _free_buffers(shape)
    try:
        memory = free.pop()
    except IndexError:
        memory = np.empty(shape, np.float32)
    array = memory[:]
    weakref.finalize(array, free.append, memory).atexit = False
    return array


def _tiles(B: int, size: int) -> int:
    return -(-B // size)


def _run(values: int, tiles: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel on all tiles, in as many threads as torch uses if there is enough to do."""
    threads = 1 if values < SERIAL_VALUES else torch.get_num_threads()
    share(functools.partial(function, *arguments), tiles, threads)
