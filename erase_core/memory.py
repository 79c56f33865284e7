"""What memory a run needs, told before it starts: by precision, trained weights, ZeRO stage and ranks.

Weights are counted from the model's configurations. Activations are those of one step that is run on tensors without contents,
under torch's FakeTensorMode, where what is alive is added up at each operation. Nothing of the model's size is allocated.
"""

from __future__ import annotations

import contextlib
import math
import resource
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.modeling_utils import no_init_weights
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import methods
from .files import read_json
from .generation.dataset import batches_of
from .generation.plan import Wanted, roles, wanted_images
from .generation.prompt_files import are_local
from .generation.sampler import DECODED_PIXELS
from .models import checkpoint_layout
from .models.attention import AttentionRecord
from .models.conditions import latent_shape, pooled_size
from .models.pipeline import DTYPES, device, download
from .models.published import write_configs
from .models.source import PARTS, find_model, pipeline_class
from .models.trainable import trainable_names
from .search.rows import HELD_BYTES
from .spec import Spec
from .training.engine import BUCKET, REUSED
from .training.step import SPECIAL

SMALL, PIECES, GATHERED_PIECES = 2**20, 2, 4
"""On a CPU, tensors of less than SMALL bytes are not given back when they are freed: they take PIECES times what is alive.

Under ZeRO 3 weights are gathered and freed among them, which leaves gaps that fit neither: GATHERED_PIECES times, as measured.
"""
CONFIGS = ["*.json", "*/*.json", "*/*.txt"]
"""What is downloaded of a hub model."""
LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
FULL = 4
"""Bytes of a number in fp32, in which trained weights, their gradients and Adam's moments are."""


@dataclass(frozen=True)
class Moment:
    """A moment of a stage, and the bytes by part that a rank holds then."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Forecast:
    """What a stage needs: its moments, for each of so many ranks."""

    stage: str
    ranks: int
    moments: list[Moment]

    @property
    def peak(self) -> Moment:
        """The moment in which a rank holds most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def parts(self) -> list[str]:
        """The parts of all moments, in order."""
        return list(dict.fromkeys(part for moment in self.moments for part in moment.parts))

    @property
    def title(self) -> str:
        return self.stage if self.ranks == 1 else f"{self.stage}, each of {self.ranks} ranks"

    @property
    def told(self) -> str:
        """What is needed, in a sentence."""
        gib, what = self.peak.total / 2**30, "host" if device().type == "cpu" else "accelerator"
        together = f", {gib * self.ranks:.1f} GiB for all {self.ranks}" if self.ranks > 1 else ""
        return f"{self.title}: {gib:.1f} GiB of {what} memory at the peak, which is {self.peak.name}{together}."

    @property
    def summary(self) -> dict:
        """The same for other programs: peak_gib for each rank, and GiB by moment and part."""
        moments = {m.name: {part: size / 2**30 for part, size in m.parts.items()} for m in self.moments}
        return {"ranks": self.ranks, "peak_gib": self.peak.total / 2**30, "at": self.peak.name, "moments": moments}


def shortage(forecast: Forecast) -> str:
    """What to say of a stage that needs more than the smallest accelerator here has; empty where it fits, or there is none."""
    if not torch.cuda.is_available():
        return ""
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    smallest, needed = min(devices, key=lambda each: each.total_memory), forecast.peak.total
    if needed <= smallest.total_memory:
        return ""
    return (
        f"{forecast.stage}: needs {needed / 2**30:.1f} GiB, and {smallest.name} has {smallest.total_memory / 2**30:.1f} GiB; see "
        "the memory settings in docs/models.md, or use a larger accelerator"
    )


def held_bytes(size: int, pieces: int = PIECES) -> int:
    """What a tensor of so many bytes takes while it is alive, among others that come and go."""
    return size * pieces if device().type == "cpu" and size < SMALL else size


class Alive(TorchDispatchMode):
    """Adds up what all storages take that operations made and that are still there; `most` is the largest sum."""

    def __init__(self, present: Iterable[torch.Tensor] = (), pieces: int = PIECES):
        """present: tensors that are not counted. pieces: how many times a small tensor counts."""
        super().__init__()
        self.now, self.most, self.pieces = 0, 0, pieces
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in present)

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        size = held_bytes(storage.nbytes(), self.pieces)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.release, size)

    def release(self, size: int) -> None:
        self.now -= size


def part_of(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A part of a pipeline by its configuration, with weights of one type. Takes no memory under a FakeTensorMode."""
    library, kind = read_json(folder / "model_index.json")[name]
    config, usual = read_json(folder / name / "config.json"), torch.get_default_dtype()
    # Tensors without contents cannot be converted in place, so they are made as they should be.
    torch.set_default_dtype(dtype)
    try:
        with device(), no_init_weights():
            own = getattr(LIBRARIES[library], kind)
            if library == "diffusers":
                return own.from_config(config)
            return own(own.config_class.from_dict(config))
    finally:
        torch.set_default_dtype(usual)


def parts_of(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Module]:
    """The networks of a diffusers folder; see `part_of`."""
    return {name: part_of(folder, name, dtype) for name in PARTS[read_json(folder / "model_index.json")["_class_name"]]}


def bytes_of(module: torch.nn.Module, below: float = math.inf) -> int:
    """The bytes of a network's weights, or of those tensors alone that have less than so many."""
    sizes = (tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    return sum(size for size in sizes if size < below)


def resident_bytes() -> int:
    """What this process holds of a CPU's memory now: with the libraries of a stage imported, what they take. 0 on others."""
    if device().type != "cpu":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def unet_inputs(unet: UNet2DConditionModel, length: int, rows: int) -> dict:
    """What a UNet is given for so many samples with conditions of `length` tokens."""
    config, dtype = unet.config, unet.dtype
    given = {
        "sample": torch.empty(rows, *latent_shape(unet), dtype=dtype, device=device()),
        "timestep": torch.zeros(rows, dtype=torch.long, device=device()),
        "encoder_hidden_states": torch.empty(rows, length, config.cross_attention_dim, dtype=dtype, device=device()),
    }
    if pooled := pooled_size(unet):
        sizes = {"text_embeds": pooled, "time_ids": 6}
        given["added_cond_kwargs"] = {
            name: torch.empty(rows, size, dtype=dtype, device=device()) for name, size in sizes.items()
        }
    return given


def forward_bytes(unet: UNet2DConditionModel, length: int, rows: int, autocast: torch.dtype | None = None) -> int:
    """The most that a prediction without gradients makes."""
    given = unet_inputs(unet, length, rows)
    with (
        Alive(unet.parameters()) as alive,
        torch.no_grad(),
        torch.autocast(device().type, autocast or torch.float32, enabled=autocast is not None),
    ):
        unet(**given)
    return alive.most


def update_bytes(unet: UNet2DConditionModel, length: int, spec: Spec) -> int:
    """The most that the edited UNet's prediction for an update and its backward pass make, gradients included."""
    part, wanted = spec.training, methods.load(spec.method.name).EDITED
    trained = set(trainable_names(unet, part.trainable))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in trained)
    if part.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if part.attention_slicing:
        unet.set_attention_slice("auto")
    recording = AttentionRecord(unet).recording() if "attention@noised" in wanted else contextlib.nullcontext([])
    rows = part.batch_size // part.processes * max(1, len(set(wanted) - set(SPECIAL)))
    given, half = unet_inputs(unet.train(), length, rows), part.precision == "bf16"
    with Alive(unet.parameters(), PIECES if part.zero_stage < 3 else GATHERED_PIECES) as alive:
        with recording as seen, torch.autocast(device().type, torch.bfloat16, enabled=half):
            made = unet(**given).sample
        loss = sum((layer.float().square().mean() for layer in seen), made.float().square().mean())
        loss.backward()
    return alive.most


def edited_unet(folder: Path, spec: Spec) -> UNet2DConditionModel:
    """θ' with its trained weights in fp32 and all others as the spec holds them."""
    unet = part_of(folder, "unet", DTYPES[spec.training.frozen_precision])
    for name in trainable_names(unet, spec.training.trainable):
        owner, _, own = name.rpartition(".")
        weight = unet.get_parameter(name)
        unet.get_submodule(owner)._parameters[own] = torch.nn.Parameter(torch.empty_like(weight, dtype=torch.float32))
    return unet


def training_forecast(spec: Spec, folder: Path, libraries: int) -> Forecast:
    """What each rank of the training needs. folder: of the model; libraries: what a rank holds before it loads anything."""
    part, losses = spec.training, methods.load(spec.method.name)
    ranks, stage, on_cpu = part.processes, part.zero_stage, device().type == "cpu"
    with FakeTensorMode():
        networks = parts_of(folder)
        loaded = sum(map(bytes_of, networks.values()))
        frozen = networks["unet"]
        if part.frozen_precision != "fp32":
            frozen = part_of(folder, "unet", DTYPES[part.frozen_precision])
        whole, unet = bytes_of(frozen), edited_unet(folder, spec)
        trained = FULL * sum(unet.get_parameter(name).numel() for name in trainable_names(unet, part.trainable))
        length = networks["text_encoder"].config.max_position_embeddings
        half = DTYPES[part.precision] if part.precision != "fp32" else None
        iterative = not methods.solves(losses)
        update = update_bytes(unet, length, spec) if iterative else 0
        rivals = spec.method.settings.rivals if getattr(spec.method.settings, "search", None) == "measured" else 0
        if part.latents == "fresh":
            # By θ', under the prompt and under none: of a rank's samples, or of their rivals.
            sampling = forward_bytes(unet, length, 2 * max(1, rivals) * part.batch_size // ranks, half)
        else:
            sampling = forward_bytes(frozen, length, 3 * part.trajectories, half)
        measuring = forward_bytes(unet, length, rivals * part.batch_size // ranks, half) if rivals else 0
        # Where forward turns to backward, what follows a weight is met twice before it is used again.
        kept = min(1.0, REUSED / 2 / sum(parameter.numel() for parameter in unet.parameters()))
        gathered = int(kept * sum(held_bytes(parameter.nbytes, GATHERED_PIECES) for parameter in unet.parameters()))
        width = unet.config.cross_attention_dim
    words = 0
    if losses.CHOICE in methods.NEIGHBOURS:
        rows = spec.vocabulary.top_k * length * width * FULL
        # A closed form reads all words, and then has them once more as one matrix.
        words = len(spec.concepts) * (min(HELD_BYTES, rows) if iterative else 2 * rows)
    loading = Moment("loading", {"libraries": libraries, "all weights of the model": loaded})
    dropped = sum(bytes_of(part, SMALL) for name, part in networks.items() if name != "unet") if on_cpu else 0
    base = {"libraries": libraries, "weights of θ": whole, "candidates": words, "loaded before": dropped}
    if not iterative:
        return Forecast("training", ranks, [loading, Moment("solving", {**base, "trained weights": trained})])
    # What DeepSpeed keeps on the host then is told by nobody.
    offloaded = part.offload if not on_cpu else "none"
    own = trained if stage < 3 else (0 if offloaded == "parameters" else whole // ranks) + gathered
    share = trained // ranks if stage >= 1 else trained
    adam = 2 * share if offloaded == "none" else 0
    rounding = {**base, "trained weights": trained, "weights as they were read": bytes_of(networks["unet"])}
    base |= {"trained weights": own, "Adam's moments": adam}
    if stage >= 1:
        # Its own part of the weights and of the gradients, flat, and the gradients that are reduced together.
        copies = 0 if offloaded != "none" else 2 * share if stage < 3 else share
        base["ZeRO's copies"] = copies + min(trained, FULL * BUCKET)
    gradients = trained if stage < 2 else share if offloaded == "none" or stage < 3 else 0
    step = {**base, "gradients": gradients, "activations": max(0, update - trained)}
    moments = [loading, Moment("sampling of latents", {**base, "activations": sampling}), Moment("a step", step)]
    if rivals:
        moments.append(Moment("the measuring of rivals", {**base, "activations": measuring}))
    if on_cpu and part.frozen_precision == "bf16":
        # A file's weights are given back together, when the last of them has been rounded.
        moments.insert(1, Moment("the rounding of the weights", rounding))
    if on_cpu and part.steps * len(spec.concepts) > part.checkpoint_every:
        moments.append(Moment("a checkpoint", {**base, "what is saved": 3 * trained}))
    return Forecast("training", ranks, moments)


def drawn_together(spec: Spec) -> int:
    """The images of the largest batch that can be wanted; batch_size where prompt files are still on the hub."""
    part = spec.generation
    if not are_local(part.prompt_files):
        return part.batch_size
    # Which words are nearest is not known yet, but that they are no more than top_k for each concept; a batch of them counts.
    words = min(spec.vocabulary.top_k * len(spec.concepts), part.batch_size)
    wanted = wanted_images(spec, roles(spec, [f"word {i}" for i in range(words)]))
    return max((len(rows) for _, rows in batches_of(wanted, part)), default=1)


def wanted_at_most(spec: Spec) -> list[Wanted]:
    """Every image that may be drawn by one model. Which words are nearest is not known yet, but that they are no more than top_k
    for each concept.
    """
    return wanted_images(spec, roles(spec, [f"word {i}" for i in range(spec.vocabulary.top_k * len(spec.concepts))]))


def pixels_of(vae: AutoencoderKL, unet: UNet2DConditionModel) -> tuple[int, int]:
    """The height and width of the images that a model draws."""
    _, height, width = latent_shape(unet)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    return height * scale, width * scale


def decoding_bytes(vae: AutoencoderKL, unet: UNet2DConditionModel, count: int) -> int:
    """The most that the decoding of so many images makes."""
    _, height, width = latent_shape(unet)
    together = max(1, min(count, DECODED_PIXELS // math.prod(pixels_of(vae, unet))))
    latents = torch.empty(together, vae.config.latent_channels, height, width, dtype=vae.dtype, device=device())
    with Alive(vae.parameters()) as alive, torch.no_grad():
        vae.decode(latents)
    return alive.most


def images_forecast(spec: Spec, folder: Path, libraries: int) -> Forecast:
    """What each rank that draws images needs."""
    part, count = spec.generation, drawn_together(spec)
    with FakeTensorMode():
        networks = parts_of(folder)
        loaded = sum(map(bytes_of, networks.values()))
        if part.precision != "fp32":
            full, networks = networks, parts_of(folder, DTYPES[part.precision])
            if full["vae"].config.force_upcast:
                networks["vae"] = full["vae"]
        held = sum(map(bytes_of, networks.values()))
        unet, vae = networks["unet"], networks["vae"]
        if part.attention_slicing:
            unet.set_attention_slice("auto")
        length = networks["text_encoder"].config.max_position_embeddings
        sampling = forward_bytes(unet, length, count * (2 if part.guidance_scale > 1 else 1))
        decoding = decoding_bytes(vae, unet, count)
    base = {"libraries": libraries, "weights": held}
    return Forecast(
        "images",
        part.processes,
        [
            Moment("loading", {"libraries": libraries, "weights": loaded}),
            Moment("a sampling step", {**base, "activations": sampling}),
            Moment("decoding", {**base, "activations": decoding}),
        ],
    )


@contextlib.contextmanager
def configs_folder(name: str) -> Iterator[Path]:
    """Yield the folder of a model's configurations and tokenizers.

    Of a hub model they alone are downloaded; those of a single file are written for the block, from its header. ModelError
    when the model cannot be used, or is not to be had.
    """
    source = find_model(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = source.folder or Path(temporary)
        if source.file is not None:
            write_configs(folder, checkpoint_layout.configs_of(source.file))
        elif source.on_hub:
            folder = download(name, CONFIGS)
        pipeline_class(name, folder)
        yield folder


def import_model(folder: Path) -> None:
    """Import all that a model's parts are made with, and its tokenizers, which have no weights."""
    for name, value in read_json(folder / "model_index.json").items():
        # Of the parts that are never loaded, older folders name classes that are gone.
        if name.startswith(("tokenizer", "text_encoder", "unet", "vae", "scheduler")) and value[0] in LIBRARIES:
            kind = getattr(LIBRARIES[value[0]], value[1])
            if name.startswith("tokenizer"):
                kind.from_pretrained(folder / name, local_files_only=True)
