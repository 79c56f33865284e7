"""The emoji world's model card."""

from __future__ import annotations

from ..models.origin import Origin
from .catalogue import STYLES, concepts, groups
from .render import PACKAGES

LICENCES = {
    "noto": ("Noto Emoji, Google", "Apache-2.0"),
    "twemoji": ("Twemoji, Twitter and contributors", "CC BY 4.0"),
    "fluent-emoji-flat": ("Fluent Emoji, Microsoft", "MIT"),
    "emojione": ("EmojiOne 2.3, EmojiOne", "CC BY 4.0"),
}

NAMES = {
    "concept_top_1": "concept top-1, 8 images of “a {concept}” each",
    "style_top_1": "style top-1, one image of every concept in every style",
    "concept_judge_held_out": "concept judge on held-out augmentations",
    "style_judge_held_out": "style judge on held-out augmentations",
    "concept_judge_on_reconstructions": "concept judge on the autoencoder's reconstructions",
}


def origin() -> Origin:
    """The licences that the pipeline's weights are under, which travel with every model made from it."""
    sources = [f"  {LICENCES[name][0]}: {LICENCES[name][1]}" for name in STYLES.values()]
    texts = [
        "The weights were trained from scratch on renders of these emoji sets, as packaged by Iconify:",
        "",
        *sources,
    ]
    texts += ["", "The tokenizer holds the byte-pair merges of CLIP, OpenAI: MIT"]
    return Origin("apache-2.0, cc-by-4.0, mit", license_files={"NOTICE": "\n".join(texts) + "\n"})


def render(figures: dict[str, float], by_concept: dict[str, float]) -> str:
    """The model card as Markdown, from the measured figures."""
    weakest = sorted(by_concept.items(), key=lambda item: item[1])[:10]
    lines = [
        "# Emoji world",
        "",
        f"A small Stable Diffusion that draws {len(concepts())} things in {len(STYLES)} emoji styles, 64×64 pixels.",
        "Real in every respect but size: `pipeline/` loads in stock diffusers, `clip/` in stock transformers. It exists so that",
        "concepts can be erased, and the erasure proved, on any machine in minutes. It knows nothing but these emoji.",
        "",
        "![Four images of every concept](contact-sheet.png)",
        "",
        "## Figures",
        "",
        "30 DDIM steps, guidance 5, seeds that nothing was chosen by.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {NAMES[name]} | {100 * value:.1f} % |" for name, value in figures.items()),
        "",
        "Weakest concepts: " + ", ".join(f"{word} {100 * value:.0f} %" for word, value in weakest) + ".",
        "",
        "## Parts",
        "",
        "- `pipeline/`: StableDiffusionPipeline. AutoencoderKL (8-fold, 8 latent channels), UNet2DConditionModel (96–192 channels,",
        "  cross-attention width 128), CLIP text encoder (4 layers, width 128, context 32), the CLIP tokenizer of 49,408 tokens,",
        "  DDIM with Stable Diffusion's betas.",
        "- `clip/`: the CLIPModel whose text tower is that text encoder.",
        "- `concept_judge/` (ResNet) and `style_judge/` (RegNet): classifiers trained on augmented renders, apart from the",
        "  generator and from each other.",
        "",
        "Weights are stored in half precision. Trained from scratch on renders of the emoji below; `erase pretrain` does it again.",
        "",
        "## Words it knows",
        "",
        *(f"- {group}: {', '.join(members)}" for group, members in groups().items()),
        "",
        "Styles: " + ", ".join(STYLES) + ".",
        "",
        "## Sources and licences",
        "",
        "| style | set | licence | package |",
        "|---|---|---|---|",
        *(
            f"| {style} | {LICENCES[name][0]} | {LICENCES[name][1]} | @iconify-json/{name} {PACKAGES[f'@iconify-json/{name}']} |"
            for style, name in STYLES.items()
        ),
        "",
        f"Names and tags: emojibase-data {PACKAGES['emojibase-data']} (MIT).",
        "Byte-pair merges: OpenAI CLIP (MIT), as open_clip_torch ships them.",
    ]
    return "\n".join(lines) + "\n"
