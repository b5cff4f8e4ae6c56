"""Static int8: factors that change no product, ranges of the least error, graphs as their emulation."""

import golden
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_compiled import CONFIG, FRAMES, last, model
from torch import Tensor, nn

from diffrhythm import precision, smoothquant
from diffrhythm.compiled import Compiled
from diffrhythm.smoothquant import COSTS, INPUT_OF, INPUTS, Calibration, Dynamic, Form, Input, Static
from diffrhythm.transformer import Block, DiT

HAS_INT8 = not precision.INT8_FLAGS.isdisjoint(precision.cpu_flags())


def calibration(form: Form = "static", *, seed: int = 0, step: float = 6 / 127) -> Calibration:
    """Of the small model, every linear in this form, factors between 1/4 and 4."""
    generator = torch.Generator().manual_seed(seed)
    crude = smoothquant.crude(model(), step)
    inputs = {
        name: Input(4 ** (2 * torch.rand(each.factors.shape, generator=generator) - 1), step)
        for name, each in crude.inputs.items()
    }
    return Calibration(inputs, dict.fromkeys(crude.forms, form))


def outliers(rows: int = 64, channels: int = 96) -> Tensor:
    """Activations as those of transformers are: a few channels far larger than the rest."""
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(3))
    x[:, ::17] *= 30
    return x


def weight(rows: int = 80, channels: int = 96) -> Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(4)) / 10


def static_block(whole: DiT, found: Calibration) -> None:
    """Puts what int8 is emulated by into the model, for good."""
    for i, block in enumerate(whole.transformer_blocks):
        assert isinstance(block, Block)
        for name in INPUT_OF:
            module = found.module(i, block, name, 128)
            if module is not None:
                smoothquant.put(block, name, module)


# ---------------------------------------------------------------- factors


def test_smoothing_leaves_the_function_as_it_is() -> None:
    exact, smooth, found = model(), model(), calibration("float")
    for i, block in enumerate(smooth.transformer_blocks):
        assert isinstance(block, Block)
        weights = {name: found.weight(i, block, name) for name in INPUT_OF}
        gains = {name: found.gains(i, block, name) for name in smoothquant.NORM_OF}
        for name, made in weights.items():
            block.get_submodule(name).weight = nn.Parameter(made, requires_grad=False)
        for name, norm in smoothquant.NORM_OF.items():
            block.get_submodule(norm).weight = nn.Parameter(gains[name], requires_grad=False)
    assert golden.distance(last(smooth), last(exact)) < 1e-5


@given(st.floats(0, 1))
def test_factors_have_a_mean_of_one(strength: float) -> None:
    x, w = outliers(), weight()
    factors = smoothquant.smoothing(x.abs().amax(dim=0), w.abs().amax(dim=0), strength)
    assert float(factors.log().mean()) == pytest.approx(0, abs=1e-4)
    assert bool((factors > 0).all())


def test_full_strength_makes_all_channels_equally_large() -> None:
    x = outliers()
    factors = smoothquant.smoothing(x.abs().amax(dim=0), weight().abs().amax(dim=0), 1.0)
    largest = (x / factors).abs().amax(dim=0)
    assert float(largest.max() / largest.min()) == pytest.approx(1, abs=1e-4)


def test_a_channel_that_is_always_zero_has_a_factor() -> None:
    x = outliers()
    x[:, 5] = 0
    found = smoothquant.calibrated(x.abs().amax(dim=0), x, torch.ones(len(x)), [weight()])
    assert bool((found.factors.isfinite() & (found.factors > 0)).all())


# ---------------------------------------------------------------- what is found


def error_of(found: Input, x: Tensor, w: Tensor) -> float:
    return smoothquant.squared_error(Static(w, found)(x), x @ w.T, torch.ones(len(x)))


def test_calibrated_products_are_nearer_than_those_of_the_largest_value() -> None:
    x, w = outliers(), weight()
    found = smoothquant.calibrated(x.abs().amax(dim=0), x, torch.ones(len(x)), [w])
    plain = Input(torch.ones(96), float(x.abs().max()) / 127)
    assert error_of(found, x, w) < 0.2 * error_of(plain, x, w)


def test_clipping_a_rare_large_value_is_better_where_it_counts_little() -> None:
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(5))
    x[0, 0] = 40
    shares, importance = torch.ones(400), torch.ones(64)
    step = smoothquant.best_step(x, shares, importance)
    largest = 40 / 127

    def error(each: float) -> float:
        return float((x - smoothquant.rounded(x, each)).square().sum())

    assert error(step) <= error(largest)
    # As often as all other rows together, it is not clipped.
    shares[0] = 1e6
    assert smoothquant.best_step(x, shares, importance) == pytest.approx(largest)


def test_the_step_of_nothing_but_zeros_is_a_number() -> None:
    assert smoothquant.best_step(torch.zeros(3, 4), torch.ones(3), torch.ones(4)) > 0


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 10))
def test_rounding_gives_the_nearest_of_256_numbers(value: float, step: float) -> None:
    made = float(smoothquant.rounded(torch.tensor([value]), step)[0])
    assert -128 * step * (1 + 1e-5) <= made <= 127 * step * (1 + 1e-5)
    if -128 * step <= value <= 127 * step:
        assert abs(made - value) <= step * (0.5 + 1e-3)


def test_a_scale_for_each_group_keeps_small_groups_beside_large_ones() -> None:
    x, w = torch.randn(8, 256), torch.randn(16, 256)
    x[:, :128] *= 1000
    small = torch.zeros(16, 256)
    small[:, 128:] = w[:, 128:]
    assert golden.distance(Dynamic(small, 128)(x), x @ small.T) < 0.03
    assert golden.distance(Dynamic(small, 256)(x), x @ small.T) > 0.3


# ---------------------------------------------------------------- the graph


def test_inputs_that_no_static_linear_reads_have_no_factors() -> None:
    found = calibration()
    forms = dict(found.forms) | {"1.mlp.down_proj": "dynamic", "1.mlp.up_proj": "float"}
    made = smoothquant.arranged(found.inputs, forms)
    assert bool((made.inputs["1.gated"].factors == 1).all())
    assert torch.equal(made.inputs["1.mlp"].factors, found.inputs["1.mlp"].factors)
    assert made.digest != found.digest


@pytest.mark.parametrize("form", COSTS)
def test_graphs_calculate_what_their_emulation_does(form: Form) -> None:
    found, emulated = calibration(form), model()
    static_block(emulated, found)
    made = last(Compiled(model(), frames=FRAMES, precision="int8", threads=1, calibration=found))
    # Without dot products of int8, pairs of products are added in 16 bits or weights alone are int8.
    most = {"float": 1e-4, "static": 0.01 if HAS_INT8 else 0.1, "dynamic": 0.01 if HAS_INT8 else 0.1}
    assert golden.distance(made, last(emulated)) < most[form]


def test_one_linear_may_have_another_form_than_those_beside_it() -> None:
    found = calibration("float")
    forms = dict(found.forms) | {"0.self_attn.k_proj": "static", "2.mlp.up_proj": "dynamic"}
    mixed = smoothquant.arranged(found.inputs, forms)
    made = last(Compiled(model(), frames=FRAMES, precision="int8", threads=1, calibration=mixed))
    assert 1e-5 < golden.distance(made, last(model())) < 0.1


def test_a_crude_calibration_is_static_everywhere_and_can_be_compiled() -> None:
    crude = smoothquant.crude(model())
    assert set(crude.forms.values()) == {"static"}
    assert len(crude.forms) == CONFIG.depth * sum(map(len, INPUTS.values()))
    made = last(Compiled(model(), frames=FRAMES, precision="int8", threads=1, calibration=crude))
    assert bool(made.isfinite().all())


def test_replaced_linears_are_put_back() -> None:
    block = model().transformer_blocks[0]
    assert isinstance(block, Block)
    before = block.mlp.down_proj
    with smoothquant.replaced(block, {"mlp.down_proj": nn.Identity()}):
        assert block.mlp.down_proj is not before
    assert block.mlp.down_proj is before
