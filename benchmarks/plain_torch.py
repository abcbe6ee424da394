"""The same work as a plain PyTorch loop: code that people would write without this testbed, one run after the other.

    uv run --with torch python benchmarks/plain_torch.py --workload S --mode offline --seconds 20

Workloads, losses and sizes are those of `throughput.py`: pre-norm transformer with rotary positions and SwiGLU, 32
pairs of 16-token responses to 8-token prompts, IPO, AdamW; online with cached sampling, a pairwise proxy that reads
both orders, and reference scores. Attention is PyTorch's own; on a GPU matrix products are float32, as in
`throughput.py`. The rate is divided by the float32 matrix-product peak that PyTorch itself reaches on the same device.
"""

import math
import os
import statistics
import time
from typing import Any

import shared
import torch  # pyright: ignore[reportMissingImports]  (no dependency: for this comparison only)
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

SIZES = {"S": (64, 2, 4), "M": (256, 4, 8)}
VOCABULARY, PROMPT, RESPONSE, PAIRS, BETA, REPEATS = 64, 8, 16, 32, 0.1, 5


class Block(nn.Module):
    """Attention, then SwiGLU, each behind an RMSNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, hidden = heads, 8 * math.ceil(width / 3)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Any, rotary: Any, cache: list | None = None) -> Any:
        """``x`` (batch, time, width); keys and values are appended to the cache [keys, values], and attention reads
        it."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = rotate(qkv[0], rotary), rotate(qkv[1], rotary), qkv[2]
        if cache is not None:
            k, v = (
                (torch.cat(pair, dim=2) for pair in zip(cache, (k, v), strict=True))
                if cache
                else (k, v)
            )
            cache[:] = [k, v]
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=time > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def rotate(x: Any, rotary: Any) -> Any:
    """Turn pairs of entries by their position's angle."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = rotary
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Model(nn.Module):
    """Decoder-only transformer with ``outputs`` outputs per position."""

    def __init__(self, width: int, layers: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, outputs, bias=False)
        size = width // heads
        frequency = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angle = torch.arange(64)[:, None] * frequency
        self.register_buffer("angles", torch.stack([angle.cos(), angle.sin()]))

    def forward(
        self, tokens: Any, behind: int = 0, caches: list | None = None, start: int = 0
    ) -> Any:
        """Outputs at the positions from ``behind`` on of tokens (batch, time)."""
        rotary = self.angles[:, start : start + tokens.shape[1]]
        x = self.embedding(tokens)
        for number, block in enumerate(self.blocks):
            x = block(x, rotary, None if caches is None else caches[number])
        return self.head(self.norm(x[:, behind:]))


def score(model: Model, prompts: Any, responses: Any) -> Any:
    """Summed log-probability of each response."""
    tokens = torch.cat([prompts, responses[:, :-1]], dim=1)
    logits = model(tokens, behind=PROMPT - 1)
    return (
        -functional.cross_entropy(logits.flatten(0, 1), responses.flatten(), reduction="none")
        .view(len(prompts), -1)
        .sum(1)
    )


@torch.no_grad()
def sample(model: Model, prompts: Any) -> Any:
    """One response to each prompt, with cached keys and values."""
    caches: list = [[] for _ in model.blocks]
    logits, tokens = model(prompts, behind=PROMPT - 1, caches=caches)[:, -1], []
    for step in range(RESPONSE):
        token = torch.multinomial(logits.softmax(-1), 1)
        tokens.append(token)
        if step + 1 < RESPONSE:
            logits = model(token, caches=caches, start=PROMPT + step)[:, -1]
    return torch.cat(tokens, dim=1)


class Run:
    """One run of a workload."""

    def __init__(self, workload: str, mode: str, device: str) -> None:
        torch.manual_seed(0)
        width, layers, heads = SIZES[workload]
        self.online, self.device = mode == "online", device
        made = [Model(width, layers, heads, n).to(device) for n in (VOCABULARY, VOCABULARY, 1)]
        self.policy, self.reference, self.proxy = made
        self.reference.load_state_dict(self.policy.state_dict())
        self.optimiser = torch.optim.AdamW(self.policy.parameters(), lr=3e-4)
        shape = (1024, PROMPT + 2 * RESPONSE)
        data = torch.randint(0, VOCABULARY, shape, device=device)
        self.data = data.split([PROMPT, RESPONSE, RESPONSE], dim=1)
        with torch.no_grad():
            self.scores = [score(self.reference, self.data[0], y) for y in self.data[1:]]

    def batch(self) -> tuple[Any, Any, Any]:
        """Prompts, winners over losers, and their reference scores."""
        rows = torch.randint(0, 1024, (PAIRS,), device=self.device)
        if not self.online:
            prompts, winner, loser = (part[rows] for part in self.data)
            reference = torch.cat([part[rows] for part in self.scores])
            return prompts.repeat(2, 1), torch.cat([winner, loser]), reference
        prompts = self.data[0][rows].repeat(2, 1)
        written = sample(self.policy, prompts)
        with torch.no_grad():
            first, second = written.chunk(2)
            end = torch.full_like(prompts[:PAIRS, :1], VOCABULARY)
            texts = [
                torch.cat([prompts[:PAIRS], a, b, end], dim=1)
                for a, b in ((first, second), (second, first))
            ]
            margin = self.proxy(torch.cat(texts), behind=-1)[:, 0, 0]
            better = (margin[:PAIRS] > margin[PAIRS:])[:, None]
            ordered = torch.cat([first.where(better, second), second.where(better, first)])
            return prompts, ordered, score(self.reference, prompts, ordered)

    def step(self) -> None:
        """One update."""
        prompts, responses, reference = self.batch()
        rho = score(self.policy, prompts, responses) - reference
        winner, loser = rho.chunk(2)
        loss = ((winner - loser - 1 / (2 * BETA)) ** 2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def wait(device: str) -> None:
    """Wait until the device's work is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_peak(device: str) -> float:
    """Measured float32 matrix-product rate, operations a second."""
    size = 8192 if device == "cuda" else 1024
    a, best = torch.ones(size, size, device=device), math.inf
    for _ in range(6):
        wait(device)
        clock = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - clock)
    return 2 * size**3 / best


def main() -> None:
    """Measure and print."""
    options = shared.arguments(
        __doc__,
        workload=("S", "(default S)", sorted(SIZES)),
        mode=("offline", "(default offline)", ("offline", "online")),
        seconds=(20.0, "measured time (default 20)"),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
        torch.set_num_threads(1)
    run = Run(options.workload, options.mode, device)

    def timed(steps: int) -> float:
        clock = time.perf_counter()
        for _ in range(steps):
            run.step()
        wait(device)
        return time.perf_counter() - clock

    timed(5)
    steps = max(1, round(options.seconds / REPEATS / (timed(5) / 5)))
    rates, peaks = [], []
    for _ in range(REPEATS):
        rates.append(steps / timed(steps))
        peaks.append(matrix_peak(device) / 1e9)
    ratios = [rate / peak for rate, peak in zip(rates, peaks, strict=True)]
    figures = {
        "workload": options.workload,
        "mode": options.mode,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "peak_gflops": statistics.median(peaks),
        "run_steps_per_second": statistics.median(rates),
        "run_steps_per_second_per_peak_gflops": statistics.median(ratios),
    }
    shared.show(figures)
    shared.write(options.json, figures)


if __name__ == "__main__":
    main()
