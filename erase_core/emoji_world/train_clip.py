"""Train the world's CLIP; its text tower is the text encoder that conditions the UNet."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from ..concepts.vocabulary import byte_of_character
from .augment import IMAGE_SIDE, draw
from .catalogue import STYLES, Concept, caption, concepts
from .fit import Report, fit, silent

MERGES_PACKAGE = "open_clip_torch==3.3.0"
MERGES_MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
RELATED = 0.1
"""How much of a positive an image of a related concept is: it keeps a taxi near a bus and not near what is merely yellow."""
CONTEXT = 32
WIDTH = 128


def fetch_merges(folder: Path) -> list[tuple[str, str]]:
    """CLIP's 48,894 byte-pair merges, read out of the package that ships them without installing it."""
    if not list(folder.glob("open_clip_torch*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), MERGES_PACKAGE],
            check=True,
        )
    with zipfile.ZipFile(next(folder.glob("open_clip_torch*.whl"))) as wheel:
        lines = gzip.decompress(wheel.read(MERGES_MEMBER)).decode("utf-8").split("\n")
    return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]


def build_tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """The real CLIP tokenizer of 49,408 tokens with this world's shorter context."""
    alphabet = list(byte_of_character())
    tokens = (
        alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    )
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def build() -> CLIPModel:
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4}
    return CLIPModel(
        CLIPConfig(
            projection_dim=WIDTH,
            text_config={
                **tower,
                "vocab_size": 49408,
                "max_position_embeddings": CONTEXT,
                "projection_dim": WIDTH,
                "bos_token_id": 49406,
                "eos_token_id": 49407,
                "pad_token_id": 49407,
            },
            vision_config={**tower, "image_size": IMAGE_SIDE, "patch_size": 16, "projection_dim": WIDTH},
        )
    )


def image_processor() -> CLIPImageProcessor:
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def describes(text: str, concept: Concept, style: str) -> float:
    """How well a caption from the catalogue's templates fits an image: 1 when it is true, RELATED for a related concept."""
    padded = f" {text.replace(',', ' ')} "
    if any(f" {word} " in padded for word in STYLES if word != style):
        return 0.0
    others = [word for c in concepts() for word in (c.group, *c.tags) if f" {word} " in padded]
    # "a fire truck" speaks of no fire: a name inside a longer known phrase does not count.
    names = [
        c
        for c in concepts()
        if f" {c.word} " in padded and not any(c.word != w and c.word in w.split() for w in others)
    ]
    if names:
        named = max(names, key=lambda c: len(c.word))
        if named.word == concept.word:
            return 1.0
        return RELATED if named.group == concept.group or set(named.tags) & set(concept.tags) else 0.0
    return float(any(f" {word} " in padded for word in (concept.group, *concept.tags)))


def train(
    rgba: torch.Tensor,
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    report: Report = silent,
) -> CLIPModel:
    """Contrastive training in which a caption's positives are all images of the batch that it fits, by how well it does.

    rgba: premultiplied renders [concepts · styles, 4, S, S] in catalogue order.
    """
    torch.manual_seed(seed)
    model = build()
    styles = list(STYLES)
    known: dict[str, np.ndarray] = {}

    def truth(text: str) -> np.ndarray:
        if text not in known:
            known[text] = np.array([describes(text, c, s) for c in concepts() for s in styles])
        return known[text]

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        picks = rng.choice(len(rgba), size=batch_size, replace=False)
        words = random.Random(int(rng.integers(2**31)))
        texts = [caption(concepts()[p // len(styles)], styles[p % len(styles)], words) for p in picks]
        tokens = tokenizer(texts, padding="longest", truncation=True, return_tensors="pt")
        output = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=draw(rgba[picks], rng)
        )
        target = torch.from_numpy(np.stack([truth(t)[picks] for t in texts]).astype(np.float32))
        target.fill_diagonal_(1.0)
        by_text = -(target / target.sum(1, keepdim=True) * F.log_softmax(output.logits_per_text, 1)).sum(1).mean()
        by_image = -(target.T / target.T.sum(1, keepdim=True) * F.log_softmax(output.logits_per_image, 1)).sum(1).mean()
        return (by_text + by_image) / 2

    fit(
        "clip",
        model,
        loss_of,
        steps=steps,
        learning_rate=1e-3,
        checkpoint=folder / "clip.pt",
        seed=seed,
        weight_decay=0.05,
        warmup=100,
        report=report,
    )
    return model
