"""Whether a model that is to be attacked is there, and a copy of the original that its attackers have."""

from __future__ import annotations

from .hub import check_pipeline
from .models.checkpoint_layout import configs_of
from .models.source import ModelSource, find_model
from .preflight_scorers import read_config
from .spec_errors import SpecError

OF_A_COPY = ("cross_attention_dim", "sample_size", "in_channels", "block_out_channels")
"""What of its UNet's configuration a model has in common with the one that it was made from."""


def check_attacked(model: str) -> None:
    """A model to attack, which no field of a spec names, is there and can be used. SpecError has the fix. Called as `check_hub`."""
    try:
        if find_model(model).on_hub:
            check_pipeline(model)
    except ValueError as error:
        raise SpecError(f"attacked {error}") from None


def check_copy(model: str, original: str) -> None:
    """A model to attack has the UNet of the original that it is to be a copy of, where both are on this machine.

    Raises SpecError with the fix, and ModelError.
    """
    own, its = unet_config(find_model(model)), unet_config(find_model(original))
    other = [key for key in OF_A_COPY if own and its and own.get(key) != its.get(key)]
    if other:
        raise SpecError(
            f"attacked model: {model!r} is no copy of {original!r}, whose UNet has another {other[0]}; name the model that it was "
            "made from: as --base, or as the model of --spec"
        )


def unet_config(source: ModelSource) -> dict | None:
    """The configuration of a model's UNet; None where it is not on this machine."""
    if source.file is not None:
        return configs_of(source.file)["unet"]
    file = source.folder and source.folder / "unet" / "config.json"
    return read_config("model", file) if file and file.is_file() else None
