"""Which of the UNet's weights are trained."""

from __future__ import annotations

from torch import nn

CHOICES = {
    "xattn": lambda name: ".attn2." in name,
    "xattn-strict": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "noxattn": lambda name: ".attn2." not in name,
    "selfattn": lambda name: ".attn1." in name,
    "full": lambda name: True,
}


def trainable_names(unet: nn.Module, which: str) -> list[str]:
    """Names of the UNet's trained parameters, in the UNet's order. ValueError when the UNet has none of them."""
    names = [name for name, _ in unet.named_parameters() if CHOICES[which](name)]
    if not names:
        raise ValueError(f"training.trainable: this UNet has no weights that {which!r} names; choose another")
    return names
