"""Upstream's way of embedding with Geneformer, read plainly, to be timed against.

Upstream runs the whole model for masked language modelling: every layer, all hidden states kept, the head over the
whole vocabulary at every token; query, key and value are three products. Its tokeniser scales all samples of a file at
once and ranks one at a time; its extractor takes the longest samples first and pads each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from bulkprobe.encoders.geneformer import LONGEST, Config, read_config, read_tensors, read_vocabulary

# Upstream's default is 100, of which the logits alone are 33 GB at 4,096 tokens; on a CPU 1 is also the fastest.
BATCH = 1


class Layer(nn.Module):
    """One of BERT's layers, on a padded batch."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))
        self.up = nn.Linear(config.width, config.hidden)
        self.down = nn.Linear(config.hidden, config.width)
        self.after_attention = nn.LayerNorm(config.width, config.eps)
        self.after_hidden = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, n, width) from the same; mask (batch, 1, n, n)."""
        q, k, v = (
            part(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(x.shape)
        x = self.after_attention(self.out(mixed) + x)
        answer: Tensor = self.after_hidden(self.down(F.relu(self.up(x))) + x)
        return answer


class MaskedLanguageModel(nn.Module):
    """Embeddings, layers, and the head that predicts a token at every place."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.segment = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.transform = nn.Linear(config.width, config.width)
        self.transform_norm = nn.LayerNorm(config.width, config.eps)
        self.decoder = nn.Linear(config.width, config.vocabulary)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (batch, n, vocabulary) and the states before and after every layer."""
        place = torch.arange(ids.shape[1])
        x = self.norm(self.word(ids) + self.segment(torch.zeros_like(ids)) + self.position(place))
        n = ids.shape[1]
        full = None if bool(mask.all()) else mask[:, None, None, :].bool().expand(-1, 1, n, n)
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], full))
        return self.decoder(self.transform_norm(F.relu(self.transform(states[-1])))), states


NAMES = {
    "bert.embeddings.word_embeddings": "word",
    "bert.embeddings.position_embeddings": "position",
    "bert.embeddings.token_type_embeddings": "segment",
    "bert.embeddings.LayerNorm": "norm",
    "bert.encoder.layer": "layers",
    "attention.self.": "",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "after_attention",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "after_hidden",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "transform_norm",
    "cls.predictions.bias": "decoder.bias",
}


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Return the function from counts (n, n_genes) and sample ids to the published embeddings (n, width)."""
    home, config = read_config(folder)
    vocabulary = read_vocabulary(folder, config.vocabulary)
    state = {}
    for name, value in read_tensors(home)[1].items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = value
    state.pop("bert.embeddings.position_ids", None)
    state["decoder.weight"] = state["word.weight"]
    model = MaskedLanguageModel(config).eval()
    model.load_state_dict(state)

    known = [vocabulary.places.get(str(name).upper()) for name in genes.ensembl_id]
    columns = np.array([column for column, place in enumerate(known) if place is not None])
    places = np.array([place for place in known if place is not None])
    tokens, medians = vocabulary.tokens[places], vocabulary.medians[places]
    special = list(vocabulary.special)
    longest = LONGEST[vocabulary.version] - len(special)

    def embed(counts: np.ndarray, ids: list[str]) -> np.ndarray:
        scaled = sparse.csr_matrix(counts[:, columns] / counts.sum(axis=1, dtype=np.float64)[:, None] * 1e4 / medians)
        ranked = [tokens[row.indices][np.argsort(-row.data, kind="stable")] for row in scaled]
        samples = [special[:1] + row[:longest].tolist() + special[1:] for row in ranked]
        order = sorted(range(len(samples)), key=lambda i: -len(samples[i]))
        found = np.zeros((len(samples), config.width), np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            lengths = [len(samples[i]) for i in batch]
            padded = torch.tensor([samples[i] + [0] * (max(lengths) - len(samples[i])) for i in batch])
            mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
            with torch.no_grad():
                _, states = model(padded, mask)
            hidden = states[config.depth - 1]
            if special:
                pooled = hidden[:, 0]
            else:
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            found[batch] = pooled.numpy()
        return found

    return embed
