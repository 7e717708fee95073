"""The `head` part: the relation head's forward and backward pass over all pairs, and the memory that a step needs."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rr.bench import reference
from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.memory import measure_memory_in_new_process, measure_peak_mib
from rr.bench.settings import FEATURES, IMAGES, VIEWS, Settings
from rr.compute.torch_threads import configure_torch
from rr.methods.relation.loss import RelationHead, relation_loss
from rr.methods.relation.pairs import roll_negative_rows

Implementation = Literal["rr", "reference"]


def run(settings: Settings) -> PartResult:
    """Compare the times for K = 2, 4, 8 and 32 (with M = 64 and D = 64), and the memory for K = 32."""
    images = 8 if settings.smoke_test else IMAGES
    result = PartResult(
        notes=[
            "The loss is the focal loss. Gradients with respect to the features are included. The reference "
            "builds a (P, 2 D) matrix with all pairs."
        ]
    )
    for threads in settings.choose_thread_counts(1, 2):
        for views in (2, 4) if settings.smoke_test else (2, 4, 8, VIEWS):
            candidates = [Candidate("rr", make_step("rr", views, images), 1)]
            candidates.append(Candidate("reference", make_step("reference", views, images), 1))
            name = f"K={views}, M={images}, {images * (views**2 - views):,} pairs"
            result.cases.append(compare_candidates(name, "steps", threads, candidates, settings.steps))
    if not settings.smoke_test:
        _measure_peak_memory(result)
    return result


def _measure_peak_memory(result: PartResult) -> None:
    rr_peak, reference_peak = (measure_memory_in_new_process("head", name) for name in ("rr", "reference"))
    if rr_peak is None or reference_peak is None:
        result.notes.append("The memory was not measured, because this system does not report a process's peak memory.")
        return
    result.cases[-1].facts["peak_memory_mib"] = {"rr": rr_peak, "reference": reference_peak}
    result.notes.append(
        f"The first step with K={VIEWS} in a new process needs {rr_peak:.0f} MiB of memory with rr and "
        f"{reference_peak:.0f} MiB with the reference."
    )


def make_step(implementation: Implementation, num_views: int, num_images: int) -> Callable[[], Tensor]:
    """Return a function that computes the loss on one mini-batch and the gradients."""
    torch.manual_seed(0)
    features_KMD = torch.randn(num_views, num_images, FEATURES, requires_grad=True)
    head: torch.nn.Module
    if implementation == "rr":
        head = rr_head = RelationHead(FEATURES)

        def compute_loss() -> Tensor:
            return relation_loss(rr_head, features_KMD, roll_negative_rows(num_views, num_images))[0]
    else:
        head = reference_head = reference.RelationHead(FEATURES)

        def compute_loss() -> Tensor:
            pairs, targets = reference.make_pairs(features_KMD)
            return reference.focal_loss(reference_head(pairs).squeeze(1), targets)

    def step() -> Tensor:
        head.zero_grad()
        features_KMD.grad = None
        loss = compute_loss()
        loss.backward()
        return loss

    return step


def measure_memory(implementation: Implementation) -> float | None:
    """Return the memory in MiB that a step needs with K = 32 and M = 64, or None if it cannot be measured."""
    configure_torch(1)
    make_step(implementation, VIEWS, 2)()  # loads libraries and compiles code before the measurement
    return measure_peak_mib(make_step(implementation, VIEWS, IMAGES))
