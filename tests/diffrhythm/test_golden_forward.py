"""Whole passes, conditional, null and with one thing left out, against the published model's."""

from dataclasses import dataclass

import golden
import pytest
import torch
from golden import ONE_PASS, GoldenSet, distance
from torch import Tensor

from diffrhythm import conditioning
from diffrhythm.conditioning import Conditioning

SETS = golden.sets("forward")


@dataclass(frozen=True)
class Inputs:
    """The arrays of one prefix, such as n96b2 (frames and batch)."""

    one: GoldenSet
    prefix: str

    def __str__(self) -> str:
        return f"{self.one}-{self.prefix}"

    def __getitem__(self, name: str) -> Tensor:
        return self.one.arrays[f"{self.prefix}.{name}"]

    def has(self, name: str) -> bool:
        return f"{self.prefix}.{name}" in self.one.arrays

    def conditioning(
        self, *, text: Tensor | None = None, style: Tensor | None = None, known: bool = True
    ) -> Conditioning:
        """All the inputs but those that are given instead."""
        return conditioning.build(
            self.one.model,
            text_ids=self["text"] if text is None else text,
            style=self["style"] if style is None else style,
            negative_style=self["neg_style"],
            known=self["cond"] if known else None,
            duration_frames=self["duration"] * self.one.model.config.max_frames,
            start_time=self["start_time"],
        )

    def velocity(self, song: Conditioning, time: Tensor, *, null: bool = False) -> Tensor:
        model = self.one.model
        constants = song.null if null else song.conditional
        return model.velocity(self["x"], model.modulation(time, song.scalars), constants)


INPUTS = [Inputs(one, name.removesuffix(".x")) for one in SETS for name in one.arrays if name.endswith(".x")]


def having(name: str) -> list[Inputs]:
    return [inputs for inputs in INPUTS if inputs.has(name)]


def test_sets_of_whole_passes_are_there() -> None:
    assert INPUTS
    assert having("drop_audio_only")
    assert having("drop_text_only")
    assert having("drop_prompt")


@pytest.mark.parametrize("inputs", INPUTS, ids=str)
def test_conditional_and_null_passes_give_the_reference_velocity(inputs: Inputs) -> None:
    song = inputs.conditioning()
    for j, time in enumerate(inputs["times"]):
        assert distance(inputs.velocity(song, time), inputs[f"cond_out.{j}"]) < ONE_PASS
        assert distance(inputs.velocity(song, time, null=True), inputs[f"null_out.{j}"]) < ONE_PASS


@pytest.mark.parametrize("inputs", having("drop_audio_only"), ids=str)
def test_a_pass_without_the_known_latent_gives_the_reference_velocity(inputs: Inputs) -> None:
    result = inputs.velocity(inputs.conditioning(known=False), inputs["times"][-1])
    assert distance(result, inputs["drop_audio_only"]) < ONE_PASS


@pytest.mark.parametrize("inputs", having("drop_text_only"), ids=str)
def test_a_pass_without_text_gives_the_reference_velocity(inputs: Inputs) -> None:
    result = inputs.velocity(inputs.conditioning(text=torch.zeros_like(inputs["text"])), inputs["times"][-1])
    assert distance(result, inputs["drop_text_only"]) < ONE_PASS


@pytest.mark.parametrize("inputs", having("drop_prompt"), ids=str)
def test_a_pass_without_style_gives_the_reference_velocity(inputs: Inputs) -> None:
    result = inputs.velocity(
        inputs.conditioning(style=torch.zeros_like(inputs["style"])), inputs["times"][-1]
    )
    assert distance(result, inputs["drop_prompt"]) < ONE_PASS
