"""gymnasium's CarRacing-v3 with a faster picture: the same pixels in a quarter of the time.

gymnasium turns all 700 to 800 polygons of a track point by point in Python to draw about 10 of
them, and shrinks a 1000x800 window by area averaging. Here NumPy finds the polygons in view, a
fill stands for the playfield where it covers the view, and the picture is turned upside down when
it is 96 columns wide instead of 1000. Rasterising and averaging are left to the same functions of
pygame with the same arguments, so every pixel stays what it was; physics and rewards are
gymnasium's own.

Registered as CarRacingFast-v3, with CarRacing-v3's limit of 1000 steps.
"""

from __future__ import annotations

import os
from functools import lru_cache
from math import hypot
from typing import Any, NamedTuple

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium
import numpy as np
import pygame
from gymnasium.envs.box2d.car_racing import (
    GRASS_DIM,
    PLAYFIELD,
    SCALE,
    STATE_H,
    STATE_W,
    VIDEO_H,
    VIDEO_W,
    WINDOW_H,
    WINDOW_W,
    ZOOM,
    CarRacing,
    FrictionDetector,
)
from gymnasium.utils import EzPickle
from pygame import gfxdraw
from pygame.math import Vector2
from pygame.transform import smoothscale

SIZES = {"state_pixels": (STATE_W, STATE_H), "rgb_array": (VIDEO_W, VIDEO_H)}
# The canvas is drawn upside down: the dashboard covers its first rows, in the end the last ones.
PANEL_H = WINDOW_H // 8
VIEW_H = WINDOW_H - PANEL_H
CAR_X, CAR_Y = WINDOW_W / 2, WINDOW_H / 4  # where on the canvas the car is
VIEW_RADIUS = hypot(CAR_X, WINDOW_H - CAR_Y)  # from there to the farthest corner
MARGIN = 3  # pixels: what rounding and an anti-aliased edge can add to a polygon


def grass() -> np.ndarray:
    """The light squares of the playfield, in gymnasium's order: corners [400, 4, 2]."""
    square = np.array([(1, 0), (0, 0), (0, 1), (1, 1)])
    places = np.array([(x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)])
    return GRASS_DIM * places[:, None] + GRASS_DIM * square


class Camera(NamedTuple):
    """From the world to the canvas: turn by an angle, times zoom, plus translation.

    The operations and their order are gymnasium's, which makes the results equal to the last bit.
    """

    angle: float
    zoom: float
    x: float
    y: float
    cos: float
    sin: float

    def pixels(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Canvas coordinates of points, in pixels."""
        return (
            (self.cos * x - self.sin * y) * self.zoom + self.x,
            (self.sin * x + self.cos * y) * self.zoom + self.y,
        )


class CarRacingFast(CarRacing):
    """CarRacing with equal observations, rewards and ends, drawn in a fraction of the time.

    `end_completed_lap` makes `lap_complete_percent` work, which does nothing in gymnasium 1.4: an
    episode then ends when the car crosses the start with that share of the tiles visited, as
    documented, and not only when it has visited every one (gymnasium issue 1269).
    """

    car: Any
    surf: Any

    def __init__(
        self,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        end_completed_lap: bool = False,
    ) -> None:
        settings = (render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        super().__init__(*settings)
        EzPickle.__init__(self, *settings, end_completed_lap)
        self.end_completed_lap = end_completed_lap

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)
        if self.end_completed_lap:
            detector = LapDetector(self, self.lap_complete_percent)
            self.world.contactListener = self.world.contactListener_bug_workaround = detector
        return obs, info

    def _create_track(self) -> bool:
        """Build a track as gymnasium does, and lay out for NumPy all there is to draw."""
        if not super()._create_track():
            return False
        squares = grass()
        polygons = np.concatenate([squares, [corners for corners, _ in self.road_poly]])
        self._x_P4, self._y_P4 = polygons[..., 0].copy(), polygons[..., 1].copy()
        centre = (polygons.min(axis=1) + polygons.max(axis=1)) / 2
        self._x_P, self._y_P = centre[:, 0].copy(), centre[:, 1].copy()
        self._radius_P = np.hypot(*(polygons - centre[:, None]).T).max(axis=0)
        # The arrays themselves: a tile's changes when the car touches it.
        self._color_P = [self.grass_color] * len(squares) + [color for _, color in self.road_poly]
        return True

    def _render(self, mode: str) -> Any:
        if mode not in SIZES or "t" not in self.__dict__ or self._bars_leave_panel():
            return super()._render(mode)
        camera = self._camera()
        self._draw_field(camera)
        self._draw_polygons(camera)
        skids = mode != "state_pixels"
        self.car.draw(CANVAS, camera.zoom, (camera.x, camera.y), camera.angle, skids)
        shrink = SHRINK[mode]
        shrink.view()
        self._draw_panel()
        shrink.panel()
        return shrink.picture()

    def _camera(self) -> Camera:
        angle = -self.car.hull.angle
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        x, y = self.car.hull.position
        scroll = Vector2((-x * zoom, -y * zoom)).rotate_rad(angle)
        turn = Vector2(1, 0).rotate_rad(angle)
        return Camera(angle, zoom, CAR_X + scroll[0], CAR_Y + scroll[1], turn[0], turn[1])

    def _draw_field(self, camera: Camera) -> None:
        x, y = self.car.hull.position
        if max(abs(x), abs(y)) + (VIEW_RADIUS + MARGIN) / camera.zoom < PLAYFIELD:
            CANVAS.fill([int(c) for c in self.bg_color])
            return
        CANVAS.fill(0)
        b = PLAYFIELD
        corners = [camera.pixels(*corner) for corner in ((b, b), (b, -b), (-b, -b), (-b, b))]
        gfxdraw.aapolygon(CANVAS, corners, self.bg_color)
        gfxdraw.filled_polygon(CANVAS, corners, self.bg_color)

    def _draw_polygons(self, camera: Camera) -> None:
        """Grass and road, as far as they are in view: a polygon's bounding circle tells."""
        x, y = camera.pixels(self._x_P, self._y_P)
        reach = self._radius_P * camera.zoom + MARGIN
        visible = np.flatnonzero(
            (abs(x - WINDOW_W / 2) < WINDOW_W / 2 + reach)
            & (abs(y - (PANEL_H + VIEW_H / 2)) < VIEW_H / 2 + reach)
        )
        corners = np.stack(camera.pixels(self._x_P4[visible], self._y_P4[visible]), axis=-1)
        # To integers towards zero, as pygame does with floats.
        for i, polygon in zip(visible.tolist(), corners.astype(int).tolist(), strict=True):
            color = [int(c) for c in self._color_P[i]]
            gfxdraw.aapolygon(CANVAS, polygon, color)
            gfxdraw.filled_polygon(CANVAS, polygon, color)

    def _draw_panel(self) -> None:
        self.surf = CANVAS  # where the inherited method draws
        self._render_indicators(WINDOW_W, WINDOW_H)
        text = score(f"{self.reward:04.0f}")
        CANVAS.blit(text, text.get_rect(center=(60, WINDOW_H - WINDOW_H * 2.5 / 40.0)))

    def _bars_leave_panel(self) -> bool:
        """Whether a bar stands out above the dashboard (no ordinary drive comes near it)."""
        speed = self.car.hull.linearVelocity.length
        return max(0.02 * speed, *(0.01 * wheel.omega for wheel in self.car.wheels)) > 3.9


class LapDetector(FrictionDetector):
    """Ends a lap whenever the start is crossed, not only when it is touched for the first time."""

    def BeginContact(self, contact: Any) -> None:
        super().BeginContact(contact)
        one, other = contact.fixtureA.body.userData, contact.fixtureB.body.userData
        for tile, wheel in ((one, other), (other, one)):
            if getattr(tile, "idx", None) == 0 and hasattr(wheel, "tiles"):
                visited = self.env.tile_visited_count / len(self.env.track)
                self.env.new_lap |= visited > self.lap_complete_percent


class Shrink:
    """The canvas as gymnasium shows it: upside down, with the dashboard, averaged over areas.

    smoothscale shrinks rows of pixels first and columns second, with bytes in between: between the
    two, when there is less to move, the rows can change places. The memory is kept, because new
    pages cost more than what is done with them.
    """

    def __init__(self, canvas: pygame.Surface, width: int, height: int) -> None:
        self._view = canvas.subsurface((0, PANEL_H, WINDOW_W, VIEW_H))
        self._panel = canvas.subsurface((0, VIEW_H, WINDOW_W, PANEL_H))
        self._narrow_view, self._upside_down = surface_and_pixels(width, VIEW_H)
        self._narrow, self._upright = surface_and_pixels(width, WINDOW_H)
        self._narrow_panel = self._narrow.subsurface((0, VIEW_H, width, PANEL_H))
        self._small, self._pixels = surface_and_pixels(width, height)

    def view(self) -> None:
        """Take over what the canvas holds above the dashboard."""
        smoothscale(self._view, self._narrow_view.get_size(), self._narrow_view)
        self._upright[:VIEW_H] = self._upside_down[::-1]

    def panel(self) -> None:
        """Take over the dashboard, which is drawn upright."""
        smoothscale(self._panel, self._narrow_panel.get_size(), self._narrow_panel)

    def picture(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        smoothscale(self._narrow, self._small.get_size(), self._small)
        return self._pixels[..., 2::-1].copy()


def surface_and_pixels(width: int, height: int) -> tuple[pygame.Surface, np.ndarray]:
    """A surface, and its memory as an array [height, width, BGRA]."""
    pixels = np.zeros((height, width, 4), dtype=np.uint8)
    return pygame.image.frombuffer(pixels.data, (width, height), "BGRA"), pixels


# All envs draw on these in turn, so that they stay in the processor's cache. Not for threads: nor
# are pygame's polygons (gfxdraw), and with them gymnasium's env.
CANVAS = pygame.Surface((WINDOW_W, WINDOW_H))
SHRINK = {mode: Shrink(CANVAS, *size) for mode, size in SIZES.items()}


@lru_cache(maxsize=1024)
def score(text: str) -> pygame.Surface:
    """The score as gymnasium writes it."""
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    return font.render(text, True, (255, 255, 255), (0, 0, 0))


gymnasium.register(
    "CarRacingFast-v3",
    entry_point="rlzoo.envs.zoo.car_racing:CarRacingFast",
    max_episode_steps=1000,
    reward_threshold=900,
)
