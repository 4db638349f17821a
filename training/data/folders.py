"""Folders of the user's own: which photograph belongs to which matte, whatever the layout.

| layout | photographs | mattes |
|---|---|---|
| BiRefNet's, DIS5K | `im/` | `gt/` |
| P3M-10k | `blurred_image/` (train, P3M-500-P) or `original_image/` (P3M-500-NP) | `mask/` |
| AM-2k | `original/` | `mask/` |
| cut-outs | `cutouts/` RGBA over `backgrounds/` (or procedural ones) | their alpha |

A folder is searched with its subfolders, so that a data set's root, or several data sets side by side, will do.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

_PAIRED = (("im", "gt"), ("blurred_image", "mask"), ("original_image", "mask"), ("original", "mask"))
_CUTOUTS, _BACKGROUNDS = "cutouts", "backgrounds"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_ORIENTATION = 0x0112
_NAMED = 5


class FolderError(ValueError):
    """A folder does not hold what training needs; the message says what was expected and what is there."""


@dataclass(frozen=True)
class Pair:
    """A photograph and its matte, of one size."""

    image: Path
    matte: Path


@dataclass(frozen=True)
class Cutout:
    """An RGBA picture with straight alpha, and what it may be put before; nothing: procedural backgrounds."""

    image: Path
    backgrounds: tuple[Path, ...]


Example = Pair | Cutout


def find_examples(root: Path) -> list[Example]:
    """Every example below a folder, in the order of the paths.

    Raises:
        FolderError: There is no such folder, none of the layouts is in it, a photograph has no matte or a matte no
            photograph, their sizes differ, or a file cannot be read.
    """
    if not root.is_dir():
        raise FolderError(f"{root} is not a folder")
    found: list[Example] = []
    for folder in _folders(root):
        for images, mattes in _PAIRED:
            if (folder / images).is_dir() and (folder / mattes).is_dir():
                found += _pairs(folder / images, folder / mattes)
        if (folder / _CUTOUTS).is_dir():
            backgrounds = tuple(_pictures(folder / _BACKGROUNDS)) if (folder / _BACKGROUNDS).is_dir() else ()
            found += [Cutout(path, backgrounds) for path in _cutouts(folder / _CUTOUTS)]
    if not found:
        known = ", ".join(f"{images}/ with {mattes}/" for images, mattes in _PAIRED)
        raise FolderError(
            f"{root} holds no pictures to train on: expected {known}, or {_CUTOUTS}/, here or in a subfolder; found "
            f"{', '.join(sorted(path.name for path in root.iterdir())[:_NAMED]) or 'nothing'}"
        )
    return found


def _folders(root: Path) -> Iterator[Path]:
    yield root
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            yield path


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _pairs(images: Path, mattes: Path) -> list[Pair]:
    left, right = _by_stem(images), _by_stem(mattes)
    _refuse_lonely(left.keys() - right.keys(), images, f"no matte in {mattes}")
    _refuse_lonely(right.keys() - left.keys(), mattes, f"no photograph in {images}")
    pairs = [Pair(left[stem], right[stem]) for stem in sorted(left)]
    for pair in pairs:
        sizes = _size(pair.image), _size(pair.matte)
        if sizes[0] != sizes[1]:
            raise FolderError(
                f"expected a matte of its photograph's size, found {pair.image} of {_text(sizes[0])} and "
                f"{pair.matte} of {_text(sizes[1])}"
            )
    return pairs


def _by_stem(folder: Path) -> dict[str, Path]:
    paths = _pictures(folder)
    twice = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twice:
        raise FolderError(f"{folder}: expected one picture of each name, found several of {_some(twice)}")
    return {path.stem: path for path in paths}


def _refuse_lonely(stems: Iterable[str], folder: Path, lack: str) -> None:
    lonely = sorted(stems)
    if lonely:
        raise FolderError(f"{folder}: {len(lonely)} pictures have {lack}: {_some(lonely)}")


def _cutouts(folder: Path) -> list[Path]:
    paths = _pictures(folder)
    for path in paths:
        with _opened(path) as picture:
            if picture.mode not in {"RGBA", "LA", "PA"} and "transparency" not in picture.info:
                raise FolderError(f"{path}: expected a cut-out with an alpha channel, found mode {picture.mode}")
    return paths


def _size(path: Path) -> tuple[int, int]:
    """Width and height as shown, from the header alone."""
    with _opened(path) as picture:
        width, height = picture.size
        # Asked for what it has not, Pillow reads a whole PNG in search of it.
        told = "exif" in picture.info or picture.format == "TIFF"
        turned = told and picture.getexif().get(_ORIENTATION, 1) >= 5  # 5 to 8 are turned by a quarter
    return (height, width) if turned else (width, height)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise FolderError(f"{path}: not a readable picture: {error}") from error


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
