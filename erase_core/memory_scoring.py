"""What memory the scores and the attacks of a run need, told before it starts, as in `memory`.

Judges and CLIPs are counted from their configurations, and what else scores from the sizes of its files; LPIPS and Inception make
what their layers do, which are known.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForImageClassification, CLIPModel, PreTrainedModel

from .attacks.settings import FineTuning, Learned
from .files import read_json
from .generation.dataset import READ_TOGETHER
from .hub import fetched
from .memory import (
    FULL,
    Alive,
    Forecast,
    Moment,
    bytes_of,
    decoding_bytes,
    forward_bytes,
    part_of,
    parts_of,
    pixels_of,
    unet_inputs,
    wanted_at_most,
)
from .metrics import inception, lpips
from .metrics.general_quality import METRICS
from .metrics.imagenet_classes import EFFICIENTNET
from .metrics.judge import BATCH
from .metrics.scorers import CLIP_METRICS
from .metrics.weights_file import shapes_in
from .models.pipeline import device
from .models.source import WEIGHTS
from .models.trainable import trainable_names
from .preflight import EXTRAS
from .revisions import hub_scorers
from .spec import Attack, Spec

SIDE = 224
"""Of the images that a judge sees, where its configuration names none."""
WEIGHT_FILES = ("*.onnx", "*.pth")


def packaged(extra: str) -> int:
    """The bytes of the weights that the packages of an extra bring with them; 0 where they are not installed."""
    found = filter(None, map(importlib.util.find_spec, EXTRAS[extra]))
    folders = [Path(folder) for package in found for folder in package.submodule_search_locations or []]
    return sum(file.stat().st_size for folder in folders for kind in WEIGHT_FILES for file in folder.rglob(kind))


def networks_of(spec: Spec, only_judges: bool = False) -> dict[str, Path]:
    """The folders of the judges' and the CLIP's configurations, by what they are. Of those on the hub it is fetched."""
    part, metrics, found = spec.scoring, set(spec.metrics), {}

    def folder(name: str) -> Path:
        field, place = f"scoring.{name}", getattr(part, name)
        return fetched(field, place, "config.json").parent if field in hub_scorers(spec) else Path(place)

    if "erasure" in metrics and part.judge is None:
        found = {"judge": WEIGHTS / "concept_judge", "judge of styles": WEIGHTS / "style_judge"}
    elif "erasure" in metrics and part.judge != EFFICIENTNET:
        found = {"judge": folder("judge")}
    of_clip = metrics & {*CLIP_METRICS, *(METRICS if part.features == "clip" else ())}
    if of_clip and not only_judges and (part.clip or spec.embedded):
        clip = folder("clip") if part.clip else WEIGHTS / "clip"
        # A CLIP that judges too is there once.
        found |= {"CLIP": clip} if clip not in found.values() else {}
    return found


def files_of(spec: Spec, only_judges: bool = False) -> dict[str, int]:
    """The bytes of what else scores, by what it is."""
    part, metrics = spec.scoring, set(spec.metrics)
    found = {"judge": packaged("imagenet")} if "erasure" in metrics and part.judge == EFFICIENTNET else {}
    found |= {"detector of nudity": packaged("nudity")} if "nudity" in metrics else {}
    if "lpips" in metrics and not only_judges:
        found["LPIPS"] = Path(part.lpips_backbone).stat().st_size
    if metrics & set(METRICS) and part.features != "clip" and not only_judges:
        found["Inception"] = Path(part.features).stat().st_size
    return found


def network(folder: Path) -> PreTrainedModel:
    """A judge or a CLIP by its configuration. Takes no memory under a FakeTensorMode."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # Whatever its file is in, it is loaded in fp32.
    kind = CLIPModel._from_config if config.model_type == "clip" else AutoModelForImageClassification.from_config
    with device():
        return kind(config, dtype=torch.float32).eval()


def side_of(folder: Path) -> int:
    """The side of the images that a judge or a CLIP sees, by its processor's file where it is here, or else its configuration."""
    told = read_json(file) if (file := folder / "preprocessor_config.json").is_file() else {}
    config = read_json(folder / "config.json")
    for size in (told.get("crop_size"), told.get("size"), config.get("vision_config", config).get("image_size")):
        sides = list(size.values()) if isinstance(size, dict) else [size]
        if isinstance(sides[0], int):
            return sides[0]
    return SIDE


def seeing_bytes(model: PreTrainedModel, count: int, side: int) -> int:
    """The most that so many images make."""
    pixels = torch.empty(count, 3, side, side, device=device())
    with Alive(model.parameters()) as alive, torch.no_grad():
        (model.get_image_features if model.config.model_type == "clip" else model)(pixel_values=pixels)
    return alive.most


def comparing_bytes(net: str, count: int, size: tuple[int, int]) -> int:
    """The most that LPIPS makes on a backbone (see `lpips.LAYERS`) for so many pairs of images of a height and width."""
    with device():
        features = lpips.features_of(net)
        widths = {at: features[at - 1].out_channels for at in lpips.LAYERS[net]}
        linear = {at: torch.empty(1, width, 1, 1) for at, width in widths.items()}
        first, second = (torch.empty(min(count, lpips.together(*size)), *size, 3, dtype=torch.uint8) for _ in range(2))
    with Alive((*features.parameters(), *linear.values())) as alive, torch.no_grad():
        lpips.compare(features, linear, first, second)
    return alive.most


def inception_bytes(count: int, size: tuple[int, int]) -> int:
    """The most that Inception makes for so many images of a height and width."""
    with device():
        network = inception.inception_v3().eval()
        images = torch.empty(min(count, inception.BATCH), *size, 3, dtype=torch.uint8)
    with Alive((*network.parameters(), *network.buffers())) as alive, torch.no_grad():
        inception.features_of(network, images)
    return alive.most


def scores_forecast(spec: Spec, folder: Path, libraries: int) -> Forecast:
    """What each rank that judges images needs. folder: of the model.

    Raises ModelError when the file of LPIPS' backbone cannot be read.
    """
    files = files_of(spec)
    net = lpips.net_of(shapes_in(spec.scoring.lpips_backbone, "scoring.lpips_backbone")) if "LPIPS" in files else None
    with FakeTensorMode():
        wanted, size = len(wanted_at_most(spec)), pixels_of(part_of(folder, "vae"), part_of(folder, "unet"))
        folders, count = networks_of(spec), min(BATCH, wanted)
        networks = {name: network(folder) for name, folder in folders.items()}
        held = {name: bytes_of(model) for name, model in networks.items()}
        seen = {f"the {name}": seeing_bytes(model, count, side_of(folders[name])) for name, model in networks.items()}
        if net is not None:
            seen["LPIPS"] = comparing_bytes(net, min(wanted, READ_TOGETHER), size)
        if "Inception" in files:
            # Real pictures may be more than the images that are drawn.
            seen["Inception"] = inception_bytes(READ_TOGETHER if spec.scoring.reference else wanted, size)
    base = {"libraries": libraries, **held, **files}
    moments = [Moment(f"{name} at work", {**base, "activations": most}) for name, most in seen.items()]
    return Forecast("scores", spec.scoring.processes, moments or [Moment("scoring", base)])


def learning_bytes(unet: UNet2DConditionModel, length: int, rows: int, trained: list[str]) -> int:
    """The most that a prediction and its backward pass make, gradients included: to the trained weights, or else to the prompt."""
    own, given = set(trained), unet_inputs(unet, length, rows)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in own)
    given["encoder_hidden_states"].requires_grad_(not own)
    with Alive(unet.parameters()) as alive:
        unet(**given).sample.square().mean().backward()
    return alive.most


def attacks_forecast(spec: Spec, folder: Path, libraries: int) -> Forecast:
    """What the attacks need, which work in fp32 and in one process. folder: of the model."""
    part, known = spec.generation, {}

    def once(count, *arguments) -> int:
        """The same of several attacks is counted once."""
        if (asked := (count, *arguments)) not in known:
            known[asked] = count(*arguments)
        return known[asked]

    with FakeTensorMode():
        networks = parts_of(folder)
        unet, length = networks["unet"], networks["text_encoder"].config.max_position_embeddings
        judges = {name: bytes_of(network(place)) for name, place in networks_of(spec, only_judges=True).items()}

        def drawing(count: int) -> int:
            sampling = forward_bytes(unet, length, count * (2 if part.guidance_scale > 1 else 1))
            return max(sampling, decoding_bytes(networks["vae"], unet, count))

        def learning(rows: int, trainable: str) -> int:
            return learning_bytes(part_of(folder, "unet"), length, rows, trainable and trainable_names(unet, trainable))

        def moment(attack: Attack) -> Moment:
            own, learns = attack.settings, isinstance(attack.settings, Learned)
            most = once(drawing, min(part.batch_size, own.images if hasattr(own, "images") else own.budgets[-1]))
            parts = dict(base)
            if isinstance(own, FineTuning):
                trained = FULL * sum(unet.get_parameter(n).numel() for n in trainable_names(unet, own.trainable))
                parts |= {"trained weights": trained, "Adam's moments": 2 * trained, "gradients": trained}
                most = max(most, once(learning, own.batch_size, own.trainable) - trained)
            elif learns:
                most = max(most, once(learning, own.batch_size, ""))
            return Moment(attack.name, {**parts, "activations": most})

        weights = sum(map(bytes_of, networks.values()))
        base = {"libraries": libraries, "weights": weights, **judges, **files_of(spec, only_judges=True)}
        return Forecast("attacks", 1, [moment(attack) for attack in spec.attacks.run])
