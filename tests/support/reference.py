"""An independent implementation in plain float64 numpy, written from the formulas: one sequence at a time, without
padding, masks, caches or packing. What the tests of the core compare with."""

import numpy as np

from testbed.transformer import Transformer


def rms_norm(x, scale, epsilon):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon) * scale


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def log_sigmoid(x):
    return -np.logaddexp(0.0, -np.asarray(x, dtype=np.float64))


def turn(x, position, base):
    """Rotary positions as products of complex numbers; component i is paired with i + size/2."""
    half = len(x) // 2
    frequency = base ** (-2.0 * np.arange(half) / len(x))
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * frequency)
    return np.concatenate([turned.real, turned.imag])


def attention(block, x):
    """Causal grouped-query attention over the rows of ``x``, one head and one query at a time."""
    config = block.config
    size, heads, kv = config.width // config.heads, config.heads, config.key_value_heads
    biases = block.biases or (0.0, 0.0, 0.0)
    queries, keys, values = (
        x @ weight + bias
        for weight, bias in zip((block.query, block.key, block.value), biases, strict=True)
    )
    out = np.zeros((len(x), heads, size))
    for head in range(heads):
        of = head // (heads // kv)
        query = queries[:, head * size : (head + 1) * size]
        key = keys[:, of * size : (of + 1) * size]
        value = values[:, of * size : (of + 1) * size]
        query = np.stack([turn(q, t, config.rope_base) for t, q in enumerate(query)])
        key = np.stack([turn(k, t, config.rope_base) for t, k in enumerate(key)])
        for t in range(len(x)):
            weights = softmax(key[: t + 1] @ query[t] / np.sqrt(size))
            out[t, head] = weights @ value[: t + 1]
    return out.reshape(len(x), -1) @ block.attention_out


def hidden(model: Transformer, embedded):
    """Final normalised hidden states of one embedded sequence."""
    model, x = double(model), np.asarray(embedded, dtype=np.float64)
    epsilon = model.config.norm_epsilon
    for block in model.blocks:
        x = x + attention(block, rms_norm(x, block.attention_norm, epsilon))
        y = rms_norm(x, block.mlp_norm, epsilon)
        gate, up = y @ block.gate, y @ block.up
        x = x + (gate / (1.0 + np.exp(-gate)) * up) @ block.down
    return rms_norm(x, model.norm, epsilon)


def logits(model: Transformer, tokens):
    """Next-token logits of one sequence."""
    model = double(model)
    head = model.embedding.T if model.head is None else model.head
    return hidden(model, model.embedding[np.asarray(tokens)]) @ head / model.config.temperature


def token_logprobs(model: Transformer, prompt, response):
    """log p of every token of ``response`` after ``prompt``; neither is padded."""
    sequence = np.concatenate([prompt, response]).astype(int)
    logp = log_softmax(logits(model, sequence[:-1]))[len(prompt) - 1 :]
    return logp[np.arange(len(response)), np.asarray(response, dtype=int)]


def next_token_logprobs(model: Transformer, prompt, response):
    """log p of the whole vocabulary before every token of ``response``."""
    sequence = np.concatenate([prompt, response]).astype(int)
    return log_softmax(logits(model, sequence[:-1]))[len(prompt) - 1 :]


def double(model: Transformer) -> Transformer:
    """The model with float64 numpy parameters."""
    import jax

    return jax.tree.map(lambda x: np.asarray(x, dtype=np.float64), model)
