"""CarRacingFast against gymnasium's CarRacing: every pixel, reward, end and info."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import pytest

pytest.importorskip("Box2D")
from gymnasium.envs.box2d.car_racing import PLAYFIELD, CarRacing

from rlzoo.envs.make import EnvConfig, make_env
from rlzoo.envs.zoo import car_racing
from rlzoo.envs.zoo.car_racing import CarRacingFast

Pair = tuple[CarRacing, CarRacingFast]


def pair(**kwargs) -> Pair:
    return CarRacing(**kwargs), CarRacingFast(**kwargs)


def same_pictures(envs: Pair, mode: str) -> bool:
    stock, fast = (env._render(mode) for env in envs)
    assert stock.shape == fast.shape and stock.dtype == fast.dtype
    return bool((stock == fast).all())


def assert_same_episode(envs: Pair, seed: int, actions) -> bool:
    """Play both to the end of the actions; whether the episode ended."""
    stock, fast = envs
    (obs, info), (fast_obs, fast_info) = stock.reset(seed=seed), fast.reset(seed=seed)
    assert (obs == fast_obs).all(), f"first frame: {(obs != fast_obs).sum()} bytes differ"
    assert info == fast_info
    return assert_same_steps(envs, actions)


def assert_same_steps(envs: Pair, actions) -> bool:
    stock, fast = envs
    for t, action in enumerate(actions):
        obs, *rest = stock.step(action)
        fast_obs, *fast_rest = fast.step(action)
        assert fast_obs.dtype == np.uint8 and fast_obs.shape == (96, 96, 3)
        assert (obs == fast_obs).all(), f"step {t}: {(obs != fast_obs).sum()} bytes differ"
        assert rest == fast_rest
        if t % 25 == 0:
            assert same_pictures(envs, "rgb_array"), f"step {t}"
        if rest[1]:
            return True
    return False


@pytest.fixture
def envs() -> Pair:
    stock, fast = pair()
    stock.reset(seed=5)
    fast.reset(seed=5)
    return stock, fast


# --- driving --------------------------------------------------------------------------------------


def held(seed: int, steps: int, gas: float = 1.0, brake: float = 0.3) -> Iterator[np.ndarray]:
    """Random actions, each held for ten steps."""
    rng = np.random.default_rng(seed)
    for t in range(steps):
        if t % 10 == 0:
            action = rng.uniform((-1, 0, 0), (1, gas, brake)).astype(np.float32)
        yield action


def move_car(env: CarRacing, x: float, y: float) -> None:
    """Put the car somewhere, at rest, as it is turned and steered."""
    from_hull = [body.position - env.car.hull.position for body in env.car.drawlist]
    for body, offset in zip(env.car.drawlist, from_hull, strict=True):
        body.position, body.linearVelocity = (x + offset[0], y + offset[1]), (0, 0)


def full_gas(steps: int) -> list[np.ndarray]:
    return [np.array((0, 1, 0), np.float32)] * steps


def chase(env: CarRacing, ahead: int = 4, speed: float = 45.0) -> Iterator[np.ndarray]:
    """A driver that knows the track: steers for a point of it a few tiles ahead, for ever."""
    points = np.array([(x, y) for _, _, x, y in env.track])
    while True:
        hull = env.car.hull
        here = np.array(hull.position)
        nearest = int(np.hypot(*(points - here).T).argmin())
        to = points[(nearest + ahead) % len(points)] - here
        error = math.remainder(math.atan2(to[1], to[0]) - hull.angle - math.pi / 2, math.tau)
        too_fast = hull.linearVelocity.length > speed * (1 - 0.5 * min(abs(error), 1))
        yield np.array((-np.clip(error, -1, 1), 0 if too_fast else 0.6, 0.2 * too_fast), np.float32)


@pytest.mark.parametrize("seed", [0, 7])
def test_random_driving_from_the_start_with_its_zoom(seed: int) -> None:
    assert_same_episode(pair(), seed, held(seed, 90))


def test_full_gas_until_the_car_leaves_the_playfield(envs: Pair) -> None:
    for env in envs:
        move_car(env, 0.0, PLAYFIELD - 20.0)
    assert assert_same_steps(envs, full_gas(100))


def test_discrete_actions_and_random_colours() -> None:
    rng = np.random.default_rng(0)
    envs = pair(continuous=False, domain_randomize=True)
    for seed in range(2):
        assert_same_episode(envs, seed, rng.integers(5, size=30))


DRIVERS = {
    "wild": lambda seed: held(seed, 500),
    "slow": lambda seed: held(seed, 500, gas=0.3, brake=0),
    "full gas": lambda seed: full_gas(500),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("driver", DRIVERS)
def test_many_more_frames(driver: str, seed: int) -> None:
    envs = pair(domain_randomize=seed % 4 == 3)
    assert_same_episode(envs, seed, DRIVERS[driver](seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_whole_laps(seed: int) -> None:
    envs = pair()
    envs[0].reset(seed=seed)
    assert assert_same_episode(envs, seed, chase(envs[0])), "the driver did not come round"


# --- places and instruments -----------------------------------------------------------------------


def place(envs: Pair, x: float, y: float, angle: float, t: float) -> None:
    for env in envs:
        env.car.hull.position, env.car.hull.angle, env.t = (x, y), angle, t


def random_place(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Anywhere: on the field, at its edge, outside; during the zoom of the start and after it."""
    reach = rng.choice([0.6, 1.0, 1.15, 3.0, 30.0]) * PLAYFIELD
    x, y = rng.uniform(-reach, reach, size=2)
    if rng.random() < 0.3:
        x = rng.choice([-1, 1]) * (PLAYFIELD + rng.uniform(-60, 60))
    angle = rng.choice([rng.uniform(-10, 10), math.pi / 2 * rng.integers(-4, 5)])
    return x, y, angle, rng.choice([0.0, rng.uniform(0, 1), 5.0, 5.0, 5.0])


def places_that_differ(envs: Pair, count: int, seed: int = 0) -> int:
    rng = np.random.default_rng(seed)
    different = 0
    for i in range(count):
        place(envs, *random_place(rng))
        different += not same_pictures(envs, "rgb_array" if i % 5 == 0 else "state_pixels")
    return different


def test_any_place_angle_and_zoom(envs: Pair) -> None:
    assert places_that_differ(envs, 120) == 0


@pytest.mark.slow
def test_many_more_places() -> None:
    for seed in range(10):
        both = pair()
        for env in both:
            env.reset(seed=seed)
        assert places_that_differ(both, 400, seed) == 0


@pytest.mark.parametrize("speed", [0.0, 20.0, 120.0, 400.0])
def test_indicators_and_score(envs: Pair, speed: float) -> None:
    """Bars that stand out above the dashboard too, which no drive brings about."""
    rng = np.random.default_rng(int(speed))
    place(envs, 100.0, 100.0, 1.0, 5.0)
    for _ in range(8):
        velocity, spin = rng.uniform(-1, 1, size=2) * speed, rng.uniform(-20, 20)
        omegas, reward = rng.uniform(-2, 5, size=4) * speed, rng.uniform(-200, 1000)
        for env in envs:
            env.car.hull.linearVelocity, env.car.hull.angularVelocity = tuple(velocity), spin
            for wheel, omega in zip(env.car.wheels, omegas, strict=True):
                wheel.omega = float(omega)
            env.reward = reward
        assert same_pictures(envs, "state_pixels")
        assert same_pictures(envs, "rgb_array")


# --- negative controls: the comparison finds a fast renderer that is slightly wrong ---------------


def too_small_circles(fast: CarRacingFast) -> None:
    fast._radius_P = fast._radius_P * 0.7


def old_colours(fast: CarRacingFast) -> None:
    fast._color_P = [tuple(color) for color in fast._color_P]


def wrong_order(fast: CarRacingFast) -> None:
    for name in ("_x_P4", "_y_P4", "_x_P", "_y_P", "_radius_P", "_color_P"):
        setattr(fast, name, getattr(fast, name)[::-1])


@pytest.mark.parametrize("fault", [too_small_circles, old_colours, wrong_order])
def test_a_planted_fault_is_found(fault: Callable[[CarRacingFast], None], monkeypatch) -> None:
    def create_track(self):
        done = CREATE(self)
        fault(self)
        return done

    CREATE = CarRacingFast._create_track
    monkeypatch.setattr(CarRacingFast, "_create_track", create_track)
    with pytest.raises(AssertionError, match="bytes differ"):
        assert_same_episode(pair(), 0, held(0, 60))


@pytest.mark.parametrize(
    ("name", "value"), [("VIEW_RADIUS", 100.0), ("MARGIN", -60), ("PLAYFIELD", 1e9)]
)
def test_planted_constants_are_found(envs: Pair, monkeypatch, name: str, value: float) -> None:
    monkeypatch.setattr(car_racing, name, value)
    assert places_that_differ(envs, 40) > 0


def test_a_bar_above_the_dashboard_is_drawn_by_gymnasium(envs: Pair, monkeypatch) -> None:
    place(envs, 100.0, 100.0, 1.0, 5.0)
    for env in envs:
        env.car.wheels[0].omega = 600.0
    assert same_pictures(envs, "rgb_array")
    monkeypatch.setattr(CarRacingFast, "_bars_leave_panel", lambda self: False)
    assert not same_pictures(envs, "rgb_array")


# --- the rule of the lap --------------------------------------------------------------------------


def tour(env: CarRacing, tiles: int) -> dict:
    """Put the car on one tile after the other, then back on the first; the last info."""
    env.reset(seed=0)
    for i in [*range(2, tiles, 2), 0]:
        move_car(env, *env.track[i][2:])
        _, _, terminated, truncated, info = env.step(np.zeros(3, np.float32))
        assert not truncated and terminated == bool(info)
        if terminated:
            return {"tile": i} | info
    return {}


def test_a_completed_lap_ends_the_episode_only_on_request() -> None:
    rule = {"lap_complete_percent": 0.2}
    assert tour(CarRacing(**rule), 100) == tour(CarRacingFast(**rule), 100) == {}
    fixed = CarRacingFast(**rule, end_completed_lap=True)
    assert tour(fixed, 100) == {"tile": 0, "lap_finished": True}
    assert tour(fixed, 30) == {}  # too little of the lap
    assert tour(CarRacingFast(end_completed_lap=True), 100) == {}


def test_all_tiles_end_the_episode_under_both_rules() -> None:
    for env in (CarRacing(), CarRacingFast(), CarRacingFast(end_completed_lap=True)):
        env.reset(seed=0)
        env.tile_visited_count = len(env.track)
        *_, terminated, _, info = env.step(np.zeros(3, np.float32))
        assert terminated and info == {"lap_finished": True}


# --- as an env of ours ----------------------------------------------------------------------------


def test_it_is_registered_and_made_with_its_options() -> None:
    config = EnvConfig(
        id="rlzoo.envs.zoo.car_racing:CarRacingFast-v3", kwargs={"end_completed_lap": True}
    )
    env = make_env(config)
    assert gymnasium.spec("CarRacingFast-v3").max_episode_steps == 1000
    assert isinstance(env.unwrapped, CarRacingFast) and env.unwrapped.end_completed_lap
    again = pickle.loads(pickle.dumps(env.unwrapped))
    assert again.end_completed_lap and (again.reset(seed=1)[0] == env.reset(seed=1)[0]).all()
    env.close()


def test_pictures_are_new_arrays(envs: Pair) -> None:
    first = envs[1]._render("state_pixels")
    kept = first.copy()
    place(envs, 0.0, 0.0, 2.0, 5.0)
    envs[1]._render("state_pixels")
    assert (first == kept).all() and first.flags.c_contiguous and first.flags.writeable


def test_envs_draw_on_the_same_canvas_in_turn() -> None:
    stock, fast = [CarRacing(), CarRacing()], [CarRacingFast(), CarRacingFast()]
    for action in [None, *held(0, 4)]:
        for i in range(2):
            shown = [
                env.reset(seed=i)[0] if action is None else env.step(action)[0]
                for env in (stock[i], fast[i])
            ]
            assert (shown[0] == shown[1]).all()


def test_the_window_is_gymnasiums(monkeypatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    watched, fast = CarRacingFast(render_mode="human"), CarRacingFast()
    obs, _ = watched.reset(seed=4)
    assert (obs == fast.reset(seed=4)[0]).all()
    action = np.array((0.3, 1, 0), np.float32)
    assert (watched.step(action)[0] == fast.step(action)[0]).all()
    watched.close()  # ends pygame's window and fonts for the whole process
    stock = CarRacing()
    assert_same_episode((stock, fast), 4, held(4, 15))
