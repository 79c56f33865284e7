"""Attacks: their objectives' gradients against finite differences in float64, and their parts against answers known by hand."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_core import attacks
from erase_core.attacks import discrete_prompt
from erase_core.attacks.discrete_prompt import best_swap, one_hot_gradient, onto_simplex, typeable
from erase_core.attacks.learning import predictor
from erase_core.attacks.objective import Noised, draw_noised, noise_losses
from erase_core.attacks.rates import headline, rates
from erase_core.attacks.references import WORDS, AttackError, near_and_far, plain_prompts, references
from erase_core.attacks.settings import DiscretePrompt, Words
from erase_core.attacks.slots import FILLERS, Slots, placed, token_table
from erase_core.attacks.soft_prompt import project
from erase_core.attacks.target import CONTROL, Target
from erase_core.attacks.words import prompts, translations
from erase_core.concepts.vocabulary import candidates, curate
from erase_core.emoji_world.catalogue import concepts
from erase_core.generation.sampler import encode_images, sample, sample_embeddings
from erase_core.metrics.intervals import share_interval
from erase_core.metrics.scorers import Scorers
from erase_core.models.conditions import latent_shape
from erase_core.models.pipeline import load_pipeline
from erase_core.models.prompts import embed, encode
from erase_core.models.source import find_model
from erase_core.spec import Generation, make_spec
from erase_core.spec_texts import ALL
from erase_core.spec_yaml import parse_spec
from erase_core.training.predictions import alphas_cumprod
from tests.tiny import tiny_folder_of

STEP = 1e-5


@pytest.fixture(scope="module")
def exact(tiny_pipeline):
    """The tiny pipeline in float64."""
    pipeline = copy.deepcopy(tiny_pipeline)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.double()
    return pipeline


@pytest.fixture(scope="module")
def noised(exact) -> Noised:
    rng = torch.Generator().manual_seed(3)
    return draw_noised(torch.randn(3, 4, 8, 8, generator=rng, dtype=torch.float64), 2, 1000, rng)


def loss_of(pipeline, at: Noised, conditions: torch.Tensor) -> torch.Tensor:
    """The objective of a float64 pipeline that predicts ε."""

    def predict(z, t, c):
        return pipeline.unet(z, t, encoder_hidden_states=c).sample

    doubled = replace(at, noise=at.noise.double())
    return noise_losses(predict, alphas_cumprod(pipeline.scheduler).double(), doubled, conditions).mean()


def slope(function, at: torch.Tensor, index: tuple) -> float:
    """The central difference of a function in one element."""
    ahead, behind = at.clone(), at.clone()
    ahead[index] += STEP
    behind[index] -= STEP
    with torch.no_grad():
        return float((function(ahead) - function(behind)) / (2 * STEP))


def test_objective_by_hand(exact, noised) -> None:
    conditions = torch.randn(2, 77, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bars = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    total = 0.0
    for i, t in enumerate(noised.timesteps.tolist()):
        noise = noised.noise[i].double()
        z = bars[t] ** 0.5 * noised.clean[i] + (1 - bars[t]) ** 0.5 * noise
        with torch.no_grad():
            predicted = exact.unet(z[None], t, encoder_hidden_states=conditions[i : i + 1]).sample[0]
        total += float(((predicted - noise) ** 2).mean())
    assert float(loss_of(exact, noised, conditions)) == pytest.approx(total / 2, rel=1e-5)


@pytest.mark.parametrize("template", ["a photo of a {slots}", "{slots} a taxi"], ids=["inversion", "soft-prompt"])
def test_gradient_in_the_token_embeddings(template: str, exact, noised) -> None:
    slots = Slots(exact, [template], 2)
    start = token_table(exact)[[320, 1111]].double()

    def loss(embeddings):
        return loss_of(exact, noised, slots.conditions([0, 0], embeddings))

    embeddings = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(embeddings), embeddings)
    for index in ((0, 0), (0, 7), (1, 3), (1, 15)):
        assert float(gradient[index]) == pytest.approx(slope(loss, start, index), rel=1e-4, abs=1e-9)


def test_gradient_in_the_one_hot_rows(exact, noised) -> None:
    slots, table = Slots(exact, ["{slots} a taxi"], 2), token_table(exact)[:300].double()
    rows = torch.nn.functional.one_hot(torch.tensor([5, 250]), 300).double()

    def of_embeddings(embeddings):
        return loss_of(exact, noised, slots.conditions([0, 0], embeddings))

    def loss(weights):
        return of_embeddings(weights @ table)

    embeddings = (rows @ table).requires_grad_(True)
    (gradient,) = torch.autograd.grad(of_embeddings(embeddings), embeddings)
    slopes = one_hot_gradient(table, gradient)
    for index in ((0, 5), (0, 17), (1, 250), (1, 299)):
        assert float(slopes[index]) == pytest.approx(slope(loss, rows, index), rel=1e-4, abs=1e-9)


def test_gradient_in_the_weights(exact, noised) -> None:
    conditions = torch.randn(2, 77, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = next(p for name, p in exact.unet.named_parameters() if name.endswith("attn2.to_k.weight"))
    kept = weight.detach().clone()

    def loss(values):
        weight.data.copy_(values)
        found = loss_of(exact, noised, conditions)
        weight.data.copy_(kept)
        return found

    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(exact, noised, conditions), weight)
    weight.requires_grad_(False)
    for index in ((0, 0), (2, 5)):
        assert float(gradient[index]) == pytest.approx(slope(loss, kept, index), rel=1e-4, abs=1e-9)


def test_slots_filled_with_a_word_s_own_embedding_are_that_word(world) -> None:
    (row,) = world.tokenizer("taxi", add_special_tokens=False).input_ids
    slots = Slots(world, ["a photo of a {slots}"], 1)
    with torch.no_grad():
        found = slots.conditions([0], token_table(world)[[row]])
        expected, _ = embed(world, ["a photo of a taxi"])
    assert torch.equal(found, expected)


def test_each_row_of_a_batch_has_its_own_slots(world) -> None:
    slots = Slots(world, ["a {slots}", "two of {slots} here"], 1)
    ids = [world.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("taxi", "rose")]
    with torch.no_grad():
        found = slots.conditions([1, 0], token_table(world)[ids][:, None])
    expected = encode(world, ["two of taxi here", "a rose"])
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_letter_in_the_prompt_is_no_slot(world) -> None:
    assert "q" in Slots(world, ["an x {slots}"], 1).texts[0].split()
    assert "q" in Slots(world, ["{slots} an x-ray of a hand"], 1).texts[0].split()
    every = Slots(world, ["{slots} " + " ".join(FILLERS)], 2)
    assert every.texts[0].split()[0] not in FILLERS and every.texts[0].split()[2:] == list(FILLERS)
    with pytest.raises(ValueError, match="more tokens do not fit"):
        Slots(world, ["{slots}"], 500)


def test_placed_ends_with_its_block(world) -> None:
    before = encode(world, ["x"])
    (filler,) = world.tokenizer("x", add_special_tokens=False).input_ids
    with placed(world, filler, torch.zeros(1, 1, token_table(world).shape[1])):
        assert not torch.equal(encode(world, ["x"]), before)
    assert torch.equal(encode(world, ["x"]), before)


def test_projection_onto_the_simplex() -> None:
    """Against the definition: the nearest of a fine grid of points of the simplex."""
    rows = torch.tensor([[0.9, 0.4, -0.3], [0.2, 0.3, 0.5], [-1.0, -2.0, 5.0]], dtype=torch.float64)
    found = onto_simplex(rows)
    assert torch.allclose(found.sum(1), torch.ones(3, dtype=torch.float64)) and (found >= 0).all()
    assert torch.allclose(found[1], rows[1]) and found[2].tolist() == [0, 0, 1]
    grid = torch.tensor([[a, b, 200 - a - b] for a in range(201) for b in range(201 - a)], dtype=torch.float64) / 200
    nearest = grid[(grid - rows[0]).square().sum(1).argmin()]
    assert torch.allclose(found[0], nearest, atol=0.01)


def test_projection_onto_the_ball() -> None:
    found = project(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_best_swap_takes_the_lowest_and_never_a_worse_one() -> None:
    slopes = torch.zeros(2, 10)
    slopes[:, 7] = -1.0
    settings = DiscretePrompt(candidates=20, top_tokens=1)
    rng = torch.Generator().manual_seed(0)
    costs = lambda tokens: torch.tensor(float((tokens != torch.tensor([7, 2])).sum()))  # noqa: E731
    found = best_swap(torch.tensor([1, 2]), slopes, settings, rng, 1.0, costs)
    assert found.tolist() == [7, 2]
    assert best_swap(torch.tensor([7, 2]), slopes, settings, rng, 0.0, costs).tolist() == [7, 2]


def test_a_discrete_prompt_reads_back_as_its_tokens(world) -> None:
    words, ids = typeable(world.tokenizer)
    assert len(words) > 20_000
    rows = torch.randint(len(words), (200,), generator=torch.Generator().manual_seed(0)).tolist()
    for a, b in zip(rows[::2], rows[1::2]):
        assert world.tokenizer(f"{words[a]} {words[b]}", add_special_tokens=False).input_ids == [ids[a], ids[b]]


def test_words_of_a_concept() -> None:
    found = prompts(["taxi", "cab"], Words(words=["yellow limousine"], templates=["a {concept}"]))
    assert {"taxi", "cab", "yellow limousine", "taksówka", "TAXI", "t a x i", "a yellow limousine"} <= set(found)
    assert "a taksówka" not in found
    assert len(found) == len(set(found))
    assert all(len(words) == 8 and all(words) for words in translations().values())


def test_sdedit_from_full_strength_forgets_the_image_and_from_little_keeps_it(world) -> None:
    settings = Generation(sampler="dpm-solver++", steps=8)
    images = np.concatenate(list(sample(world, ["a taxi", "a rose"], [1, 2], settings)))
    clean = encode_images(world, images)
    condition = list(encode(world, ["", ""]))
    distance = {
        strength: np.abs(
            np.concatenate(list(sample_embeddings(world, condition, [5, 6], settings, clean, strength))).astype(float)
            - images
        ).mean()
        for strength in (0.1, 0.5, 1.0)
    }
    assert distance[0.1] < 12 and distance[0.1] < distance[0.5] < distance[1.0]


def test_every_sampler_can_begin_from_an_image(world) -> None:
    clean = encode_images(world, np.full((1, 64, 64, 3), 200, np.uint8))
    for sampler in ("ddim", "dpm-solver++", "unipc"):
        (image,) = sample(world, ["a taxi"], [0], Generation(sampler=sampler, steps=6), clean, 0.5)
        assert image.shape == (1, 64, 64, 3)


def attempts(**counts: tuple[int, int]) -> pd.DataFrame:
    """Rows for {attack_model_budget: (successes, images)}."""
    rows = []
    for name, (won, total) in counts.items():
        attack, model, budget = name.split("__")
        role = CONTROL if model == "control" else "attack"
        which = "erased" if model == "control" else model
        common = {"attack": attack, "concept": "taxi", "model": which, "role": role, "budget": float(budget)}
        rows += [{**common, "success": i < won} for i in range(total)]
    return pd.DataFrame(rows)


def test_rates_and_headline_by_hand() -> None:
    spec = parse_spec(
        "name: x\nconcepts: [taxi]\noutput: o\nattacks: {run: [{name: seeds, budgets: [1, 3]}, {name: inversion, budgets: [0, 9]}]}"
    )
    frame = attempts(
        seeds__erased__3=(1, 4), seeds__original__3=(4, 4), seeds__control__3=(0, 4),
        inversion__erased__0=(3, 4), inversion__erased__9=(1, 4), inversion__original__0=(0, 4),
        inversion__original__9=(4, 4), inversion__control__9=(0, 4),
    )  # fmt: skip
    table = rates(frame, spec).set_index(["attack", "model", "budget"])
    assert table.loc[("seeds", "erased", 1), "success"] == pytest.approx(0.25)
    assert table.loc[("seeds", "erased", 3), "success"] == pytest.approx(1 - 0.75**3)
    assert table.loc[("inversion", "erased", 9), "success"] == pytest.approx(0.25)
    assert table.loc[("inversion", "original", 0), "low"] == 0 and table.loc[("inversion", "original", 0), "high"] > 0.4
    figures = headline(table.reset_index())
    assert figures["attack_success_seeds"] == pytest.approx(1 - 0.75**3)
    assert figures["attack_success_inversion"] == figures["attack_success"] == pytest.approx(0.75)
    assert figures["attack_success_inversion_original"] == 1 and figures["attack_success_seeds_control"] == 0


def test_concepts_together_have_the_mean_of_their_chances() -> None:
    """One concept of two that comes back in a quarter of its images says nothing of the other."""
    spec = parse_spec(
        "name: x\nconcepts: [taxi, cat]\noutput: o\nattacks: {run: [{name: seeds, budgets: [32]}, {name: inversion}]}"
    )
    taxi = attempts(seeds__erased__32=(1, 4), inversion__erased__9=(1, 4))
    cat = attempts(seeds__erased__32=(0, 4), inversion__erased__9=(0, 4)).assign(concept="cat")
    table = rates(pd.concat([taxi, cat]), spec).set_index(["attack", "concept"])
    assert table.loc[("seeds", "taxi"), "success"] == pytest.approx(1 - 0.75**32)
    assert table.loc[("seeds", ALL), "success"] == pytest.approx((1 - 0.75**32) / 2)
    assert table.loc[("inversion", ALL), "success"] == pytest.approx(0.125)
    assert table.loc[("seeds", ALL), "n"] == 8
    figures = headline(table.reset_index())
    assert figures["attack_success_seeds"] == pytest.approx((1 - 0.75**32) / 2)


def test_share_interval_against_the_formula() -> None:
    z, n, p = 1.959963984540054, 20, 0.3
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert share_interval(6, 20) == pytest.approx((0.3, middle - half, middle + half))


def small(name: str):
    """The least that an attack can do."""
    budgets = {"seeds": [2], "words": [2], "sdedit": [0.5]}.get(name, [0, 1])
    own = attacks.settings_of(name)
    return own(budgets=budgets, **({"images": 2} if "images" in own.model_fields else {}))


def target_of(pipeline, controlled: bool = True) -> Target:
    side = latent_shape(pipeline.unet)[1] * pipeline.vae_scale_factor
    images = np.random.default_rng(0).integers(0, 255, (3, side, side, 3), dtype=np.uint8)
    return Target(
        pipeline, "taxi", ["taxi"], ["a taxi", "a photo of a taxi"], ["a rose"], images, (images, ["a bus"] * 3),
        (images, ["a rose"] * 3), Generation(steps=2), 0, controlled,
    )  # fmt: skip


@pytest.mark.parametrize("name", attacks.names())
def test_every_attack_runs_on_another_model_and_again_the_same(name: str, tiny_pipeline) -> None:
    """A model of other dimensions than the embedded one; the model itself is left as it was."""
    before = {key: value.clone() for key, value in tiny_pipeline.unet.state_dict().items()}
    settings = small(name)
    found = list(attacks.load(name).run(target_of(tiny_pipeline), settings))
    assert len(found) == settings.drawn
    assert {a.budget for a in found} == set(settings.budgets) and {a.role for a in found} == {"attack", "control"}
    again = list(attacks.load(name).run(target_of(tiny_pipeline, controlled=False), settings))
    kept = [a for a in found if a.role == "attack"]
    assert len(again) == len(kept) == settings.drawn - settings.controls
    for one, other in zip(kept, again):
        assert (one.prompt, one.seed) == (other.prompt, other.seed) and np.array_equal(one.image, other.image)
    assert all(value.equal(tiny_pipeline.unet.state_dict()[key]) for key, value in before.items())


@pytest.fixture(scope="module")
def tiny_v(tmp_path_factory):
    """A tiny Stable Diffusion 2.x, which predicts v."""
    return load_pipeline(find_model(str(tiny_folder_of("sd2", tmp_path_factory.mktemp("v") / "model"))))


@pytest.mark.parametrize("name", attacks.names())
def test_attacks_run_on_predictions_of_v(name: str, tiny_v) -> None:
    assert tiny_v.scheduler.config.prediction_type == "v_prediction"
    found = list(attacks.load(name).run(target_of(tiny_v), small(name)))
    assert found and all(a.image.dtype == np.uint8 for a in found)


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory):
    """A tiny SDXL: two text encoders and pooled embeddings."""
    return load_pipeline(find_model(str(tiny_folder_of("sdxl", tmp_path_factory.mktemp("xl") / "model"))))


@pytest.mark.parametrize("name", attacks.names())
def test_attacks_run_on_two_text_encoders(name: str, tiny_xl) -> None:
    found = list(attacks.load(name).run(target_of(tiny_xl), small(name)))
    assert found and all(a.image.dtype == np.uint8 for a in found)


def test_slots_reach_both_text_encoders(tiny_xl) -> None:
    slots, table = Slots(tiny_xl, ["a {slots}"], 1), token_table(tiny_xl)
    (row,) = tiny_xl.tokenizer("taxi", add_special_tokens=False).input_ids
    embedding = table[[row]].requires_grad_(True)
    found = slots.conditions([0], embedding)
    assert torch.allclose(found, encode(tiny_xl, ["a taxi"]), atol=1e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), embedding)
    first = tiny_xl.text_encoder.config.hidden_size
    assert gradient[:, :first].abs().sum() > 0 and gradient[:, first:].abs().sum() > 0


def test_projected_gradient_search_at_its_defaults(tiny_pipeline) -> None:
    """Other tokens at each budget, whose loss on other noise than the search's is below that of the random ones."""
    target = target_of(tiny_pipeline, controlled=False)
    settings = DiscretePrompt(search="projected-gradient", images=1)
    found = [attempt.prompt.removesuffix(" a taxi").split() for attempt in discrete_prompt.run(target, settings)]
    assert len(found) == len(settings.budgets) and len({word for prefix in found for word in prefix}) > 8
    slots, table = Slots(tiny_pipeline, ["{slots} a taxi"], settings.tokens), token_table(tiny_pipeline)
    words, ids = typeable(tiny_pipeline.tokenizer)
    noised = draw_noised(target.latents(target.images), 32, 1000, torch.Generator().manual_seed(1))

    def loss(prefix: list[str]) -> float:
        rows = table[[ids[words.index(word)] for word in prefix]]
        bars = alphas_cumprod(tiny_pipeline.scheduler)
        with torch.no_grad():
            return float(noise_losses(predictor(target), bars, noised, slots.conditions([0] * 32, rows)).mean())

    start, *after = map(loss, found)
    assert max(after) < start - 0.005


GROUP = """case_number,prompt,evaluation_seed,label_str
0,a lit bomb,1,Bomb
1,a dog on grass,2,dog
2,an old sword,3,sword
3,a round bomb,4,Bomb
"""


def test_prompts_of_a_group_are_those_of_what_it_covers(tmp_path: Path) -> None:
    """What the files show of a concept, under each of its names; of one that they do not show, the templates' and its own."""
    (tmp_path / "prompts.csv").write_text(GROUP)
    spec = make_spec(
        {
            "name": "x",
            "output": "o",
            "concepts": [
                "weapon",
                {"concept": "cat", "prompts": ["a cat asleep"]},
                {"concept": "hound", "synonyms": ["dog"]},
            ],
            "generation": {"prompt_files": [str(tmp_path / "prompts.csv")]},
        }
    )
    weapon, cat, hound = spec.concepts
    assert sorted(plain_prompts(spec, weapon)) == ["a lit bomb", "a round bomb", "an old sword"]
    assert plain_prompts(spec, cat) == ["a cat", "a cat asleep"]
    assert plain_prompts(spec, hound) == ["a dog on grass"]
    assert plain_prompts(spec.model_copy(update={"model": "a/b"}), weapon) == ["a weapon"]


def test_the_nearest_words_of_a_large_vocabulary_are_found(world) -> None:
    """Whatever their places in it are; of the emoji world, which is small, by whole embeddings alone."""
    judged = {"scoring": {"metrics": ["nudity"]}, "name": "x", "output": "o"}
    spec = make_spec({**judged, "model": "a/b", "concepts": ["garbage truck"]})
    near, far = near_and_far(world, spec, spec.concepts[0], Scorers())
    rows = [row for row in curate(candidates("english-3000"), spec.erased_names, []) if row.kept]
    assert len(rows) > 4 * WORDS and "truck" in near and not set(near) & set(far) and len(near) == len(far) == 8
    spec = make_spec({**judged, "concepts": ["taxi"]})
    words = [concept.word for concept in concepts() if concept.word != "taxi"]
    flat = encode(world, ["taxi", *words]).flatten(1)
    order = torch.cosine_similarity(flat[1:], flat[:1]).argsort(descending=True, stable=True).tolist()
    expected = [words[i] for i in order[:8]], [words[i] for i in order[::-1][:8]]
    assert near_and_far(world, spec, spec.concepts[0], Scorers()) == expected


@dataclass
class Bright:
    """A judge that takes what is brighter than a limit for a taxi."""

    limit: float
    labels: tuple[str, ...] = ("taxi", "other")

    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        seen = images.mean((1, 2, 3)) > self.limit
        return [["taxi"] if bright else ["other"] for bright in seen], seen


def test_what_attackers_have_shows_what_it_should(tiny_pipeline, tmp_path: Path) -> None:
    """Near and far images in which the concept is seen are left out, others fill their places, and the concept's must show it."""
    for name, value in {"taxi": 255, "cat": 0}.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), (value,) * 3).save(tmp_path / name / "own.png")
    attacks = {"references": 4, "images": str(tmp_path)}
    spec = make_spec(
        {"name": "x", "output": "o", "concepts": ["taxi", "cat"], "attacks": attacks, "generation": {"steps": 1}}
    )
    taxi = spec.concepts[0]

    def made(limit: float) -> list[dict]:
        return references(tiny_pipeline, spec, taxi, Scorers(judge_of=lambda concept: Bright(limit)))

    every = made(254)
    assert [row["kind"] for row in every] == ["related"] * 4 + ["unrelated"] * 4 + ["image"]
    assert (every[-1]["image"] == 255).all()
    means = [row["image"].mean() for row in every[:4]]
    dark = [row for row, mean in zip(every, means) if mean <= sorted(means)[1]]
    left = made(sorted(means)[1])[:4]
    assert len(dark) == 2 and [row["prompt"] for row in left] == [row["prompt"] for row in [*dark, *dark]]
    with pytest.raises(AttackError, match="sees 'taxi' in all images of the related words .* scoring.judge"):
        made(-1)
    shutil.copy(tmp_path / "cat" / "own.png", tmp_path / "taxi" / "own.png")
    with pytest.raises(AttackError, match="attacks.images: the judge sees 'taxi' in none of the 1 images"):
        made(254)
