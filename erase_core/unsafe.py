"""What nobody should have to see who only reads about a run: images of unsafe concepts are blurred in reports and in MLflow.

The run's own tables keep every image as it is, since they are what is judged.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from .concepts.plurals import singulars
from .files import new_file
from .generation.plan import ERASED
from .metrics.nudity import THRESHOLDS
from .pictures import decode_png, encode_png
from .spec import Spec

STEMS = (
    "abus", "antisemit", "assassinat", "behead", "bloodbath", "bloodied", "bloodshed", "bloodsoaked", "bloodstain", "cadaver",
    "cannibal", "decapitat", "disembowel", "dismember", "ejaculat", "erotic", "eviscerat", "excrement", "fetish", "fuck",
    "genital", "genocid", "gruesome", "harass", "hateful", "hentai", "homicid", "homophob", "islamophob", "lewd", "masturbat",
    "molest", "murder", "mutilat", "naked", "necrophil", "nipple", "nude", "nudis", "nudit", "obscen", "orgasm", "overdos",
    "paedophil", "pedophil", "porn", "prostitut", "racis", "rapist", "sadis", "sadomaso", "sexual", "sexy", "slaughter", "slut",
    "strangl", "strangul", "striptease", "suicid", "swastik", "terroris", "tortur", "transphob", "undress", "vagina", "violen",
    "vomit", "xenophob",
)  # fmt: skip
"""How words begin that speak of hate, harassment, violence, self-harm, sexual content, shock or illegal acts, the field's unsafe
prompts. Hardly a word of another sense begins so."""
WORDS = {
    "anal", "animal-cruelty", "anus", "areola", "assault", "autopsy", "bare-breasted", "bdsm", "bestiality", "blood", "bloody",
    "blow-job", "blowjob", "bombing", "bondage", "boob", "boobies", "braless", "breast", "bukkake", "bullying", "busty",
    "buttock", "camel-toe", "cameltoe", "carcass", "cleavage", "clitoris", "cocaine", "corpse", "crime-scene", "cum", "cumshot",
    "cunnilingus", "cunt", "dead-body", "dildo", "dominatrix", "drug-dealer", "drug-dealing", "drug-use", "ecchi", "entrails",
    "execution", "executioner", "faeces", "feces", "fellatio", "flayed", "futanari", "gangbang", "gore", "gory", "grisly",
    "hand-job", "handjob", "hanged", "hate", "hatred", "heroin", "hitler", "holocaust", "illegal", "incest", "intercourse",
    "intestine", "kill", "killed", "killing", "kkk", "klan", "ku-klux", "labia", "lingerie", "loli", "lolicon", "lolita",
    "lynched", "lynching", "maimed", "mass-shooting", "massacre", "massacred", "meth", "milf", "nazi", "nazism", "neonazi",
    "nsfl", "nsfw", "nudie", "orgy", "penile", "penis", "phallic", "phallus", "pubic", "pussy", "rape", "raped", "raping",
    "roadkill", "school-shooting", "scrotum", "self-harm", "self-harming", "self-injury", "semen", "severed", "sex", "sexting",
    "shocking", "shotacon", "sodomy", "stabbed", "stabbing", "strip-club", "strip-tease", "stripper", "supremacist", "testicle",
    "threesome", "tits", "titties", "topless", "unclothed", "unsafe", "upskirt", "viscera", "vulva", "whore", "wound",
    "wounded", "x-rated", "xxx",
}  # fmt: skip
"""More such words, whole. One with a hyphen is also two words; plurals are known by the rules."""
SOFTNESS = 1 / 10
"""The blur's σ as a share of an image's side: shapes and colours stay, and no part of a body can be told."""


def unsafe_concepts(spec: Spec) -> list[str]:
    """The erased concepts whose images are hidden: those that the spec names, or by default those that speak of such things.

    Where nudity is measured, that is every erased concept. None when the spec shows them.
    """
    if spec.report.show_unsafe:
        return []
    if spec.report.unsafe is not None:
        named = {word.casefold() for word in spec.report.unsafe}
        return [c.concept for c in spec.concepts if not named.isdisjoint(name.casefold() for name in c.names)]
    if "nudity" in spec.metrics:
        return spec.concept_words
    return [concept.concept for concept in spec.concepts if any(map(speaks_of_it, concept.names))]


def speaks_of_it(name: str) -> bool:
    """Whether a concept's name has a word for what is unsafe: alone, in the plural, in a compound, or written as two."""
    parts = re.findall(r"[^\W_]+", name.casefold())
    pairs = [f"{first}-{second}" for first, second in itertools.pairwise(parts)]
    return any(part.startswith(STEMS) for part in parts) or any(
        not WORDS.isdisjoint((word, *singulars(word))) for word in (*parts, *pairs)
    )


def hides(spec: Spec) -> bool:
    """Whether a run's images are to be kept from casual eyes."""
    return bool(unsafe_concepts(spec)) or ("nudity" in spec.metrics and not spec.report.show_unsafe)


def hidden_images(spec: Spec, images: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Which images are to be blurred, for each row of `images` (concept, role) under both models: original and erased, bool.

    Those of unsafe concepts, and those in which a detector found an exposed part. verdicts: the same images in the same order.
    """
    found = pd.DataFrame(False, index=images.index, columns=["original", "erased"])
    if not hides(spec):
        return found
    if unsafe := unsafe_concepts(spec):
        # A group's members stand in the table under their own names.
        safe = set(spec.concept_words) - set(unsafe)
        found[(images["role"] == ERASED) & ~images["concept"].isin(safe)] = True
    for model in found:
        if (column := f"exposed_{model}") in verdicts:
            found[model] |= verdicts[column].to_numpy() >= THRESHOLDS[0]
    return found


def blurred(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] of which only large shapes and colours are left."""
    soft = ImageFilter.GaussianBlur(SOFTNESS * min(image.shape[:2]))
    return np.asarray(Image.fromarray(image).filter(soft))


def write_blurred(path: Path, out: Path) -> None:
    """Copy a table of images (column png) to `out` with all of them blurred."""
    file = pq.ParquetFile(path)
    with new_file(out) as partial, pq.ParquetWriter(partial, file.schema_arrow) as writer:
        for batch in file.iter_batches(256):
            pngs = [encode_png(blurred(decode_png(png))) for png in batch["png"].to_pylist()]
            at = batch.schema.get_field_index("png")
            writer.write_batch(batch.set_column(at, batch.schema.field(at), pa.array(pngs, pa.binary())))
