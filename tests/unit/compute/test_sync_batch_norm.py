"""Tests of the conversion to synchronized batch norms. tests/distributed tests what they compute."""

import pytest
from torch import nn

from rr.compute.sync_batch_norm import SyncBatchNorm, convert_sync_batchnorm
from rr.errors import UserError


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm that also applies an activation, like timm's BatchNormAct2d."""


def test_weights_stay_frozen_and_shared() -> None:
    shared = nn.BatchNorm2d(3, eps=0.5, momentum=0.25)
    network = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared), nn.BatchNorm1d(3))
    network[2].requires_grad_(False)
    state, parameters = network.state_dict(), list(network.parameters())
    convert_sync_batchnorm(network)
    assert isinstance(network[0][0], SyncBatchNorm)
    assert network[0][0] is network[1][0]
    assert (network[0][0].eps, network[0][0].momentum) == (0.5, 0.25)
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, True, False, False]
    assert all(actual is expected for actual, expected in zip(network.parameters(), parameters, strict=True))
    assert list(network.state_dict()) == list(state)


@pytest.mark.parametrize(
    "norm",
    [
        NormAndActivation(3),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, momentum=None),
    ],
)
def test_other_batch_norms_raise(norm: nn.Module) -> None:
    message = rf"layer 1.norm \({type(norm).__name__}\) cannot be synchronized .*: run the command without torchrun"
    with pytest.raises(UserError, match=message):
        convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.ModuleDict({"norm": norm})))
