"""Render the emoji sets to images. Needed only to train the world again, never to use it."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from .catalogue import STYLES, concepts

PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/emojione": "1.2.3",
    "emojibase-data": "17.0.0",
}
SIDE = 128
"""Renders are twice the model's side, so that an augmentation can shrink and move them without blur."""

# emojione predates two renamings in Unicode.
EARLIER_NAMES = {"water-pistol": "pistol", "robot": "robot-face"}


def fetch_packages(folder: Path) -> Path:
    """Install the emoji packages with npm into `folder` and return its node_modules.

    Raises RuntimeError when npm is missing or the packages cannot be had.
    """
    modules = folder / "node_modules"
    if all((modules / name / "package.json").exists() for name in PACKAGES):
        return modules
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    try:
        subprocess.run(
            ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", *wanted],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise RuntimeError("training the emoji world again needs npm: install Node.js") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"npm could not install the emoji packages: {error.stderr.strip()}") from error
    return modules


def slug(name: str) -> str:
    """The icon sets' spelling of an emoji's name: "woman’s boot" → "womans-boot"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"[’']", "", name.lower())).strip("-")


def svg(icon_set: dict, characters: dict, emoji: str, hexcode: str) -> str:
    """The SVG document of one emoji from an iconify set; KeyError names an emoji the set lacks."""
    icons, aliases = icon_set["icons"], icon_set.get("aliases", {})
    code = hexcode.lower()
    name = characters.get(code) or characters.get(code.replace("-fe0f", "")) or slug(emoji)
    if name not in icons and name not in aliases:
        name = EARLIER_NAMES.get(name, name)
    icon = icons[aliases[name]["parent"] if name in aliases else name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def render_all(modules: Path) -> np.ndarray:
    """Render every concept in every style.

    Returns uint8 [concepts, styles, SIDE, SIDE, 4], RGBA with straight alpha.
    """
    import resvg_py

    data = json.loads((modules / "emojibase-data/en/data.json").read_text(encoding="utf-8"))
    hexcodes = {entry["label"].lower(): entry["hexcode"] for entry in data}
    images = np.zeros((len(concepts()), len(STYLES), SIDE, SIDE, 4), dtype=np.uint8)
    for s, set_name in enumerate(STYLES.values()):
        package = modules / "@iconify-json" / set_name
        icon_set = json.loads((package / "icons.json").read_text(encoding="utf-8"))
        characters = json.loads((package / "chars.json").read_text(encoding="utf-8"))
        for c, concept in enumerate(concepts()):
            document = svg(icon_set, characters, concept.emoji, hexcodes[concept.emoji.lower()])
            png = resvg_py.svg_to_bytes(svg_string=document, width=SIDE, height=SIDE)
            with Image.open(io.BytesIO(bytes(png))) as image:
                rgba = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            images[c, s] = np.asarray(rgba)
    return images
