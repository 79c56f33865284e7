"""What the parameters of every method, and every other part of the spec, have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A part of the spec: unknown keys are refused, values are not coerced from other types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Weighted(Part):
    """Parameters of every method that compares predictions."""

    weighting: Literal["epsilon", "clean"] = Field(
        "clean",
        description="Compare the clean latents z_0 that the noise predictions imply, which weighs the early, noisy "
        "timesteps, or the predictions themselves.",
    )


class ErasingSettings(Weighted):
    """Parameters of every method that moves the concept's noise prediction towards the neutral concept's."""

    neutral: str = Field("", description="The neutral concept c_n.")
    negative_guidance: Finite = Field(
        1.0, ge=0, description="η: how far past the neutral prediction, away from the concept."
    )


class PreservingSettings(ErasingSettings):
    """Parameters of every erasing method that also preserves something."""

    preservation_weight: Finite = Field(2.0, ge=0, description="λ: weight of the preservation loss; published: 1.")


class ConceptPreservingSettings(PreservingSettings):
    """Parameters of every erasing method that preserves a concept c_a.

    Classifier-free guidance adds to every image a multiple of what it differs by from the neutral prediction, so damage to that
    one is damage to all.
    """

    neutral_share: Finite = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the preserved samples that keep the neutral concept c_n, which guidance reads for every image, "
        "at c_a's latents in place of c_a.",
    )
