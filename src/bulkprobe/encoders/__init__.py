"""The encoders: one file a model, one file a baseline, and this list of them."""

from __future__ import annotations

import difflib
from importlib import import_module

from bulkprobe.encoders.base import Encoder
from bulkprobe.errors import UserError

# Model name → module. Written out, so that what exists can be read here; imported on demand, so that a baseline
# does not pay for torch.
MODELS = {
    "cellfm": "bulkprobe.encoders.cellfm",
    "geneformer": "bulkprobe.encoders.geneformer",
    "scbert": "bulkprobe.encoders.scbert",
    "scfoundation": "bulkprobe.encoders.scfoundation",
    "scgpt": "bulkprobe.encoders.scgpt",
    "sclong": "bulkprobe.encoders.sclong",
    "bulkformer": "bulkprobe.encoders.bulkformer",
    "expression": "bulkprobe.encoders.expression",
    "pca": "bulkprobe.encoders.pca",
    "hvg": "bulkprobe.encoders.hvg",
    "random_projection": "bulkprobe.encoders.random_projection",
    "cancer_type": "bulkprobe.encoders.cancer_type",
    "clinical": "bulkprobe.encoders.clinical",
    "burden": "bulkprobe.encoders.burden",
}


def get_encoder(model: str) -> Encoder:
    """Return the encoder of a model; UserError lists the models where there is none of that name."""
    if model not in MODELS:
        near = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(MODELS)}"
        raise UserError(f"there is no encoder {model!r}; {hint}")
    encoder: Encoder = import_module(MODELS[model]).ENCODER
    return encoder
