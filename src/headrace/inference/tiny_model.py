"""Small language models as GGUF files: real llama architecture, readable text, no download.

The embedding is the identity and the output matrix holds log P(next word | word) counted from a text; attention and
feed-forward layers are computed in earnest, but what they write back is zero. Two texts make two models whose answers
can be told apart by their words. Called by `headrace model-server --engine llamacpp`, which keeps the file in a cache.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

CORPORA = ("river", "forge")
"""Names of the texts that come with the package."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Size of a model: `width` bounds the vocabulary (259 tokens are bytes and marks), `layers` and `width` the work
    per token. 2 × 512 answers about 900 tokens a second on one core, 4 × 1024 about 80."""

    corpus: str
    layers: int = 2
    width: int = 512
    heads: int = 8
    context: int = 8192

    @property
    def file_name(self) -> str:
        return f"headrace-{self.corpus}-{self.layers}x{self.width}-v1.gguf"


def read_corpus(name: str) -> str:
    """A text of the package; ValueError for another name."""
    if name not in CORPORA:
        raise ValueError(f"no text called {name!r}: there are {', '.join(CORPORA)}")
    return resources.files("headrace.inference").joinpath("corpora", f"{name}.txt").read_text(encoding="utf-8")


def ensure_model(model: TinyModel, cache: Path) -> Path:
    """The model's file in `cache`, written now if it is not there (atomically: several processes may do so at once).

    ImportError where it must be written and gguf or numpy (the `models` extra) are not installed.
    """
    path = cache / model.file_name
    if not path.exists():
        from headrace.inference.tiny_model_file import write_model

        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{model.file_name}.{secrets.token_hex(8)}"
        try:
            write_model(model, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path
