from pathlib import Path

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffrhythm import transformer
from diffrhythm.config import ModelConfig
from diffrhythm.errors import BundleError
from diffrhythm.transformer import Constants, DiT, load_weights, rotate

CONFIG = ModelConfig(dim=64, depth=2, conv_layers=1, text_rows=12, max_frames=64)


def model() -> DiT:
    return golden.model_of(CONFIG, weight_seed=7)


def on_meta() -> DiT:
    with torch.device("meta"):
        return DiT(CONFIG)


def constants(dit: DiT, frames: int) -> Constants:
    fused = (torch.zeros(1, frames, CONFIG.dim),)
    return Constants(torch.zeros(1, frames, CONFIG.dim), fused, dit.rotary(frames))


def test_loaded_weights_are_the_given_memory(tmp_path: Path) -> None:
    save_file(model().state_dict(), tmp_path / "dit.safetensors")
    tensors = load_file(tmp_path / "dit.safetensors")
    dit = on_meta()
    load_weights(dit, tensors)
    assert {name: weight.data_ptr() for name, weight in dit.named_parameters()} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }
    assert not any(weight.requires_grad for weight in dit.parameters())


def test_missing_surplus_and_misshaped_weights_are_all_named() -> None:
    tensors = model().state_dict()
    del tensors["proj_out.bias"]
    tensors["transformer.proj_out.bias"] = torch.zeros(64)
    tensors["time_embed.time_mlp.0.bias"] = torch.zeros(511)
    tensors["norm_out.linear.bias"] = torch.zeros(128, dtype=torch.int64)
    with pytest.raises(BundleError) as raised:
        load_weights(on_meta(), tensors)
    message = str(raised.value)
    assert "missing proj_out.bias" in message
    assert "surplus transformer.proj_out.bias" in message
    assert "time_embed.time_mlp.0.bias is [511], not [512]" in message
    assert "norm_out.linear.bias is torch.int64" in message


def test_a_message_about_many_wrong_weights_stays_one_short_line() -> None:
    with pytest.raises(BundleError, match=r"and \d+ more") as raised:
        load_weights(on_meta(), {})
    assert len(str(raised.value)) < 800
    assert "\n" not in str(raised.value)


def test_the_first_frame_hears_the_last() -> None:
    dit = model()
    x_t = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    changed = x_t.clone()
    changed[:, -1] += 1
    modulation = dit.modulation(0.5, torch.zeros(1, 512))
    # The convolutions reach 30 frames, so at a distance of 63 only attention can.
    with torch.no_grad():
        before, after = (dit.velocity(x, modulation, constants(dit, 64)) for x in (x_t, changed))
    assert float((before[:, 0] - after[:, 0]).abs().max()) > 1e-4


def test_every_frame_of_text_depends_on_the_whole_song() -> None:
    text_embed = model().text_embed
    ids = torch.zeros(1, 60, dtype=torch.int64)
    changed = ids.clone()
    changed[0, -1] = 5
    with torch.no_grad():
        assert not torch.equal(text_embed(ids)[0, 0], text_embed(changed)[0, 0])


def test_rotation_leaves_only_the_distance_of_two_frames_in_their_product() -> None:
    dit = golden.model_of(ModelConfig(dim=256, depth=1, conv_layers=1), weight_seed=1)
    generator = torch.Generator().manual_seed(2)
    q, k = (torch.randn(1, 1, 1, 8, generator=generator).expand(1, 1, 40, 8) for _ in range(2))
    table = dit.rotary(40)
    product = rotate(q, table) @ rotate(k, table).transpose(-1, -2)
    assert torch.allclose(product[..., 3, 10], product[..., 23, 30], atol=1e-5)
    assert not torch.allclose(product[..., 3, 10], product[..., 10, 3], atol=1e-2)


def test_a_batch_is_its_items_one_by_one() -> None:
    dit = model()
    x_t = torch.randn(3, 20, 64, generator=torch.Generator().manual_seed(3))
    modulation = dit.modulation(torch.tensor(0.3), torch.zeros(1, 512))
    with torch.no_grad():
        together = dit.velocity(x_t, modulation, constants(dit, 20))
        alone = torch.cat([dit.velocity(x[None], modulation, constants(dit, 20)) for x in x_t])
    assert golden.distance(together, alone) < golden.ONE_PASS


@pytest.mark.parametrize("at_a_time", [1, 24, 63, 64])
def test_an_mlp_gives_the_same_numbers_in_pieces_of_any_size(
    monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    block = model().transformer_blocks[0]
    h = torch.randn(2, 64, CONFIG.dim, generator=torch.Generator().manual_seed(0))
    whole, inside = block.mlp(h), []
    monkeypatch.setattr(transformer, "MLP_FRAMES", at_a_time)
    block.mlp.gate_proj.register_forward_hook(lambda _, __, made: inside.append(made.shape[1]))
    assert golden.distance(block.mlp(h), whole) < 1e-6
    assert sum(inside) == 64
    assert max(inside) == at_a_time


@pytest.mark.parametrize("at_a_time", [1, 100, 255])
def test_an_mlp_gives_the_same_numbers_in_pieces_of_its_channels(
    monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    mlp = model().transformer_blocks[0].mlp
    x = torch.randn(2, 20, CONFIG.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = mlp(x)
        monkeypatch.setattr(transformer, "MLP_CHANNELS", at_a_time)
        in_pieces = mlp(x)
    assert not torch.equal(in_pieces, whole)  # the sums have another order
    assert golden.distance(in_pieces, whole) < 1e-6


def test_hooks_on_the_linears_of_an_mlp_in_pieces_see_their_whole_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlp = model().transformer_blocks[0].mlp
    monkeypatch.setattr(transformer, "MLP_CHANNELS", 100)
    seen: list[int] = []
    mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    with torch.no_grad():
        mlp(torch.ones(1, 3, CONFIG.dim))
    assert seen == [mlp.down_proj.in_features]


def test_an_mlp_in_pieces_has_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = model().transformer_blocks[0].mlp.requires_grad_(True)
    monkeypatch.setattr(transformer, "MLP_CHANNELS", 100)
    mlp(torch.ones(1, 3, CONFIG.dim)).sum().backward()
    assert mlp.gate_proj.weight.grad is not None


def test_a_linear_that_was_put_in_place_of_one_of_an_mlp_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = model().transformer_blocks[0].mlp
    monkeypatch.setattr(transformer, "MLP_CHANNELS", 100)
    mlp.up_proj = torch.nn.Sequential(torch.nn.Identity(), mlp.up_proj)
    x = torch.randn(1, 3, CONFIG.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = mlp(x)
        mlp.up_proj[1].weight.mul_(2)
        assert golden.distance(mlp(x), 2 * before) < 1e-6
