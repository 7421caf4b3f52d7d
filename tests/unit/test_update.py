"""The guarded gradient step: equals plain torch, stops before NaN, resumes bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from rlzoo.core.parts import load_module, module_state
from rlzoo.core.seeding import torch_generator, torch_seed
from rlzoo.core.types import DataError, NonFiniteError
from rlzoo.nets import update
from rlzoo.nets.adam import Adam
from rlzoo.nets.mlp import MLP
from rlzoo.nets.update import GradientStep


class Learner:
    """A small regression with everything that a run would save."""

    def __init__(self, *, compile: bool = False, clip: float | None = 0.5, seed: int = 0) -> None:
        with torch_seed(seed, "test"):
            self.net = MLP((3, 16, 2))
        self.optimizer = Adam(self.net.parameters(), lr=1e-2)
        self.step = GradientStep(self.optimizer, self.loss, max_grad_norm=clip, compile=compile)

    def loss(self, x_B: Tensor, y_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error_B = self.net(x_B) - y_B
        return error_B.square().mean(), {"error_B": error_B}

    def state(self) -> dict[str, Any]:
        return {"net": module_state(self.net), "optimizer": self.optimizer.state()}

    def load(self, state: dict[str, Any]) -> None:
        load_module(self.net, state["net"])
        self.optimizer.load(state["optimizer"])


def batches(count: int, size: int = 8, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch_generator(seed, "batches")
    for _ in range(count):
        yield (
            torch.randn(size, 3, generator=generator),
            10 * torch.randn(size, 2, generator=generator),
        )


def leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [leaf for key in sorted(state) for leaf in leaves(state[key])]
    return [state.tolist() if isinstance(state, Tensor | np.ndarray) else state]


def through_files(state: Any) -> Any:
    """What a checkpoint gives back: tensors as arrays, JSON values through text."""
    if isinstance(state, dict):
        return {key: through_files(value) for key, value in state.items()}
    return state.numpy().copy() if isinstance(state, Tensor) else json.loads(json.dumps(state))


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_equals_plain_torch(clip: float | None) -> None:
    ours, plain = Learner(clip=clip), Learner()
    optimizer = torch.optim.Adam(plain.net.parameters(), lr=1e-2)
    norms = []
    for x_B, y_B in batches(20):
        named = ours.step(x_B, y_B)
        loss, norm, error_B = named["loss"], named["grad_norm"], named["error_B"]
        optimizer.zero_grad()
        expected, _ = plain.loss(x_B, y_B)
        expected.backward()
        most = float("inf") if clip is None else clip
        expected_norm = nn.utils.clip_grad_norm_(plain.net.parameters(), most)
        optimizer.step()
        torch.testing.assert_close((loss, norm), (expected.detach(), expected_norm))
        assert not error_B.requires_grad and error_B.shape == (8, 2)
        norms.append(float(norm))
    assert max(norms) > 0.5  # clipping had something to do
    for one, other in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def nan_loss(learner: Learner, x_B: Tensor, y_B: Tensor) -> None:
    learner.step(x_B, y_B * float("nan"))


def infinite_gradient(learner: Learner, x_B: Tensor, y_B: Tensor) -> None:
    def loss(x_B: Tensor, y_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # The root's slope at zero is infinite, its value is not.
        return (learner.net(x_B) * 0).abs().sum().sqrt(), {}

    GradientStep(learner.optimizer, loss, max_grad_norm=0.5, compile=False)(x_B, y_B)


PLANTED = {"loss": nan_loss, "gradient norm": infinite_gradient}


def planted(learner: Learner, name: str) -> None:
    (batch,) = batches(1, seed=7)
    PLANTED[name](learner, *batch)


@pytest.mark.parametrize("name", PLANTED)
def test_nan_stops_before_anything_changes(name: str) -> None:
    learner = Learner()
    for batch in batches(3):
        learner.step(*batch)
    before = copy.deepcopy(leaves(learner.state()))
    with pytest.raises(NonFiniteError, match=f"^{name} is not finite"):
        planted(learner, name)
    assert leaves(learner.state()) == before


@pytest.mark.parametrize("name", PLANTED)
def test_nan_spreads_without_the_guard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "check_finite", lambda *sums: None)
    learner = Learner()
    planted(learner, name)
    assert all(parameter.isnan().any() for parameter in learner.net.parameters())


@pytest.mark.parametrize("before", [0, 5])
def test_loaded_state_continues_bit_for_bit(before: int) -> None:
    straight, resumed = Learner(), Learner(seed=1)
    for batch in batches(before):
        straight.step(*batch)
    for batch in batches(2, seed=9):
        resumed.step(*batch)  # loading must also clear what was there
    saved = straight.state()
    kept = copy.deepcopy(leaves(saved))
    resumed.load(through_files(saved))
    for batch in batches(6, seed=1):
        straight.step(*batch)
        resumed.step(*batch)
    assert leaves(straight.state()) == leaves(resumed.state())
    assert leaves(saved) == kept  # a state is a copy


def test_loading_keeps_tensors_in_place_and_apart_from_the_state() -> None:
    learner = Learner()
    for batch in batches(3):
        learner.step(*batch)
    view = learner.net[0].weight.detach().numpy()
    state = through_files(learner.state())
    kept = copy.deepcopy(leaves(state))
    for batch in batches(3):
        learner.step(*batch)
    learner.load(state)
    np.testing.assert_array_equal(view, state["net"]["0.weight"])
    learner.step(*next(batches(1)))
    np.testing.assert_array_equal(view, learner.net[0].weight.detach().numpy())
    assert leaves(state) == kept


@pytest.mark.parametrize(("lr", "betas", "eps"), [(1e-2, (0.9, 0.999), 1e-8), (1, (0.5, 0.6), 0.1)])
def test_adam_is_torchs_fused_adam_to_a_rounding(
    lr: float, betas: tuple[float, float], eps: float
) -> None:
    with torch_seed(0, "test"):
        ours = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(7))]
    theirs = copy.deepcopy(ours)
    adam = Adam(ours, lr=lr, betas=betas, eps=eps)
    reference = torch.optim.Adam(theirs, lr=lr, betas=betas, eps=eps, fused=True)
    generator = torch_generator(0, "gradients")
    for _ in range(50):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours]
        adam.step(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_adam_keeps_values_and_shapes_and_makes_views_of_one_vector() -> None:
    net = MLP((3, 16, 2))
    before = module_state(net)
    adam = Adam(net.parameters(), lr=1e-2)
    assert leaves(module_state(net)) == leaves(before)
    adam.vector.zero_()
    assert all(not parameter.any() for parameter in net.parameters())


def test_states_of_other_networks_are_refused_and_change_nothing() -> None:
    learner = Learner()
    for batch in batches(2):
        learner.step(*batch)
    before = copy.deepcopy(leaves(learner.state()))
    wide, deep = MLP((3, 17, 2)), MLP((3, 16, 16, 2))
    with pytest.raises(DataError, match=r"0\.weight is torch\.float32\[17, 3\], expected"):
        load_module(learner.net, module_state(wide))
    with pytest.raises(DataError, match=r"4\.bias, 4\.weight is missing or not expected"):
        load_module(learner.net, module_state(deep))
    for net in (wide, deep):
        with pytest.raises(
            DataError, match=r"optimizer: got a mean of shape \(\d+,\), expected \(\d+,\)"
        ):
            learner.optimizer.load(Adam(net.parameters(), lr=1e-2).state())
    assert leaves(learner.state()) == before


def test_without_a_compiler_one_warning_and_eager(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    compiled, eager = Learner(compile=True), Learner()
    for batch in batches(3):
        compiled.step(*batch)
        eager.step(*batch)
    assert capsys.readouterr().err.splitlines() == [
        "rlzoo: warning: compile=true is ignored: no working C++ compiler was found"
    ]
    assert leaves(compiled.state()) == leaves(eager.state())


def test_a_torch_that_cannot_compile_gradients_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch._dynamo, "config", object())
    learner = Learner(compile=True)
    learner.step(*next(batches(1)))
    assert "cannot compile gradients" in capsys.readouterr().err


def test_other_errors_of_the_compiler_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def raise_error(*batch: Tensor) -> None:
            raise BackendCompilerFailed("inductor", ValueError("a bug"), None)

        return raise_error

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(BackendCompilerFailed, match="a bug"):
        Learner(compile=True).step(*next(batches(1)))


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    compiled, eager = Learner(compile=True), Learner()
    for batch in batches(20):
        for one, other in zip(compiled.step(*batch), eager.step(*batch), strict=True):
            torch.testing.assert_close(one, other)
    for one, other in zip(compiled.net.parameters(), eager.net.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    before = copy.deepcopy(leaves(compiled.state()))
    with pytest.raises(NonFiniteError, match=r"^loss is not finite"):
        planted(compiled, "loss")
    assert leaves(compiled.state()) == before
