"""How long random actions and a planner that knows all fireballs survive in TakeCover.

python tools/bench/takecover_baselines.py [random|planner] [EPISODES] [SKILL] [HELD]

Random actions are left, stay or right, held for 1 to HELD tics (10: those of
the paper's data). The planner reads positions and speeds from the game (a policy sees pixels),
tries plans of two held actions over the next 45 tics with the player's own dynamics, and takes the
first action of the one that is hit latest, or passes fireballs at the greatest distance. It cannot
know what will be thrown.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np
import vizdoom

from rlzoo.core.seeding import TEST, episode_seed
from rlzoo.envs.zoo.takecover import TakeCover

HORIZON = 45  # tics; a fireball crosses the room in 24 at skill 5
HELD = (1, 2, 4, 6, 8, 12, 16, 20, 26, 32, HORIZON)  # tics of a plan's first action
PLAYER_X, WALLS_Y = -416.0, (16.0, 752.0)  # the player moves along y alone
THRUST, FRICTION = 0.75, 0.90625  # map units a tic, as measured
HIT_X, HIT_Y = 22.0, 24.0  # radius of the player and of a fireball, and a margin
MAX_TICS = 2100
VARIABLES = (vizdoom.GameVariable.POSITION_Y, vizdoom.GameVariable.VELOCITY_Y)

PLAN_PT = np.array(
    [
        [first] * held + [then] * (HORIZON - held)
        for first, then, held in itertools.product((1, 0, -1), (1, 0, -1), HELD)
        if first != then or held == HORIZON
    ]
)


def plan(y: float, speed: float, fireballs: list[tuple[float, float, float, float]]) -> int:
    """1 (left), 0 or -1 (right), for the player at `y` and fireballs (x, y, speed x, speed y)."""
    middle = sum(WALLS_Y) / 2
    if not fireballs:
        return int(np.sign(middle - y)) if abs(middle - y) > 40 else 0
    y_P, speed_P = np.full((2, len(PLAN_PT)), [[y], [speed]])
    hit_P, distance_P = np.full((2, len(PLAN_PT)), [[HORIZON + 1.0], [1000.0]])
    for t in range(HORIZON):
        speed_P = speed_P + THRUST * PLAN_PT[:, t]
        moved_P = y_P + speed_P
        y_P = moved_P.clip(*WALLS_Y)
        speed_P = np.where(moved_P == y_P, speed_P * FRICTION, 0)
        for ball_x, ball_y, speed_x, speed_y in fireballs:
            if abs(ball_x + speed_x * (t + 1) - PLAYER_X) < HIT_X + abs(speed_x):
                away_P = np.abs(ball_y + speed_y * (t + 1) - y_P)
                hit_P = np.where((away_P < HIT_Y) & (hit_P > t), t, hit_P)
                distance_P = np.minimum(distance_P, away_P)
    score_P = 100 * hit_P + np.minimum(distance_P, 60) - 0.05 * np.abs(y_P - middle)
    return int(PLAN_PT[score_P.argmax(), 0])


def planner(env: TakeCover) -> Iterator[int]:
    while True:
        state = env._game.get_state()
        y, speed = state.game_variables[1:]
        fireballs = [
            (ball.position_x, ball.position_y, ball.velocity_x, ball.velocity_y)
            for ball in state.objects
            if ball.name == "DoomImpBall" and abs(ball.velocity_x) > 1
            if ball.position_x > PLAYER_X - HIT_X
        ]
        yield {1: 0, 0: 1, -1: 2}[plan(y, speed, fireballs)]


def at_random(rng: np.random.Generator, held: int) -> Iterator[int]:
    while True:
        yield from [int(rng.integers(3))] * int(rng.integers(1, held + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", choices=["random", "planner"], nargs="?", default="planner")
    parser.add_argument("episodes", type=int, nargs="?", default=100)
    parser.add_argument("skill", type=int, nargs="?", default=4)
    parser.add_argument("held", type=int, nargs="?", default=1)
    arguments = parser.parse_args()
    env = TakeCover(skill=arguments.skill, continuous=False, resolution="160x120")
    game = env._game
    game.close()  # what else is seen has to be said before the game begins
    game.set_objects_info_enabled(True)
    for variable in VARIABLES:
        game.add_available_game_variable(variable)
    game.init()
    lives = []
    for index in range(arguments.episodes):
        seed = episode_seed(0, TEST, 0, index)
        env.reset(seed=seed)
        dead, tics = False, 0
        if arguments.policy == "planner":
            actions = planner(env)
        else:
            actions = at_random(np.random.default_rng(seed), arguments.held)
        while not dead and tics < MAX_TICS:
            dead = env.step(next(actions))[2]
            tics += 1
        lives.append(tics)
    env.close()
    error = np.std(lives) / np.sqrt(len(lives))
    print(
        f"{arguments.policy}, skill {arguments.skill}, {len(lives)} episodes: mean "
        f"{np.mean(lives):.0f}, standard error {error:.0f}, standard deviation "
        f"{np.std(lives):.0f}, median {np.median(lives):.0f}"
    )


if __name__ == "__main__":
    main()
