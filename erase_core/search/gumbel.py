"""Search for the concept that the erasure hurts most: gradient ascent on the logits of a Gumbel-softmax."""

from __future__ import annotations

import copy

import torch

from .choice import Choice


class GumbelSearch:
    """One erased concept's π over its K candidate words, and Adam on it."""

    def __init__(
        self, words: list[str], embeddings: torch.Tensor, *, temperature: float, hard: bool, learning_rate: float
    ):
        """embeddings: R, the candidates' prompt embeddings [K, L, d]."""
        self.words, self.embeddings = words, embeddings
        self.temperature, self.hard = temperature, hard
        self.logits = torch.zeros(len(words), device=embeddings.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=learning_rate, maximize=True)

    def choose(self, count: int, rng: torch.Generator) -> Choice:
        """Draw `count` preserved concepts, each with its own Gumbel noise."""
        with torch.no_grad():
            uniform = torch.rand(count, len(self.words), generator=rng).clamp_(1e-20, 1 - 1e-7)
            noise = -torch.log(-torch.log(uniform)).to(self.logits.device)
            weights = torch.softmax((self.logits + noise) / self.temperature, dim=1)
            rows = weights.argmax(1)
            mixed = self.embeddings[rows] if self.hard else torch.einsum("bk,kld->bld", weights, self.embeddings)
            probabilities = torch.softmax(self.logits, 0)[rows]
        return Choice([self.words[row] for row in rows], rows, probabilities, mixed, weights)

    def logit_gradient(self, choice: Choice, gradient: torch.Tensor) -> torch.Tensor:
        """∂L2/∂π [K] from ∂L2/∂(G(π) ⊙ R) [B, L, d].

        The gradient to weight i is ⟨∂L2/∂c_a, R_i⟩, one matrix product over the rows; then the softmax's Jacobian. With
        hard draws this is the straight-through estimator.
        """
        to_weights = gradient.flatten(1) @ self.embeddings.flatten(1).T
        centred = to_weights - (to_weights * choice.weights).sum(1, keepdim=True)
        return (choice.weights * centred).sum(0) / self.temperature

    def ascend(self, gradient: torch.Tensor) -> None:
        """One Adam step up the gradient [K] of L2 in π."""
        self.logits.grad = gradient
        self.optimizer.step()

    def state_dict(self) -> dict:
        return {"logits": self.logits.detach().clone(), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
