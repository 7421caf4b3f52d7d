"""Networks: what they compute, what they refuse, and that the numpy path equals the torch one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlzoo.algos.dqn import QNetwork
from rlzoo.core import registry
from rlzoo.core.seeding import torch_seed
from rlzoo.core.types import UsageError
from rlzoo.nets.mlp import MLP, NetworkConfig

FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
SPACES = {
    "vector": spaces.Box(-1, 1, (4,)),
    "matrix of doubles": spaces.Box(-1, 1, (2, 3), np.float64),
    "bytes": spaces.Box(0, 255, (7,), np.uint8),
    "bits": spaces.MultiBinary(3),
    "discrete": spaces.Discrete(5),
    "discrete from 3": spaces.Discrete(4, start=3),
    "multi-discrete": spaces.MultiDiscrete([2, 3, 4], start=[0, -1, 5]),
}


def network(
    space: spaces.Space, *, name: str = "mlp", hidden: tuple[int, ...] = (16, 8), **options: bool
) -> QNetwork:
    with torch_seed(0, "test"):
        make_encoder = registry.get("network", name)[0]
        config = NetworkConfig(name=name, hidden=hidden)
        return QNetwork(space, 3, config, make_encoder=make_encoder, **options)


def observations(space: spaces.Space, batch_size: int) -> np.ndarray:
    space.seed(0)
    return np.stack([np.asarray(space.sample()) for _ in range(batch_size)])


def torch_values(q: QNetwork, obs_B: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return q(torch.from_numpy(obs_B)).numpy()


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("hidden", [(16, 8), (16,), ()], ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("space", SPACES)
def test_numpy_equals_torch_also_after_an_update(
    space: str, activation: str, hidden: tuple[int, ...], dueling: bool, batch_size: int
) -> None:
    config = NetworkConfig(hidden=hidden, activation=activation)
    with torch_seed(0, "test"):
        q = QNetwork(SPACES[space], 3, config, dueling=dueling)
    forward = q.numpy_forward()
    obs_B = observations(SPACES[space], batch_size)
    before = forward(obs_B)
    assert before.shape == (batch_size, 3)
    np.testing.assert_allclose(before, torch_values(q, obs_B), rtol=1e-5, atol=1e-5)

    optimizer = torch.optim.Adam(q.parameters(), lr=0.1, fused=True)
    q(torch.from_numpy(obs_B)).square().sum().backward()
    optimizer.step()
    assert np.abs(forward(obs_B) - before).max() > 1e-3
    np.testing.assert_allclose(forward(obs_B), torch_values(q, obs_B), rtol=1e-5, atol=1e-5)


def test_numpy_forward_does_not_write_into_observations() -> None:
    q = network(SPACES["vector"], hidden=())
    obs_B = observations(SPACES["vector"], 2)
    kept = obs_B.copy()
    q.numpy_forward()(obs_B)
    np.testing.assert_array_equal(obs_B, kept)


def test_numpy_forward_of_a_cnn_runs_torch() -> None:
    q = network(FRAMES, name="nature_cnn")
    obs_B = observations(FRAMES, 2)
    np.testing.assert_array_equal(q.numpy_forward()(obs_B), torch_values(q, obs_B))


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_numpy_forward_of_a_network_elsewhere_runs_torch_there(space: str, dueling: bool) -> None:
    q = network(SPACES[space], hidden=(16,), dueling=dueling).to("meta")
    forward = q.numpy_forward()  # reads no tensor of the other device
    with pytest.raises(NotImplementedError, match="meta tensor; no data"):  # of the result alone
        forward(observations(SPACES[space], 2))


def test_one_hot_codes() -> None:
    encoder = network(SPACES["multi-discrete"]).encoder
    codes = encoder(torch.tensor([[0, -1, 5], [1, 1, 8]]))
    assert codes.tolist() == [[1, 0, 1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0, 0, 1]]
    assert network(SPACES["discrete from 3"]).encoder(torch.tensor([4])).tolist() == [[0, 1, 0, 0]]


def test_bytes_are_scaled_and_floats_are_not() -> None:
    assert network(SPACES["bytes"]).encoder(torch.full((1, 7), 255.0)).tolist() == [[1.0] * 7]
    assert network(SPACES["vector"]).encoder(torch.full((1, 4), 9.0)).tolist() == [[9.0] * 4]


def test_dueling_values_average_to_the_state_value() -> None:
    q = network(SPACES["vector"], dueling=True)
    obs_B = torch.from_numpy(observations(SPACES["vector"], 6))
    value_B1 = q.value(q.trunk(obs_B))
    torch.testing.assert_close(q(obs_B).mean(dim=1, keepdim=True), value_B1)
    assert q(obs_B).std(dim=1).min() > 1e-3


def test_mlp_layers() -> None:
    names = [type(layer).__name__ for layer in MLP((4, 16, 8, 2), "tanh")]
    assert names == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert [type(layer).__name__ for layer in MLP((4, 16), activate_last=True)] == [
        "Linear",
        "ReLU",
    ]


def test_nature_cnn_is_that_of_the_paper() -> None:
    q = network(FRAMES, name="nature_cnn", hidden=(512,))
    assert q.encoder.num_features == 3136
    # 4*32*64+32, 32*64*16+64, 64*64*9+64, 3136*512+512, 512*3+3
    assert sum(p.numel() for p in q.parameters()) == 8224 + 32832 + 36928 + 1606144 + 1539
    obs_B = torch.from_numpy(observations(FRAMES, 2))
    whole = q.encoder.layers(obs_B.float() / 255)
    torch.testing.assert_close(q.encoder(obs_B), whole)


def test_cnn_on_cartpole_is_refused() -> None:
    with pytest.raises(UsageError, match=r"network=nature_cnn.*Did you mean network=mlp"):
        network(SPACES["vector"], name="nature_cnn")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (210, 160, 3), np.uint8),  # channels last
        spaces.Box(0, 1, (4, 84, 84)),  # not uint8
        spaces.Box(0, 255, (4, 35, 84), np.uint8),  # nothing would be left of the height
        spaces.Discrete(4),
    ],
    ids=str,
)
def test_images_that_the_cnn_cannot_read_are_refused(space: spaces.Space) -> None:
    with pytest.raises(UsageError, match="expected uint8 frames"):
        network(space, name="nature_cnn")


def test_smallest_image_passes() -> None:
    q = network(spaces.Box(0, 255, (1, 36, 36), np.uint8), name="nature_cnn")
    assert q(torch.zeros(1, 1, 36, 36, dtype=torch.uint8)).shape == (1, 3)


def test_spaces_without_an_encoding_are_refused() -> None:
    with pytest.raises(UsageError, match="got observations Dict"):
        network(spaces.Dict(a=SPACES["vector"]))
