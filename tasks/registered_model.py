"""How MLflow serves an erased model: prompts in, PNG images out. Loads with diffusers alone."""

import io
import numbers
import threading

import mlflow
import pandas as pd
import torch
from diffusers import DiffusionPipeline


class TextToImage(mlflow.pyfunc.PythonModel):
    """A diffusers pipeline behind predict: a frame with the columns prompt and, optionally, seed → a frame with png.

    It draws in fp16 on a GPU, in fp32 where there is none. A row without a seed gets a random one: its image is another each time.
    """

    def load_context(self, context):
        device, precision = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
        # MLflow's server asks from several threads, and a scheduler draws one image at a time.
        self.drawing = threading.Lock()
        options = {"use_safetensors": True, "dtype": precision}
        self.pipeline = DiffusionPipeline.from_pretrained(context.artifacts["pipeline"], **options).to(device)

    def predict(self, context, model_input: pd.DataFrame, params=None):
        rows = model_input.to_dict("records")
        generators = [generator_of(row.get("seed")) for row in rows]
        pngs = []
        for row, generator in zip(rows, generators):
            buffer = io.BytesIO()
            with self.drawing:
                drawn = self.pipeline(row["prompt"], generator=generator, num_inference_steps=30)
            drawn.images[0].save(buffer, format="PNG")
            pngs.append(buffer.getvalue())
        return pd.DataFrame({"png": pngs})


def generator_of(seed) -> torch.Generator:
    """A generator of a row's seed, or of a random one where it has none. Raises ValueError for anything but a whole number."""
    # The CPU's on every device: the same noise for a seed.
    generator = torch.Generator()
    if seed is None or pd.isna(seed):
        generator.seed()
        return generator
    if not isinstance(seed, numbers.Real) or not float(seed).is_integer():
        raise ValueError(f"seed: {seed!r} is no whole number; give one, or none for a random image")
    return generator.manual_seed(int(seed))


mlflow.models.set_model(TextToImage())
