"""Discrete prompt search: n tokens of the vocabulary before the concept's prompt (UnlearnDiffAtk, arXiv 2310.11868).

    min_{k_1 … k_n} L(c([k_1 … k_n; "a taxi"]), θ'),   L of `objective`, with z_0 an image of the concept

The gradient in token i's embedding, g_i = ∂L/∂E(k_i), gives that in its one-hot row over the vocabulary, E g_i [V]. Two
searches use it:

    greedy-coordinate    of the tokens with the smallest ⟨E_k, g_i⟩ at each place, try some swaps on the step's own batch and
                         keep the best (Zou et al., arXiv 2307.15043)
    projected-gradient   w_i ← Π_simplex(w_i − η Adam(E g_i)), g_i at tokens k_i ~ w_i that each step draws (the paper's)

There w_i [V] is a relaxed one-hot row, which begins at 1/V, and the gradient passes straight through the drawing. The prompt at a
budget is argmax w_i at each place, as in the published code, whose weight decay is left out: the losses of what was drawn are of
another noise each, and do not say which of it was best.

Tokens are whole words of letters, so that the prompt found can be typed; it is drawn from its text. The attacker has the
weights and some images of the concept. Control: unrelated prompts. At budget 0 the prefix is random tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerBase

from ..training.predictions import alphas_cumprod
from .learning import predictor
from .objective import Noised, draw_noised, noise_losses
from .settings import DiscretePrompt
from .slots import Slots, token_table
from .target import Attempt, Target, repeated

UNIT = "steps"
WORD_END = "</w>"


def typeable(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[int]]:
    """The vocabulary's whole words of three ASCII letters and more, and their ids."""
    found = {
        token.removesuffix(WORD_END): row for token, row in tokenizer.get_vocab().items() if token.endswith(WORD_END)
    }
    words = sorted(word for word in found if len(word) > 2 and word.isascii() and word.isalpha())
    return words, [found[word] for word in words]


def one_hot_gradient(table: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """∂L/∂w [n, V] of rows w over the table [V, d], from ∂L/∂(w E) [n, d]."""
    return gradient @ table.T


def onto_simplex(rows: torch.Tensor) -> torch.Tensor:
    """The Euclidean projection of rows [n, V] onto the probability simplex (Duchi et al., ICML 2008)."""
    falling = rows.sort(dim=1, descending=True).values
    excess = (falling.cumsum(1) - 1) / torch.arange(1, rows.shape[1] + 1, device=rows.device)
    kept = (falling > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, kept - 1)).clamp(min=0)


def run(target: Target, settings: DiscretePrompt) -> Iterator[Attempt]:
    slots = Slots(target.pipeline, [f"{{slots}} {prompt}" for prompt in target.prompts], settings.tokens)
    words, ids = typeable(target.pipeline.tokenizer)
    table = token_table(target.pipeline)[ids]
    clean, predict = target.latents(target.images), predictor(target)
    bars, rng = alphas_cumprod(target.pipeline.scheduler), target.generator("discrete-prompt")
    tokens = torch.randint(len(words), (settings.tokens,), generator=rng)
    relaxed = torch.full((settings.tokens, len(words)), 1 / len(words), device=table.device)
    descent, drawn = torch.optim.Adam([relaxed], lr=settings.learning_rate), tokens

    def losses(at: Noised, rows: list[int], embeddings: torch.Tensor) -> torch.Tensor:
        return noise_losses(predict, bars, at, slots.conditions(rows, embeddings))

    for step in range(settings.budgets[-1] + 1):
        if step in settings.budgets:
            prefix = " ".join(words[k] for k in tokens.tolist())
            yield from target.draw(step, [f"{prefix} {prompt}" for prompt in repeated(target.prompts, settings.images)])
        if step == settings.budgets[-1]:
            break
        at = draw_noised(clean, settings.batch_size, len(bars), rng)
        rows = torch.randint(len(target.prompts), (settings.batch_size,), generator=rng).tolist()
        embeddings = table[drawn if settings.search == "projected-gradient" else tokens].requires_grad_(True)
        before = losses(at, rows, embeddings).mean()
        (gradient,) = torch.autograd.grad(before, embeddings)
        slopes = one_hot_gradient(table, gradient)
        if settings.search == "projected-gradient":
            relaxed.grad = slopes
            descent.step()
            relaxed.copy_(onto_simplex(relaxed))
            tokens, drawn = relaxed.argmax(1).cpu(), torch.multinomial(relaxed.cpu(), 1, generator=rng)[:, 0]
        else:
            tokens = best_swap(
                tokens,
                slopes,
                settings,
                rng,
                before.item(),
                lambda t, at=at, rows=rows: losses(at, rows, table[t]).mean(),
            )
    yield from target.control(settings.budgets[-1], settings.images)


@torch.no_grad()
def best_swap(tokens, slopes, settings: DiscretePrompt, rng: torch.Generator, before: float, loss) -> torch.Tensor:
    """The tokens [n] after the one swap, of those that were tried, that lowers the loss most, or as they are if none does.

    slopes: ∂L/∂w [n, V]. loss(tokens) gives L.
    """
    likely = (-slopes).topk(min(settings.top_tokens, slopes.shape[1]), dim=1).indices
    best, lowest = tokens, before
    for _ in range(settings.candidates):
        place = int(torch.randint(len(tokens), (), generator=rng))
        tried = tokens.clone()
        tried[place] = likely[place, int(torch.randint(likely.shape[1], (), generator=rng))]
        found = float(loss(tried))
        if found < lowest:
            best, lowest = tried, found
    return best
