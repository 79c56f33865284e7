"""What a spec names on the model hub, looked at before anything large is fetched from there. Needs no torch."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from .models.source import PARTS, ModelError, pipeline_class

UNUSED_FILES = ["*fp16*", "*non_ema*", "safety_checker/*", "vae_*/*", "*openvino*"]
"""What is left where it is when a model is fetched."""


class HubError(ValueError):
    """Something that cannot be had from the hub; the message names the field and the fix."""


def fetched(field: str, place: str, file: str, kind: str = "model") -> Path:
    """A file of a repository on the hub, fetched or from its cache. HubError when it cannot be had.

    field: the one that names it. kind: model or dataset.
    """
    # Only here: every run checks, and few have anything on the hub.
    from huggingface_hub import errors, hf_hub_download

    here = "folder" if kind == "model" else "file"
    try:
        return Path(hf_hub_download(place, file, repo_type=kind))
    except errors.GatedRepoError:
        raise HubError(
            f"{field}: {place} is given on the hub to those who accept its terms; do so on its page there, and log in with hf "
            "auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{field}: neither is there such a {here} here, nor a {kind} {place} on the hub; check the path or the name"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise HubError(f"{field}: {place} has no {file} on the hub; check the name") from None
    except (OSError, errors.HFValidationError) as error:
        first = str(error).strip().partition("\n")[0]
        raise HubError(
            f"{field}: cannot fetch {place} from the hub: {first}; no such {here} is here either, so check the path or "
            "the name"
        ) from None


def files_of(place: str) -> list[str] | None:
    """The names of a model's files on the hub; None when it cannot be asked, as without a network."""
    from huggingface_hub import HfApi, errors

    try:
        return [file.rfilename for file in HfApi().model_info(place).siblings or []]
    except (OSError, errors.HTTPError):
        return None


def check_pipeline(place: str) -> None:
    """Raise ModelError for a model on the hub that is none that can be used, or lacks safetensors; HubError for none at all."""
    kind = pipeline_class(place, fetched("model", place, "model_index.json").parent)
    if (files := files_of(place)) is None:
        return
    used = [file for file in files if not any(fnmatch(file, pattern) for pattern in UNUSED_FILES)]
    for part in PARTS[kind]:
        if not any(fnmatch(file, f"{part}/*.safetensors") for file in used):
            raise ModelError(
                f"model: {place!r} has no safetensors in full precision in {part}/ on the hub; give a model that has, or a folder "
                "with its weights converted by erase convert"
            )
