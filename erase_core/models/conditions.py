"""What a UNet reads of a prompt, as one tensor, and what it reads beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch.nn import functional as F


@dataclass(frozen=True)
class Layout:
    """How a condition [R, d] is laid out: the pooled embedding first, where the UNet reads one, then the L tokens.

    SDXL reads the tokens of two text encoders side by side (d = 768 + 1280) and the second one's pooled embedding [p]. The
    pooled embedding fills the first ⌈p / d⌉ rows, the rest of which are zero. So a mixture of words, the gradient to it and
    its distance from a word include the pooled part, by the same code for every model.
    """

    pooled: int = 0
    """p; 0 for a UNet that reads tokens alone."""
    time_ids: tuple[int, ...] = ()
    """SDXL's original height and width, crop top and left, and target height and width, in pixels."""

    def pack(self, tokens: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
        """Tokens [..., L, d] and pooled embeddings [..., p], which some models read, as conditions [..., R, d]."""
        if not self.pooled:
            return tokens
        width = tokens.shape[-1]
        filled = F.pad(pooled, (0, self.pooled_rows(width) * width - self.pooled))
        return torch.cat([filled.unflatten(-1, (-1, width)).to(tokens), tokens], dim=-2)

    def pooled_rows(self, width: int) -> int:
        return -(-self.pooled // width)

    def tokens(self, conditions: torch.Tensor) -> torch.Tensor:
        """The tokens [..., L, d] of conditions [..., R, d]."""
        return conditions[..., self.pooled_rows(conditions.shape[-1]) :, :]

    def arguments(self, conditions: torch.Tensor) -> dict:
        """The UNet's arguments for conditions [B, R, d]."""
        if not self.pooled:
            return {"encoder_hidden_states": conditions}
        pooled = conditions[:, : self.pooled_rows(conditions.shape[-1])].flatten(1)[:, : self.pooled]
        times = torch.tensor(self.time_ids, dtype=pooled.dtype, device=pooled.device).expand(len(pooled), -1)
        return {
            "encoder_hidden_states": self.tokens(conditions),
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": times},
        }


def layout_of(pipeline: DiffusionPipeline) -> Layout:
    """The layout that a pipeline's UNet reads. Images are conditioned as uncropped and of the model's own size."""
    pooled = pooled_size(pipeline.unet)
    if not pooled:
        return Layout()
    _, height, width = latent_shape(pipeline.unet)
    size = (height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor)
    return Layout(pooled, (*size, 0, 0, *size))


def pooled_size(unet: UNet2DConditionModel) -> int:
    """p, the length of the pooled embedding that a UNet reads beside six time ids; 0 for one that reads tokens alone."""
    config = unet.config
    if config.addition_embed_type != "text_time":
        return 0
    return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim


def latent_shape(unet: UNet2DConditionModel) -> tuple[int, int, int]:
    """(C, h, w) of the latents that a UNet was trained on."""
    side = unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    return unet.config.in_channels, height, width
