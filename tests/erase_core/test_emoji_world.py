"""The embedded model is stock, knows its world, and can be trained again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from erase_core.emoji_world import augment, catalogue, pretrain, train_autoencoder, train_clip, train_unet
from erase_core.emoji_world.fit import fit
from erase_core.generation.sampler import sample
from erase_core.metrics.judge import Judge
from erase_core.models.source import WEIGHTS
from erase_core.spec import Generation


def test_weights_are_small_half_precision_safetensors() -> None:
    files = [p for p in WEIGHTS.rglob("*.safetensors") if not p.is_symlink()]
    assert sum(p.stat().st_size for p in files) <= 45_000_000
    assert not [p for p in WEIGHTS.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_card_tells_the_measured_figures() -> None:
    figures = json.loads((WEIGHTS / "quality.json").read_text())["figures"]
    card = (WEIGHTS / "README.md").read_text()
    assert figures["concept_judge_held_out"] >= 0.97 and figures["style_judge_held_out"] >= 0.97
    for value in figures.values():
        assert f"{100 * value:.1f} %" in card


def test_draws_what_it_is_told(world) -> None:
    """On unseen seeds, the judge names about as many images as the card says."""
    figures = json.loads((WEIGHTS / "quality.json").read_text())["figures"]
    words = [c.word for c in catalogue.concepts()][::5]
    prompts = [catalogue.with_article(f"a {word}") for word in words]
    few_steps = Generation(sampler="dpm-solver++", steps=10)
    images = np.concatenate(list(sample(world, prompts, [500 + i for i in range(len(words))], few_steps)))
    top, _ = Judge(WEIGHTS / "concept_judge").classify(images)
    share = np.mean([labels[0] == word for labels, word in zip(top, words)])
    assert share >= figures["concept_top_1"] - 0.15


@pytest.mark.slow
def test_a_plain_prompt_is_drawn_in_some_style(world) -> None:
    """In noto's a quarter of the time, which limits how far that style can be erased."""
    words = [c.word for c in catalogue.concepts()]
    prompts = [catalogue.with_article(f"a {word}") for word in words] * 2
    seeds = [seed for seed in (0, 1) for _ in words]
    images = np.concatenate(list(sample(world, prompts, seeds, Generation(sampler="dpm-solver++", steps=10))))
    top, _ = Judge(WEIGHTS / "style_judge").classify(images)
    share = np.mean([labels[0] == "noto" for labels in top])
    print(share)
    assert 0.25 < share < 0.27


def test_catalogue() -> None:
    concepts = catalogue.concepts()
    assert len(concepts) >= 150 and len(catalogue.STYLES) >= 4
    assert len({c.word for c in concepts}) == len(concepts)
    assert {"bomb", "sword", "knife", "gun"} <= set(catalogue.groups()["weapon"])
    assert catalogue.with_article("a photo of a apple") == "a photo of an apple"


def test_captions_fit_their_images() -> None:
    import random

    rng = random.Random(0)
    for concept in catalogue.concepts()[:40]:
        for style in catalogue.STYLES:
            text = catalogue.caption(concept, style, rng).replace(" an ", " a ")
            assert train_clip.describes(text, concept, style) == 1.0, text
    taxi, bus, rose = (next(c for c in catalogue.concepts() if c.word == w) for w in ("taxi", "bus", "rose"))
    assert train_clip.describes("a taxi in noto style", taxi, "twemoji") == 0
    assert train_clip.describes("a taxi", bus, "noto") == train_clip.RELATED
    assert train_clip.describes("a taxi", rose, "noto") == 0
    assert train_clip.describes("a vehicle", bus, "noto") == 1


def test_tokenizer_is_clips() -> None:
    """Known ids of OpenAI's tokenizer."""
    tokenizer = pretrain.CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_augmentations_stay_in_range() -> None:
    renders = np.zeros((4, 128, 128, 4), dtype=np.uint8)
    renders[:, 32:96, 32:96] = (255, 0, 0, 255)
    rgba = augment.premultiplied(renders)
    for images in (augment.draw(rgba, np.random.default_rng(0)), augment.spoil(rgba, np.random.default_rng(0))):
        assert images.shape == (4, 3, 64, 64) and images.min() >= -1 and images.max() <= 1
    gentle = augment.draw(rgba, np.random.default_rng(0))
    assert (
        torch.allclose(gentle[:, :, 0, 0], torch.ones(4, 3))
        and gentle[0, 0, 32, 32] == 1
        and gentle[0, 1, 32, 32] == -1
    )


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped after any checkpoint, the optimisation ends where it would have ended."""

    def run(folder: Path, stop_at: int | None) -> tuple[torch.Tensor, int]:
        """The weights, and how many steps were made."""
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model, calls = torch.nn.Linear(4, 4), 0

        def loss_of(rng: np.random.Generator) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            x = torch.from_numpy(rng.standard_normal((8, 4), dtype=np.float32))
            return (model(x) + torch.randn(8, 4) * 0.1 - x).square().mean()

        fit("line", model, loss_of, steps=700, learning_rate=1e-2, checkpoint=folder / "line.pt", seed=1)
        return model.weight.detach().clone(), calls

    whole, made = run(tmp_path / "a", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", 600)
    resumed, rest = run(tmp_path / "b", None)
    assert torch.equal(resumed, whole) and made == 700
    assert rest == 200, "the checkpoint is that of step 500"


def test_parts_have_the_shapes_they_need() -> None:
    vae, unet = train_autoencoder.build(), train_unet.build()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(2, 3, 64, 64)).latent_dist.mean
        assert latents.shape == (2, 8, 8, 8) and vae.decode(latents).sample.shape == (2, 3, 64, 64)
        assert unet(latents, torch.tensor([1, 2]), torch.zeros(2, 32, 128)).sample.shape == latents.shape
    times = train_unet.timesteps(32, np.random.default_rng(0))
    assert len(times) == 32 and times.min() >= 0 and times.max() < 1000
