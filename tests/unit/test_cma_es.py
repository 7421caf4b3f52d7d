"""CMA-ES: it learns, its state is all that its future depends on, and it knows when to rest."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlzoo.algos.world_models import cma_es
from rlzoo.algos.world_models.cma_es import CMAES, CMAESConfig
from rlzoo.core.types import NonFiniteError
from rlzoo.io import checkpoint

pytest.importorskip("cma")

N = 250  # from about 100 on, the covariance matrix is not decomposed in every generation
KINDS = [(c, s) for c in ("full", "diagonal") for s in ("tpa", "csa")]


def strategy(covariance: str, step_size: str, seed: int = 3, population: int = 12) -> CMAES:
    config = CMAESConfig(population=population, covariance=covariance, step_size=step_size)
    return CMAES(N, config, seed=seed)


def fitness(params_PN: np.ndarray) -> np.ndarray:
    scale_N = np.arange(1, N + 1) / N
    return -((params_PN - 0.5) ** 2 @ scale_N)


def learn(es: CMAES, generations: int) -> str:
    """sha256 of all that was asked."""
    digest = hashlib.sha256()
    for _ in range(generations):
        params_PN = es.ask()
        digest.update(params_PN.tobytes())
        es.tell(params_PN, fitness(params_PN))
    return digest.hexdigest()


@pytest.mark.parametrize(("covariance", "step_size"), KINDS)
def test_it_climbs(covariance, step_size):
    es = strategy(covariance, step_size)
    start = fitness(es.mean_N[None])
    learn(es, 100)
    assert es.generation == 100
    assert fitness(es.mean_N[None]) > 0.7 * start
    assert es.ask().shape == (12, N)


def test_steps_decay_down_to_their_limit():
    """The first two generations are the same but for sigma, so that is what decays."""

    def sigmas(decay: float, limit: float, generations: int) -> list[float]:
        config = CMAESConfig(population=12, sigma_decay=decay, sigma_limit=limit, sigma0=0.1)
        es, seen = CMAES(N, config, seed=3), []
        for _ in range(generations):
            learn(es, 1)
            seen.append(es.sigma)
        return seen

    [adapted] = sigmas(1.0, 0.01, 1)
    assert sigmas(0.9, 0.01, 1) == [adapted * 0.9]
    assert sigmas(0.9, 0.95 * adapted, 1) == [0.95 * adapted]
    assert sigmas(0.9, 2 * adapted, 1) == [adapted], "no step is made longer"
    assert 0.01 <= sigmas(0.5, 0.01, 40)[-1] < 0.02 < sigmas(1.0, 0.01, 40)[-1]


CONTINUE = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_cma_es import learn, strategy
from rlzoo.io import checkpoint
es = strategy({covariance!r}, {step_size!r}, seed=99)
es.load(checkpoint.load(Path({path!r})))
print(learn(es, {generations}))
"""


@pytest.mark.parametrize(("covariance", "step_size"), KINDS)
def test_saved_and_loaded_in_a_new_process_it_goes_on_bit_for_bit(covariance, step_size, tmp_path):
    es = strategy(covariance, step_size)
    learn(es, 41)  # also between two eigendecompositions of the covariance matrix
    path = checkpoint.save(tmp_path, 41, es.state(), keep_last=1)
    straight = learn(es, 40)
    script = CONTINUE.format(
        folder=str(Path(__file__).parent),
        covariance=covariance,
        step_size=step_size,
        path=str(path),
        generations=40,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == straight, done.stderr


@pytest.mark.parametrize("generations", [0, 1, 2, 3, 10])
@pytest.mark.parametrize(("covariance", "step_size"), KINDS)
def test_any_generation_can_be_the_one_that_is_saved(covariance, step_size, generations):
    es, used = strategy(covariance, step_size), strategy(covariance, step_size, seed=9)
    learn(es, generations)
    state = es.state()
    straight = learn(es, 25)
    learn(used, 7)  # what was there before a load leaves no trace
    used.load(state)
    assert learn(used, 25) == straight


@pytest.mark.parametrize("population", [4, 5, 7, 300])
def test_any_population(population):
    es, fresh = (strategy("full", "tpa", population=population) for _ in range(2))
    learn(es, 3)
    fresh.load(es.state())
    assert learn(fresh, 5) == learn(es, 5)


# Of the plain values that are saved, those that are known to decide what comes next.
STRATEGY = ("mean", "mean_old", "sigma", "pc", "countiter")
PARTS = {
    ("full", "tpa"): (*STRATEGY, "ps", "s", "C", "B.T", "D", "count_tell", "last_update"),
    ("full", "csa"): ("ps",),
    ("diagonal", "csa"): ("scaling", "is_identity"),
}
CASES = [(*kind, name) for kind, names in PARTS.items() for name in names]


@pytest.mark.parametrize(("covariance", "step_size", "name"), CASES)
def test_no_part_of_the_state_could_be_left_out(covariance, step_size, name):
    """The control: without any one of them, the continuation differs (or is impossible)."""
    es = strategy(covariance, step_size)
    learn(es, 41)
    state = es.state()
    assert any(name in part for part in state.values() if isinstance(part, dict))
    if (step_size, name) == ("tpa", "ps"):  # only its length matters, and only when it is large
        state["step_size"]["ps"] *= 10
    else:
        for part in state.values():
            if isinstance(part, dict):
                part.pop(name, None)
    straight = learn(es, 40)
    fresh = strategy(covariance, step_size)
    try:
        fresh.load(state)
        assert learn(fresh, 40) != straight
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError):
        pass


def test_settings_are_no_part_of_the_state():
    """A search that goes on with another population learns as fast as that one does."""
    es = strategy("full", "csa")
    learn(es, 41)
    saved = {name for part in es.state().values() if isinstance(part, dict) for name in part}
    assert not saved & {"N", "dimension", "sigma0", "lazy_update_gap", "cs", "damps"}


OLDER = {
    "strategy": ("mean", "mean_old", "sigma", "pc", "countiter"),
    "step_size": ("ps", "s"),
    "covariance": ("C", "B", "D", "count_tell", "last_update", "scaling", "is_identity"),
}


@pytest.mark.parametrize(("covariance", "step_size"), KINDS)
def test_a_state_of_an_older_run_is_gone_on_with(covariance, step_size):
    """It has fewer fields, and B in the other memory order: rounding may differ."""
    es, fresh = strategy(covariance, step_size), strategy(covariance, step_size)
    learn(es, 41)
    state = es.state()
    if covariance == "full":
        state["covariance"]["B"] = state["covariance"].pop("B.T").T.copy()
    older = {
        part: {name: state[part][name] for name in names if name in state[part]}
        for part, names in OLDER.items()
    }
    fresh.load({**older, "rng": state["rng"]})
    for _ in range(5):
        params_PN = fresh.ask()
        np.testing.assert_allclose(params_PN, es.ask(), rtol=0, atol=1e-9)
        for search in (es, fresh):
            search.tell(params_PN, fitness(params_PN))


def test_the_generator_counts_too():
    es = strategy("full", "tpa")
    learn(es, 3)
    state = es.state()
    straight = learn(es, 3)
    state["rng"] = strategy("full", "tpa").state()["rng"]
    es.load(state)
    assert learn(es, 3) != straight


def test_numpys_global_generator_decides_nothing():
    one, two = strategy("full", "tpa"), strategy("full", "tpa")
    np.random.seed(0)  # noqa: NPY002
    first = learn(one, 20)
    np.random.seed(1)  # noqa: NPY002
    assert learn(two, 20) == first


def test_a_nan_is_not_learnt_from():
    es = strategy("full", "tpa")
    learn(es, 5)
    before = es.mean_N, es.sigma
    params_PN = es.ask()
    wrong_P = fitness(params_PN)
    wrong_P[4] = np.nan
    with pytest.raises(NonFiniteError, match="generation 5: the fitness of a member is nan"):
        es.tell(params_PN, wrong_P)
    assert np.array_equal(es.mean_N, before[0]) and es.sigma == before[1]
    assert es.generation == 5


@pytest.mark.filterwarnings("ignore:.* encountered in")
def test_an_error_names_what_was_not_finite():
    es = strategy("full", "tpa")
    learn(es, 5)
    params_PN = es.ask()
    params_PN[2, 7] = np.inf
    with pytest.raises(NonFiniteError, match="generation 5: a parameter of a member is inf"):
        es.tell(params_PN, np.zeros(12))
    es = CMAES(5, CMAESConfig(population=8, sigma0=1e300, step_size="csa"), seed=3)
    with pytest.raises(NonFiniteError, match="a parameter of a member is"):  # it has diverged
        for _ in range(200):
            params_PN = es.ask()
            es.tell(params_PN, params_PN[:, 0] / 1e200)


# ------------------------------------------------------------------------------- convergence


def search(num_params: int, covariance: str, step_size: str) -> CMAES:
    kind = {"covariance": covariance, "step_size": step_size}
    return CMAES(num_params, CMAESConfig(population=8, sigma0=1.0, **kind), seed=0)


def approach(es: CMAES, centre: float, generations: int) -> None:
    for _ in range(generations):
        params_PN = es.ask()
        assert np.isfinite(params_PN).all()
        es.tell(params_PN, -((params_PN - centre) ** 2).sum(axis=1))


@pytest.mark.parametrize("centre", [0, 0.5, -1000])
@pytest.mark.parametrize("num_params", [1, 2, 5])
@pytest.mark.parametrize(("covariance", "step_size"), KINDS)
def test_a_search_that_has_converged_says_so_once_and_rests(
    covariance, step_size, num_params, centre, capsys, recwarn
):
    es = search(num_params, covariance, step_size)
    approach(es, centre, 500)
    assert es.has_converged and es.generation == 500
    assert capsys.readouterr().err.splitlines() == [
        f"rlzoo: warning: generation {500 - es.state()['rested']}: "
        "the search has converged and rests"
    ]
    assert not recwarn.list
    assert np.allclose(es.mean_N, centre, rtol=1e-9, atol=1e-9)
    sigma, mean_N = es.sigma, es.mean_N
    approach(es, centre, 1000)
    assert es.sigma == sigma and np.array_equal(es.mean_N, mean_N)
    again = search(num_params, covariance, step_size)
    again.load(es.state())
    assert again.generation == 1500 and again.has_converged
    assert np.array_equal(again.ask(), np.tile(mean_N, (8, 1)))


@pytest.mark.parametrize(("covariance", "step_size"), KINDS)
def test_a_fitness_that_tells_nothing_is_no_convergence(covariance, step_size, recwarn):
    es = search(5, covariance, step_size)
    for _ in range(500):
        es.tell(es.ask(), np.zeros(8))
    assert not es.has_converged and not recwarn.list


def test_one_parameter_is_saved_too():
    es, fresh = search(1, "full", "tpa"), search(1, "full", "tpa")
    approach(es, 0.5, 10)
    fresh.load(es.state())
    approach(es, 0.5, 10)
    approach(fresh, 0.5, 10)
    assert es.mean_N == fresh.mean_N


def test_without_the_package_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(cma_es.UsageError, match="needs another package, cma"):
        strategy("full", "tpa")
