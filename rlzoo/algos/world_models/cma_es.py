"""CMA-ES (Hansen 2016, "The CMA evolution strategy: a tutorial") with a state that can be saved.

The package `cma` does the mathematics. Its own way to save a strategy is pickle; here its random
numbers come from a generator of ours, and the state is every plain value that the strategy shows
in public. Tests hold that a strategy with these values in a fresh process goes on bit for bit.

Shape suffixes: P members of the population, N parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rlzoo.core.messages import warn
from rlzoo.core.parts import load_part, state_of
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import NonFiniteError, State, UsageError

# Part of the parameters, or of sigma0, below which steps come near to the last of a float's 16
# digits: soon all members would be the mean, and the package would divide by its move, zero.
SMALLEST_STEP = 1e-12
# Of an array in the memory order of its columns, which is stored transposed: products of matrices
# round accordingly.
_COLUMNS = ".T"


@dataclass(frozen=True)
class CMAESConfig:
    population: int = setting(64, "members of a generation (Ha & Schmidhuber 2018)", low=4)
    sigma0: float = setting(
        0.1, "deviation of the first generation (Ha & Schmidhuber's code)", above=0, fixed=True
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
        self._begin()

    @property
    def generation(self) -> int:
        """How many generations have been told."""
        return int(self._es.countiter) + self._rested

    @property
    def has_converged(self) -> bool:
        """Whether steps are so small that there is nothing left to search."""
        scale = max(np.abs(self._es.mean).max(), self._config.sigma0)
        return bool(self._es.stds.max() < SMALLEST_STEP * scale)

    @property
    def mean_N(self) -> np.ndarray:
        return np.array(self._es.mean)

    @property
    def sigma(self) -> float:
        """Standard deviation of the population, but for the shape of its distribution."""
        return float(self._es.sigma)

    def ask(self) -> np.ndarray:
        """The next generation [P, N]; of a search that has converged, the mean P times.

        Raises NonFiniteError where the search has diverged.
        """
        if self.has_converged:
            return np.tile(self.mean_N, (self._config.population, 1))
        params_PN = np.asarray(self._es.ask())
        self._require_finite("a parameter", params_PN)
        return params_PN

    def tell(self, params_PN: np.ndarray, fitness_P: np.ndarray) -> None:
        """Learn from what `ask` gave; greater fitness is better.

        Raises NonFiniteError, and changes nothing, if a parameter or a fitness is NaN or infinite.
        """
        self._require_finite("a parameter", params_PN)
        self._require_finite("the fitness", fitness_P)
        if self.has_converged:
            self._rested += 1
            return
        self._es.tell(list(params_PN), (-np.asarray(fitness_P, dtype=np.float64)).tolist())
        adapted, config = self._es.sigma, self._config
        self._es.sigma = min(adapted, max(adapted * config.sigma_decay, config.sigma_limit))
        if self.has_converged:
            warn(f"generation {self.generation}: the search has converged and rests")

    def _require_finite(self, what: str, numbers: np.ndarray) -> None:
        if not np.isfinite(numbers).all():
            raise NonFiniteError(
                f"generation {self.generation}: {what} of a member is "
                f"{numbers[~np.isfinite(numbers)][0]}, expected a finite number"
            )

    def state(self) -> State:
        """To be taken between `tell` and `ask`."""
        state: State = {"rested": self._rested, "rng": state_of(self._rng)}
        for name, part in self._parts().items():
            numbers = {k: v for k, v in _numbers(part).items() if v != self._new[name].get(k)}
            # The strategy's own matrices are copies of its parts' and the last generation.
            state[name] = numbers | _arrays(part, max_axes=1 if name == "strategy" else 2)
        return state

    def load(self, state: State) -> None:
        self._begin()
        self._rested = state.get("rested", 0)  # older runs never did
        es = self._es
        es.ask()  # starts its clock
        for name, part in self._parts().items():
            for key, value in {**self._new[name], **state[name]}.items():
                if isinstance(value, np.ndarray):
                    value = np.array(value).T if key.endswith(_COLUMNS) else np.array(value)
                setattr(part, key.removesuffix(_COLUMNS), value)
        if es.countiter:  # what the last `tell` left; older runs have none of it in their state
            es.mean_after_tell = es.mean.copy()
            if es.mean_shift_samples:
                es.pop_injection_directions = [es.mean - es.mean_old, es.mean_old - es.mean]
        load_part(self._rng, state["rng"])

    def _begin(self) -> None:
        self._es = _strategy(self._start_N, self._config, self._rng)
        self._rested = 0  # generations since it has converged
        # Numbers that stay as they are from here on are settings, and no part of the state.
        self._new = {name: _numbers(part) for name, part in self._parts().items()}

    def _parts(self) -> dict[str, Any]:
        """The strategy, and those of its parts that learn."""
        es = self._es
        shape = es.sm if self._config.covariance == "full" else es.sigma_vec
        return {"strategy": es, "step_size": es.adapt_sigma, "covariance": shape}


def _numbers(part: Any) -> State:
    """Public numbers of a part, as Python's own."""
    return {
        name: value.item() if isinstance(value, np.number) else value
        for name, value in vars(part).items()
        if name[0] != "_" and isinstance(value, bool | int | float | np.number)
    }


def _arrays(part: Any, max_axes: int) -> State:
    """Copies of the public vectors and matrices of a part."""
    arrays: State = {}
    for name, value in vars(part).items():
        if name[0] != "_" and isinstance(value, np.ndarray) and 0 < value.ndim <= max_axes:
            is_transposed = value.ndim == 2 and value.T.flags.c_contiguous
            arrays[name + _COLUMNS * is_transposed] = np.array(value.T if is_transposed else value)
    return arrays


def _strategy(start_N: np.ndarray, config: CMAESConfig, rng: np.random.Generator) -> Any:
    try:
        import cma
        from cma import sigma_adaptation
    except ImportError as error:
        raise UsageError(f"algo=world_models needs another package, cma: {error}") from error
    adapt = {"tpa": sigma_adaptation.CMAAdaptSigmaTPA, "csa": sigma_adaptation.CMAAdaptSigmaCSA}
    # The package's tpa compares two parameters.
    step_size = config.step_size if len(start_N) > 1 else "csa"
    options = {
        "popsize": config.population,
        "CMA_diagonal": config.covariance == "diagonal",
        "AdaptSigma": adapt[step_size],
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": float("nan"),  # leave numpy's global generator alone
        # What would need state that is not public: mirrored members (in small populations) and
        # other coordinates.
        "CMA_mirrors": 0,
        "conditioncov_alleviate": False,
        "verbose": -9,
    }
    return cma.CMAEvolutionStrategy(start_N, config.sigma0, options)
