"""What is done to an image at random: mirroring, a crop, a small turn; and moves that the network is told of."""

import math
from typing import NamedTuple

import numpy as np

from jax_ddpm.data.transforms import warp

TOLD = 9  # how many numbers say what non-leaking augmentation has done
SCALE = ANISOTROPY = 2**0.2  # Karras et al. 2022, table 6: factor of one standard deviation
SHIFT = 1 / 8  # and share of the side


class Augmentation(NamedTuple):
    """What is drawn anew for each image, each time that it comes.

    Attributes:
      flip: mirror it left to right in one of two draws.
      crop: the least share of the side that a random square has; 1 cuts none.
      rotate: degrees by which it is turned at most, either way.
      non_leaking: the probability of each move that the network is told of; see `tell`.
    """

    flip: bool = False
    crop: float = 1.0
    rotate: float = 0.0
    non_leaking: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything is done at all."""
        return self != Augmentation()

    def stored_size(self, size: int) -> int:
        """Pixels a side of the image that squares are cut out of, the least of which then has `size`.

        An image that has fewer itself, but no fewer than `size`, is not enlarged to so many: that would only blur it.
        """
        return round(size / self.crop)


class Moves(NamedTuple):
    """The eight numbers a_0 … a_7 that non-leaking augmentation draws, 0 where a move is not made.

    Attributes:
      x_flip, y_flip: 0 or 1.
      scale: log of the factor to the base SCALE.
      rotation: radians.
      direction, anisotropy: an angle in radians, and the log of the factor by which the image is stretched that way.
      shift_x, shift_y: in SHIFTs of the side.
    """

    x_flip: float = 0.0
    y_flip: float = 0.0
    scale: float = 0.0
    rotation: float = 0.0
    direction: float = 0.0
    anisotropy: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0


def augment(image: np.ndarray, size: int, how: Augmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image with all that is drawn for it done to it at once, so that it is resampled once.

    Args:
      image: [S, S, C] uint8, size ≤ S ≤ how.stored_size(size).
    Returns:
      [size, size, C] uint8, mirrored where the image is moved from beyond its edges; and [9] float32, what the network is told.
    """
    mirrored = how.flip and not how.non_leaking and rng.random() < 0.5
    if how.crop == 1 and not how.rotate and not how.non_leaking:  # by far the commonest, so it is quick
        return image[:, ::-1] if mirrored else image, tell(Moves())
    window = _draw_window(len(image), how.crop, size, rng) if how.crop < 1 else _window(0, 0, len(image), size)
    turn = _turn(math.radians(rng.uniform(-how.rotate, how.rotate))) if how.rotate else np.eye(3)
    moves = draw_moves(how, rng) if how.non_leaking else Moves()
    done = matrix(moves, size) @ _scale(-1 if mirrored else 1, 1) @ turn
    inverse = window @ np.linalg.inv(done) @ _shift(-size / 2, -size / 2)
    return warp(image, inverse[:2], size), tell(moves)


def draw_moves(how: Augmentation, rng: np.random.Generator) -> Moves:
    """Each move with probability `how.non_leaking`; with `how.flip`, mirroring left to right always, as in the paper.

    A flip that is drawn is made in one of two draws.

    x_flip, y_flip ~ {0, 1}; scale, anisotropy, shift_x, shift_y ~ N(0, 1); rotation, direction ~ U(-π, π)
    (Karras et al. 2022, appendix F.2, table 6)
    """
    x_flip, y_flip, scale, rotation, anisotropy, shift = (rng.random(6) < how.non_leaking).tolist()
    flips, normals, angles = rng.integers(2, size=2), rng.normal(size=4), rng.uniform(-math.pi, math.pi, 2)
    return Moves(
        x_flip=float((x_flip or how.flip) * flips[0]),
        y_flip=float(y_flip * flips[1]),
        scale=float(scale * normals[0]),
        rotation=float(rotation * angles[0]),
        direction=float(anisotropy * angles[1]),
        anisotropy=float(anisotropy * normals[1]),
        shift_x=float(shift * normals[2]),
        shift_y=float(shift * normals[3]),
    )


def tell(moves: Moves) -> np.ndarray:
    """[9] float32, zeros where nothing was done: angles as cosine less one and sine, so that they go round.

    a_0, a_1, a_2, cos a_3 - 1, sin a_3, a_5 cos a_4, a_5 sin a_4, a_6, a_7        (Karras et al. 2022, table 6)
    """
    stretch = moves.anisotropy * math.cos(moves.direction), moves.anisotropy * math.sin(moves.direction)
    turn = math.cos(moves.rotation) - 1, math.sin(moves.rotation)
    return np.array(
        [moves.x_flip, moves.y_flip, moves.scale, *turn, *stretch, moves.shift_x, moves.shift_y],
        np.float32,
    )


def matrix(moves: Moves, size: int) -> np.ndarray:
    """[3, 3] where a point (x, y, 1) goes, in pixels from the image's centre: the moves in their order."""
    stretch = ANISOTROPY**moves.anisotropy
    done = _scale(1 - 2 * moves.x_flip, 1 - 2 * moves.y_flip)
    done = _scale(SCALE**moves.scale, SCALE**moves.scale) @ done
    done = _turn(-moves.rotation) @ done
    done = _turn(moves.direction) @ _scale(stretch, 1 / stretch) @ _turn(-moves.direction) @ done
    return _shift(SHIFT * size * moves.shift_x, SHIFT * size * moves.shift_y) @ done


def _draw_window(stored: int, least: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of that share of the side or more, anywhere; not of whole pixels, so that there are such of any share."""
    side = stored * rng.uniform(least, 1)
    left, top = rng.uniform(0, stored - side, size=2).tolist()
    return _window(left, top, side, size)


def _window(left: float, top: float, side: float, size: int) -> np.ndarray:
    """[3, 3] from a point of the result, measured from its centre, to one of the image, measured from its corner."""
    return _shift(left + side / 2, top + side / 2) @ _scale(side / size, side / size)


def _scale(x: float, y: float) -> np.ndarray:
    return np.diag([x, y, 1.0])


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _turn(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
