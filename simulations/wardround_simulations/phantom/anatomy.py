"""A chest as a radiograph sees it: how much the rays are weakened at every pixel.

A radiograph is a sum of path lengths, so every organ is a soft-edged shape that adds to or takes
from one map, and no organ hides another. Shapes follow the landmarks of a frontal (PA) view.

Only +, -, *, /, square root and comparisons are used, and random numbers are drawn as whole
53-bit fractions: IEEE 754 fixes the result of each to the last bit, whereas exp, sin or numpy's
own normal deviates may differ between processors. So a seed gives the same bytes everywhere.

Shape letters: S = height and width in pixels. Coordinates x (to the image's right, which is the
patient's left) and y (down) run from -1 to 1 over the image; lengths are in that unit too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]

_RIBS = 8
# Soft tissue in front of and behind the lungs shines through them.
_LUNG_DEPTH = 0.46
# Chosen so that a small network finds lesions even under strong privacy, and brightness alone does
# not give them away.
_LESION_CONTRAST = (0.25, 0.46)
_LESION_RADIUS = (0.14, 0.25)


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """Where a lesion lies: centre (row, column) and radius, all in pixels."""

    row: float
    column: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Chest:
    """One patient's chest.

    Attributes:
        attenuation: float64 [S, S], 0 (nothing but air) to about 1 (spine behind the heart).
        lesion: none in a healthy chest.
        mask: bool [S, S], where the lesion weakens the rays by a tenth or more of what it does at
            its strongest.
    """

    attenuation: Map
    lesion: Lesion | None
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What differs between patients: shifts and sizes in image units, signs for direction."""

    centre: float
    tilt: float
    width: float
    apex: float
    base: float
    heart: float
    rib_phase: float
    rib_slope: float
    stout: float


class _Sheet:
    """The pixel grid of one image, [S, S], and shapes whose edge is soft over three pixels."""

    def __init__(self, size: int) -> None:
        line = (2.0 * np.arange(size) + 1.0) / size - 1.0
        self.size = size
        self.x: Map = np.broadcast_to(line[None, :], (size, size))
        self.y: Map = np.broadcast_to(line[:, None], (size, size))
        self.edge = 3.0 / size

    def inside(self, distance: Map, softness: float = 0.0) -> Map:
        """1 where `distance` to the edge is well below zero, 0 well above, smooth between."""
        half = self.edge + softness
        share = np.clip((half - distance) / (2.0 * half), 0.0, 1.0)
        return share * share * (3.0 - 2.0 * share)

    def ellipse(
        self, x: float, y: float, width: float, height: float, *, softness: float = 0.0
    ) -> Map:
        """An ellipse around (x, y) with half axes `width` and `height`."""
        across, down = (self.x - x) / width, (self.y - y) / height
        radius = np.sqrt(across * across + down * down)
        return self.inside((radius - 1.0) * min(width, height), softness)

    def band(self, distance: Map, thickness: float) -> Map:
        """A rounded band, brightest on its middle line, like a tube seen from the side."""
        share = np.clip(1.0 - np.abs(distance) / (thickness + 0.5 * self.edge), 0.0, 1.0)
        return share * (2.0 - share)

    def segment(
        self, start: tuple[float, float], end: tuple[float, float], thickness: float
    ) -> Map:
        """A straight tube between two points."""
        along_x, along_y = end[0] - start[0], end[1] - start[1]
        length2 = along_x * along_x + along_y * along_y
        from_x, from_y = self.x - start[0], self.y - start[1]
        share = np.clip((from_x * along_x + from_y * along_y) / length2, 0.0, 1.0)
        away_x, away_y = from_x - share * along_x, from_y - share * along_y
        return self.band(np.sqrt(away_x * away_x + away_y * away_y), thickness)

    def texture(self, rng: np.random.Generator, cells: int) -> Map:
        """Value noise in -1..1 with `cells` cells a side (Perlin's lattice, bilinear)."""
        lattice = 2.0 * rng.random((cells + 1, cells + 1)) - 1.0
        position = np.arange(self.size) * (cells / self.size)
        low = position.astype(np.int64)
        share = position - low
        rows = lattice[low] * (1.0 - share)[:, None] + lattice[low + 1] * share[:, None]
        noise: Map = rows[:, low] * (1.0 - share) + rows[:, low + 1] * share
        return noise


def draw_chest(rng: np.random.Generator, size: int, *, lesion: bool) -> Chest:
    """Draw one chest, [S, S], with or without a lesion in one lung."""
    sheet = _Sheet(size)
    build = _draw_build(rng)
    heart, body = _heart(sheet, build), _body(sheet, build)
    lungs = _lungs(sheet, build) * (1.0 - 0.85 * heart)
    chest = body * (0.64 + 0.04 * build.stout) - lungs * (_LUNG_DEPTH - 0.02 * build.stout)
    chest = chest + 0.05 * heart + body * (_spine(sheet, build) + _bones(sheet, build))
    chest = chest + lungs * (_vessels(sheet, build, rng) + _parenchyma(sheet, rng))
    chest = chest + body * 0.03 * sheet.texture(rng, 5)
    if not lesion:
        nothing = np.zeros(chest.shape, dtype=np.bool_)
        return Chest(attenuation=np.clip(chest, 0.0, 1.2), lesion=None, mask=nothing)
    shadow, place = _draw_lesion(sheet, lungs, rng)
    mask = shadow >= 0.1 * shadow.max()
    return Chest(attenuation=np.clip(chest + shadow, 0.0, 1.2), lesion=place, mask=mask)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform number in low..high from one 53-bit fraction (see the module's note)."""
    return low + (high - low) * float(rng.random())


def _draw_build(rng: np.random.Generator) -> _Build:
    return _Build(
        centre=between(rng, -0.03, 0.03),
        tilt=between(rng, -0.03, 0.03),
        width=between(rng, 0.95, 1.05),
        apex=between(rng, -0.72, -0.65),
        base=between(rng, 0.54, 0.64),
        heart=between(rng, 0.85, 1.05),
        rib_phase=between(rng, 0.0, 1.0),
        rib_slope=between(rng, 0.10, 0.26),
        stout=between(rng, 0.0, 1.0),
    )


def _axis(sheet: _Sheet, build: _Build) -> Map:
    """X measured from the patient's middle line, which leans a little, [S, S]."""
    return sheet.x - build.centre - build.tilt * sheet.y


def _body(sheet: _Sheet, build: _Build) -> Map:
    """Trunk with sloping shoulders and neck, [S, S]."""
    across = np.abs(_axis(sheet, build))
    shoulder = -0.86 + 0.50 * np.maximum(across - 0.22, 0.0) * (0.6 + across)
    trunk = np.minimum(
        sheet.inside(across - 0.90 * build.width + 0.06 * np.square(sheet.y)),
        sheet.inside(shoulder - sheet.y, 0.05),
    )
    neck = sheet.inside(across - 0.25, 0.04)
    return np.maximum(trunk, neck * sheet.inside(sheet.y))


def _lungs(sheet: _Sheet, build: _Build) -> Map:
    """Both lungs as one mask, [S, S]: ribcage above the domes, without the mediastinum."""
    axis = _axis(sheet, build)
    across = np.abs(axis)
    middle = 0.5 * (build.apex + build.base) + 0.16
    half = build.base - middle + 0.30
    down = (sheet.y - middle) / np.where(sheet.y < middle, middle - build.apex, half)
    power = down * down * np.where(sheet.y < middle, 1.0, np.abs(down))
    outer = (0.75 * build.width) * np.sqrt(np.maximum(1.0 - power, 0.0))
    cage = sheet.inside(across - outer) * sheet.inside(build.apex - sheet.y)
    # The right dome (left in the image) stands higher, lifted by the liver.
    height = build.base - 0.07 * (axis < 0.0)
    from_dome = (across - 0.36) / 0.42
    dome = height - 0.12 + 0.26 * from_dome * from_dome
    mediastinum = 0.13 + 0.10 * np.square(sheet.y - 0.1)
    return cage * sheet.inside(sheet.y - dome) * sheet.inside(mediastinum - across)


def _heart(sheet: _Sheet, build: _Build) -> Map:
    """The heart's shadow and the aortic knob, to the patient's left, [S, S]."""
    size = build.heart
    lean = 0.55 * (sheet.x - build.centre) - 0.25 * size
    across = (sheet.x - build.centre - 0.14 * size) / (0.34 * size)
    down = (sheet.y - build.base + 0.24 - 0.20 * lean) / (0.27 * size)
    radius = np.sqrt(across * across + down * down)
    shadow = sheet.inside((radius - 1.0) * 0.27, 0.02)
    right = sheet.ellipse(build.centre - 0.08, build.base - 0.22, 0.17, 0.24, softness=0.03)
    knob = sheet.ellipse(build.centre + 0.12, -0.30, 0.10, 0.12, softness=0.02)
    return np.maximum(np.maximum(shadow, right), 0.8 * knob)


def _spine(sheet: _Sheet, build: _Build) -> Map:
    """Vertebral bodies with darker discs between them, and the windpipe, [S, S]."""
    axis = _axis(sheet, build)
    column = sheet.inside(np.abs(axis) - 0.10, 0.02)
    step = (sheet.y + 1.0 + 0.2 * build.rib_phase) / 0.2
    from_disc = np.abs(step - np.floor(step) - 0.5)
    trachea = sheet.inside(np.abs(axis + 0.01) - 0.055) * sheet.inside(sheet.y + 0.32)
    return column * (0.16 - 0.06 * np.clip(4.0 * from_disc - 1.0, 0.0, 1.0)) - 0.12 * trachea


def _bones(sheet: _Sheet, build: _Build) -> Map:
    """Ribs (behind: falling outwards; in front: falling inwards) and clavicles, [S, S]."""
    across = np.abs(_axis(sheet, build)) / build.width
    bones = np.zeros((sheet.size, sheet.size))
    spacing = 1.45 / _RIBS
    for rib in range(_RIBS):
        y = -0.80 + spacing * (rib + build.rib_phase)
        behind = sheet.y - (y + build.rib_slope * across - 0.30 * across * (0.55 - across))
        bones = bones + 0.07 * sheet.band(behind, 0.038) * sheet.inside(across - 0.80)
        in_front = sheet.y - (y + 0.30 - 0.50 * across * across)
        shown = sheet.inside(across - 0.78) * sheet.inside(0.34 - across, 0.08)
        bones = bones + 0.03 * sheet.band(in_front, 0.045) * shown
    clavicle = sheet.y - (-0.50 - 0.38 * across + 0.26 * across * across)
    reach = sheet.inside(across - 0.82) * sheet.inside(0.10 - across)
    return bones * sheet.inside(sheet.y - 0.85, 0.1) + 0.14 * sheet.band(clavicle, 0.045) * reach


def _vessels(sheet: _Sheet, build: _Build, rng: np.random.Generator) -> Map:
    """Vessels that leave both hila, fork once and grow thin, [S, S]."""
    tree = np.zeros((sheet.size, sheet.size))
    for side in (-1.0, 1.0):
        hilum = (build.centre + side * 0.19, -0.02 - 0.04 * side)
        tree = np.maximum(tree, 0.12 * sheet.ellipse(*hilum, 0.07, 0.11, softness=0.04))
        for branch in range(6):
            rise = -0.55 + 0.22 * branch + between(rng, -0.08, 0.08)
            fork = (
                hilum[0] + side * between(rng, 0.10, 0.20),
                hilum[1] + 0.55 * rise,
            )
            tree = np.maximum(tree, 0.08 * sheet.segment(hilum, fork, 0.030))
            for turn in (-0.10, 0.10):
                tip = (
                    fork[0] + side * between(rng, 0.08, 0.24),
                    fork[1] + 0.5 * rise + turn + between(rng, -0.05, 0.05),
                )
                tree = np.maximum(tree, 0.08 * sheet.segment(fork, tip, 0.018))
    return tree


def _parenchyma(sheet: _Sheet, rng: np.random.Generator) -> Map:
    """The fine mottling of aerated lung, in three octaves, [S, S]."""
    return (
        0.025 * sheet.texture(rng, 6)
        + 0.020 * sheet.texture(rng, 12)
        + 0.015 * sheet.texture(rng, 24)
    )


def _draw_lesion(sheet: _Sheet, lungs: Map, rng: np.random.Generator) -> tuple[Map, Lesion]:
    """A soft-edged nodule, or a cluster of two to four, wholly inside one lung."""
    row, column = _place(lungs, rng)
    x, y = sheet.x[row, column], sheet.y[row, column]
    contrast = between(rng, *_LESION_CONTRAST)
    radius = between(rng, *_LESION_RADIUS)
    parts = 1 if rng.random() < 0.6 else 2 + int(3.0 * rng.random())
    spread = 0.0 if parts == 1 else 0.75 * radius
    part_radius = radius if parts == 1 else 0.62 * radius
    shadow = np.zeros((sheet.size, sheet.size))
    for _ in range(parts):
        at_x, at_y = x + between(rng, -spread, spread), y + between(rng, -spread, spread)
        across, down = (sheet.x - at_x) / part_radius, (sheet.y - at_y) / part_radius
        share = np.maximum(1.0 - across * across - down * down, 0.0)
        shadow = np.maximum(shadow, contrast * share * (1.5 - 0.5 * share))
    half = 0.5 * sheet.size
    place = Lesion(row=float(row), column=float(column), radius=radius * half)
    return shadow, place


def _place(lungs: Map, rng: np.random.Generator) -> tuple[int, int]:
    """A pixel in a lung, uniformly among those with lung all around."""
    reach = max(1, lungs.shape[0] // 21)
    core = lungs > 0.95
    for axis in (0, 1):
        core = core & np.roll(core, reach, axis) & np.roll(core, -reach, axis)
    rows, columns = np.nonzero(core)
    chosen = int(rng.random() * len(rows))
    return int(rows[chosen]), int(columns[chosen])
