"""Does the search stay among concepts? Images of the searched c_a and of the erased c_e over the steps, by gradient ascent on the
embedding and by the Gumbel-softmax over words, and c_a's distance from the nearest word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from ..concepts.neighbours import read_neighbours
from ..generation.sampler import sample_embeddings
from ..models.conditions import layout_of
from ..models.pipeline import load_pipeline, with_unet
from ..models.source import local_model
from ..report.charts import strips
from ..spec import Spec, make_spec
from ..training.candidates import conditions_of, erased_concepts
from ..training.loop import train
from ..training.trajectory_files import folder_for
from ..unsafe import blurred, hides
from .findings import Findings, summary
from .places import embedding_table, stage_folder
from .variants import encoded_whole, variant

SHOWN = 10


def runs(base: Spec) -> dict[str, Spec]:
    """One run a search."""
    methods = {
        "gradient ascent": {"name": "adversarial-pgd", "radius": 100.0},
        "gumbel": {"name": "adversarial", "search": "gradient"},
    }
    return {
        label: variant(base, label, method=method, vocabulary=encoded_whole(base)) for label, method in methods.items()
    }


def find(outputs: dict[str, Path]) -> Findings:
    rows, images, steps = [], {}, []
    for label, path in outputs.items():
        spec = make_spec(summary(path)["spec"])
        searched = load_file(stage_folder(path, "training") / "searched.safetensors")
        own = {int(n.rsplit("/", 1)[1]): v for n, v in searched.items() if n.startswith(f"{spec.concepts[0].concept}/")}
        table = embedding_table(path)
        pipeline = load_pipeline(local_model(spec.model)[0])
        rows_of = range(len(table.words))
        every = layout_of(pipeline).pack(table.rows(rows_of), table.rows(rows_of, "pooled")).flatten(1)
        for step, value in sorted(own.items()):
            apart = (every - value.flatten()).norm(dim=1)
            rows.append(
                {
                    "search": label,
                    "step": step,
                    "word": table.words[int(apart.argmin())],
                    "distance": float(apart.min()),
                }
            )
        steps = sorted(own)[:: max(1, len(own) // SHOWN)][:SHOWN]
        drawn = sample_embeddings(pipeline, [own[s] for s in steps], [spec.seed] * len(steps), spec.generation)
        images[f"{label}\nc_a"] = np.concatenate(list(drawn))
        images[f"{label}\nc_e"] = erased_images(spec, pipeline, path, steps)
        if hides(spec):
            images |= {name: np.stack([blurred(image) for image in row]) for name, row in images.items()}
    table = pd.DataFrame(rows)
    last = table.groupby("search", sort=False).tail(1).set_index("search")
    return Findings(
        table,
        strips(images, [f"step {step}" for step in steps], table, "step", "distance", "search"),
        {f"final_distance/{label}": float(value) for label, value in last["distance"].items()},
        "At the end c_a is "
        + "; ".join(f"{row.distance:.2f} from {row.word} by {label}" for label, row in last.iterrows())
        + ".",
    )


def erased_images(spec: Spec, pipeline: DiffusionPipeline, output: Path, steps: list[int]) -> np.ndarray:
    """The first concept under θ' after some steps of a run's training, [N, H, W, 3].

    A run keeps its last weights alone, so the training is done once more, by this process.
    """
    near = read_neighbours(stage_folder(output, "nearest") / "preserved.parquet")
    concepts = erased_concepts(spec, pipeline, embedding_table(output), near)
    prompt, images = concepts[0].embeddings[0], []

    def on_update(step: int, unet: UNet2DConditionModel) -> None:
        if step in steps:
            images.extend(sample_embeddings(with_unet(pipeline, unet), [prompt], [spec.seed], spec.generation))

    alone = spec.training.model_copy(update={"processes": 1, "hostfile": None, "zero_stage": 0, "offload": "none"})
    train(
        pipeline.unet,
        pipeline.scheduler,
        concepts,
        conditions_of(spec, pipeline),
        spec.method,
        alone,
        spec.seed,
        trajectories=folder_for(spec.training, local_model(spec.model)[1]),
        on_update=on_update,
    )
    return np.concatenate(images)
