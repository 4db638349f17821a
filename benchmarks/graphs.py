"""The graphs that the export's benchmarks compare: networks at their sizes, folded as far as asked."""

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

import model_export
import modeling
from model_export.deform_conv import use_exportable_operator
from model_export.four_gather import use_four_gathers
from model_export.graph import write_graph
from modeling.birefnet.config import SWIN_L, SWIN_T
from modeling.birefnet.network import BiRefNet
from modeling.contract import ImageToAlpha
from modeling.folding import REWRITES, fold
from modeling.folding.sharing import with_shared_tensors
from modeling.weights import load_network
from tests.support.networks import TINY, seeded_network

FOLDED, UNFOLDED, FOUR_GATHERS = "folded", "unfolded", "four gathers"
EMBEDDED = Path(__file__).parents[1] / "training" / "checkpoints" / "compact.safetensors"
_SEEDED = {"swin_v1_l": SWIN_L, "swin_v1_t": SWIN_T, "tiny": TINY}
_CODE_KEY = "benchmark_code"


@dataclass(frozen=True, slots=True)
class Subject:
    """A network at a working size.

    Attributes:
        network: `embedded` (the default model's checkpoint), or `swin_v1_l`, `swin_v1_t`, `tiny` with seeded weights.
        size: (height, width).
    """

    network: str
    size: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> "Subject":
        """From `swin_v1_t:1024`; the working size is square.

        Raises:
            ValueError: There is no such network, or the size is no number.
        """
        name, _, side = text.partition(":")
        if name != "embedded" and name not in _SEEDED:
            raise ValueError(f"expected embedded, {', '.join(_SEEDED)}, found {name!r}")
        return cls(name, (int(side), int(side)))

    def load(self) -> BiRefNet:
        """The network in evaluation mode."""
        return load_network(EMBEDDED) if self.network == "embedded" else seeded_network(_SEEDED[self.network])

    def __str__(self) -> str:
        return f"{self.network}:{self.size[0]}"


def stages(network: BiRefNet) -> Iterator[tuple[str, BiRefNet]]:
    """The network as it is, and then after each rewrite, on top of those before it."""
    yield UNFOLDED, with_shared_tensors(network)
    for name, rewrite in REWRITES.items():
        network = rewrite(network)
        yield name, network


def folded_graphs(subject: Subject, folder: Path) -> list[tuple[str, Path]]:
    """(stage, ONNX file) of every stage; files that the same code wrote before are taken as they are."""
    paths = {stage: _path(subject, stage, folder) for stage in (UNFOLDED, *REWRITES)}
    if not all(_is_current(path) for path in paths.values()):
        for stage, network in stages(subject.load()):
            _write(network, subject, paths[stage])
    return list(paths.items())


def compared_graphs(subject: Subject, folder: Path) -> list[tuple[str, Path]]:
    """(name, ONNX file) of the export and of what it is compared with."""
    last = list(REWRITES)[-1]
    paths = {
        FOLDED: _path(subject, last, folder),
        UNFOLDED: _path(subject, UNFOLDED, folder),
        FOUR_GATHERS: _path(subject, FOUR_GATHERS, folder),
    }
    if not all(_is_current(path) for path in paths.values()):
        network = subject.load()
        folded = fold(network)
        _write(folded, subject, paths[FOLDED])
        _write(network, subject, paths[UNFOLDED])
        _write(folded, subject, paths[FOUR_GATHERS], use_four_gathers)
    return list(paths.items())


def _write(
    network: BiRefNet, subject: Subject, path: Path, prepare: Callable[[BiRefNet], None] = use_exportable_operator
) -> None:
    if _is_current(path):
        return
    print(f"exporting {subject}: {path.name}", file=sys.stderr, flush=True)
    copy = with_shared_tensors(network)
    prepare(copy)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    write_graph(ImageToAlpha(copy), subject.size, unfinished, {_CODE_KEY: _code()})
    unfinished.rename(path)


def _path(subject: Subject, stage: str, folder: Path) -> Path:
    return folder / f"{subject.network}-{subject.size[0]}-{stage.replace(' ', '-')}.onnx"


def _is_current(path: Path) -> bool:
    if not path.is_file():
        return False
    written = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return written.get(_CODE_KEY) == _code()


def _code() -> str:
    """A hash of everything that decides what is in a graph."""
    sources = itertools.chain.from_iterable(
        sorted(Path(package.__file__ or "").parent.rglob("*.py")) for package in (modeling, model_export)
    )
    digest = hashlib.sha256()
    for path in (*sources, EMBEDDED):
        digest.update(path.read_bytes())
    return digest.hexdigest()
