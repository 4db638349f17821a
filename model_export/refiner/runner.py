"""Ways to a refiner's alpha, for the proof: the network in torch, and a graph in ONNX Runtime."""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from artifact import Tolerance
from model_export.parity import rounding_of
from model_export.refiner.tiles import tile_inputs
from model_export.sessions import open_session
from modeling.crm.network import CRM


class RefinerNetworkRunner:
    """The network in torch, unfolded, in float64 (the reference) or float32; its positions are float32 in both."""

    def __init__(self, network: CRM, answer: int, dtype: torch.dtype = torch.float64) -> None:
        self._network = copy.deepcopy(network).to(dtype).eval()
        self._answer = answer
        self._dtype = dtype

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run(tile_inputs(images, self._answer))

    @torch.no_grad()
    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """(B, S, S) alpha of the graph's inputs by their names: the window's part of the whole tile's answer."""
        found = []
        for index in range(len(arrays["image"])):
            image, mask, frame = (torch.tensor(arrays[name][index : index + 1]) for name in arrays)
            planes = image.permute(0, 3, 1, 2).to(self._dtype) / 255
            whole = self._network(planes, mask.to(self._dtype), frame[:, :4]).float()
            top, left = (int(each) for each in frame[0, 4:])
            found.append(whole[:, top : top + self._answer, left : left + self._answer])
        alpha: NDArray[np.float32] = torch.cat(found).numpy()
        return alpha


class RefinerOnnxRunner:
    """A refiner's graph in ONNX Runtime, on the CPU.

    Raises:
        ExportError: The file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self._answer = int(self._session.get_outputs()[0].shape[1])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run(tile_inputs(images, self._answer))

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """The graph's output for its inputs by their names."""
        output: NDArray[np.float32] = self._session.run(None, dict(arrays))[0]
        return output


class RefinerReference:
    """What a refiner answers to the sample images of a tile size, in float64."""

    name = "network"

    def __init__(self, network: CRM, size: tuple[int, int], answer: int) -> None:
        self.size = size
        self._exact = RefinerNetworkRunner(network, answer)
        self._plain = RefinerNetworkRunner(network, answer, torch.float32)

    def truth(self, _: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(S, S) alpha of one sample image."""
        return self._exact(image[None])[0]

    def rounding(self, name: str, image: NDArray[np.uint8], _: str) -> Tolerance:
        """How far the network itself is from its truth in float32, times what a graph may be farther."""
        return rounding_of(np.abs(self._plain(image[None])[0] - self.truth(name, image)))
