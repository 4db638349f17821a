"""The training network with its last convolution moved equals the plain one, in values and in gradients."""

import torch

from modeling.birefnet.network import BiRefNet
from tests.support.tiny_training import TINY_NETWORK
from tests.support.tolerance import LEAN_LOGITS
from training.lean import LeanBiRefNet


def pair():
    torch.manual_seed(3)
    plain, lean = BiRefNet(TINY_NETWORK).double(), LeanBiRefNet(TINY_NETWORK).double()
    lean.load_state_dict(plain.state_dict())
    return plain, lean


def test_logits_agree():
    plain, lean = (network.eval() for network in pair())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert (plain(x) - lean(x)).abs().max() < LEAN_LOGITS


def test_training_outputs_and_gradients_agree():
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for network in pair():
        network.train()
        torch.manual_seed(0)
        outputs = network(x)
        loss = outputs.logits.square().mean() + sum(side.square().mean() for side in outputs.side_logits)
        loss.backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    first, second = gradients
    assert first.keys() == second.keys()
    assert max((first[name] - second[name]).abs().max() for name in first) < LEAN_LOGITS
