"""What a run costs, counted: calls and rows of the UNet by step and by image, texts encoded, frozen predictions computed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from erase_core import api, methods
from erase_core.concepts.vocabulary import candidates, curate, embedded_words
from erase_core.cpu_kernels import cpu_forwards
from erase_core.files import digest
from erase_core.generation import sampler
from erase_core.generation.images import generate
from erase_core.generation.plan import Wanted
from erase_core.generation.sampler import SAMPLERS, sample
from erase_core.models.prompts import encode
from erase_core.models.trainable import trainable_names
from erase_core.spec import Generation, Method
from erase_core.training.loop import train
from tests.erase_core.tiny_training import WORDS, inputs, settings

STEPS, BATCH, LATENT_STEPS, TRAJECTORIES = 4, 2, 2, 2
GRADIENT = {"name": "adversarial", "search": "gradient"}
FRESH = {"latents": "fresh", "latent_steps": 5, "timesteps": "even"}


@pytest.fixture
def one_thread():
    """Cores would share the rows of a call, each with a call of its own."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture
def calls(monkeypatch, one_thread) -> list[tuple[int, bool]]:
    """Every call of a UNet: how many rows, and whether its result can be differentiated."""
    seen = []
    forward = UNet2DConditionModel.forward

    def counted(self, sample, *arguments, **named):
        seen.append((len(sample), torch.is_grad_enabled()))
        return forward(self, sample, *arguments, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return seen


def trained(tiny_pipeline, method: str | dict, folder, **changes) -> list[dict]:
    """The records of a training."""
    records, chosen = [], Method.model_validate(method)
    train(*inputs(tiny_pipeline), chosen, settings(**changes), seed=3, on_record=records.append, trajectories=folder)
    return records


def test_calls_of_a_step(tiny_pipeline, tmp_path, calls) -> None:
    """A search asks θ' once, for all rivals, without gradients; an update asks θ' once, for both halves; neither asks θ."""
    trained(tiny_pipeline, {"name": "adversarial", "rivals": 5}, tmp_path)
    assert Counter(rows for rows, graded in calls if graded) == {2 * BATCH: STEPS}
    visited = len(list(tmp_path.iterdir()))
    asked = Counter(rows for rows, graded in calls if not graded)
    assert asked == {5 * BATCH: STEPS, 2 * TRAJECTORIES: LATENT_STEPS * visited}


def test_calls_of_a_step_by_gradient(tiny_pipeline, tmp_path, calls) -> None:
    """A search step asks θ' and θ for the searched word, both to be differentiated."""
    trained(tiny_pipeline, GRADIENT, tmp_path)
    assert Counter(rows for rows, graded in calls if graded) == {BATCH: 2 * STEPS, 2 * BATCH: STEPS}
    visited = len(list(tmp_path.iterdir()))
    assert [rows for rows, graded in calls if not graded] == [2 * TRAJECTORIES] * (LATENT_STEPS * visited)


def test_an_attacker_costs_one_call_for_each_of_its_steps(tiny_pipeline, tmp_path, calls) -> None:
    trained(tiny_pipeline, {"name": "adversarial", "attack_steps": 3}, tmp_path)
    assert Counter(rows for rows, graded in calls if graded) == {BATCH: 3 * STEPS, 2 * BATCH: STEPS}


def test_nothing_frozen_is_computed_twice(tiny_pipeline, tmp_path, calls) -> None:
    """A second run on the same model samples nothing, and computes no frozen prediction that the bank holds."""
    trained(tiny_pipeline, "adversarial", tmp_path)
    calls.clear()
    trained(tiny_pipeline, "adversarial", tmp_path)
    assert Counter(calls) == {(4 * BATCH, False): STEPS, (2 * BATCH, True): STEPS}


def test_rows_of_fresh_latents(tiny_pipeline, tmp_path, calls) -> None:
    """As a training's memory is planned: those of its samples, or of their rivals, under the prompt and under none."""
    trained(tiny_pipeline, GRADIENT, tmp_path, **FRESH)
    # θ is asked for three predictions of each sample, of latents that no bank knows.
    assert {rows for rows, graded in calls if not graded} == {2 * BATCH, 3 * BATCH}
    calls.clear()
    trained(tiny_pipeline, {"name": "adversarial", "rivals": 4}, tmp_path, **FRESH)
    assert max(rows for rows, graded in calls if not graded) == 2 * 4 * BATCH


BY_BANK = [name for name in methods.names() if not methods.solves(methods.load(name))]
ASKED = {"adversarial-pgd": (BATCH, 2 * STEPS - 1), "age": (2 * BATCH, 2 * STEPS)}
"""What is asked of the frozen model, rows at most and calls, for conditions that are no word's: in a search and an update each. The
first update of PGD is at the concept itself, which its search has yet to leave.
"""
GIVEN = {"fixed": {"words": ["bus"]}, "adversarial-pgd": {"neutral_share": 0}}


@dataclass
class FrozenCalls:
    """Every call of the frozen UNet, how many rows, and what was asked of it in each row of those without a gradient."""

    rows: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def bytes_again(self, of_one: int) -> int:
        """Bytes of predictions that had been made before, of so many bytes each."""
        return of_one * (len(self.asked) - len(set(self.asked)))


@pytest.fixture
def frozen_calls(tiny_pipeline, monkeypatch, one_thread) -> FrozenCalls:
    seen, forward, frozen = FrozenCalls(), UNet2DConditionModel.forward, tiny_pipeline.unet

    def counted(self, sample, timesteps, encoder_hidden_states):
        if self is frozen:
            seen.rows.append(len(sample))
            if not torch.is_grad_enabled():
                given = zip(sample, timesteps, encoder_hidden_states)
                seen.asked += [digest(*(part.numpy().tobytes().hex() for part in row)) for row in given]
        return forward(self, sample, timesteps, encoder_hidden_states=encoder_hidden_states)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return seen


@pytest.mark.parametrize("name", BY_BANK)
def test_no_method_asks_for_what_the_bank_holds(tiny_pipeline, tmp_path, frozen_calls, name: str) -> None:
    """Of θ, a second run asks for nothing that is known with its latents."""
    method = {"name": name, **GIVEN.get(name, {})}
    trained(tiny_pipeline, method, tmp_path)
    frozen_calls.rows.clear()
    trained(tiny_pipeline, method, tmp_path)
    most, calls = ASKED.get(name, (0, 0))
    assert len(frozen_calls.rows) == calls and max(frozen_calls.rows, default=0) == most


ONE_RUN = [
    *(({"name": name, **GIVEN.get(name, {})}, {}) for name in BY_BANK),
    (GRADIENT, {}),
    ({"name": "adversarial", "attack_steps": 2}, {}),
    ({"name": "adversarial", "attack_steps": 2}, FRESH),
]


@pytest.mark.parametrize(("method", "changes"), ONE_RUN)
def test_no_byte_of_a_frozen_prediction_is_made_twice(tiny_pipeline, tmp_path, frozen_calls, method, changes) -> None:
    """In a run, of the same latents, timestep and condition; but for those that a search differentiates, to follow the gradient."""
    trained(tiny_pipeline, method, tmp_path, **changes)
    unet = tiny_pipeline.unet.config
    assert frozen_calls.asked
    assert frozen_calls.bytes_again(4 * unet.out_channels * unet.sample_size**2) == 0


def test_the_erased_prompts_at_a_broader_concept_s_latents_are_asked_once(
    tiny_pipeline, tmp_path, frozen_calls
) -> None:
    """θ is asked for each prompt at every point of the trajectories, once, and by no later run."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    concept = replace(concept, subject=("car", encode(tiny_pipeline, ["car"])[0]))
    erase = partial(
        train, unet, scheduler, [concept], conditions, Method(name="esd", erase_from="car"), settings(), seed=3
    )
    erase(trajectories=tmp_path)
    sampled = {2 * TRAJECTORIES: LATENT_STEPS}
    assert Counter(frozen_calls.rows) == {**sampled, TRAJECTORIES: LATENT_STEPS * len(concept.prompts)}
    frozen_calls.rows.clear()
    erase(trajectories=tmp_path)
    assert not frozen_calls.rows


def test_the_teacher_s_half_is_not_differentiated(tiny_pipeline, tmp_path, calls) -> None:
    """Concept ablation's θ' is its own teacher: each step asks it twice, once for no gradient."""
    trained(tiny_pipeline, "concept-ablation", tmp_path)
    calls.clear()
    trained(tiny_pipeline, "concept-ablation", tmp_path)
    assert Counter(calls) == {(BATCH, False): STEPS, (BATCH, True): STEPS}


def test_nothing_is_kept_for_a_gradient_below_what_is_trained(tiny_pipeline, monkeypatch) -> None:
    """Neither of what comes before the first trained layer, nor in the search."""
    seen, forward, unet = {"before": set(), "after": set()}, UNet2DConditionModel.forward, tiny_pipeline.unet

    def watched(self, *arguments, **named):
        layers = {
            "before": (self.conv_in, self.time_embedding, self.down_blocks[0].resnets[0]),
            "after": (self.conv_out,),
        }
        hooks = [
            layer.register_forward_hook(
                lambda _, __, output, at=at: seen[at].add((torch.is_grad_enabled(), output.requires_grad))
            )
            for at, some in layers.items()
            for layer in some
        ]
        try:
            return forward(self, *arguments, **named)
        finally:
            for hook in hooks:
                hook.remove()

    assert trainable_names(unet, "xattn")[0].startswith("down_blocks.0.attentions.0.")
    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    train(*inputs(tiny_pipeline), Method(name="adversarial"), settings(), seed=3)
    assert seen == {"before": {(True, False), (False, False)}, "after": {(True, True), (False, False)}}


def test_a_concept_without_search_costs_one_call_a_step(tiny_pipeline, tmp_path, calls) -> None:
    trained(tiny_pipeline, "naive", tmp_path)
    assert [rows for rows, graded in calls if graded] == [BATCH] * STEPS


def test_calls_do_not_grow_with_the_vocabulary(tiny_pipeline, tmp_path, calls) -> None:
    """With trajectories for six words of twelve an update asks θ for the words without, and for no other."""
    chosen, trajectories = {"name": "adversarial", "neutral_share": 0}, 5
    records = trained(tiny_pipeline, chosen, tmp_path, trajectory_words=6, batch_size=3, trajectories=trajectories)
    visited = len(list(tmp_path.iterdir()))
    assert visited <= len(["taxi", "a taxi"]) + 6 < len(WORDS)
    asked = Counter(rows for rows, graded in calls if not graded)
    assert asked.pop(2 * trajectories) == LATENT_STEPS * visited and asked.pop(4 * 3) == STEPS
    having = {WORDS[row] for row in torch.linspace(0, len(WORDS) - 1, 6).long()}
    without = [sum(word not in having for word in row["drawn"]) for row in records if row["phase"] == "update"]
    assert asked == Counter(filter(None, without)) and set(without) & {1, 2}


@pytest.fixture
def texts(tiny_pipeline, monkeypatch) -> list[int]:
    """How many texts each call of the text encoder was given."""
    seen: list[int] = []
    encoder = type(tiny_pipeline.text_encoder)
    forward = encoder.forward

    def counted(self, input_ids, *arguments, **named):
        seen.append(len(input_ids))
        return forward(self, input_ids, *arguments, **named)

    monkeypatch.setattr(encoder, "forward", counted)
    return seen


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("guidance", "halves", "empty"), [(5.0, 2, 1), (1.0, 1, 0)])
def test_calls_of_an_image(tiny_pipeline, calls, texts, sampler: str, guidance: float, halves: int, empty: int) -> None:
    """One call a step for a whole batch, with both halves of the guidance where there is one; each text is encoded once."""
    settings = Generation(sampler=sampler, steps=3, batch_size=4, guidance_scale=guidance)
    images = np.concatenate(list(sample(tiny_pipeline, ["a taxi"] * 4 + ["a rose"], list(range(5)), settings)))
    assert len(images) == 5
    assert [rows for rows, _ in calls] == [4 * halves] * 3 + [halves] * 3
    assert sum(texts) == 2 + empty


def test_a_dataset_s_texts_are_encoded_once(tiny_pipeline, tmp_path, calls, texts, monkeypatch) -> None:
    """Also those of a prompt whose images are in two batches; and what is made of the weights is made once."""
    made = []
    monkeypatch.setattr(sampler, "cpu_forwards", lambda unet: made.append(unet) or cpu_forwards(unet))
    settings = Generation(steps=2, batch_size=3)
    wanted = [Wanted(prompt, prompt, seed) for prompt in ("a taxi", "a rose", "a dog") for seed in range(4)]
    generate(tiny_pipeline, wanted, settings, "m", tmp_path / "images.parquet")
    assert [rows for rows, _ in calls] == [2 * 3] * (2 * 4)
    assert sum(texts) == 3 + 1 and len(made) == 1


def test_texts_encoded_in_a_comparison(world, monkeypatch, texts) -> None:
    """The vocabulary and the concept once for all methods, each model's prompts and "" once, each training's prompt, "" and c_n."""
    monkeypatch.setattr(api, "load", lambda model: world)
    small = {"steps": 1, "latent_steps": 2, "trajectories": 1, "batch_size": 1}
    drawn = {
        "generation": {"seeds": [0, 1], "steps": 2, "batch_size": 3},
        "scoring": {"preserved": ["bus", "apple"], "metrics": ["erasure"]},
    }
    found = api.compare("emoji-world", ["taxi"], ["naive", "nearest"], training=small, **drawn)
    words = embedded_words(curate(candidates("emoji-world"), ["taxi"], []))
    assert len(set(found.prompts)) == 3 and len(found.images) == 3
    assert sum(texts) == len(words) + 1 + 3 * (3 + 1) + 2 * 3


def test_texts_encoded(tiny_pipeline, texts) -> None:
    """The vocabulary's words once each, and four texts more: the concept for its nearest words and as its prompt, "" and c_n."""
    training = {"steps": 1, "latent_steps": 2, "trajectories": 1, "batch_size": 1}
    api.erase(tiny_pipeline, ["taxi"], vocabulary="emoji-world", top_k_words=3, training=training)
    words = embedded_words(curate(candidates("emoji-world"), ["taxi"], []))
    assert sum(texts) == len(words) + 4
