"""Search for a concept among words: gradient ascent on the logits of a Gumbel-softmax."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from ..randomness import Streams
from .choice import Choice
from .rows import Rows, drawn, homes, mixture, products


class GumbelSearch:
    """One erased concept's π over its K candidate words, and Adam on it."""

    searches = True

    def __init__(
        self,
        words: list[str],
        embeddings: Rows,
        *,
        temperature: float,
        learning_rate: float,
        mixed: int = 1,
        with_trajectories: int | None = None,
    ):
        """embeddings: R, the candidates' prompt embeddings [K, L, d]. mixed: how many of the heaviest words make up a
        condition; with 1 it is the straight-through one-hot, with K the whole mixture. with_trajectories: how many words
        have trajectories of their own, all by default.
        """
        self.words, self.embeddings = words, embeddings
        self.homes = homes(embeddings, with_trajectories)
        self.temperature, self.mixed = temperature, min(mixed, len(words))
        self.logits = torch.zeros(len(words), device=embeddings.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=learning_rate, maximize=True)

    def choose(self, streams: Streams) -> Choice:
        """Draw a condition for each stream, with Gumbel noise of its own."""
        with torch.no_grad():
            uniform = streams.uniform(len(self.words)).clamp_(1e-20, 1 - 1e-7)
            noise = -torch.log(-torch.log(uniform)).to(self.logits.device)
            weights = torch.softmax((self.logits + noise) / self.temperature, dim=1)
            rows = weights.argmax(1)
            found = replace(drawn(self.words, self.embeddings, rows, self.homes), weights=weights)
            if self.mixed == 1:
                return found
            if self.mixed < len(self.words):
                kept = torch.zeros_like(weights).scatter_(1, weights.topk(self.mixed).indices, 1.0)
                weights = weights * kept / (weights * kept).sum(1, keepdim=True)
            return replace(found, embeddings=mixture(self.embeddings, weights), weights=weights)

    def rivals(self, streams: Streams, count: int) -> tuple[torch.Tensor, Choice]:
        """`count` words for each stream, drawn from softmax(π): rows [B, count], and the draws, a stream's one after the other.

        A draw is what `choose` finds by its Gumbel noise, for one uniform number in place of K.
        """
        with torch.no_grad():
            below = torch.softmax(self.logits.double(), 0).cumsum(0)
            places = streams.uniform(count).to(below) * below[-1]
            rows = torch.searchsorted(below, places, right=True).clamp(max=len(self.words) - 1)
            return rows, drawn(self.words, self.embeddings, rows.flatten(), self.homes)

    def gradient(self, choice: Choice, gradient: torch.Tensor) -> torch.Tensor:
        """The search loss's gradient to π [K] from its gradient to the conditions G(π) ⊙ R [B, L, d].

        The gradient to weight i is ⟨∂L/∂c_a, R_i⟩, one matrix product over the rows; then the softmax's Jacobian, which
        for the few heaviest words is the Jacobian of the softmax over those words. With hard draws this is the
        straight-through estimator.
        """
        to_weights = products(self.embeddings, gradient)
        centred = to_weights - (to_weights * choice.weights).sum(1, keepdim=True)
        return (choice.weights * centred).sum(0) / self.temperature

    def score_gradient(self, rows: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """The gradient to π [K] of a draw's expected loss, from the rows [B, n] of n draws for each of B samples, and by how much
        their losses were above what is expected of the sample [B, n], in sum 0.

        It is the mean of A(c) ∇ log softmax(π)_c, and ∇ log softmax(π)_c is 1_c − softmax(π), whose second part the sum cancels.
        Words that use the same trajectories are measured as one, and so rise and fall together.
        """
        homes = self.homes.to(advantages.device)
        total = torch.zeros(len(homes), device=advantages.device)
        total = total.index_add(0, homes[rows.flatten().to(homes.device)], advantages.flatten())
        return (total / rows.numel())[homes].to(self.logits.device)

    def ascend(self, gradient: torch.Tensor) -> None:
        """One Adam step up the gradient [K]."""
        self.logits.grad = gradient
        self.optimizer.step()

    def favourite(self, choice: Choice) -> tuple[str, float, float]:
        """The word that π favours, its probability, and the first condition's distance from its heaviest word."""
        probabilities = torch.softmax(self.logits.detach(), 0)
        best = int(probabilities.argmax())
        apart = float((choice.embeddings[0] - choice.word_embeddings[0]).norm())
        return self.words[best], float(probabilities[best]), apart

    def searched(self) -> torch.Tensor:
        """The favoured word's embedding [L, d]."""
        return self.embeddings[[int(self.logits.argmax())]][0]

    def state_dict(self) -> dict:
        return {"logits": self.logits.detach().clone(), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
