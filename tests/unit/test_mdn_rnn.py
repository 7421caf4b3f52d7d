"""M: the paper's sizes, the density and its samples worked out by hand, faults easily made."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlzoo.algos.world_models.models import (
    MDNRNN,
    LSTMState,
    Mixture,
    mixture_mean,
    mixture_nll,
    sample_mixture,
    split_mixture,
)
from rlzoo.core.seeding import torch_generator, torch_seed
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named


def make(latent_size: int = 4, action_size: int = 2, **options: object) -> MDNRNN:
    with torch_seed(0, "test"):
        return MDNRNN(latent_size, action_size, **{"hidden_size": 8, **options})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch_generator(seed, "draw"))


# --- the network --------------------------------------------------------------------------------


def test_has_the_papers_sizes() -> None:
    car = MDNRNN(32, 3)
    assert car.head.out_features == 480  # 32 latents * 5 components * 3
    assert sum(p.numel() for p in car.parameters()) == 423_392
    assert car.lstm.bias_hh_l0.numel() == 423_392 - 422_368  # what TensorFlow's has not
    doom = MDNRNN(64, 1, hidden_size=512, done_head=True)
    assert doom.head.out_features == 961
    assert MDNRNN(32, 3, reward_head=True, done_head=True).head.out_features == 482


def test_forget_gates_are_open_at_first() -> None:
    rnn = make()
    bias = rnn.lstm.bias_ih_l0 + rnn.lstm.bias_hh_l0
    assert bias.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    # With all weights at 0: c = sigmoid(1) c + sigmoid(0) tanh(0), h = sigmoid(0) tanh(c).
    for name, parameter in rnn.lstm.named_parameters():
        if name.startswith("weight"):
            torch.nn.init.zeros_(parameter)
    _, c = rnn.remember(draw(1, 4), draw(1, 2), LSTMState(torch.ones(1, 8), torch.ones(1, 8)))
    torch.testing.assert_close(c, torch.full((1, 8), 1 / (1 + math.exp(-1))))


def after(rnn: MDNRNN, latent_TBZ: Tensor, action_TBA: Tensor) -> LSTMState:
    memory = rnn.initial(latent_TBZ.shape[1])
    for latent_BZ, action_BA in zip(latent_TBZ, action_TBA, strict=True):
        memory = rnn.remember(latent_BZ, action_BA, memory)
    return memory


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_single_steps_are_the_sequence(steps: int) -> None:
    rnn = make(reward_head=True, done_head=True)
    latent_TBZ, action_TBA = draw(6, 3, 4), draw(6, 3, 2, seed=1)
    whole = rnn(latent_TBZ, action_TBA)
    memory = after(rnn, latent_TBZ[:steps], action_TBA[:steps])
    assert memory.h.shape == memory.c.shape == (3, 8)
    for got, expected in zip(rnn.predict(memory.h), whole, strict=True):
        torch.testing.assert_close(got, expected[steps - 1])
    for got, expected in zip(
        rnn(latent_TBZ[steps:], action_TBA[steps:], memory), whole, strict=True
    ):
        torch.testing.assert_close(got, expected[steps:])


def test_a_memory_of_columns_becomes_whole_before_the_lstm() -> None:
    """CUDA refuses a state that is a view into [z | h | c] ("hx is not contiguous")."""
    rnn = MDNRNN(latent_size=3, action_size=1, hidden_size=4)
    states = []
    rnn.lstm.register_forward_pre_hook(lambda lstm, args: states.extend(args[1]))
    z_BZ, h_BH, c_BH = torch.randn(5, 11).split([3, 4, 4], dim=1)
    rnn.remember(z_BZ, torch.randn(5, 1), LSTMState(h_BH, c_BH))
    assert len(states) == 2 and all(state.is_contiguous() for state in states)


def test_heads_are_options_and_share_no_output() -> None:
    latent_TBZ, action_TBA = draw(5, 2, 4), draw(5, 2, 2)
    bare = make()(latent_TBZ, action_TBA)
    assert bare.mixture.shape == (5, 2, 4 * 3 * 5) and bare.reward is bare.done_logit is None
    rnn = make(reward_head=True, done_head=True)
    with torch.no_grad():
        rnn.head.bias += torch.arange(62.0) * 1000
    both = rnn(latent_TBZ, action_TBA)
    assert both.reward.shape == both.done_logit.shape == (5, 2)
    assert both.reward.round(decimals=-3).unique().tolist() == [60_000]
    assert both.done_logit.round(decimals=-3).unique().tolist() == [61_000]
    only_done = make(done_head=True)(latent_TBZ, action_TBA)
    assert only_done.reward is None and only_done.done_logit.shape == (5, 2)


def test_the_past_matters_the_future_does_not() -> None:
    rnn, latent_TBZ, action_TBA = make(), draw(6, 1, 4), draw(6, 1, 2)
    before = rnn(latent_TBZ, action_TBA).mixture
    latent_TBZ[2] += 1
    differs_T = (rnn(latent_TBZ, action_TBA).mixture != before).flatten(1).any(dim=1)
    assert differs_T.tolist() == [False, False, True, True, True, True]


# --- the density, by hand -----------------------------------------------------------------------


def density(x: float, mean: float, std: float) -> float:
    return math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


# Two dimensions with two components each. Weights: softmax of (0, log 3) and of (log 4, log 1).
MIXTURE = Mixture(
    torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]]),
    torch.tensor([[-1.0, 2.0], [0.0, 5.0]]),
    torch.tensor([[0.0, math.log(0.5)], [math.log(2.0), 0.0]]),
)
VALUE_Z = torch.tensor([1.5, -1.0])
NLL_Z = [
    -math.log(0.25 * density(1.5, -1, 1) + 0.75 * density(1.5, 2, 0.5)),
    -math.log(0.8 * density(-1, 0, 2) + 0.2 * density(-1, 5, 1)),
]


def test_nll_by_hand() -> None:
    torch.testing.assert_close(mixture_nll(MIXTURE, VALUE_Z), torch.tensor(NLL_Z))
    assert pytest.approx([1.0015, 1.9602], abs=1e-4) == NLL_Z
    torch.testing.assert_close(mixture_mean(MIXTURE), torch.tensor([1.25, 1.0]))


def test_nll_is_torchs() -> None:
    output = draw(7, 3, 4 * 3 * 5)
    mixture = split_mixture(output, 5)
    choice = torch.distributions.Categorical(logits=mixture.logit)
    normal = torch.distributions.Normal(mixture.mean, mixture.log_std.exp())
    theirs = torch.distributions.MixtureSameFamily(choice, normal)
    value = draw(7, 3, 4, seed=1)
    torch.testing.assert_close(mixture_nll(mixture, value), -theirs.log_prob(value))


PLANTED = {
    # One choice of component for all dimensions: log sum_k w_k prod_z N(x_z | k).
    "one mixture shared by all dimensions": lambda: (
        -(
            MIXTURE.logit[0].log_softmax(-1)
            + torch.distributions.Normal(MIXTURE.mean, MIXTURE.log_std.exp())
            .log_prob(VALUE_Z[:, None])
            .sum(0)
        ).logsumexp(0)
    ),
    "weights that are not normalised": lambda: sum(NLL_Z) - MIXTURE.logit.logsumexp(-1).sum(),
    "a standard deviation taken for its logarithm": lambda: mixture_nll(
        MIXTURE._replace(log_std=MIXTURE.log_std.exp()), VALUE_Z
    ).sum(),
    "no constant": lambda: sum(NLL_Z) - 2 * 0.5 * math.log(2 * math.pi),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_known_faults_give_another_nll(fault: str) -> None:
    got = mixture_nll(MIXTURE, VALUE_Z).sum().item()
    assert float(PLANTED[fault]()) != pytest.approx(got, rel=1e-2)


def test_dimensions_are_independent() -> None:
    """The NLL of a dimension depends on its own parameters alone: none is shared."""
    output = draw(4 * 3 * 5).requires_grad_()
    for dimension in range(4):
        nll_Z = mixture_nll(split_mixture(output, 5), draw(4, seed=1))
        [gradient] = torch.autograd.grad(nll_Z[dimension], output)
        assert gradient.view(4, 15).any(dim=1).tolist() == [d == dimension for d in range(4)]


def test_far_values_have_finite_nll_and_gradients() -> None:
    """Without log-sum-exp the density would be 0 and its logarithm infinite."""
    output = torch.zeros(15, requires_grad=True)
    nll = mixture_nll(split_mixture(output, 5), torch.tensor([1e3]))
    nll.sum().backward()
    assert nll.item() == pytest.approx(0.5e6 + 0.5 * math.log(2 * math.pi))
    assert torch.isfinite(output.grad).all()


def test_gradients_are_finite_differences() -> None:
    output, value = draw(2, 3 * 3 * 2).double().requires_grad_(), draw(2, 3, seed=1).double()
    value.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda o, v: mixture_nll(split_mixture(o, 2), v), (output, value)
    )


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(AssertionError):
        mixture_nll(MIXTURE, VALUE_Z[:, None])
    with pytest.raises(AssertionError):
        mixture_nll(MIXTURE, VALUE_Z[:1])


# --- samples ------------------------------------------------------------------------------------

SAMPLES = 40_000


def samples(temperature: float, mixture: Mixture = MIXTURE) -> Tensor:
    many = Mixture(*(p.expand(SAMPLES, *p.shape) for p in mixture))
    generator = torch_generator(0, "samples")
    uniform_SZ = torch.rand(many.mean.shape[:-1], generator=generator)
    normal_SZ = torch.randn(many.mean.shape[:-1], generator=generator)
    return sample_mixture(many, uniform_SZ, normal_SZ, temperature=temperature)


def test_samples_by_hand() -> None:
    # One dimension, weights 1/4 and 3/4 at temperature 1; means 10 and 20, deviations 1 and 2.
    mixture = split_mixture(torch.tensor([[0.0, math.log(3), 10, 20, 0, math.log(2)]] * 3), 2)
    drawn = sample_mixture(
        mixture,
        torch.tensor([[0.2], [0.3], [0.99]]),
        torch.tensor([[1.0], [1.0], [-1.0]]),
        temperature=1.0,
    )
    torch.testing.assert_close(drawn, torch.tensor([[11.0], [22.0], [18.0]]))
    # Temperature 4: logits 0 and log(3)/4, weights .432 and .568; deviations twice as wide.
    warmer = sample_mixture(
        mixture, torch.tensor([[0.43], [0.44], [0.9]]), torch.ones(3, 1), temperature=4.0
    )
    torch.testing.assert_close(warmer, torch.tensor([[12.0], [24.0], [24.0]]))


def test_samples_of_sequences_are_those_of_their_steps() -> None:
    """Whatever the leading dimensions are."""
    mixture = split_mixture(draw(7, 3, 2 * 3 * 5), 5)
    uniform_TBZ, normal_TBZ = draw(7, 3, 2, seed=1).sigmoid(), draw(7, 3, 2, seed=2)
    sample_TBZ = sample_mixture(mixture, uniform_TBZ, normal_TBZ, temperature=1.3)
    assert sample_TBZ.shape == (7, 3, 2)
    for t in range(7):
        step = Mixture(*(part[t] for part in mixture))
        sample_BZ = sample_mixture(step, uniform_TBZ[t], normal_TBZ[t], temperature=1.3)
        torch.testing.assert_close(sample_TBZ[t], sample_BZ)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1.5])
def test_samples_have_the_moments_of_the_tempered_mixture(temperature: float) -> None:
    """Weights: w^(1/t) normalised; variances: t sigma^2. Both by hand."""
    sample_SZ = samples(temperature)
    for z, weights in enumerate([(0.25, 0.75), (0.8, 0.2)]):
        powers = [w ** (1 / temperature) for w in weights]
        weights = [p / sum(powers) for p in powers]
        means = MIXTURE.mean[z].tolist()
        variances = [temperature * math.exp(2 * s) for s in MIXTURE.log_std[z].tolist()]
        mean = sum(w * m for w, m in zip(weights, means, strict=True))
        square = sum(w * (v + m * m) for w, v, m in zip(weights, variances, means, strict=True))
        std = math.sqrt(square - mean**2)
        error = std / math.sqrt(SAMPLES)
        assert sample_SZ[:, z].mean().item() == pytest.approx(mean, abs=4 * error)
        assert sample_SZ[:, z].std().item() == pytest.approx(std, rel=0.03)


def test_components_are_chosen_apart_for_each_dimension() -> None:
    """Means 0 and 100: which one it was can be read off. A shared choice would be correlated."""
    mixture = Mixture(torch.zeros(2, 2), torch.tensor([[0.0, 100.0]] * 2), torch.zeros(2, 2))
    is_second_SZ = (samples(1.0, mixture) > 50).float()
    assert is_second_SZ.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert abs(torch.corrcoef(is_second_SZ.T)[0, 1].item()) < 0.02


def test_no_component_is_picked_that_is_not_there() -> None:
    """The last one gets what is left of the probability, and an impossible one nothing."""
    logit = torch.tensor([[0.0, -1e9, -1e9]])
    mixture = Mixture(logit, torch.tensor([[1.0, 50.0, 100.0]]), torch.full((1, 3), -20.0))
    assert (samples(1.0, mixture) - 1).abs().max() < 1e-3
    mixture = mixture._replace(logit=logit.flip(-1))
    assert (samples(1.0, mixture) - 100).abs().max() < 1e-3


def test_probabilities_that_add_up_to_less_than_one_pick_no_component_too_many() -> None:
    mixture = split_mixture(draw(1000, 1 * 3 * 5), 5)
    largest = 1 - 2**-24  # that a uniform float32 below 1 can be
    assert (mixture.logit.softmax(dim=-1).cumsum(dim=-1)[..., -1] < largest).any()
    uniform_SZ = torch.full((1000, 1), largest)
    sample_SZ = sample_mixture(mixture, uniform_SZ, torch.zeros(1000, 1), temperature=1.0)
    torch.testing.assert_close(sample_SZ, mixture.mean[..., -1])


# --- training -----------------------------------------------------------------------------------


def test_learns_what_follows() -> None:
    """The next latent is 0.9 times this one plus the action; the noise sets the limit."""
    rnn = make(1, 1, hidden_size=16, num_components=2)
    optimizer = Adam(rnn.parameters(), lr=1e-2)
    action_TBA = draw(30, 32, 1)
    latent_TBZ = torch.zeros(31, 32, 1)
    noise_TBZ = 0.1 * draw(30, 32, 1, seed=2)
    for t in range(30):
        latent_TBZ[t + 1] = 0.9 * latent_TBZ[t] + action_TBA[t] + noise_TBZ[t]

    def loss(latent_TBZ: Tensor) -> tuple[Tensor, Named]:
        mixture = split_mixture(rnn(latent_TBZ[:-1], action_TBA).mixture, 2)
        return mixture_nll(mixture, latent_TBZ[1:]).mean(), {}

    update = GradientStep(optimizer, loss, max_grad_norm=None, max_grad_value=1.0, compile=False)
    losses = [update(latent_TBZ)["loss"].item() for _ in range(150)]
    spread = 0.5 * math.log(2 * math.pi * math.e)  # nats of N(0, 1)
    assert losses[0] > spread and losses[-1] < spread - 0.8


@pytest.mark.parametrize("norm", [None, 5.0])
def test_gradients_are_clipped_by_element(norm: float | None) -> None:
    """After the norm, if both are asked for; the norm that is reported is the one before."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = Adam([parameter], lr=1.0)
    seen: list[Tensor] = []
    optimizer.step = lambda gradient: seen.append(gradient)  # type: ignore[method-assign]
    slope = torch.tensor([6.0, -8.0, 0.5])

    def loss() -> tuple[Tensor, Named]:
        return (parameter * slope).sum(), {}

    reported = GradientStep(
        optimizer, loss, max_grad_norm=norm, max_grad_value=3.5, compile=False
    )()
    assert reported["grad_norm"].item() == pytest.approx(slope.norm().item())
    scaled = slope if norm is None else slope * (norm / slope.norm())
    torch.testing.assert_close(seen[0], scaled.clamp(-3.5, 3.5))
    assert not torch.allclose(seen[0], scaled)
