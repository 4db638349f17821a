"""InverseForm (Borse et al., CVPR 2021): how far a predicted boundary has to be moved, as a loss.

To a pixel-wise loss a boundary that is off by eight pixels is hardly worse than one that is off by four. A small
network, trained beforehand to tell by which transformation one boundary map became another, knows the difference;
frozen, its answer is the loss. Written from the equations in `shared/reference/refinement.md` section D; no code of the
official repository.

**Patent notice.** The loss is the subject of the US patent application US 2022/0156528, and the official repository's
licence grants no patent rights. It is off by default. Ask a lawyer before you train a product's network with it.

| module | what |
|---|---|
| `boundary` | differentiable boundary maps of alpha mattes |
| `tiles` | cut into tiles, those without a boundary left out |
| `transform` | the six normalised parameters of an affine transformation |
| `network` | the network that tells them from a pair of maps: convolutional, or flattening as published |
| `distance` | how far a transformation is from the identity: Euclidean, geodesic |
| `pairs`, `pretraining` | procedural shapes, warped; learning from them |
| `term` | the loss, and when in a run it counts |
"""

from training.losses.inverse_form.boundary import soft_boundary
from training.losses.inverse_form.distance import DISTANCES, euclidean, geodesic
from training.losses.inverse_form.network import InverseNetwork, InverseNetworkConfig, load_inverse, save_inverse
from training.losses.inverse_form.term import COMMITTED, InverseForm, InverseFormOptions

__all__ = [
    "COMMITTED",
    "DISTANCES",
    "InverseForm",
    "InverseFormOptions",
    "InverseNetwork",
    "InverseNetworkConfig",
    "euclidean",
    "geodesic",
    "load_inverse",
    "save_inverse",
    "soft_boundary",
]
