"""An independent Llama in plain numpy, float32, straight from a GGUF file: nothing of `testbed` is used.

It stays in the file's own terms: its names, its order of rows in queries and keys, and so rotations of neighbours.
"""

from pathlib import Path

import gguf
import numpy as np


class PlainLlama:
    """The weights of a GGUF file, dequantised."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.weights = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in reader.tensors
        }

        def field(name: str):
            return reader.fields[f"llama.{name}"].contents()

        self.blocks = field("block_count")
        self.heads, self.shared = field("attention.head_count"), field("attention.head_count_kv")
        self.base, self.epsilon = field("rope.freq_base"), field("attention.layer_norm_rms_epsilon")

    def logprobs(self, tokens) -> np.ndarray:
        """Log-probabilities of the whole vocabulary after each token of one sequence."""
        w = self.weights
        x = w["token_embd.weight"][np.asarray(tokens)]
        for i in range(self.blocks):
            x = x + self.attention(i, self.norm(x, f"blk.{i}.attn_norm.weight"))
            y = self.norm(x, f"blk.{i}.ffn_norm.weight")
            gate = y @ w[f"blk.{i}.ffn_gate.weight"].T
            up = y @ w[f"blk.{i}.ffn_up.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"blk.{i}.ffn_down.weight"].T
        logits = self.norm(x, "output_norm.weight") @ w["token_embd.weight"].T
        logits = logits.astype(np.float64)
        highest = logits.max(axis=-1, keepdims=True)
        return logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))

    def norm(self, x, name: str):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.epsilon) * self.weights[name]

    def attention(self, i: int, x):
        w, time = self.weights, len(x)
        queries = self.turned((x @ w[f"blk.{i}.attn_q.weight"].T).reshape(time, self.heads, -1))
        keys = self.turned((x @ w[f"blk.{i}.attn_k.weight"].T).reshape(time, self.shared, -1))
        values = (x @ w[f"blk.{i}.attn_v.weight"].T).reshape(time, self.shared, -1)
        out = np.zeros_like(queries)
        for head in range(self.heads):
            of = head * self.shared // self.heads
            scores = queries[:, head] @ keys[:, of].T / np.sqrt(queries.shape[-1])
            scores[np.triu_indices(time, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ values[:, of]
        return out.reshape(time, -1) @ w[f"blk.{i}.attn_output.weight"].T

    def turned(self, x):
        """Components 2j and 2j + 1 of every head, turned together as a complex number."""
        time, _, size = x.shape
        angles = np.arange(time)[:, None] * self.base ** (-2.0 * np.arange(size // 2) / size)
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
        return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape).astype(np.float32)
