"""The loop on a tiny model: latents, determinism, resuming, divergence, distribution, and what it promises."""

from __future__ import annotations

import copy
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from diffusers import DDIMScheduler

from erase_core import methods
from erase_core.models.pipeline import twin
from erase_core.models.prompts import encode
from erase_core.models.trainable import CHOICES, trainable_names
from erase_core.randomness import Streams, generator
from erase_core.search.choosers import chooser_of
from erase_core.search.uniform import UniformChoice
from erase_core.spec import Method, make_spec
from erase_core.training import checkpoint, loop
from erase_core.training.candidates import erased_concepts
from erase_core.training.latents import FreshLatents, Sampler, TrajectoryBank
from erase_core.training.loop import train
from erase_core.training.predictions import distance_at, loss_weights, noise_predictor, weight_at
from erase_core.training.records import Diverged
from erase_core.training.result import Snapshots, put_weights
from erase_core.training.step import ErasedConcept, draw, frozen_predictions
from erase_core.training.trajectory_files import ABANDONED, trim
from tests.erase_core.tiny_training import WORDS, inputs, settings
from tests.tiny import tiny_stable_diffusion


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_bank_is_ddim_under_the_frozen_model(tiny_pipeline) -> None:
    """Every latent, and both predictions kept with it, against a plain loop of guided DDIM steps."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    predict = noise_predictor(unet, scheduler)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=5, guidance=3.0)
    bank = TrajectoryBank(sampler, predict, trajectories=2, seed=9)
    bank.fill(["taxi", "a taxi"], concept.embeddings)
    ddim = DDIMScheduler.from_config(scheduler.config)
    ddim.set_timesteps(5)
    z = torch.randn(2, 4, 8, 8, generator=generator(9, "trajectory", "a taxi", 0))
    with torch.no_grad():
        for i, t in enumerate(ddim.timesteps):
            with_concept = unet(z, t, encoder_hidden_states=concept.embeddings[1].expand(2, -1, -1)).sample
            without = unet(z, t, encoder_hidden_states=conditions.unconditional.expand(2, -1, -1)).sample
            for part, expected in (("z", z), ("conditional", with_concept), ("neutral", without)):
                assert np.allclose(bank.known["a taxi"][part][:, i], expected, rtol=1e-4, atol=1e-5)
            z = ddim.step(without + 3.0 * (with_concept - without), t, z).prev_sample


def test_bank_does_not_depend_on_the_order_of_visits(tiny_pipeline) -> None:
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    first, second = (TrajectoryBank(sampler, noise_predictor(unet, scheduler), 2, seed=1) for _ in range(2))
    first.fill(WORDS[:3], concept.candidates[:3])
    for i in (2, 0, 1):
        second.fill([WORDS[i]], concept.candidates[i : i + 1])
    for word in WORDS[:3]:
        assert equal(first.known[word], second.known[word])


@pytest.mark.parametrize("latents", ["frozen-bank", "fresh"])
def test_some_preserved_samples_keep_the_neutral_concept(tiny_pipeline, latents: str) -> None:
    """At the chosen word's latents, and with θ's prediction under the condition that the sample then has."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    neutral, predict = conditions.neutral, noise_predictor(unet, scheduler)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, neutral, steps=3, guidance=3.0)
    chooser = chooser_of("random", "taxi", concept.embeddings[0], WORDS, concept.candidates, None, 100)
    source = FreshLatents(sampler, predict) if latents == "fresh" else TrajectoryBank(sampler, predict, 2, seed=3)
    names = ("erased", "preserved", "neutral@erased")
    counts = []
    for share in (0.0, 0.25, 1.0):
        at = draw(names, concept, chooser, source, neutral, Streams(0, samples=range(60)), share)
        kept = (at.conditions["preserved"] == neutral).all(dim=(1, 2))
        counts.append(int(kept.sum()))
        assert torch.equal(at.conditions["preserved"][~kept], at.choice.embeddings[~kept])
        z = at.latents["preserved"]
        expected = predict(z.latents, z.timesteps, at.conditions["preserved"])
        found = frozen_predictions(predict, ["preserved"], at)["preserved"]
        assert torch.allclose(found, expected, atol=1e-4)
    assert counts[0] == 0 and 5 < counts[1] < 25 and counts[2] == 60


def test_banks_share_a_folder(tiny_pipeline, tmp_path) -> None:
    """The second bank reads every bit that the first sampled; what a damaged file held is sampled again."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    calls = []

    def predict(*arguments):
        calls.append(1)
        return noise_predictor(unet, scheduler)(*arguments)

    first, second, third, other = (TrajectoryBank(sampler, predict, 2, seed, tmp_path) for seed in (1, 1, 1, 2))
    first.fill(WORDS[:2], concept.candidates[:2])
    sampled = len(calls)
    second.fill(WORDS[:2], concept.candidates[:2])
    assert len(calls) == sampled and all(equal(first.known[word], second.known[word]) for word in WORDS[:2])
    cut, altered = tmp_path.iterdir()
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    for file, wrong in ((cut, b"cut short"), (altered, content)):
        # The file itself is still open in the other banks.
        file.unlink()
        file.write_bytes(wrong)
    third.fill(WORDS[:2], concept.candidates[:2])
    assert len(calls) == sampled * 2 and all(equal(first.known[word], third.known[word]) for word in WORDS[:2])
    other.fill(WORDS[:1], concept.candidates[:1])
    assert not equal(other.known[WORDS[0]], first.known[WORDS[0]])


def test_a_bank_keeps_to_its_size(tiny_pipeline, tmp_path) -> None:
    """The file used longest ago goes, and nothing holds on to it; what a draw needs stays readable."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=2, guidance=3.0)
    bank = TrajectoryBank(sampler, noise_predictor(unet, scheduler), 1, 0, tmp_path)

    def used(*numbers: int) -> None:
        bank.fill([WORDS[n] for n in numbers], concept.candidates[list(numbers)])

    used(0)
    (first,) = tmp_path.iterdir()
    bank.most_bytes = 2.5 * first.stat().st_size
    used(1)
    # Used again without being opened again, it is the other that goes.
    used(0)
    used(2)
    assert list(bank.known) == [WORDS[0], WORDS[2]] and set(tmp_path.iterdir()) == set(bank.files.values())
    used(3, 4, 5)
    assert set(bank.known) == {WORDS[n] for n in (3, 4, 5)} and len(list(tmp_path.iterdir())) == 2
    assert all(np.isfinite(bank.known[WORDS[n]]["z"]).all() for n in (3, 4, 5))
    # Also what was sampled just now lies in its file, and not in memory.
    assert not any(part.flags.writeable for parts in bank.known.values() for part in parts.values())
    used(0)
    assert set(bank.known) <= {WORDS[0], WORDS[4], WORDS[5]} and len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_process_left_goes(tmp_path) -> None:
    for name, age in ((".a.arrow.x.partial", 2 * ABANDONED), (".b.arrow.x.partial", 0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    trim(tmp_path, math.inf)
    assert [path.name for path in tmp_path.iterdir()] == [".b.arrow.x.partial"]


def test_two_at_once_sample_a_trajectory_once(tiny_pipeline, tmp_path) -> None:
    """As ranks of one training and runs side by side do; each has the same bits."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    calls = []

    def predict(*arguments):
        calls.append(1)
        time.sleep(0.05)
        return noise_predictor(unet, scheduler)(*arguments)

    banks = [TrajectoryBank(sampler, predict, 2, 1, tmp_path) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda bank: bank.fill(WORDS[:2], concept.candidates[:2]), banks))
    assert len(calls) == 2 * 3 and all(equal(banks[0].known[word], banks[1].known[word]) for word in WORDS[:2])


def test_a_bank_is_refreshed(tiny_pipeline) -> None:
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=2, guidance=3.0)
    bank = TrajectoryBank(sampler, noise_predictor(unet, scheduler), 1, 0, refresh_every=3)
    seen = []
    for step in range(6):
        bank.begin(step)
        bank.fill(WORDS[:1], concept.candidates[:1])
        seen.append(bank.known[WORDS[0]]["z"])
    assert seen[0] is seen[2] and seen[3] is seen[5] and not np.array_equal(seen[0], seen[3])


def test_weighted_timesteps_keep_the_expected_loss(tiny_pipeline) -> None:
    """Drawn by √w_t, and counted for what is left of w_t: the mean of any error is that of even draws weighted by w_t, with less
    spread where the error falls with √w_t.
    """
    scheduler, conditions = tiny_pipeline.scheduler, inputs(tiny_pipeline)[3]
    weights = loss_weights("clean", scheduler.alphas_cumprod)
    shape, both = (4, 8, 8), (conditions.unconditional, conditions.neutral)
    even, weighted = (Sampler(scheduler, shape, *both, 10, 3.0, often) for often in (None, weights.sqrt()))
    uniform = torch.rand(200_000, generator=generator(0))
    losses = {}
    for name, sampler in {"even": even, "weighted": weighted}.items():
        drawn = sampler.timesteps[sampler.numbers(uniform)]
        losses[name] = sampler.counted(weights)[drawn] / weights[drawn].sqrt()
    share = torch.bincount(weighted.numbers(uniform), minlength=10) / len(uniform)
    roots = weights[weighted.timesteps].sqrt()
    assert torch.allclose(share, roots / roots.sum(), atol=5e-3)
    assert float(losses["weighted"].mean()) == pytest.approx(float(losses["even"].mean()), rel=0.02)
    assert losses["weighted"].std() < 0.01 * losses["even"].std()
    assert even.numbers(torch.tensor([0.0, 0.999999])).tolist() == [0, 9]
    assert torch.equal(even.counted(weights), weights)


def test_fresh_latents_stop_at_their_timestep(tiny_pipeline) -> None:
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=4, guidance=3.0)
    fresh = FreshLatents(sampler, noise_predictor(unet, scheduler))
    taxi = concept.embeddings[:1]
    seen = set()
    for i in range(20):
        drawn = fresh.draw(["taxi"], taxi, taxi, Streams(0, i, samples=[0]))
        noise = Streams(0, i, samples=[0]).normal(4, 8, 8)
        states = {int(t): z for z, t, *_ in sampler.run(noise_predictor(unet, scheduler), taxi, noise)}
        assert torch.allclose(drawn.latents, states[int(drawn.timesteps[0])], atol=1e-5)
        seen.add(int(drawn.timesteps[0]))
    assert seen <= set(sampler.timesteps.tolist()) and len(seen) > 1


def test_v_prediction_is_turned_into_noise() -> None:
    pipeline = tiny_stable_diffusion("v_prediction")
    bars = pipeline.scheduler.alphas_cumprod
    clean, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    bar = bars[t].reshape(-1, 1, 1, 1)
    latents, velocity = bar.sqrt() * clean + (1 - bar).sqrt() * noise, bar.sqrt() * noise - (1 - bar).sqrt() * clean
    fake = lambda *_, **__: type("Output", (), {"sample": velocity})  # noqa: E731
    assert torch.allclose(noise_predictor(fake, pipeline.scheduler)(latents, t, None), noise, atol=1e-4)


def test_trainable_choices(tiny_pipeline) -> None:
    every = [name for name, _ in tiny_pipeline.unet.named_parameters()]
    found = {which: trainable_names(tiny_pipeline.unet, which) for which in CHOICES}
    assert found["full"] == every
    assert set(found["xattn"]) | set(found["noxattn"]) == set(every) and not set(found["xattn"]) & set(found["noxattn"])
    assert set(found["xattn-strict"]) < set(found["xattn"])
    assert all(".attn2.to_k" in n or ".attn2.to_v" in n for n in found["xattn-strict"])
    assert all(".attn1." in n for n in found["selfattn"])


def test_twin_shares_what_is_not_trained(tiny_pipeline) -> None:
    names = trainable_names(tiny_pipeline.unet, "xattn")
    second = dict(twin(tiny_pipeline.unet, names).named_parameters())
    for name, parameter in tiny_pipeline.unet.named_parameters():
        assert (second[name] is parameter) == (name not in names)
        assert torch.equal(second[name], parameter)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "adversarial"},
        {"name": "adversarial", "search_steps": 2, "rivals": 2},
        {"name": "adversarial", "search": "gradient"},
        {"name": "adversarial", "search": "gradient", "gumbel": "soft", "weighting": "clean", "neutral": "a photo"},
        {"name": "adversarial", "attack_steps": 2},
        {"name": "adversarial-pgd", "norm": "linf"},
        {"name": "weight-decay"},
        {"name": "esd", "erase_from": "car"},
        *({"name": name} for name in methods.names() if name not in ("adversarial", "fixed", "time", "uce")),
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_same_seed_same_weights_and_the_original_stays(tiny_pipeline, method: dict) -> None:
    before = copy.deepcopy(tiny_pipeline.unet.state_dict())
    records: list[dict] = []
    arguments = (*inputs(tiny_pipeline), Method(**method), settings())
    first = train(*arguments, seed=3, on_record=records.append)
    second = train(*arguments, seed=3)
    other = train(*arguments, seed=4)
    assert same(first, second) and not same(first, other)
    assert same(before, tiny_pipeline.unet.state_dict())
    assert set(first) == set(trainable_names(tiny_pipeline.unet, "xattn"))
    assert any(not torch.equal(value, before[name]) for name, value in first.items())
    updates = [r for r in records if r["phase"] == "update"]
    assert [r["step"] for r in updates] == [0, 1, 2, 3]
    searches = [r for r in records if r["phase"] == "search"]
    rounds = method.get("search_steps", 1) if hasattr(methods.load(method["name"]), "search_loss") else 0
    assert len(searches) == 4 * rounds


def test_of_the_rivals_the_one_that_is_hurt_most_is_preserved(tiny_pipeline) -> None:
    """Its L2, and every other's, by a plain computation with the weights that the step before left."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    method = Method(name="adversarial", rivals=5, weighting="clean")
    records: list[dict] = []
    for steps in (2, 3):
        records.clear()
        arguments = (*inputs(tiny_pipeline), method, settings(steps=steps, schedule="constant", latent_steps=4))
        weights = train(*arguments, seed=3, on_record=records.append)
        if steps == 2:
            edited = twin(unet, list(weights))
            edited.load_state_dict(weights, strict=False)
    search, update = ([r for r in records if r["phase"] == phase][-1] for phase in ("search", "update"))

    frozen, now = noise_predictor(unet, scheduler), noise_predictor(edited, scheduler)
    weight = (1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod
    drawn = (scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, 4, 3.0, weight.sqrt())
    bank, most = TrajectoryBank(Sampler(*drawn), frozen, trajectories=2, seed=3), []
    even = bank.sampler.timesteps
    chance = weight.sqrt() / weight[even].sqrt().sum()
    for sample, preserved in enumerate(update["drawn"]):
        rivals = search["drawn"][5 * sample : 5 * (sample + 1)]
        assert len(rivals) == 5 and len(set(rivals)) > 1
        losses = {}
        for word in rivals:
            under = concept.candidates[[WORDS.index(word)]]
            at = bank.draw([word], under, under, Streams(3, "rivals", 2, 0, samples=[sample]))
            with torch.no_grad():
                squared = now(at.latents, at.timesteps, under) - frozen(at.latents, at.timesteps, under)
            (t,) = at.timesteps
            losses[word] = float(weight[t] / (len(even) * chance[t]) * squared.square().mean())
        assert preserved == max(losses, key=losses.get)
        most.append(losses[preserved])
    assert search["search_loss"] == pytest.approx(np.mean(most), rel=1e-3)


def test_a_mixture_borrows_its_heaviest_word_s_trajectory(tiny_pipeline) -> None:
    """The bank's trajectories are those of words alone, whatever mixture first visits them."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    plain, mixed = (TrajectoryBank(sampler, noise_predictor(unet, scheduler), 2, seed=1) for _ in range(2))
    word, other = concept.candidates[:1], concept.candidates[1:2]
    plain.draw(WORDS[:1], word, word, Streams(0, samples=[0]))
    mixed.draw(WORDS[:1], 0.6 * word + 0.4 * other, word, Streams(0, samples=[0]))
    assert equal(plain.known[WORDS[0]], mixed.known[WORDS[0]])


def test_searched_embeddings_are_told(tiny_pipeline) -> None:
    told = []
    pgd = Method(name="adversarial-pgd", step_size=0.1)
    train(*inputs(tiny_pipeline), pgd, settings(), seed=0, on_search=lambda *values: told.append(values))
    assert [(step, concept) for step, concept, _ in told] == [(i, "taxi") for i in range(4)]
    start = encode(tiny_pipeline, ["taxi"])[0]
    apart = [float((searched - start).norm() / start.norm()) for _, _, searched in told]
    # Before the first update both models are the same: nothing is hurt yet, and there is nothing to climb.
    assert apart[0] == 0 and apart[1] == pytest.approx(0.1, rel=1e-3) and max(apart) <= 0.3 + 1e-3


def test_erasing_lowers_the_erasing_loss(tiny_pipeline) -> None:
    records: list[dict] = []
    train(
        *inputs(tiny_pipeline), Method(name="naive"), settings(steps=60, batch_size=4), seed=0, on_record=records.append
    )
    losses = [r["erasing_loss"] for r in records]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_several_concepts_each_with_its_own_search(tiny_pipeline) -> None:
    unet, scheduler, (taxi,), conditions = inputs(tiny_pipeline)
    bus = ErasedConcept("bus", ["bus"], encode(tiny_pipeline, ["bus"]), WORDS[:3], taxi.candidates[:3])
    records: list[dict] = []
    train(unet, scheduler, [taxi, bus], conditions, Method(), settings(steps=2), seed=0, on_record=records.append)
    assert [r["concept"] for r in records if r["phase"] == "update"] == ["taxi", "bus", "taxi", "bus"]
    assert {w for r in records if r["concept"] == "bus" for w in r["drawn"]} <= set(WORDS[:3])


def test_a_group_is_shown_by_its_members(tiny_pipeline) -> None:
    given = {
        "name": "x",
        "concepts": [{"concept": "weapon", "prompts": ["an armoury"]}],
        "method": "naive",
        "output": "o",
    }
    (group,) = erased_concepts(make_spec(given), tiny_pipeline, None, {})
    assert {"weapon", "sword", "bomb", "pistol", "an armoury"} <= set(group.prompts) and "tool" not in group.prompts
    assert len(group.embeddings) == len(group.prompts) == len(group.positions)
    (alone,) = erased_concepts(make_spec({**given, "model": "some/model"}), tiny_pipeline, None, {})
    assert alone.prompts == ["weapon", "an armoury"]


IN_STYLE = [{"prompt": "a car in noto style", "neutral": "a car"}, "a rose in noto style"]
STYLE = {"name": "x", "concepts": [{"concept": "noto", "prompts": IN_STYLE}], "output": "o"}


@pytest.mark.parametrize("latents", ["frozen-bank", "fresh"])
def test_a_prompt_is_led_to_its_own_neutral(tiny_pipeline, latents: str) -> None:
    """θ's target is its prediction under "a car" for the prompt that says so, and under "" for the others."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    (style,) = erased_concepts(make_spec({**STYLE, "method": "naive"}), tiny_pipeline, None, {})
    assert style.neutrals.words == ["", "a car", ""]
    predict = noise_predictor(unet, scheduler)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    source = FreshLatents(sampler, predict) if latents == "fresh" else TrajectoryBank(sampler, predict, 2, seed=3)
    at = draw(["erased", "neutral@erased"], style, None, source, conditions.neutral, Streams(0, samples=range(12)))
    assert set(at.prompts) == {0, 1, 2} and ("neutral@erased" in at.known) == (latents == "frozen-bank")
    led_to = encode(tiny_pipeline, ["", "a car", ""])[at.prompts]
    expected = predict(at.latents["erased"].latents, at.latents["erased"].timesteps, led_to)
    found = frozen_predictions(predict, ["neutral@erased"], at)["neutral@erased"]
    assert torch.allclose(found, expected, atol=1e-4)
    plain = draw(["neutral@erased"], concept, None, source, conditions.neutral, Streams(0, samples=range(12)))
    assert torch.equal(plain.conditions["neutral"], conditions.neutral.expand(12, -1, -1))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_only_the_rows_without_trajectories_are_computed(tiny_pipeline, share: float) -> None:
    """θ's prediction of each row is of its own condition: read for words with trajectories and for c_n, computed for others."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    rows, predict = [], noise_predictor(unet, scheduler)

    def counted(latents, timesteps, under):
        rows.append(len(latents))
        return predict(latents, timesteps, under)

    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    source = TrajectoryBank(sampler, predict, 2, seed=3)
    chooser = UniformChoice(concept.candidate_words, concept.candidates, with_trajectories=6)
    streams = Streams(0, samples=range(12))
    at = draw(["erased", "preserved"], concept, chooser, source, conditions.neutral, streams, share)
    found = frozen_predictions(counted, ["preserved", "neutral@erased"], at)
    latents, kept = at.latents["preserved"], (at.conditions["preserved"] == conditions.neutral).flatten(1).all(1)
    expected = predict(latents.latents, latents.timesteps, at.conditions["preserved"])
    assert torch.allclose(found["preserved"], expected, atol=1e-4) and kept.any() == bool(share)
    alone = [row for row in at.choice.elsewhere if not kept[row]]
    assert rows == [len(alone)] and 0 < len(alone) < 12
    own = at.conditions["preserved"].clone().requires_grad_(True)
    assert frozen_predictions(counted, ["preserved"], at.under(preserved=own))["preserved"].requires_grad
    assert rows == [len(alone), 12]


def test_an_anchor_is_the_prompt_s_own_neutral(tiny_pipeline) -> None:
    unet, scheduler, _, conditions = inputs(tiny_pipeline)
    spec = make_spec({**STYLE, "method": {"name": "concept-ablation", "anchor": "picture"}})
    (style,) = erased_concepts(spec, tiny_pipeline, None, {})
    assert style.anchors.words == ["picture", "a car", "picture"] and style.neutrals is None
    records: list[dict] = []
    train(unet, scheduler, [style], conditions, spec.method, settings(steps=6), 0, on_record=records.append)
    assert {word for row in records for word in row["drawn"]} == {"picture", "a car"}


def test_resumes_bitwise_after_a_kill(tiny_pipeline, tmp_path: Path) -> None:
    undisturbed = train(*inputs(tiny_pipeline), Method(), settings(steps=6), seed=5)

    class Killed(Exception):
        pass

    def killer(record: dict) -> None:
        if record["step"] == 3 and record["phase"] == "update":
            raise Killed

    with pytest.raises(Killed):
        train(*inputs(tiny_pipeline), Method(), settings(steps=6), 5, tmp_path, killer)
    assert checkpoint.latest(tmp_path).name == "step-000002"
    records, updated = [], []
    resumed = train(
        *inputs(tiny_pipeline),
        Method(),
        settings(steps=6),
        5,
        tmp_path,
        records.append,
        on_update=lambda s, _: updated.append(s),
    )
    assert same(undisturbed, resumed) and updated == [2, 3, 4, 5]
    assert [r["step"] for r in records if r["phase"] == "update"] == [0, 1, 2, 3, 4, 5]


def test_snapshots_of_before_are_still_there_after_a_checkpoint(tmp_path: Path) -> None:
    before = Snapshots(2, tmp_path)
    for step in range(4):
        before(step, "a/b", torch.full((2, 3), float(step)))
    assert [file.name[:7] for file in sorted(tmp_path.iterdir())] == ["000000-", "000002-"]
    after = Snapshots(2, tmp_path)
    for step in range(3, 7):
        after(step, "a/b", torch.full((2, 3), float(step)))
    assert list(after.kept) == [(0, "a/b"), (2, "a/b"), (4, "a/b"), (6, "a/b")]
    assert [float(value[0, 0]) for value in after.kept.values()] == [0, 2, 4, 6]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tiny_pipeline, tmp_path: Path) -> None:
    train(*inputs(tiny_pipeline), Method(name="naive"), settings(steps=5, checkpoint_every=1), 5, tmp_path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["step-000003", "step-000004"]
    state = tmp_path / "step-000004" / checkpoint.STATE
    written = bytearray(state.read_bytes())
    written[len(written) // 2] ^= 1
    state.write_bytes(written)
    assert checkpoint.latest(tmp_path).name == "step-000003"


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path) -> None:
    (tmp_path / ".step-000004.partial").mkdir()
    assert checkpoint.latest(tmp_path) is None


def test_the_newest_checkpoint_is_the_one_of_the_last_step(tmp_path: Path, monkeypatch) -> None:
    for step in (999_900, 1_000_000):
        (tmp_path / f"step-{step:06d}").mkdir()
    monkeypatch.setattr(checkpoint, "whole", lambda found: True)
    assert checkpoint.latest(tmp_path).name == "step-1000000"


def test_divergence_stops_and_keeps_the_checkpoint(tiny_pipeline, tmp_path: Path) -> None:
    wild = settings(steps=200, learning_rate=1e6, checkpoint_every=1)
    with pytest.raises(Diverged, match="lower training.learning_rate.*checkpoint of step"):
        train(*inputs(tiny_pipeline), Method(), wild, 0, tmp_path)
    assert checkpoint.latest(tmp_path) is not None


def test_bounds_follow_the_weighting(tiny_pipeline) -> None:
    """w_t of `clean` grows from 0.002 to 170 over the timesteps: a training that begins with a small one is as healthy."""
    bars = torch.tensor([0.9, 0.5, 0.1])
    even, clean = loss_weights("epsilon", bars), loss_weights("clean", bars)
    at = {"erased": torch.tensor([0, 1]), "preserved": torch.tensor([2, 2])}
    assert weight_at(even, at) == 1 and weight_at(clean, at) == pytest.approx(9)
    assert weight_at(clean, {"erased": at["erased"]}) == pytest.approx((0.1 / 0.9 + 1) / 2)
    # Noised latents have their own weights, since their timesteps are drawn another way.
    noised = {"noised": at["preserved"]}
    assert weight_at(even, noised, clean) == pytest.approx(9) == weight_at(clean, {**at, **noised}, even)
    z = torch.zeros(2, 1, 1, 1)
    assert float(distance_at(even, {**at, **noised}, clean)(z, z + 1, "noised")) == pytest.approx(9)
    assert float(distance_at(even, {**at, **noised}, clean)(z, z + 1, "preserved")) == 1
    for seed in range(6):
        method = Method(name="adversarial", weighting="clean")
        train(*inputs(tiny_pipeline), method, settings(steps=4, batch_size=1, divergence=20.0), seed)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_linear_schedule(tiny_pipeline, monkeypatch, stage: int) -> None:
    """What Adam's steps are made with: the learning rate less a step's share of it after each."""
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda adam, *args, **named: (
            [rates.append(group["lr"]) for group in adam.param_groups if not adam.defaults["maximize"]],
            step(adam, *args, **named),
        )[1],
    )
    falling = settings(zero_stage=stage, steps=4, learning_rate=1e-3, schedule="linear")
    weights = train(*inputs(tiny_pipeline), Method(), falling, seed=2)
    assert list(dict.fromkeys(rates)) == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    constant = train(
        *inputs(tiny_pipeline), Method(), settings(steps=4, learning_rate=1e-3, schedule="constant"), seed=2
    )
    assert not same(weights, constant)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_trains_the_same_weights(tiny_pipeline, stage: int) -> None:
    plain = train(*inputs(tiny_pipeline), Method(), settings(), seed=2)
    sharded = train(*inputs(tiny_pipeline), Method(), settings(zero_stage=stage), seed=2)
    for name, value in plain.items():
        assert torch.allclose(value, sharded[name], atol=1e-5), name


def test_half_precision_trains_full_precision_weights(tiny_pipeline, monkeypatch) -> None:
    """All of θ' is computed in bf16, also by the engine, which on an accelerator turns off an autocast that it is called under."""
    around, computed = set(), set()
    call = DeepSpeedEngine.forward

    def forward(engine, *arguments, **named):
        around.add(torch.is_autocast_enabled("cpu"))
        output = call(engine, *arguments, **named)
        computed.add(output.sample.dtype)
        return output

    monkeypatch.setattr(DeepSpeedEngine, "forward", forward)
    weights = train(*inputs(tiny_pipeline), Method(), settings(precision="bf16", steps=2), seed=2)
    assert around == {False} and computed == {torch.bfloat16}
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in weights.values())
    assert next(tiny_pipeline.unet.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("latents", "source"), [("fresh", "FreshLatents"), ("frozen-bank", "TrajectoryBank")])
def test_latents_are_sampled_by_the_model_that_the_source_says(
    tiny_pipeline, latents: str, source: str, monkeypatch
) -> None:
    """Fresh ones by the edited model as it is by then, a bank's by the frozen one."""
    own, given = getattr(loop, source), []
    monkeypatch.setattr(loop, source, lambda *arguments: given.append(arguments[1]) or own(*arguments))
    unet, scheduler, _, conditions = inputs(tiny_pipeline)
    weights = train(*inputs(tiny_pipeline), Method(), settings(latents=latents, steps=2), seed=0)
    edited = twin(unet, list(weights))
    put_weights(edited, weights)
    at = torch.randn(1, 4, 8, 8), torch.tensor([500]), conditions.neutral[None]
    found = {
        name: noise_predictor(model, scheduler)(*at) for name, model in {"fresh": edited, "frozen-bank": unet}.items()
    }
    assert not torch.allclose(found["fresh"], found["frozen-bank"], atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(given[0](*at), found[latents], atol=1e-5)


def test_the_model_is_shown_after_each_update(tiny_pipeline) -> None:
    shown = {}

    def on_update(step: int, unet) -> None:
        shown[step] = {name: value.detach().clone() for name, value in unet.named_parameters()}

    weights = train(*inputs(tiny_pipeline), Method(), settings(), seed=0, on_update=on_update)
    assert list(shown) == [0, 1, 2, 3]
    assert all(torch.equal(value, shown[3][name]) for name, value in weights.items())
    assert not all(torch.equal(value, shown[2][name]) for name, value in weights.items())


def test_a_step_is_timed_to_its_end(tiny_pipeline, monkeypatch) -> None:
    """The seconds of an update hold its backward pass and Adam's step."""
    step = torch.optim.Adam.step

    def slow(adam, *args, **named):
        if not adam.defaults["maximize"]:
            time.sleep(0.2)
        return step(adam, *args, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", slow)
    records: list[dict] = []
    train(*inputs(tiny_pipeline), Method(), settings(steps=2), 2, on_record=records.append)
    updates = [r["seconds"] for r in records if r["phase"] == "update"]
    assert len(updates) == 2 and min(updates) > 0.2
