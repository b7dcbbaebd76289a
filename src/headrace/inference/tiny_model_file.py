"""Writes the file of a small language model (GGUF): see `tiny_model` for what the models are.

Called by `tiny_model.ensure_model` where the file is not there yet, and apart from it because numpy and gguf take
longer to load than a small model. Format: GGUF (llama.cpp), written with its `gguf` package; architecture `llama`,
SentencePiece-like vocabulary with byte fallback (a prompt counts about one token a byte), a plain chat template.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

from headrace.inference.tiny_model import TinyModel, read_corpus

_SPECIAL = ("<unk>", "<s>", "</s>")
_WORD = re.compile(r"[A-Za-z']+|[.,]")
_END_AFTER_SENTENCE = 0.25
_FLOOR = 1e-9
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}assistant:"
)


def vocabulary(text: str) -> list[str]:
    """The words of a text in order of first use, as SentencePiece writes them ('▁' for the space before)."""
    words = dict.fromkeys(word if word in ".," else f"▁{word}" for word in _WORD.findall(text))
    return list(words)


def write_model(model: TinyModel, path: Path) -> None:
    """Write the model to `path`; ValueError where its text has too many words for its width."""
    text = read_corpus(model.corpus)
    words = vocabulary(text)
    tokens = len(_SPECIAL) + 256 + len(words)
    if tokens > model.width:
        raise ValueError(f"{tokens} tokens do not fit into a width of {model.width}")
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, model)
    _add_vocabulary(writer, words)
    _add_tensors(writer, model, _transitions(text, words))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _transitions(text: str, words: list[str]) -> np.ndarray:
    """log P(next | token) for every token, rows by token: bytes and marks open a sentence, a full stop may end all."""
    tokens = len(_SPECIAL) + 256 + len(words)
    index = {word: len(_SPECIAL) + 256 + at for at, word in enumerate(words)}
    sequence = [index[word if word in ".," else f"▁{word}"] for word in _WORD.findall(text)]
    following: dict[int, Counter[int]] = defaultdict(Counter)
    openings: Counter[int] = Counter([sequence[0]])
    stop = index["."]
    for token, after in pairwise(sequence):
        following[token][after] += 1
        if token == stop:
            openings[after] += 1
    table = np.full((tokens, tokens), _FLOOR, dtype=np.float64)
    for token in range(tokens):
        counts = following.get(token, openings)
        total = sum(counts.values())
        for after, count in counts.items():
            table[token, after] += count / total
    table[stop] *= 1.0 - _END_AFTER_SENTENCE
    table[stop, _SPECIAL.index("</s>")] = _END_AFTER_SENTENCE
    return np.log(table)


def _describe(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    writer.add_name(f"headrace {model.corpus}")
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.width * 2)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.heads)
    writer.add_rope_dimension_count(model.width // model.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_vocabulary(writer: gguf.GGUFWriter, words: list[str]) -> None:
    names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(_SPECIAL.index("<s>"))
    writer.add_eos_token_id(_SPECIAL.index("</s>"))
    writer.add_unk_token_id(_SPECIAL.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(_TEMPLATE)


def _add_tensors(writer: gguf.GGUFWriter, model: TinyModel, log_probability: np.ndarray) -> None:
    width, tokens = model.width, log_probability.shape[0]
    random = np.random.default_rng(0)
    identity = np.zeros((tokens, width), dtype=np.float16)
    identity[np.arange(tokens), np.arange(tokens)] = 1.0
    # The norm before the output turns a unit vector into one of length sqrt(width).
    output = np.zeros((tokens, width), dtype=np.float32)
    output[:, :tokens] = log_probability.T / np.sqrt(width)
    ones = np.ones(width, dtype=np.float32)
    writer.add_tensor("token_embd.weight", identity)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(model.layers):
        name = f"blk.{layer}."
        for part in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{name}{part}.weight", _noise(random, width, width))
        writer.add_tensor(f"{name}attn_output.weight", np.zeros((width, width), dtype=np.float16))
        writer.add_tensor(f"{name}attn_norm.weight", ones)
        writer.add_tensor(f"{name}ffn_norm.weight", ones)
        for part in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{name}{part}.weight", _noise(random, 2 * width, width))
        writer.add_tensor(f"{name}ffn_down.weight", np.zeros((width, 2 * width), dtype=np.float16))


def _noise(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return (random.standard_normal((rows, columns)) * 0.02).astype(np.float16)
