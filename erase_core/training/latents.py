"""Latents z_t of a concept: from a bank of trajectories of the frozen model, or sampled anew from the edited one."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, SchedulerMixin

from ..files import digest
from ..randomness import Streams, generator
from ..search.choice import Choice
from . import trajectory_files
from .predictions import Predict, alphas_cumprod
from .trajectory_files import Parts


@dataclass
class Latents:
    """Latents [B, C, h, w] of a concept at timesteps [B], with the frozen model's predictions there where they are known.

    conditional, neutral and other are ε_θ under the concept's own embedding, under c_n and under a third condition that was
    named, or None when they must be computed.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    conditional: torch.Tensor | None = None
    neutral: torch.Tensor | None = None
    other: torch.Tensor | None = None


class Sampler:
    """Partial DDIM sampling with classifier-free guidance under any noise predictor."""

    def __init__(
        self,
        scheduler: SchedulerMixin,
        shape: tuple[int, int, int],
        unconditional: torch.Tensor,
        neutral: torch.Tensor,
        steps: int,
        guidance: float,
        often: torch.Tensor | None = None,
    ):
        """shape: (C, h, w). unconditional, neutral: prompt embeddings [L, d] of "" and of c_n. often: [T], how often a step draws a
        timestep, beside others; by default evenly.
        """
        # Latents are not clipped, whatever DDIM's default for a config that comes from another scheduler.
        self.scheduler = DDIMScheduler.from_config(
            scheduler.config, prediction_type="epsilon", timestep_spacing="leading", clip_sample=False
        )
        self.scheduler.alphas_cumprod = alphas_cumprod(scheduler)
        self.scheduler.set_timesteps(steps)
        self.shape, self.guidance = shape, guidance
        self.unconditional, self.neutral = unconditional, neutral
        self.often = torch.ones_like(self.scheduler.alphas_cumprod) if often is None else often
        self.up_to = self.often[self.timesteps.cpu()].double().cumsum(0)

    @property
    def timesteps(self) -> torch.Tensor:
        """Decreasing timesteps [steps]."""
        return self.scheduler.timesteps

    def numbers(self, uniform: torch.Tensor) -> torch.Tensor:
        """Numbers of steps, drawn as often as their timesteps are to be, from as many numbers in [0, 1)."""
        places = uniform.double() * self.up_to[-1]
        return torch.searchsorted(self.up_to, places, right=True).clamp(max=len(self.up_to) - 1)

    def counted(self, weights: torch.Tensor) -> torch.Tensor:
        """What a loss at a drawn timestep counts [T]: in the mean over draws it is as if they were even, with these weights."""
        return weights / self.often * self.often[self.timesteps.cpu()].mean()

    @torch.no_grad()
    def run(
        self,
        predict: Predict,
        embeddings: torch.Tensor,
        noise: torch.Tensor,
        stop: int | None = None,
        neutral: torch.Tensor | None = None,
    ):
        """Sample from noise [B, C, h, w] under embeddings [B, L, d]; yields (z_t, t, ε(c), ε(c_n)) before each step.

        Ends at step number `stop`, or with the finished z_0 (t = 0) after the last one; there nothing is predicted (None).
        neutral: another c_n [L, d] than the sampler's.
        """
        z = noise.to(embeddings.device)
        neutral = self.neutral if neutral is None else neutral
        conditions = [embeddings, self.unconditional.expand_as(embeddings)]
        if not torch.equal(self.unconditional, neutral):
            conditions.append(neutral.expand_as(embeddings))
        stacked = torch.cat(conditions)
        for index, t in enumerate(self.timesteps):
            if index == stop:
                yield z, t, None, None
                return
            repeated = t.to(z.device).expand(len(stacked))
            parts = predict(z.repeat(len(conditions), 1, 1, 1), repeated, stacked).chunk(len(conditions))
            conditional, unconditional = parts[0], parts[1]
            yield z, t, conditional, parts[-1]
            guided = unconditional + self.guidance * (conditional - unconditional)
            z = self.scheduler.step(guided, t, z).prev_sample
        yield z, torch.tensor(0), None, None

    def renoise(self, clean: torch.Tensor, streams: Streams) -> Latents:
        """Finished latents z_0 [B, C, h, w] with noise of one random timestep each, drawn from the whole schedule."""
        t = streams.integers(self.scheduler.config.num_train_timesteps).to(clean.device)
        noise = streams.normal(*self.shape).to(clean.device)
        return Latents(self.scheduler.add_noise(clean, noise, t), t)


class TrajectoryBank:
    """Trajectories of each concept under the frozen model, sampled when a concept is first visited.

    Classifier-free guidance computes ε_θ under the concept and under "" at every z_t anyway, so the bank keeps them: an
    update step needs no further call of the frozen model. With a folder, trajectories are kept there, in memory-mapped files
    that all runs share that would sample the same ones.
    """

    def __init__(
        self,
        sampler: Sampler,
        predict: Predict,
        trajectories: int,
        seed: int,
        folder: Path | None = None,
        most_bytes: float = math.inf,
        refresh_every: int | None = None,
    ):
        """folder: belongs to one frozen model and precision; its files are named by all else that a trajectory depends on,
        and take no more than most_bytes, beside those of one draw. refresh_every: steps after which trajectories of other noise
        are used.
        """
        self.sampler, self.predict, self.trajectories, self.seed = sampler, predict, trajectories, seed
        self.folder, self.most_bytes, self.refresh_every = folder, most_bytes, refresh_every
        self.round = 0
        # In the order of their last use.
        self.known: dict[str, Parts] = {}
        self.files: dict[str, Path] = {}

    def begin(self, step: int) -> None:
        """Called before each step of the training."""
        now = step // self.refresh_every if self.refresh_every else 0
        if now != self.round:
            self.round, self.known, self.files = now, {}, {}

    def fill(self, words: list[str], embeddings: torch.Tensor, neutrals: Choice | None = None) -> list[str]:
        """Sample, or open, the trajectories of those of `words` (embeddings [N, L, d]) that are not in the bank.

        neutrals: another c_n than the sampler's for each. Returns the names that the bank knows the trajectories by.
        """
        known_by, opened = [], False
        for at, (word, embedding) in enumerate(zip(words, embeddings)):
            neutral = self.sampler.neutral if neutrals is None else neutrals.embeddings[at]
            name = word if neutrals is None else f"{word} → {neutrals.words[at]}"
            known_by.append(name)
            named = functools.partial(self.name, word, embedding, neutral)
            opened |= self.open(name, named, functools.partial(self.sampled, word, embedding, neutral))
        if opened:
            self.keep_to_size(known_by)
        return known_by

    def fill_others(self, names: list[str], texts: list[str], embeddings: torch.Tensor) -> list[str]:
        """Have ε_θ under other conditions, of these texts and embeddings [N, L, d], at all points of the trajectories of the bank's
        names. Returns the names that the bank knows them by.
        """
        known_by, opened = [], False
        for name, text, embedding in zip(names, texts, embeddings):
            known_by.append(f"{text} at {name}")
            named = functools.partial(self.name_of_others, name, embedding)
            opened |= self.open(known_by[-1], named, functools.partial(self.predicted, name, embedding))
        if opened:
            self.keep_to_size([*names, *known_by])
        return known_by

    def open(self, name: str, named: Callable[[], str], make: Callable[[], Parts]) -> bool:
        """Have what the bank knows by a name, in a file where there is a folder; returns whether that was opened."""
        if name in self.known:
            self.known[name] = self.known.pop(name)
            return False
        if self.folder is None:
            self.known[name] = make()
            return False
        self.files[name] = self.folder / f"{named()}{trajectory_files.ENDING}"
        self.known[name] = trajectory_files.shared(self.files[name], make)
        return True

    def keep_to_size(self, needed: list[str]) -> None:
        """Trim the folder, and let go of what is no longer there: a file that is mapped keeps its room on the disk."""
        trajectory_files.trim(self.folder, self.most_bytes, [self.files[name] for name in self.known])
        for name in [name for name, file in self.files.items() if name not in needed and not file.exists()]:
            del self.known[name], self.files[name]

    def sampled(self, word: str, embedding: torch.Tensor, neutral: torch.Tensor | None = None) -> Parts:
        """New trajectories: z [N, steps + 1, C, h, w], the finished latents last, and ε_θ under c and c_n at all but those.

        Alone and by a noise of its own name: which words were visited before changes no bit of a trajectory.
        """
        rng = generator(self.seed, "trajectory", word, self.round)
        noise = torch.randn(self.trajectories, *self.sampler.shape, generator=rng)
        under = embedding.expand(self.trajectories, -1, -1)
        *states, (finished, *_) = self.sampler.run(self.predict, under, noise, neutral=neutral)
        z, _, conditional, neutral = zip(*states)
        parts = {"z": (*z, finished), "conditional": conditional, "neutral": neutral}
        return {name: np.ascontiguousarray(torch.stack(part, 1).float().cpu().numpy()) for name, part in parts.items()}

    @torch.no_grad()
    def predicted(self, name: str, embedding: torch.Tensor) -> Parts:
        """ε_θ under an embedding [L, d] at all points, but the finished ones, of one of the bank's trajectories."""
        under = embedding.expand(self.trajectories, -1, -1)
        found = []
        for step, t in enumerate(self.sampler.timesteps):
            z = torch.from_numpy(np.array(self.known[name]["z"][:, step])).to(under)
            found.append(self.predict(z, t.to(z.device).expand(self.trajectories), under))
        return {"other": np.ascontiguousarray(torch.stack(found, 1).float().cpu().numpy())}

    def name_of_others(self, name: str, embedding: torch.Tensor) -> str:
        """The hash of what predictions depend on beside the model and the trajectories."""
        return digest(self.files[name].name, contents_of(embedding))

    def name(self, word: str, embedding: torch.Tensor, neutral: torch.Tensor) -> str:
        """The hash of what a word's trajectories depend on beside the model."""
        sampler = self.sampler
        contents = [contents_of(tensor) for tensor in (embedding, sampler.unconditional, neutral)]
        drawn = (self.seed, self.round, self.trajectories)
        return digest(word, *drawn, sampler.timesteps.tolist(), sampler.guidance, *contents)

    def points(self, part: str, names: list[str], which: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """One state of one trajectory of each of the bank's names, [B, C, h, w]."""
        found = [self.known[name][part][w, s] for name, w, s in zip(names, which.tolist(), steps.tolist())]
        return torch.from_numpy(np.stack(found)).to(self.sampler.unconditional.device)

    def draw(
        self,
        words: list[str],
        embeddings: torch.Tensor,
        word_embeddings: torch.Tensor,
        streams: Streams,
        neutrals: Choice | None = None,
        others: tuple[list[str], torch.Tensor] | None = None,
    ) -> Latents:
        """One random point of a random trajectory for each word (repeats allowed) under its own embedding [B, L, d].

        `embeddings`, what the latents are drawn for, may be mixtures near the words; the bank has trajectories of words only.
        neutrals: as in `fill`. others: the texts and embeddings [B, L, d] of a third condition for each.
        """
        names = self.fill(words, word_embeddings, neutrals)
        steps, which = self.sampler.numbers(streams.uniform(1)[:, 0]), streams.integers(self.trajectories)
        z, conditional, neutral = (self.points(part, names, which, steps) for part in ("z", "conditional", "neutral"))
        other = None if others is None else self.points("other", self.fill_others(names, *others), which, steps)
        return Latents(z, self.sampler.timesteps[steps].to(z.device), conditional, neutral, other)

    def draw_noised(self, words: list[str], embeddings: torch.Tensor, streams: Streams) -> Latents:
        """One of each word's finished latents, with noise; embeddings [B, L, d]."""
        names = self.fill(words, embeddings)
        which = streams.integers(self.trajectories)
        return self.sampler.renoise(self.points("z", names, which, torch.full_like(which, -1)), streams)


class FreshLatents:
    """The reference's way: partial DDIM sampling under the edited model, anew in every step."""

    def __init__(self, sampler: Sampler, predict: Predict):
        self.sampler, self.predict = sampler, predict

    def begin(self, step: int) -> None:
        """Nothing is kept from step to step."""

    def draw(
        self,
        words: list[str],
        embeddings: torch.Tensor,
        word_embeddings: torch.Tensor,
        streams: Streams,
        neutrals: Choice | None = None,
        others: tuple[list[str], torch.Tensor] | None = None,
    ) -> Latents:
        """Sample all rows of embeddings [B, L, d] down to one random timestep, the same on every rank."""
        stop = int(self.sampler.numbers(torch.rand(1, generator=streams.shared)))
        *_, (z, t, _, _) = self.sampled(embeddings, streams, stop)
        return Latents(z, t.to(z.device).expand(len(embeddings)))

    def draw_noised(self, words: list[str], embeddings: torch.Tensor, streams: Streams) -> Latents:
        """Images sampled for each row of embeddings [B, L, d], with noise."""
        *_, (finished, *_) = self.sampled(embeddings, streams)
        return self.sampler.renoise(finished, streams)

    def sampled(self, embeddings: torch.Tensor, streams: Streams, stop: int | None = None):
        # Predictions under c_n, which a bank keeps, would only be thrown away.
        noise, neutral = streams.normal(*self.sampler.shape), self.sampler.unconditional
        return self.sampler.run(self.predict, embeddings, noise, stop, neutral)


def contents_of(embedding: torch.Tensor) -> str:
    return hashlib.sha256(embedding.detach().float().cpu().numpy().tobytes()).hexdigest()
