"""Compute batch-norm statistics and gradients from the partial sums of the other kernels, for C channels and T tiles.

On arrays this small, NumPy calls would take a tenth of a training step with 128 images.
"""

import numpy as np
from numba import njit

Array = np.ndarray


@njit(cache=True, error_model="numpy")
def compute_norm_and_update_stats(
    partial_sums_2TC: Array,
    count: int,
    gain_C: Array,
    bias_C: Array,
    eps: float,
    momentum: float,
    running_mean_C: Array,
    running_var_C: Array,
) -> tuple[Array, Array]:
    """Compute how to normalize a batch, and update the running statistics as `nn.BatchNorm2d` does.

    Args:
        partial_sums_2TC: sums and sums of squares of the values of each tile, float64. In float64, E[x²] − E[x]² is
            accurate enough for the variance, because the values are float32.
        count: the number of values per channel, at least 2.
        gain_C: the batch-norm weight, float32.
        bias_C: the batch-norm bias, float32.
        eps: the batch-norm epsilon.
        momentum: the batch-norm momentum.
        running_mean_C: the running mean, float32.
        running_var_C: the running variance, float32.

    Returns:
        Mean, scale and bias, float32 (3, C), such that a normalized value is `(value - mean) * scale + bias`, and the
        inverse of the standard deviation, float64 (C,).
    """
    _, T, C = partial_sums_2TC.shape
    norm_3C, inverse_std_C = np.empty((3, C), np.float32), np.empty(C)
    for c in range(C):
        total = squares = 0.0
        for t in range(T):
            total += partial_sums_2TC[0, t, c]
            squares += partial_sums_2TC[1, t, c]
        mean = total / count
        var = squares / count - mean * mean
        var = 0.0 if var < 0 else var  # unlike max, this keeps NaN, so a diverging network is detected
        inverse_std_C[c] = 1 / np.sqrt(var + eps)
        norm_3C[0, c], norm_3C[1, c], norm_3C[2, c] = mean, gain_C[c] * inverse_std_C[c], bias_C[c]
        running_mean_C[c] = (1 - momentum) * running_mean_C[c] + momentum * mean
        running_var_C[c] = (1 - momentum) * running_var_C[c] + momentum * (var * (count / (count - 1)))
    return norm_3C, inverse_std_C


@njit(cache=True, error_model="numpy")
def compute_gradients_and_bn_terms(
    partial_sums_2TC: Array, gain_C: Array, inverse_std_C: Array, count: int
) -> tuple[Array, Array]:
    """Compute the gradients of the weight and the bias, and the two terms needed for the input gradient.

    Let g be the gradient with respect to the ReLU input, and x̂ the normalized value. The gradient with respect to the
    batch-norm input is `gain * inverse_std * (g - mean(g) - x̂ * mean(g * x̂))` (Ioffe and Szegedy 2015).

    Args:
        partial_sums_2TC: the sums of g and of `g * (value - mean)` of each tile, float64.
        gain_C: the batch-norm weight, float32.
        inverse_std_C: the inverse of the standard deviation, float64.
        count: the number of values per channel.

    Returns:
        The gradients of the weight and the bias, float32 (2, C), and the two terms, float32 (2, C). The first term is
        `gain * inverse_std * mean(g)`. The second term must still be multiplied by `value - mean`.
    """
    _, T, C = partial_sums_2TC.shape
    grads_2C, bn_terms_2C = np.empty((2, C), np.float32), np.empty((2, C), np.float32)
    for c in range(C):
        total = cross = 0.0
        for t in range(T):
            total += partial_sums_2TC[0, t, c]
            cross += partial_sums_2TC[1, t, c]
        inverse_std = inverse_std_C[c]
        grads_2C[0, c], grads_2C[1, c] = inverse_std * cross, total
        scale = gain_C[c] * inverse_std
        bn_terms_2C[0, c] = scale * total / count
        bn_terms_2C[1, c] = scale * inverse_std * inverse_std * cross / count
    return grads_2C, bn_terms_2C
