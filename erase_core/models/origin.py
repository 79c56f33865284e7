"""What travels with every model: the licence it is under, the base it was made from, and what was erased from it.

In a folder these stand in the model card (README.md), beside the base's own licence files; in a safetensors file, in its header.
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from safetensors import safe_open

from ..hub import divided
from .source import HUB_ID, ModelError

LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
CARD = "README.md"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from. The hashes are those of the base: of all its files, and of its UNet's weights.

    base_model_revision: the commit of a base on the hub. license: as the base's card or header has it. license_files: the texts of
    the base's licence files, by name.
    """

    license: str = UNKNOWN
    base_model: str = ""
    base_model_hash: str = ""
    base_unet_hash: str = ""
    erased_concepts: str = ""
    erasure_method: str = ""
    base_model_revision: str = ""
    license_files: dict[str, str] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, str]:
        """What is known of the base and the erasure, by name."""
        return {name: text for name, text in asdict(self).items() if name in TOLD and text}

    @property
    def header(self) -> dict[str, str]:
        """All of it as the metadata of a safetensors file."""
        texts = {"license_files": json.dumps(self.license_files)} if self.license_files else {}
        return {"modelspec.license": self.license, **self.told, **texts}

    def without(self, concepts: str, method: str) -> Origin:
        """The origin of what an erasure makes of this model."""
        every = ", ".join(filter(None, (self.erased_concepts, concepts)))
        return replace(self, erased_concepts=every, erasure_method=method)


TOLD = [f.name for f in fields(Origin) if not f.name.startswith("license")]


def origin_of(folder: Path, name: str, model_hash: str, unet_hash: str) -> Origin:
    """The origin of the model in a diffusers folder: as its card has it, or, of a model that is a base itself, that base.

    name, model_hash, unet_hash: of the model in the folder.
    """
    texts = {
        path.name: path.read_text(encoding="utf-8", errors="replace")
        for pattern in LICENCE_FILES
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }
    own = replace(read_card(folder / CARD), license_files=texts)
    if own.base_unet_hash:
        return own
    return replace(own, **named(folder, name), base_model_hash=model_hash, base_unet_hash=unet_hash)


def named(folder: Path, name: str) -> dict[str, str]:
    """The base_model and base_model_revision of a model that a spec calls `name` and that lies in `folder`."""
    # Where the hub's cache keeps what it fetched, a folder for each commit.
    if HUB_ID.fullmatch(name) and folder.parent.name == "snapshots":
        return {"base_model": divided(name)[0], "base_model_revision": folder.name}
    return {"base_model": name, "base_model_revision": ""}


def read_card(path: Path) -> Origin:
    """The origin in a model card's front matter; an unknown one where there is none that can be read."""
    try:
        data = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict() if path.is_file() else {}
    except (ValueError, yaml.YAMLError):
        data = {}
    named = data.get("license_name") or data.get("license") or UNKNOWN
    licence = ", ".join(named) if isinstance(named, list) else str(named)
    # A base's own base_model is not what an erasure started from.
    told = {name: str(data[name]) for name in TOLD if name in data} if "base_unet_hash" in data else {}
    return Origin(license=licence, **told)


def is_licence(name: str) -> bool:
    """Whether a file of this name, in no other folder, is a licence's."""
    return Path(name).name == name and any(fnmatch.fnmatchcase(name, pattern) for pattern in LICENCE_FILES)


def read_header(file: Path) -> Origin:
    """The origin in a safetensors file's metadata. Of its licence files those alone that have a licence's name and a text.

    Raises ModelError when they are not written as JSON.
    """
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
    try:
        texts = dict(json.loads(metadata.get("license_files", "{}")).items())
    except (ValueError, AttributeError):
        raise ModelError(
            f"license_files: the header of {file} has no JSON object of texts there; take the entry out of the header"
        ) from None
    return Origin(
        license=metadata.get("modelspec.license", UNKNOWN),
        # Whoever wrote the file chose the names, and they become files beside the model's own.
        license_files={name: text for name, text in texts.items() if is_licence(name) and isinstance(text, str)},
        **{name: metadata[name] for name in TOLD if name in metadata},
    )


def write_origin(folder: Path, origin: Origin) -> None:
    """Write the model card and the licence files of an origin into a diffusers folder."""
    for name, text in origin.license_files.items():
        (folder / name).write_text(text, encoding="utf-8")
    licences = origin.license.split(", ")
    matter = {"license": licences if len(licences) > 1 else licences[0], "pipeline_tag": "text-to-image", **origin.told}
    lines = [f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---"]
    if origin.base_unet_hash:
        erased = f" without {origin.erased_concepts}" if origin.erased_concepts else ""
        at = f" at the commit {origin.base_model_revision}" if origin.base_model_revision else ""
        lines += [
            f"# {Path(origin.base_model).name}{erased}",
            f"The base is `{origin.base_model}`{at}, hash {origin.base_model_hash}, its UNet's {origin.base_unet_hash}."
            + (f" Erased by the method {origin.erasure_method}." if origin.erasure_method else ""),
        ]
    texts = f" Its text: {', '.join(origin.license_files)}." if origin.license_files else ""
    lines.append(f"Licence: {origin.license}.{texts}")
    (folder / CARD).write_text("\n\n".join(lines) + "\n", encoding="utf-8")
