"""A run on a device and in a precision: the CPU half runs everywhere, the CUDA half is the same code."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.tiny_training import TINY_NETWORK, OneImage, tiny_config, tiny_run
from training.checkpoint import Ema
from training.config import TrainingConfig
from training.data.sets import SETS
from training.data.stream import normalised
from training.evaluate import evaluate
from training.lean import LeanBiRefNet
from training.losses import LossWeights
from training.objective import step_loss
from training.parallel import Group, LaunchError, Processes, launch
from training.precision import PRECISIONS
from training.preview import mattes, photographs
from training.refiner.config import RefinerConfig
from training.session import RunOptions, train_in_group

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")],
    ),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)


def group_on(device):
    return Group(device=torch.device(device))


def parameters_of(run):
    return {name: value.detach().clone() for name, value in run.network.named_parameters()}


@on_each_device
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_learns_in_every_precision(tmp_path, device, precision):
    config = tiny_config(steps=20, learning_rate=1e-2, precision=precision)
    run = tiny_run(tmp_path, config, OneImage(), group_on(device))
    (batch,) = next(run.stream())
    assert batch.images.device.type == device
    first = run.train_step(batch)["mae"]
    run.train()
    assert run.train_step(batch)["mae"] < 0.85 * first
    assert all(value.dtype == torch.float32 and value.device.type == device for value in run.network.parameters())
    assert all(value.device.type == device for value in run.ema.state.values())


@on_each_device
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_really_used(tmp_path, device, precision):
    run = tiny_run(tmp_path, tiny_config(precision=precision), OneImage(), group_on(device))
    seen = []
    run.network.decoder.decoder_block1.conv_in.register_forward_hook(lambda *each: seen.append(each[2].dtype))
    run.train_step(*next(run.stream()))
    assert seen == [PRECISIONS[precision] or torch.float32]
    assert {value.grad.dtype for value in run.network.parameters() if value.grad is not None} == {torch.float32}


@on_each_device
def test_gradients_are_clipped_without_their_scale(tmp_path, device):
    norms = []
    for scale in (4.0, 64.0):
        config = tiny_config(batch=4, precision="fp16")
        run = tiny_run(tmp_path, config, SETS["heldout"], group_on(device))
        run.scaler = torch.amp.GradScaler(device, init_scale=scale)
        norms.append(run.train_step(*next(run.stream()))["norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


@on_each_device
def test_the_scale_of_fp16_goes_on_where_it_was(tmp_path, device):
    config = tiny_config(precision="fp16")
    runs = {}
    for name, stops in (("whole", [None]), ("parts", [3, None])):
        for stop in stops:
            run = tiny_run(tmp_path / name, config, group=group_on(device))
            if not run.resume():
                run.scaler = torch.amp.GradScaler(device, init_scale=64.0, growth_interval=2)
            run.train(stop_after=stop)
            runs[name] = run
    state = runs["whole"].scaler.state_dict()
    assert state["scale"] == 64.0 * 2**3
    assert runs["parts"].scaler.state_dict() == state
    if device == "cpu":
        whole, parts = (each.network.state_dict() for each in runs.values())
        assert all(torch.equal(parts[name], value) for name, value in whole.items())


@on_each_device
def test_an_overflow_in_fp16_changes_the_scale_and_no_weight(tmp_path, device):
    run = tiny_run(tmp_path, tiny_config(precision="fp16"), OneImage(), group_on(device))
    run.scaler = torch.amp.GradScaler(device, init_scale=2.0**120)
    before = parameters_of(run)
    figures = run.train_step(*next(run.stream()))
    assert not math.isfinite(figures["norm"])
    assert math.isfinite(figures["loss"])
    assert run.scaler.get_scale() == 2.0**119
    assert run.progress.step == 1
    assert all(torch.equal(value, before[name]) for name, value in parameters_of(run).items())


@on_each_device
def test_a_run_that_overflows_at_every_scale_stops_with_a_reason(tmp_path, device):
    run = tiny_run(tmp_path, tiny_config(precision="fp16"), OneImage(), group_on(device))
    with torch.no_grad():
        next(run.network.parameters()).fill_(math.nan)
    run.scaler = torch.amp.GradScaler(device, init_scale=2.0)
    (batch,) = next(run.stream())
    run.train_step(batch)
    with pytest.raises(FloatingPointError, match="whatever its scale"):
        run.train_step(batch)


@on_each_device
def test_a_session_previews_and_resumes_on_its_device(tmp_path, device):
    for steps in (1, 2):
        train_in_group(group_on(device), tiny_config(steps=steps), RunOptions(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["preview-000001.png", "preview-000002.png"]


@on_each_device
def test_mattes_and_figures_are_those_of_the_cpu(device):
    torch.manual_seed(3)
    network = LeanBiRefNet(TINY_NETWORK).eval()
    images = photographs(32)[:2]
    expected, figures = mattes(network, images), evaluate(network, SETS["heldout"], 32, 1)
    network.to(device)
    np.testing.assert_allclose(mattes(network, images), expected, atol=1e-4)
    assert evaluate(network, SETS["heldout"], 32, 1)[0].mae == pytest.approx(figures[0].mae, abs=1e-4)


class Apart(TorchDispatchMode):
    """Meta tensors stand for those of a GPU: they have shapes and no values, and may not meet those of the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, torch.Tensor) and each.ndim]
        if len({each.device.type for each in given}) > 1 and func not in COPIES:
            raise ApartError(f"{func} of {[(each.device.type, tuple(each.shape)) for each in given]}")
        return func(*args, **(kwargs or {}))


class ApartError(Exception):
    """Tensors of two devices met."""


COPIES = {torch.ops.aten.copy_.default}


@pytest.mark.parametrize("dilation", [None, 2])
def test_nothing_of_a_step_stays_on_the_cpu(dilation):
    config = tiny_config(loss=LossWeights(mae=1.0, structure=1.0, contour=1.0, refine_mask=1.0))
    config = replace(config, gradient_dilation=dilation)
    with torch.device("meta"):
        network = LeanBiRefNet(TINY_NETWORK).train()
        images, target = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, 1, 64, 64)
    ema = Ema(network, 0.9)
    with Apart():
        planes = normalised(images)
        loss = step_loss(network(planes), planes, target, config, 0.5)
        loss.backward()
        ema.update(network, 1)
        with pytest.raises(ApartError):
            step_loss(network(planes), planes, torch.zeros(2, 1, 64, 64), config, 0.5)
    assert loss.device.type == "meta"
    assert [each.grad.device.type for each in network.parameters() if each.grad is not None] == ["meta"] * len(
        list(network.parameters())
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_starts():
    for count in (1, 2):
        with pytest.raises(LaunchError, match=f"expected {count} GPUs, one for each process, found 0"):
            launch(Processes(count, "cuda"), pytest.fail, "started")


def test_a_precision_is_one_of_three():
    with pytest.raises(ValueError, match="fp32, bf16, fp16, found 'half'"):
        tiny_config(precision="half")


@pytest.mark.parametrize("kind", [TrainingConfig, RefinerConfig])
def test_configurations_from_before_there_was_fp16_are_read(kind):
    from modeling.crm.config import CONFIGS
    from training.config import Budget

    config = tiny_config() if kind is TrainingConfig else RefinerConfig(CONFIGS["compact"], Budget(steps=1))
    values = config.to_dict()
    for name in ("precision", "accumulate", "backbone_rate", "layer_decay"):
        values.pop(name, None)
    assert kind.from_dict({**values, "bfloat16": False}) == config
    assert kind.from_dict({**values, "bfloat16": True}).precision == "bf16"
