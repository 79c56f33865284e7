"""How MLflow serves an erased model: prompts in, PNG images out. Loads with diffusers alone."""

import io

import mlflow
import pandas as pd
import torch
from diffusers import DiffusionPipeline


class TextToImage(mlflow.pyfunc.PythonModel):
    """A diffusers pipeline behind predict: a frame with the columns prompt and, optionally, seed → a frame with png."""

    def load_context(self, context):
        self.pipeline = DiffusionPipeline.from_pretrained(context.artifacts["pipeline"], use_safetensors=True)

    def predict(self, context, model_input: pd.DataFrame, params=None):
        pngs = []
        for i, row in enumerate(model_input.to_dict("records")):
            generator = torch.Generator().manual_seed(int(row.get("seed", i)))
            buffer = io.BytesIO()
            self.pipeline(row["prompt"], generator=generator, num_inference_steps=30).images[0].save(
                buffer, format="PNG"
            )
            pngs.append(buffer.getvalue())
        return pd.DataFrame({"png": pngs})


mlflow.models.set_model(TextToImage())
