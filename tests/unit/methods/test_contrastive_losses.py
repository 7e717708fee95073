"""Tests of SimCLR, BYOL, VICReg and Barlow Twins: their losses, and which parameters they train."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rr import backbones, methods, params
from rr.compute.optimizers import make_optimizer
from rr.methods.barlow import barlow_twins_loss
from rr.methods.base import Method
from rr.methods.byol import BYOL, byol_loss
from rr.methods.simclr import simclr_loss
from rr.methods.similarity import count_nearest_matches
from rr.methods.vicreg import vicreg_loss
from rr.params.optimizers import ADAM
from rr.views.augmentation import Augmentation

COMMON = {"augmentation": Augmentation(), "batch_size": 16, "epochs": 1, "learning_rate": 0.001}
TWO_VIEWS = {"views": 2, "hidden_dim": 256, "projection_dim": 64}
CONFIGS: dict[str, params.MethodConfig] = {
    "simclr": params.SimCLRConfig(kind="simclr", temperature=0.5, loss="log-mean-prob", **TWO_VIEWS, **COMMON),
    "simclr-nt-xent": params.SimCLRConfig(kind="simclr", temperature=0.5, loss="nt-xent", **TWO_VIEWS, **COMMON),
    "byol": params.BYOLConfig(kind="byol", momentum=0.9, **TWO_VIEWS, **COMMON),
    "vicreg": params.VICRegConfig(
        kind="vicreg", invariance_weight=25.0, variance_weight=25.0, covariance_weight=1.0, **TWO_VIEWS, **COMMON
    ),
    "barlow": params.BarlowTwinsConfig(kind="barlow", redundancy_weight=0.005, **TWO_VIEWS, **COMMON),
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "log-mean-prob": lambda first, second: simclr_loss(first, second, 0.5, "log-mean-prob"),
    "nt-xent": lambda first, second: simclr_loss(first, second, 0.5, "nt-xent"),
    "byol": byol_loss,
    "vicreg": lambda first, second: vicreg_loss(first, second, 25.0, 25.0, 1.0),
    "barlow": lambda first, second: barlow_twins_loss(first, second, 0.005),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_method = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def build(config: params.MethodConfig) -> Method:
    torch.manual_seed(0)
    return methods.build(config, backbones.build("conv4"), num_classes=10)


def embeddings(M: int = 6, D: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first_MD = torch.randn(M, D, generator=generator, dtype=dtype)
    return first_MD, 0.7 * first_MD + torch.randn(M, D, generator=generator, dtype=dtype)


def two_views() -> Tensor:
    """Return two noisy views of 16 fixed random images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 16, 16, generator=generator).repeat(2, 1, 1, 1)
    return images + 0.3 * torch.randn(images.shape, generator=generator)


def simclr_loss_with_loops(first_MD: Tensor, second_MD: Tensor, temperature: float, variant: str) -> float:
    rows = [*first_MD.tolist(), *second_MD.tolist()]
    M = len(first_MD)

    def exponential(a: list[float], b: list[float]) -> float:
        return math.exp(np.dot(a, b) / (math.hypot(*a) * math.hypot(*b)) / temperature)

    ratios = []
    for v, row in enumerate(rows):
        others = sum(exponential(row, other) for o, other in enumerate(rows) if o != v)
        ratios.append(exponential(row, rows[(v + M) % (2 * M)]) / others)
    return -math.log(np.mean(ratios)) if variant == "log-mean-prob" else -np.mean(np.log(ratios))


@pytest.mark.parametrize("variant", ["log-mean-prob", "nt-xent"])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_simclr_loss_equals_loops_over_rows(temperature: float, variant: str) -> None:
    first_MD, second_MD = embeddings()
    expected = simclr_loss_with_loops(first_MD, second_MD, temperature, variant)
    assert simclr_loss(first_MD, second_MD, temperature, variant).item() == pytest.approx(expected, rel=1e-12)
    single = simclr_loss(first_MD.float(), second_MD.float(), temperature, variant)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_simclr_loss_by_hand() -> None:
    # After normalization, both rows of the first view and the first row of the second view are (1, 0). The last row is
    # (0, 1).
    first_MD, second_MD = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    e = math.exp(2)  # cosine 1 at temperature 0.5
    ratios = [e / (2 * e + 1), 1 / (2 * e + 1), e / (2 * e + 1), 1 / 3]
    assert simclr_loss(first_MD, second_MD, 0.5, "log-mean-prob").item() == pytest.approx(-math.log(sum(ratios) / 4))
    assert simclr_loss(first_MD, second_MD, 0.5, "nt-xent").item() == pytest.approx(-sum(map(math.log, ratios)) / 4)


def test_log_mean_prob_equals_the_papers_code() -> None:
    first_MD, second_MD = embeddings(M=8)
    interleaved_VD = torch.nn.functional.normalize(torch.stack((first_MD, second_MD), 1).flatten(0, 1), dim=1)
    exp_VV = (interleaved_VD @ interleaved_VD.T / 0.5).exp()
    positive_V = exp_VV[torch.arange(16), torch.arange(16) ^ 1]
    expected = -(positive_V / (exp_VV.sum(0) - math.exp(1 / 0.5))).mean().log()
    torch.testing.assert_close(simclr_loss(first_MD, second_MD, 0.5, "log-mean-prob"), expected)


@pytest.mark.parametrize("variant", ["log-mean-prob", "nt-xent"])
@pytest.mark.parametrize("sign", [1, -1])
def test_simclr_loss_is_finite_at_small_temperatures(sign: int, variant: str) -> None:
    first_MD, _ = embeddings(dtype=torch.float32)
    first_MD.requires_grad_()
    loss = simclr_loss(first_MD, sign * first_MD.detach(), 0.01, variant)
    loss.backward()
    assert loss.isfinite()
    assert first_MD.grad is not None
    assert first_MD.grad.isfinite().all()
    assert (loss < 1e-3) if sign > 0 else (loss > 10)


def test_simclr_loss_of_one_image_is_zero_and_unknown_variant_raises() -> None:
    first_MD, second_MD = embeddings(M=1)
    assert simclr_loss(first_MD, second_MD, 0.5, "log-mean-prob").item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="log-mean-prob or nt-xent, got 'of-sums'"):
        simclr_loss(first_MD, second_MD, 0.5, "of-sums")  # type: ignore[arg-type]


def test_byol_loss_of_equal_orthogonal_and_opposite_directions() -> None:
    direction_VD, _ = embeddings()
    assert byol_loss(direction_VD, 3 * direction_VD).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(direction_VD, -0.5 * direction_VD).item() == pytest.approx(4)
    assert byol_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item() == pytest.approx(2)


def test_vicreg_by_hand() -> None:
    first_MD, second_MD = torch.tensor([[0.5, 0.0], [-0.5, 0.0]]), torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    # The differences are 1.5 and 2. The variances are 0.5 and 0 in the first view, and 8 and 8 in the second. The
    # covariances are 0 and 8.
    assert vicreg_loss(first_MD, second_MD, 1.0, 0.0, 0.0).item() == pytest.approx((2.25 + 4) / 2)
    hinges = 1 - math.sqrt(0.5001), 1 - 0.01
    assert vicreg_loss(first_MD, second_MD, 0.0, 1.0, 0.0).item() == pytest.approx((sum(hinges) / 2 + 0) / 2)
    assert vicreg_loss(first_MD, second_MD, 0.0, 0.0, 1.0).item() == pytest.approx(2 * 8**2 / 2)
    assert vicreg_loss(first_MD, second_MD, 25.0, 25.0, 1.0).item() == pytest.approx(
        25 * 3.125 + 25 * sum(hinges) / 4 + 64
    )


def test_vicreg_equals_numpy_covariances() -> None:
    views = [view.numpy() * [0.3, 0.8, 1.0, 2.0] + 5 for view in embeddings(M=9)]
    expected = 10 * np.mean((views[0] - views[1]) ** 2)
    for view in views:
        covariance = np.cov(view, rowvar=False)
        expected += 3 * np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean() / 2
        expected += 2 * (covariance[~np.eye(4, dtype=bool)] ** 2).sum() / 4
    loss = vicreg_loss(
        *map(torch.from_numpy, views), invariance_weight=10.0, variance_weight=3.0, covariance_weight=2.0
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_barlow_by_hand() -> None:
    first_MD = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert barlow_twins_loss(first_MD, first_MD, 1.0).item() == pytest.approx(0, abs=1e-8)
    assert barlow_twins_loss(first_MD, -first_MD, 1.0).item() == pytest.approx(2 * 2**2, rel=1e-4)
    assert barlow_twins_loss(first_MD, first_MD.flip(1), 0.1).item() == pytest.approx(2 + 0.1 * 2, rel=1e-4)


def test_barlow_equals_numpy_correlations() -> None:
    first_MD, second_MD = (1000 * view for view in embeddings(M=9))  # so large that the added 1e-5 is negligible
    correlation = np.corrcoef(first_MD.numpy(), second_MD.numpy(), rowvar=False)[:4, 4:]
    diagonal = np.eye(4, dtype=bool)
    expected = ((1 - correlation[diagonal]) ** 2).sum() + 0.02 * (correlation[~diagonal] ** 2).sum()
    assert barlow_twins_loss(first_MD, second_MD, 0.02).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("name", "lowest"), [("vicreg", 25 * 0.989), ("barlow", 3.99)])
def test_collapsed_embeddings_have_a_high_loss_and_a_finite_gradient(name: str, lowest: float) -> None:
    first_MD = torch.full((6, 4), 0.3, requires_grad=True)
    loss = LOSSES[name](first_MD, torch.full((6, 4), 0.3))
    loss.backward()
    assert lowest < loss.item() < 30
    assert first_MD.grad is not None
    assert first_MD.grad.isfinite().all()


@every_loss
def test_gradients_equal_finite_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, [view.requires_grad_() for view in embeddings(M=4, D=3)])


@every_loss
def test_losses_are_symmetric_in_the_views(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    first_MD, second_MD = embeddings()
    torch.testing.assert_close(loss(first_MD, second_MD), loss(second_MD, first_MD))


@every_loss
def test_losses_keep_float32_under_autocast(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    first_MD, second_MD = embeddings(M=16, D=32, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(first_MD, second_MD)
        from_bfloat16 = loss(first_MD.bfloat16(), second_MD.bfloat16())
    assert torch.equal(mixed, loss(first_MD, second_MD))
    assert from_bfloat16.dtype == torch.float32
    assert torch.equal(from_bfloat16, loss(first_MD.bfloat16().float(), second_MD.bfloat16().float()))


@every_loss
def test_invalid_shapes_raise(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"the same shape \(M, D\), got \(3, 4\) and \(1, 4\)"):
        loss(torch.zeros(3, 4), torch.zeros(1, 4))


@pytest.mark.parametrize("name", ["vicreg", "barlow"])
def test_one_image_raises(name: str) -> None:
    with pytest.raises(ValueError, match="at least 2 images, got M = 1"):
        LOSSES[name](torch.zeros(1, 4), torch.zeros(1, 4))


def test_nearest_matches_by_hand() -> None:
    first_MD = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    correct, total = count_nearest_matches(first_MD, torch.tensor([[9.0, 1.0], [0.2, 0.1]]))
    # Only (0.2, 0.1) has no match: (9, 1) is nearer to it than (0, 1), the other view of its image.
    assert (correct.item(), total) == (3, 4)
    assert not correct.requires_grad
    assert count_nearest_matches(first_MD, first_MD)[0].item() == 4
    assert count_nearest_matches(first_MD, first_MD.flip(0))[0].item() == 0


@pytest.mark.parametrize(("num_features", "parameters"), [(64, 33_600), (512, 148_288)])
@every_method
def test_num_parameters(config: params.MethodConfig, num_features: int, parameters: int) -> None:
    backbone = torch.nn.Identity()
    backbone.num_features = num_features  # type: ignore[assignment]
    method = methods.build(config, backbone, num_classes=10)
    predictor = 33_600 if config.kind == "byol" else 0
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == parameters + predictor


@every_method
def test_loss_falls_on_fixed_images(config: params.MethodConfig) -> None:
    method, views, labels = build(config), two_views(), torch.full((16,), -1)
    optimizer = torch.optim.Adam(method.parameters(), 0.001)
    losses = []
    for _ in range(30):
        loss, statistics = method.loss(views, labels, ())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step()
        losses.append(loss.item())
        correct, total = statistics["accuracy"]
        assert 0 <= int(correct) <= total == 32
    assert np.mean(losses[-5:]) < 0.9 * losses[0]


def byol(momentum: float) -> BYOL:
    method = build(CONFIGS["byol"].model_copy(update={"momentum": momentum}))
    assert isinstance(method, BYOL)
    return method


def test_byol_target_starts_as_a_copy_and_receives_no_gradient() -> None:
    method = byol(0.9)
    online = [*method.backbone.parameters(), *method.projector.parameters()]
    target = list(method.target.parameters())
    assert all(torch.equal(ours, theirs) and ours is not theirs for ours, theirs in zip(online, target, strict=True))
    loss, _ = method.loss(two_views(), torch.full((16,), -1), ())
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in target)
    assert all(p.grad is not None for p in [*online, *method.predictor.parameters()])
    trained = {
        id(p) for group in make_optimizer(ADAM, [(method.parameters(), 0.1)]).param_groups for p in group["params"]
    }
    assert trained == {id(p) for p in [*online, *method.predictor.parameters()]}


def test_byol_compares_a_prediction_with_the_target_of_the_other_view() -> None:
    method, views = byol(0.9), two_views()
    loss, _ = method.loss(views, torch.full((16,), -1), ())
    first_MD, second_MD = method.predictor(method.projector(method.backbone(views))).chunk(2)
    target_first_MD, target_second_MD = method.target(views).chunk(2)
    expected = (byol_loss(first_MD, target_second_MD) + byol_loss(second_MD, target_first_MD)) / 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("momentum", "expected"), [(0.75, 2.5), (1.0, 2.0), (0.0, 4.0)])
def test_byol_target_is_a_moving_average(momentum: float, expected: float) -> None:
    method = byol(momentum)
    with torch.no_grad():
        for parameter in [*method.backbone.parameters(), *method.projector.parameters()]:
            parameter.fill_(4)
        for parameter in method.target.parameters():
            parameter.fill_(2)
    buffers = [buffer.clone() for buffer in method.target.buffers()]
    method.after_step()
    assert all((parameter == expected).all() for parameter in method.target.parameters())
    assert all(map(torch.equal, buffers, method.target.buffers()))  # only forward passes of the target change them
    method.loss(two_views(), torch.full((16,), -1), ())
    assert not any(map(torch.equal, buffers, method.target.buffers()))


def test_byol_target_is_in_the_state_dict() -> None:
    trained, restored = byol(0.9), byol(0.9)
    optimizer = make_optimizer(ADAM, [(trained.parameters(), 0.001)])
    trained.loss(two_views(), torch.full((16,), -1), ())[0].backward()
    optimizer.step()
    trained.after_step()
    restored.load_state_dict(trained.state_dict())
    assert all(map(torch.equal, trained.target.state_dict().values(), restored.target.state_dict().values()))
    assert not all(map(torch.equal, trained.target.parameters(), byol(0.9).target.parameters()))
    assert all(not p.requires_grad for p in restored.target.parameters())


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_byol_momentum_rises_to_one(progress: float, expected: float) -> None:
    method = build(CONFIGS["byol"].model_copy(update={"momentum": 0.9, "momentum_schedule": "cosine"}))
    assert isinstance(method, BYOL)
    with torch.no_grad():
        for parameter in [*method.backbone.parameters(), *method.projector.parameters()]:
            parameter.fill_(0)
        for parameter in method.target.parameters():
            parameter.fill_(1)
    method.progress = progress
    method.after_step()
    for parameter in method.target.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))


def test_projector_has_the_requested_layers() -> None:
    changes = {"projector_layers": 3, "projector_output_norm": True, "hidden_dim": 5, "projection_dim": 7}
    projector = build(CONFIGS["barlow"].model_copy(update=changes)).projector
    sizes = [tuple(layer.weight.shape) for layer in projector if isinstance(layer, torch.nn.Linear)]
    assert sizes == [(5, 64), (5, 5), (7, 5)]
    norms = [layer.num_features for layer in projector if isinstance(layer, torch.nn.BatchNorm1d)]
    assert norms == [5, 5, 7]
    assert isinstance(projector[-1], torch.nn.BatchNorm1d)
    one = build(CONFIGS["barlow"].model_copy(update={"projector_layers": 1})).projector
    assert [type(layer).__name__ for layer in one] == ["Linear"]


@pytest.mark.parametrize("name", ["nt-xent", "byol", "vicreg", "barlow"])
def test_losses_and_gradients_equal_those_of_lightly(name: str) -> None:
    """lightly is installed with the `bench` extra. Its BYOL loss is the negative cosine similarity."""
    lightly = pytest.importorskip("lightly.loss")
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "nt-xent": lightly.NTXentLoss(temperature=0.5),
        "byol": lambda first, second: 2 + 2 * lightly.NegativeCosineSimilarity()(first, second),
        "vicreg": lightly.VICRegLoss(),
        "barlow": lightly.BarlowTwinsLoss(lambda_param=0.005),
    }
    results = []
    for loss in (LOSSES[name], losses[name]):
        inputs = [view.requires_grad_() for view in embeddings(32, 16)]
        value = loss(*inputs)
        results.append((value, *torch.autograd.grad(value, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
