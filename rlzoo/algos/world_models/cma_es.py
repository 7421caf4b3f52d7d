"""CMA-ES (Hansen 2016, "The CMA evolution strategy: a tutorial") with a state that can be saved.

The package `cma` does the mathematics. Its own way to save a strategy is pickle; here its random
numbers come from a generator of ours, and the fields that its future depends on are named below.
Tests hold that a strategy with these fields in a fresh process goes on bit for bit, and that none
of them could be left out.

Shape suffixes: P members of the population, N parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rlzoo.core.seeding import generator_state, load_generator, numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import NonFiniteError, State, UsageError

# Part of a strategy -> those of its attributes that its next generations depend on.
FIELDS: dict[str, tuple[str, ...]] = {
    "strategy": ("mean", "mean_old", "sigma", "pc", "countiter"),
    "tpa": ("ps", "s"),
    "csa": ("ps",),
    "full": ("C", "B", "D", "count_tell", "last_update"),
    "diagonal": ("scaling", "is_identity"),
}


@dataclass(frozen=True)
class CMAESConfig:
    population: int = setting(64, "members of a generation (Ha & Schmidhuber 2018)", low=4)
    sigma0: float = setting(
        0.1, "standard deviation of the first generation (Ha & Schmidhuber's code)", above=0
    )
    covariance: Literal["full", "diagonal"] = setting(
        "full",
        "diagonal: learns scales alone, faster (Ros & Hansen 2008, sep-CMA-ES)",
        fixed=True,
    )
    step_size: Literal["tpa", "csa"] = setting(
        "tpa",
        "adaptation by two points along the last move, or by the path's length; the package's "
        "choice is tpa from 300 parameters on",
        fixed=True,
    )
    sigma_decay: float = setting(
        1.0,
        "after each generation the step size is multiplied by this, too: from noisy returns no "
        "adaptation learns that steps have become too long (estool: 0.999)",
        above=0,
        high=1,
    )
    sigma_limit: float = setting(0.01, "sigma_decay does not go below this (estool: 0.01)", low=0)


class CMAES:
    """Maximises a function of N parameters: `ask`, evaluate, `tell`, again.

    It begins around the origin, or around `start_N`.
    """

    def __init__(
        self,
        num_params: int,
        config: CMAESConfig,
        *,
        seed: int,
        start_N: np.ndarray | None = None,
    ) -> None:
        self._config = config
        self._start_N = np.zeros(num_params) if start_N is None else np.array(start_N, np.float64)
        self._rng = numpy_generator(seed, "cma-es")
        self._es = _strategy(self._start_N, config, self._rng)

    @property
    def generation(self) -> int:
        """How many generations have been told."""
        return int(self._es.countiter)

    @property
    def mean_N(self) -> np.ndarray:
        return np.array(self._es.mean)

    @property
    def sigma(self) -> float:
        """Standard deviation of the population, but for the shape of its distribution."""
        return float(self._es.sigma)

    def ask(self) -> np.ndarray:
        """The next generation [P, N]."""
        return np.asarray(self._es.ask())

    def tell(self, params_PN: np.ndarray, fitness_P: np.ndarray) -> None:
        """Learn from what `ask` gave; greater fitness is better.

        Raises NonFiniteError, and changes nothing, if a fitness is NaN or infinite.
        """
        if not np.isfinite(fitness_P).all():
            raise NonFiniteError(
                f"generation {self.generation}: the fitness of a member is "
                f"{fitness_P[~np.isfinite(fitness_P)][0]}, expected a finite number"
            )
        self._es.tell(list(params_PN), (-np.asarray(fitness_P, dtype=np.float64)).tolist())
        adapted, config = self._es.sigma, self._config
        self._es.sigma = min(adapted, max(adapted * config.sigma_decay, config.sigma_limit))

    def state(self) -> State:
        """To be taken between `tell` and `ask`."""
        fields = {
            part: {name: _plain(getattr(owner, name)) for name in names if hasattr(owner, name)}
            for part, owner, names in self._parts()
        }
        return {**fields, "rng": generator_state(self._rng)}

    def load(self, state: State) -> None:
        load_generator(self._rng, state["rng"])
        self._es = es = _strategy(self._start_N, self._config, self._rng)
        for part, owner, _ in self._parts():
            for name, value in state[part].items():
                if isinstance(value, np.ndarray):
                    # In the memory order that it had: matrix products round accordingly.
                    value = np.array(value, order="F" if name == "B" else "C")
                setattr(owner, name, value)
        if es.countiter:  # what the first `ask` and the last `tell` left
            es.timer = _Timer()
            es.pop_injection_directions = es._prepare_injection_directions()
            es.mean_after_tell[:] = es.mean

    def _parts(self) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
        """Name, object and fields of each part of the strategy."""
        es, covariance, step_size = self._es, self._config.covariance, self._config.step_size
        yield "strategy", es, FIELDS["strategy"]
        yield "step_size", es.adapt_sigma, FIELDS[step_size]
        shape = es.sm if covariance == "full" else es.sigma_vec
        yield "covariance", shape, FIELDS[covariance]


class _Timer:
    """Stands in for the strategy's stopwatch, which nothing here reads."""

    tic = None

    def pause(self) -> None: ...


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        return value.copy()
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


def _strategy(start_N: np.ndarray, config: CMAESConfig, rng: np.random.Generator) -> Any:
    try:
        import cma
        from cma import sigma_adaptation
    except ImportError as error:
        raise UsageError(f"algo=world_models needs another package, cma: {error}") from error
    adapt = {"tpa": sigma_adaptation.CMAAdaptSigmaTPA, "csa": sigma_adaptation.CMAAdaptSigmaCSA}
    options = {
        "popsize": config.population,
        "CMA_diagonal": config.covariance == "diagonal",
        "AdaptSigma": adapt[config.step_size],
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": float("nan"),  # leave numpy's global generator alone
        # What would need more fields: mirrored members (in small populations), other coordinates.
        "CMA_mirrors": 0,
        "conditioncov_alleviate": False,
        "verbose": -9,
    }
    return cma.CMAEvolutionStrategy(start_N, config.sigma0, options)
