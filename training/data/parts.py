"""Parts: a region and what it is made of. A subject is a list of parts, drawn back to front."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from training.data.palettes import Colour
from training.data.shapes import Points, Rng, rotate


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    `texture` names a tile of the bank; `scale` is the tile's width in units of the scene; `contrast` how far the
    pattern goes from `colour` towards `second`; `relief` the strength of the shading, `gloss` of the highlight;
    `opacity` of the whole.
    """

    colour: Colour
    second: Colour
    texture: str = "cloud"
    scale: float = 1.0
    angle: float = 0.0
    contrast: float = 0.5
    relief: float = 0.5
    gloss: float = 0.0
    opacity: float = 1.0


@dataclass(frozen=True)
class Part:
    """A region: the union of `contours`, minus `holes`, and `strands` drawn `width` wide.

    A `detail` is painted on what is already there and never changes the matte.
    """

    material: Material
    contours: Sequence[Points] = ()
    holes: Sequence[Points] = ()
    strands: Sequence[Points] = ()
    width: float = 0.0
    detail: bool = False


@dataclass(frozen=True)
class Subject:
    """Parts in any unit, and how the camera takes them.

    `share` is the range of the frame's side that the longer side of `frame` (x0, y0, x1, y1; else the bounding box)
    fills; `sits` says that the thing stands on something; `cut` that it continues below the picture; `centred` that
    it is never put aside.
    """

    parts: Sequence[Part]
    share: tuple[float, float] = (0.4, 0.95)
    sits: bool = False
    cut: bool = False
    centred: bool = False
    frame: tuple[float, float, float, float] | None = field(default=None)

    def bounds(self) -> tuple[float, float, float, float]:
        """`frame`, or the bounding box (x0, y0, x1, y1) of every contour."""
        if self.frame is not None:
            return self.frame
        every = np.concatenate([c for part in self.parts if not part.detail for c in (*part.contours, *part.strands)])
        (x0, y0), (x1, y1) = every.min(axis=0), every.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)


def transformed(part: Part, matrix: NDArray[np.float64]) -> Part:
    """`part` under an affine map (2, 3); stroke widths and texture scales follow the map's mean scale."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    factor = float(np.sqrt(abs(np.linalg.det(linear))))

    def move(curves: Sequence[Points]) -> list[Points]:
        return [curve @ linear.T + shift for curve in curves]

    material = replace(part.material, scale=part.material.scale * factor)
    return replace(
        part,
        material=material,
        contours=move(part.contours),
        holes=move(part.holes),
        strands=move(part.strands),
        width=part.width * factor,
    )


def turned(parts: Sequence[Part], angle: float) -> list[Part]:
    """The parts rotated about the origin by `angle` radians; textures keep their direction."""

    def move(curves: Sequence[Points]) -> list[Points]:
        return [rotate(curve, angle) for curve in curves]

    return [replace(p, contours=move(p.contours), holes=move(p.holes), strands=move(p.strands)) for p in parts]


def plain(colour: Colour, relief: float = 0.3, gloss: float = 0.0) -> Material:
    """A material of one colour, hardly mottled."""
    return Material(colour, np.clip(colour * 0.8, 0, 1), "cloud", contrast=0.3, relief=relief, gloss=gloss)


def patterned(rng: Rng, colour: Colour, second: Colour, names: Sequence[str], scale: tuple[float, float]) -> Material:
    """A material with one of the named textures at a random scale and angle."""
    return Material(
        colour,
        second,
        str(rng.choice(list(names))),
        scale=float(np.exp(rng.uniform(*np.log(scale)))),
        angle=float(rng.uniform(0, np.pi)),
        contrast=float(rng.uniform(0.3, 1.0)),
        relief=float(rng.uniform(0.3, 0.8)),
        gloss=float(rng.uniform(0, 0.5) ** 2),
    )
