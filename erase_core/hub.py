"""What a spec names on the model hub, looked at before anything large is fetched from there. Needs no torch."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from .models.source import PARTS, ModelError, pipeline_class

UNUSED_FILES = ["*fp16*", "*non_ema*", "safety_checker/*", "vae_*/*", "*openvino*"]
"""What is left where it is when a model is fetched."""


SECONDS_TO_ANSWER = 10


class HubError(ValueError):
    """Something that cannot be had from the hub; the message names the field and the fix."""


class HubAway(RuntimeError):
    """The hub could not be asked, which may pass; the message names the field."""


def fetched(field: str, place: str, file: str, kind: str = "model") -> Path:
    """A file of a repository on the hub, fetched or from its cache. HubError when it cannot be had, HubAway when the hub is.

    field: the one that names it. kind: model or dataset.
    """
    # Only here: every run checks, and few have anything on the hub.
    from huggingface_hub import errors, hf_hub_download, is_offline_mode

    here = "folder" if kind == "model" else "file"
    try:
        path = Path(hf_hub_download(place, file, repo_type=kind))
    except errors.GatedRepoError:
        raise HubError(
            f"{field}: {place} is given on the hub to those who accept its terms; do so on its page there, and set "
            "HF_TOKEN or log in with hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{field}: neither is there such a {here} here, nor a {kind} {place} on the hub; check the path or the name"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise HubError(f"{field}: {place} has no {file} on the hub; check the name") from None
    except (OSError, errors.HFValidationError) as error:
        if is_offline_mode() and isinstance(error, errors.LocalEntryNotFoundError):
            raise not_cached(field, place, file, kind) from None
        first = str(error).strip().partition("\n")[0]
        if passing(error):
            raise HubAway(
                f"{field}: cannot fetch {place} from the hub: {first}; no such {here} is here either. Is there a network?"
            ) from None
        raise HubError(
            f"{field}: cannot fetch {place} from the hub: {first}; no such {here} is here either, so check the path or "
            "the name"
        ) from None
    # A check where there is a network fetches a scorer's configuration alone.
    if file == "config.json" and is_offline_mode() and not any(path.parent.glob("*.safetensors")):
        raise not_cached(field, place, "*.safetensors")
    return path


def passing(error: Exception) -> bool:
    """Whether an error says that the hub cannot be reached, or cannot answer now."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return status == 429 or status >= 500
    return isinstance(error, OSError)


def not_cached(field: str, place: str, what: str, kind: str = "model") -> HubError:
    """The error for what HF_HUB_OFFLINE forbids to fetch."""
    option = "" if kind == "model" else f" --repo-type {kind}"
    return HubError(
        f"{field}: cannot fetch {place} from the hub: HF_HUB_OFFLINE forbids it, and its cache has no {what} of it; check the path "
        f"or the name, and unset that, or first run hf download {place}{option} where there is a network"
    )


def files_of(place: str) -> list[str] | None:
    """The names of a model's files on the hub; None when it cannot be asked, as without a network."""
    from huggingface_hub import HfApi, errors

    try:
        return [file.rfilename for file in HfApi().model_info(place, timeout=SECONDS_TO_ANSWER).siblings or []]
    except (OSError, errors.HTTPError):
        return None


def check_pipeline(place: str) -> None:
    """Raise ModelError for a model on the hub that is none that can be used, or lacks safetensors; HubError for none at all."""
    from huggingface_hub import is_offline_mode

    cached = fetched("model", place, "model_index.json").parent
    kind, offline = pipeline_class(place, cached), is_offline_mode()
    files = [file.relative_to(cached).as_posix() for file in cached.rglob("*")] if offline else files_of(place)
    if files is None:
        return
    used = [file for file in files if not any(fnmatch(file, pattern) for pattern in UNUSED_FILES)]
    for part in PARTS[kind]:
        if any(fnmatch(file, f"{part}/*.safetensors") for file in used):
            continue
        if offline:
            raise not_cached("model", place, f"{part}/*.safetensors")
        raise ModelError(
            f"model: {place!r} has no safetensors in full precision in {part}/ on the hub; give a model that has, or a folder "
            "with its weights converted by erase convert"
        )
