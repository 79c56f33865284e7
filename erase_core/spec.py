"""The spec: one YAML file that is the whole input of a run."""

from __future__ import annotations

import os
import re
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from . import attacks, methods
from .concepts.plurals import is_one_of
from .emoji_world.labels import members_of
from .gate import Gate
from .methods.settings import Finite, Part
from .spec_concepts import Concept
from .spec_errors import SpecError, describe
from .spec_paths import UserPath
from .spec_texts import LONGEST_NAME, Template, Word

EMBEDDED_MODEL = "emoji-world"
LED_TO = ("neutral", "destination", "anchor")
"""The parameters of methods that say what a concept becomes."""
SCHEDULE = 1000
"""Timesteps of the noise schedule of Stable Diffusion's models and of the included one."""


def require_reach(steps: int, extra: int = 0, schedule: int = SCHEDULE) -> None:
    """Raise ValueError when `steps` equal strides of whole timesteps do not reach into the last tenth of a noise schedule.

    Strides of `leading` spacing are rounded down, and what that leaves of the schedule is its noisy end. extra: strides beside
    the steps' own, which all samplers but DDIM leave out at the end.
    """

    def reaches(number: int) -> bool:
        strides = number + extra
        return strides < schedule and 10 * (schedule % strides) <= schedule

    if not reaches(steps):
        nearest = min(filter(reaches, range(1, schedule)), key=lambda number: abs(number - steps))
        raise ValueError(f"{steps} strides of whole timesteps do not span the {schedule} of the noise; use {nearest}")


class Named(Part):
    """Something chosen by its name. Besides `name`, the keys are its own parameters."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    registry: ClassVar[ModuleType]
    """names() of what there is, and settings_of(name), the model of its own parameters."""
    name: str

    @model_validator(mode="before")
    @classmethod
    def accept_name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name", check_fields=False)
    @classmethod
    def one_of_them(cls, name: str) -> str:
        if name not in cls.registry.names():
            kind = cls.__name__.lower()
            article = "an" if kind[0] in "aeiou" else "a"
            raise ValueError(f"{name!r} is not {article} {kind}; choose one of {', '.join(cls.registry.names())}")
        return name

    @model_validator(mode="after")
    def own_parameters(self) -> Named:
        own = self.registry.settings_of(self.name)
        try:
            own(**(self.model_extra or {}))
        except ValidationError as error:
            known = ", ".join(["name", *own.model_fields])
            lines = [
                f"{problem['loc'][0]}: is not a parameter of {self.name}; its keys are {known}"
                if problem["type"] == "extra_forbidden"
                else describe(problem)
                for problem in error.errors()
            ]
            raise ValueError("\n".join(lines)) from None
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict:
        """A name alone, or an object with that name's own parameters."""
        parameters = {name: cls.registry.settings_of(name).model_json_schema() for name in cls.registry.names()}
        default = cls.model_fields["name"].default
        objects = [
            {
                "type": "object",
                "title": name,
                "description": own.get("description", ""),
                "properties": {"name": {"const": name}, **own.get("properties", {})},
                "additionalProperties": False,
                "required": ["name", *own.get("required", [])] if name != default else [],
            }
            for name, own in parameters.items()
        ]
        return {"description": cls.__doc__, "anyOf": [{"enum": list(parameters)}, *objects]}

    @property
    def settings(self) -> BaseModel:
        """Its own parameters with their defaults filled in."""
        return self.registry.settings_of(self.name)(**(self.model_extra or {}))


class Method(Named):
    """How to erase. Besides `name`, the keys are the method's own parameters."""

    registry: ClassVar[ModuleType] = methods
    name: str = Field("adversarial", description="The method: " + ", ".join(methods.names()) + ".")


class Attack(Named):
    """An attempt to bring the concepts back. Besides `name`, the keys are the attack's own parameters."""

    registry: ClassVar[ModuleType] = attacks
    name: str = Field(description="The attack: " + ", ".join(attacks.names()) + ".")


class Attacks(Part):
    """What is tried against the erased model, and against the original for comparison."""

    run: list[Attack] = Field(
        [Attack(name=name) for name in attacks.names()],
        min_length=1,
        description="Attacks: names, or {name, and its parameters}. Default: all.",
    )
    images: UserPath | None = Field(
        None,
        min_length=1,
        description="Folder of images of the concept, for the attacks that need some; of several concepts, a folder of each in it, "
        "called as the concept is. Default: the original model's own.",
    )
    references: int = Field(
        16, gt=0, description="Images of the concept that an attacker has, and as many of near and of far concepts."
    )

    @field_validator("run")
    @classmethod
    def once_each(cls, run: list[Attack]) -> list[Attack]:
        names = [attack.name for attack in run]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is given twice; name it once")
        return run


class Vocabulary(Part):
    """Where the concepts that may be preserved come from."""

    source: UserPath | None = Field(
        None,
        description="emoji-world, clip-tokens (the tokenizer's whole vocabulary), english-3000, or a CSV, text or Parquet file. "
        "Default: emoji-world for that model, else english-3000.",
    )
    top_k: int = Field(
        50, gt=0, description="How many nearest words of each erased concept the search may choose from."
    )
    similarity: Literal["cosine", "l2", "pooled"] = Field(
        "cosine",
        description="What nearest means: cosine or l2 between prompt embeddings; pooled: cosine between pooled embeddings, for "
        "which most of a large vocabulary need not be encoded whole.",
    )
    exclude: list[Word] = Field([], description="Words that are never preserved.")
    clusters: int | None = Field(
        None, gt=1, description="Reduce the top-K to this many k-means centres' nearest words."
    )

    @property
    def pooled(self) -> bool:
        """Whether the vocabulary is encoded to pooled embeddings, and only the top-K whole."""
        return self.similarity == "pooled"


class Training(Part):
    """The optimisation of the edited UNet."""

    steps: int = Field(
        100,
        gt=0,
        description="Update steps for each erased concept; about 1000 in all for Stable Diffusion.",
    )
    batch_size: int = Field(
        4, gt=0, description="Samples of the erased and of the preserved concept in each step, over all ranks."
    )
    learning_rate: Finite = Field(
        1e-3, gt=0, description="Adam's learning rate for the UNet; about 1e-5 for Stable Diffusion."
    )
    schedule: Literal["constant", "linear"] = Field(
        "linear", description="The learning rate over the steps: falling in a line towards 0, or the same."
    )
    trainable: Literal["xattn", "xattn-strict", "noxattn", "selfattn", "full"] = Field(
        "xattn",
        description="Which weights are trained: cross-attention, its to_k and to_v only, all but it, self-attention, all.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Arithmetic of the UNet; with bf16 the weights stay in fp32 (autocast)."
    )
    frozen_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="In what the weights that are not trained are held; bf16 halves their memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them."
    )
    attention_slicing: bool = Field(False, description="Compute attention a slice at a time: less memory, slower.")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none", description="What ZeRO keeps in the host's memory: Adam's state, or (stage 3) the parameters too."
    )
    processes: int = Field(
        1, gt=0, description="Ranks that share each step's batch, on one machine or several; see docs/distribution.md."
    )
    hostfile: UserPath | None = Field(
        None, description="DeepSpeed hostfile of the machines to start ranks on, over SSH."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed's ZeRO stage.")
    latents: Literal["frozen-bank", "fresh"] = Field(
        "frozen-bank",
        description="Latents from stored trajectories of the original model, or sampled anew from the edited one.",
    )
    timesteps: Literal["weighted", "even"] = Field(
        "weighted",
        description="Draw each step's timesteps by the root of their weight in the loss, and count them for less in turn, which is "
        "the same loss with less noise; or evenly, as published.",
    )
    latent_steps: int = Field(10, gt=1, lt=SCHEDULE, description="DDIM steps of a latent's trajectory.")
    latent_guidance: Finite = Field(3.0, ge=0, description="Guidance scale of a latent's trajectory.")
    trajectories: int = Field(4, gt=0, description="Trajectories kept for each concept in the bank.")
    trajectory_gib: Finite = Field(
        8.0,
        gt=0,
        description="Disk that all runs' trajectories on this model, precision and device may take; the longest unused go first.",
    )
    refresh_every: int | None = Field(
        None, gt=0, description="Steps after which trajectories are sampled anew with other noise. Default: never."
    )
    trajectory_words: int = Field(
        100,
        gt=0,
        description="How many words have trajectories of their own; of more, each uses those of the nearest that has.",
    )
    checkpoint_every: int = Field(100, gt=0, description="Steps between checkpoints.")
    divergence: Finite = Field(
        100.0, gt=0, description="Stop when a loss is more than this many times the variance of noise, or not a number."
    )

    @field_validator("latent_steps")
    @classmethod
    def reaches_noise(cls, steps: int) -> int:
        require_reach(steps)
        return steps


class PromptFile(Part):
    """Prompts to draw from a CSV of the field's shape, one image a row."""

    file: UserPath = Field(
        min_length=1,
        description="A CSV, plain or gzipped, or one of a hub dataset: owner/name/file.csv, or owner/name@revision/file.csv.",
    )
    concept: Word | None = Field(
        None,
        description="What every prompt shows, for a file without a column label_str, artist, class, concept, object or style.",
    )
    general: bool = Field(False, description="General prompts, as COCO's, for the quality metrics and the CLIP score.")
    own_guidance: bool = Field(
        False, description="Draw each prompt with the guidance scale beside it, in place of guidance_scale."
    )
    limit: int | None = Field(None, gt=0, description="Only this many rows, from the top.")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict:
        """A path alone, or an object."""
        return {"anyOf": [{"type": "string", "title": "path"}, handler(core_schema)]}

    @model_validator(mode="after")
    def shows_one_thing(self) -> PromptFile:
        if self.general and self.concept:
            raise ValueError(
                "concept and general are both given; general prompts show no concept, so keep one of the two"
            )
        return self


class Generation(Part):
    """The images that are scored."""

    prompt_files: list[PromptFile] = Field(
        [],
        description="CSV files of prompts in the field's shape (prompt, evaluation_seed, label_str, …), drawn in place of prompts "
        "and seeds: paths, or {file, concept, general, own_guidance, limit}.",
    )
    prompts: list[Template] = Field(
        ["a {concept}"], min_length=1, description="Templates; {concept} is replaced by each concept."
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(
        [0, 1, 2, 3], min_length=1, description="One image a prompt and seed."
    )
    sampler: Literal["ddim", "dpm-solver++", "unipc"] = Field("ddim", description="The sampler.")
    steps: int = Field(30, gt=0, lt=SCHEDULE, description="Sampling steps.")
    guidance_scale: Finite = Field(5.0, ge=0, description="Classifier-free guidance; 1 or less turns it off.")
    batch_size: int = Field(64, gt=0, description="Images sampled together.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="In what the images are sampled; an autoencoder that overflows in fp16 stays in fp32."
    )
    attention_slicing: bool = Field(False, description="Compute attention a slice at a time: less memory, slower.")
    processes: int = Field(1, gt=0, description="Ranks that share the batches; the images are the same whatever it is.")

    @field_validator("seeds")
    @classmethod
    def seeds_once_each(cls, seeds: list[int]) -> list[int]:
        """One prompt and seed are one image, and no evidence more when it is drawn again."""
        if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"{', '.join(map(str, repeated))} is given twice; give it once")
        return seeds

    @field_validator("prompt_files", mode="before")
    @classmethod
    def accept_paths(cls, value: Any) -> Any:
        return [{"file": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def one_source_of_prompts(self) -> Generation:
        if self.prompt_files and self.prompts != type(self).model_fields["prompts"].default:
            raise ValueError("prompts: is not drawn when prompt_files are given; remove one of the two")
        return self


Metric = Literal["erasure", "nudity", "clip_score", "clip_similarity", "image_distance", "lpips", "fid", "kid", "cmmd"]


class Scoring(Part):
    """How the result is judged."""

    metrics: list[Metric] | None = Field(
        None,
        min_length=1,
        description="erasure: ESR and PSR by a judge. nudity: NER by NudeNet. clip_score: image and prompt. clip_similarity: image "
        "and concept. image_distance, lpips: between both models' images of one prompt and seed. fid, kid, cmmd: between their "
        "images as sets. Default: erasure, clip_score and image_distance, as far as the judge and the CLIP at hand allow.",
    )
    preserved: list[Word] | None = Field(
        None,
        description="Concepts scored as preserved. Default: every other concept of the emoji world, or the top-K words.",
    )
    judge: UserPath | None = Field(
        None,
        description="Folder or hub id, as for model, of an image classifier, or of a CLIP that judges zero-shot; or "
        "efficientnet-lite0, for ImageNet's classes without a network. Default: the emoji world's own judges.",
    )
    judge_classes: list[Word] | None = Field(
        None, min_length=2, description="What a zero-shot judge chooses among. Default: all concepts that are scored."
    )
    description: Template = Field(
        "a photo of a {concept}",
        description="The text that stands for a concept, for a zero-shot judge and for clip_similarity; for styles, such as 'a "
        "painting in the style of {concept}'.",
    )
    clip: UserPath | None = Field(
        None, description="Folder or hub id, as for model, of a CLIP model. Default: the emoji world's own."
    )
    features: UserPath = Field(
        "clip", description="Of fid, kid and cmmd: clip, or a file with the weights of FID's Inception (pytorch-fid's)."
    )
    reference: UserPath | None = Field(
        None, description="Folder of real images for fid, kid and cmmd. Default: the original model's images."
    )
    lpips_backbone: UserPath | None = Field(
        None, description="File with the weights of torchvision's AlexNet or VGG-16, for lpips."
    )
    processes: int = Field(1, gt=0, description="Ranks that share the images to judge.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples behind the 95 % intervals of means.")


class Report(Part):
    """What reports and MLflow show."""

    unsafe: list[Word] | None = Field(
        None,
        description="Erased concepts whose images are blurred there. Default: those whose words speak of nudity, violence and the "
        "like, and all of them where nudity is measured.",
    )
    show_unsafe: bool = Field(False, description="Blur nothing.")


class Spec(Part):
    """The whole input of a run."""

    name: str = Field(
        description="Names the run in MLflow and Prefect.",
        pattern=rf"^[A-Za-z0-9][A-Za-z0-9._ -]{{0,{LONGEST_NAME - 1}}}$",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Every random choice comes from it.")
    model: str = Field(
        EMBEDDED_MODEL,
        min_length=1,
        description="emoji-world, a hub id (owner/name, or owner/name@revision for a branch, a tag or a commit), a local diffusers "
        "folder, or a single .safetensors file.",
    )
    concepts: list[Concept] = Field(min_length=1, description="What to erase: words, or {concept, synonyms, prompts}.")
    method: Method = Field(Method(), description="How to erase.")
    vocabulary: Vocabulary = Field(Vocabulary(), description="Where preserved concepts come from.")
    training: Training = Field(Training(), description="The optimisation.")
    generation: Generation = Field(Generation(), description="The images that are scored.")
    scoring: Scoring = Field(Scoring(), description="How the result is judged.")
    attacks: Attacks | None = Field(
        None, description="Attacks on the erased model. Default: none; {} runs them all with their own budgets."
    )
    gate: Gate = Field(Gate(), description="What the result must reach to be released.")
    report: Report = Field(Report(), description="What reports and MLflow show.")
    output: UserPath = Field(min_length=1, description="The folder of the results.")

    @model_validator(mode="wrap")
    @classmethod
    def method_defaults(cls, value: Any, handler: ModelWrapValidatorHandler[Spec]) -> Spec:
        """A method's own defaults for the training part, under whatever the spec says; as unset as any other default."""
        if not isinstance(value, dict) or not isinstance(value.get("training", {}), dict):
            return handler(value)
        method = value.get("method", "adversarial")
        name = method.get("name", "adversarial") if isinstance(method, dict) else method
        known = isinstance(name, str) and name in methods.names()
        own = getattr(methods.load(name), "TRAINING", {}) if known else {}
        given = value.get("training", {})
        spec = handler({**value, "training": {**own, **given}})
        spec.training.model_fields_set.difference_update(own.keys() - given.keys())
        return spec

    @field_validator("concepts", mode="before")
    @classmethod
    def accept_words(cls, value: Any) -> Any:
        return (
            [{"concept": item} if isinstance(item, str) else item for item in value]
            if isinstance(value, list)
            else value
        )

    @model_validator(mode="after")
    def consistent(self) -> Spec:
        erased = [name.casefold() for concept in self.concepts for name in concept.names]
        repeated = {name for name in erased if erased.count(name) > 1}
        if repeated:
            raise ValueError(f"concepts: {', '.join(sorted(repeated))} is given twice; name it once")
        wanted = list(self.scoring.preserved or []) + list(getattr(self.method.settings, "words", None) or [])
        module = methods.load(self.method.name)
        part = self.training
        if part.frozen_precision == "bf16" and part.precision != "bf16":
            raise ValueError("training.frozen_precision: bf16 needs training.precision bf16; set it too")
        if part.frozen_precision == "bf16" and part.zero_stage == 3:
            raise ValueError("training.frozen_precision: ZeRO 3 holds all weights in fp32; use stage 0, 1 or 2")
        if part.offload == "optimizer" and part.zero_stage == 0:
            raise ValueError("training.offload: optimizer needs training.zero_stage 1, 2 or 3")
        if part.offload == "parameters" and part.zero_stage != 3:
            raise ValueError("training.offload: parameters needs training.zero_stage 3")
        if "weights" in getattr(module, "EDITED", ()) and self.training.zero_stage == 3:
            raise ValueError(f"training.zero_stage: {self.method.name} needs the weights whole; use 0, 1 or 2")
        if self.training.batch_size % self.training.processes:
            raise ValueError(
                f"training.batch_size: {self.training.batch_size} samples cannot be shared evenly by {self.training.processes} "
                "ranks; use a multiple of training.processes"
            )
        if methods.solves(module) and self.training.processes > 1:
            raise ValueError(f"training.processes: {self.method.name} has no steps to share; use 1")
        if methods.solves(module) and self.training.trainable != "xattn-strict":
            raise ValueError(
                f"training.trainable: {self.method.name} solves for to_k and to_v; use xattn-strict or leave it out"
            )
        gone = frozenset(name.casefold() for name in self.never_preserved)
        both = sorted({word for word in wanted if is_one_of(word.casefold(), gone)})
        if both:
            raise ValueError(
                f"concepts: {', '.join(both)} is also to be preserved; take it out of one of the two lists"
            )
        unknown = sorted({word.casefold() for word in self.report.unsafe or []} - set(erased))
        if unknown:
            raise ValueError(f"report.unsafe: {', '.join(unknown)} is not erased; name concepts of this spec")
        if complaints := list(self.gate.unmeasurable(self.metrics, self.attacks is not None, self.mend)):
            raise ValueError("\n".join(complaints))
        return self

    @model_validator(mode="after")
    def leads_to_nothing_erased(self) -> Spec:
        led_to = {f"method.{name}": getattr(self.method.settings, name, None) for name in LED_TO}
        for i, concept in enumerate(self.concepts):
            led_to |= {f"concepts.{i}.prompts.{j}.neutral": prompt.neutral for j, prompt in enumerate(concept.prompts)}
        for place, text in led_to.items():
            shown = [
                n for n in self.erased_names if re.search(rf"\b{re.escape(n.casefold())}\b", (text or "").casefold())
            ]
            if shown:
                raise ValueError(f"{place}: {', '.join(shown)} is to be erased; write it without that")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the model is the emoji world, whose judges and vocabulary are at hand."""
        return self.model == EMBEDDED_MODEL

    @property
    def vocabulary_source(self) -> str:
        return self.vocabulary.source or (EMBEDDED_MODEL if self.embedded else "english-3000")

    @property
    def metrics(self) -> list[str]:
        """The metrics to compute."""
        if self.scoring.metrics is not None:
            return list(self.scoring.metrics)
        judged, clip = self.embedded or self.scoring.judge, self.embedded or self.scoring.clip
        return ["erasure"] * bool(judged) + ["clip_score"] * bool(clip) + ["image_distance"]

    def mend(self, metric: str) -> str:
        """What to change in this spec, which does not score a metric, so that it does."""
        part, needs = self.scoring, {"lpips": "lpips_backbone"}
        if not self.embedded:
            needs |= {"erasure": "judge", "clip_score": "clip"}
            needs |= dict.fromkeys(("cmmd", *(("fid", "kid") if part.features == "clip" else ())), "clip")
        by_default = part.metrics is None and metric in ("erasure", "clip_score")
        listed = [] if by_default else ["add it to scoring.metrics"]
        lacking = metric in needs and getattr(part, needs[metric]) is None
        return " and ".join([*listed, *([f"give scoring.{needs[metric]}"] if lacking else [])])

    @property
    def concept_words(self) -> list[str]:
        """The word of each erased concept."""
        return [concept.concept for concept in self.concepts]

    @property
    def picture_folders(self) -> dict[str, str]:
        """The folder of the user's own images of each concept: attacks.images, or of several concepts one in it each. Empty
        without it.
        """
        place = self.attacks and self.attacks.images
        if not place:
            return {}
        words = self.concept_words
        return {word: os.path.join(place, word) for word in words} if len(words) > 1 else {words[0]: place}

    def names_of(self, concept: Concept) -> list[str]:
        """A concept's names, and on the emoji world those of what a group covers ("weapon": bomb, sword, …)."""
        members = [member for name in concept.names for member in members_of(name)] if self.embedded else []
        return list(dict.fromkeys([*concept.names, *members]))

    @property
    def named_concepts(self) -> list[dict]:
        """The concepts as they are given, each with all its names: what a stage that shows them depends on."""
        return [{**concept.model_dump(), "names": self.names_of(concept)} for concept in self.concepts]

    @property
    def erased_names(self) -> list[str]:
        """Every name that is erased."""
        return list(dict.fromkeys(name for concept in self.concepts for name in self.names_of(concept)))

    @property
    def never_preserved(self) -> list[str]:
        """All that is erased, names and prompts: none of it is to be preserved."""
        prompts = (prompt for concept in self.concepts for prompt in concept.prompt_texts)
        return list(dict.fromkeys([*self.erased_names, *prompts]))


def make_spec(value: dict) -> Spec:
    """Validate a spec given as a mapping. SpecError has one line a problem, each beginning with the field's name."""
    try:
        return Spec.model_validate(value)
    except ValidationError as error:
        raise SpecError("\n".join(describe(problem, Spec) for problem in error.errors())) from None


def json_schema() -> dict:
    """The JSON schema of the spec, for editors, with every method's own parameters."""
    return {
        **Spec.model_json_schema(),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "erase spec",
    }
