"""What a spec names on the model hub: looked at before anything large is fetched, and read at one commit. Needs no torch."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from .files import disk_full
from .models.source import PARTS, ModelError, pipeline_class
from .preflight_scorers import SAFETENSORS, read_config

UNUSED_FILES = ["*fp16*", "*non_ema*", "safety_checker/*", "vae_*/*", "*openvino*"]
"""What is left where it is when a model is fetched."""


SECONDS_TO_ANSWER = 10
resolved: dict[tuple[str, str], str] = {}
"""The commit that this process reads, by the kind and the id of each repository it has asked for."""


class HubError(ValueError):
    """Something that cannot be had from the hub; the message names the field and the fix."""


class HubAway(RuntimeError):
    """The hub could not be asked, which may pass; the message names the field."""


def divided(name: str) -> tuple[str, str | None]:
    """The repository and the revision of a hub id, owner/name or owner/name@revision."""
    place, _, revision = name.partition("@")
    return place, revision or None


def fetched(field: str, name: str, file: str, kind: str = "model") -> Path:
    """A file of a repository on the hub, fetched or from its cache. HubError when it cannot be had, HubAway when the hub is.

    A repository is read at one commit as long as this process lives: the first that a branch or a tag is found at. field: the
    one that names it. kind: model or dataset.
    """
    # Only here: every run checks, and few have anything on the hub.
    from huggingface_hub import errors, hf_hub_download, is_offline_mode

    place, revision = divided(name)
    here = "folder" if kind == "model" else "file"
    try:
        at = resolved.get((kind, name), revision)
        path = Path(hf_hub_download(place, file, repo_type=kind, revision=at))
    except errors.GatedRepoError:
        raise HubError(
            f"{field}: {place} is given on the hub to those who accept its terms; do so on its page there, and set "
            "HF_TOKEN or log in with hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{field}: neither is there such a {here} here, nor a {kind} {place} on the hub; check the path or the name"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{field}: {place} has no revision {revision} on the hub; give a branch, a tag or a commit of it, or leave @ out"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise HubError(f"{field}: {name} has no {file} on the hub; check the name") from None
    except (OSError, errors.HFValidationError) as error:
        if disk_full(error):
            raise
        raise unfetched(field, name, file, error, kind) from None
    # A check where there is a network fetches a scorer's configuration alone.
    if file == "config.json" and is_offline_mode() and not any(path.parent.glob("*.safetensors")):
        raise not_cached(field, name, "*.safetensors")
    resolved.setdefault((kind, name), path.parents[file.count("/")].name)
    return path


def unfetched(field: str, name: str, what: str, error: Exception, kind: str = "model") -> Exception:
    """The HubError or HubAway for what went wrong as something was fetched, which no error of its own tells."""
    from huggingface_hub import errors, is_offline_mode

    if is_offline_mode() and isinstance(error, errors.LocalEntryNotFoundError):
        return not_cached(field, name, what, kind)
    first = str(error).strip().partition("\n")[0]
    told = f"{field}: cannot fetch {name} from the hub: {first}; no such {'folder' if kind == 'model' else 'file'} is here either"
    if passing(error):
        return HubAway(f"{told}. Is there a network?")
    return HubError(f"{told}, so check the path or the name")


def passing(error: Exception) -> bool:
    """Whether an error says that the hub cannot be reached, or cannot answer now."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return status == 429 or status >= 500
    return isinstance(error, OSError)


def not_cached(field: str, name: str, what: str, kind: str = "model") -> HubError:
    """The error for what HF_HUB_OFFLINE forbids to fetch."""
    place, revision = divided(name)
    options = ("" if kind == "model" else f" --repo-type {kind}") + (f" --revision {revision}" if revision else "")
    return HubError(
        f"{field}: cannot fetch {name} from the hub: HF_HUB_OFFLINE forbids it, and its cache has no {what} of it; check the path "
        f"or the name, and unset that, or first run hf download {place}{options} where there is a network"
    )


def commit_of(field: str, name: str, file: str, kind: str = "model") -> str:
    """The commit at which this process reads a repository that has such a file. Raises as `fetched`."""
    fetched(field, name, file, kind)
    return resolved[kind, name]


def snapshot(field: str, name: str, file: str, patterns: list[str], unused: list[str] | None = None) -> Path:
    """The folder of a model's files that match the patterns, at the commit of `commit_of`; fetched, or from the cache.

    file: one that such a model has. unused: patterns of what is left out. Raises as `fetched`.
    """
    from huggingface_hub import errors, snapshot_download

    commit = commit_of(field, name, file)
    try:
        return Path(
            snapshot_download(divided(name)[0], revision=commit, allow_patterns=patterns, ignore_patterns=unused)
        )
    except (OSError, errors.HFValidationError) as error:
        if disk_full(error):
            raise
        raise unfetched(field, name, "whole copy", error) from None


def files_of(name: str) -> list[str] | None:
    """The names of a model's files at the commit that is read; None when the hub cannot be asked, as without a network."""
    from huggingface_hub import HfApi, errors

    place, _ = divided(name)
    try:
        found = HfApi().model_info(place, revision=resolved["model", name], timeout=SECONDS_TO_ANSWER)
        return [file.rfilename for file in found.siblings or []]
    except (OSError, errors.HTTPError):
        return None


def check_scorer_on_hub(field: str, name: str) -> Path:
    """The configuration of a judge or a CLIP on the hub. HubError for none, and for one that lacks safetensors."""
    config = fetched(field, name, "config.json")
    files = files_of(name)
    # A configuration may name a file of its own.
    if files and not set(SAFETENSORS) & set(files) and "transformers_weights" not in read_config(field, config):
        raise HubError(
            f"{field}: {name} has no {SAFETENSORS[0]} on the hub; give a revision that has, as one of its refs/pr may, or a folder "
            "with its weights converted by erase convert"
        )
    return config


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
