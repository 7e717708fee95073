"""Pretraining methods: one file each, one contract.

A method is a module that owns its backbone and offers

- `loss(views, labels, generator) -> (loss, statistics)`: `views` (K·M, 3, S, S), view-major; `labels` int64 (M,);
  `generator` is torch's, on the CPU, and a pure function of seed, epoch and step. `statistics` maps a name to a
  fraction as two 0-d tensors or numbers (how many right, out of how many), which the loop sums over an epoch;
- `optimiser(epochs) -> (optimiser, schedule or None)`, the schedule being stepped once per epoch.
"""

from torch import nn

from rr.params import Method


def build(settings: Method, backbone: nn.Module, classes: int) -> nn.Module:
    """Create the method that `settings` names around `backbone`. Raises UserError when it needs labels and has none."""
    match settings.kind:
        case "relational":
            from rr.methods.relational import RelationalReasoning

            return RelationalReasoning(settings, backbone)
        case "supervised":
            from rr.methods.supervised import Supervised

            return Supervised(settings, backbone, classes)
        case "random":
            from rr.methods.random import RandomWeights

            return RandomWeights(backbone)
