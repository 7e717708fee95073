"""Tests of `rr.compute.torch_threads`."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("optimizer", ["Adam(parameters, fused=True)", "SGD(parameters, 0.1, 0.9)"])
def test_optimizers_do_not_load_dynamo_and_give_the_same_weights(optimizer: str) -> None:
    code = (
        "import sys, torch\n"
        "from rr.compute.torch_threads import configure_torch\n"
        "if sys.argv[1] == 'detached': configure_torch(1)\n"
        "torch.manual_seed(0)\n"
        "parameters = [torch.nn.Parameter(torch.randn(5, 3))]\n"
        f"optimizer = torch.optim.{optimizer}\n"
        "scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])\n"
        "for _ in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    (parameters[0] ** 2).sum().backward()\n"
        "    optimizer.step()\n"
        "    scheduler.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\n"
        "print(parameters[0].tolist(), 'torch._dynamo' in sys.modules)"
    )
    outputs = {}
    for mode in ("detached", "original"):
        done = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        assert "Warning" not in done.stderr
        outputs[mode] = done.stdout.rsplit(maxsplit=1)
    assert outputs["detached"][0] == outputs["original"][0]
    assert outputs["detached"][1] == "False"
