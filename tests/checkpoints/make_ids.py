"""How smollm2_ids.json was made: once, by llama.cpp's own tokenizer, which tests do not need.

    python3.11 -m venv /tmp/made && /tmp/made/bin/pip install numpy xllamacpp==2026.10.11549
    /tmp/made/bin/python tests/checkpoints/make_ids.py SmolLM2-135M-Instruct.Q4_1.gguf

It holds texts with their ids. Special tokens in a text are parsed, and nothing is added to it.
"""

import json
import random
import sys
import urllib.request
from pathlib import Path

import xllamacpp

HANDMADE = [
    "Hello, world!",
    "The year 1984 and 3.14159, 2,718,281; 007 x 10^23",
    "12345678901234567890",
    "a1b22c333d4444",
    "I'm sure they'll say it's ours, won't they? We'd've gone; y'all're LATE, SHE'S HERE",
    "  two  spaces   three    four",
    " leading and trailing ",
    "tabs\tand\nnewlines\n\n\nand\r\nreturns \n \n",
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    '<html><body class="a">&nbsp;</body></html>',
    "naïve café, Zürich, Ærøskøbing, žluťoučký kůň",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا",
    "你好，世界。こんにちは世界。안녕하세요",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 ½ ² ₃ ٣ ४ Ⅷ",
    "e\u0301 and \u00e9; \u00a0no-break\u2003space\u200bzero",
    "\x00\x01\x7f control",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|im_end|> <|im_start|>  <repo_name>x<file_sep>y<jupyter_code>1",
    "<|im_start|><|im_start|>12<|im_end|>3",
    "<|im_start >not special<|im_end",
    "https://example.org/a_b?c=d&e=%20f#g",
    "-----=====*****.....,,,,!!!???",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "",
    " ",
    "\n",
]
PIECES = [
    "the",
    " cat",
    " Dog",
    "s",
    "'s",
    "n't",
    " 7",
    "42",
    "3.5",
    ",",
    ". ",
    "\n",
    "  ",
    "\t",
    "é",
    " 日本",
]
PIECES += [
    "<|im_end|>",
    "<|im_start|>",
    "_",
    "()",
    " {}",
    "=>",
    "XML",
    "ing",
    "\u00a0",
    "😀",
    "½",
    "1st",
    "-",
    " – ",
]


def main(model: str) -> None:
    """Ask a server in this process."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = 0
    server = xllamacpp.Server(params)
    draw = random.Random(0)
    texts = HANDMADE + [
        "".join(draw.choices(PIECES, k=draw.randint(3, 14))) for _ in range(200 - len(HANDMADE))
    ]
    found = [[text, ids(server.listening_address, text)] for text in texts]
    target = Path(__file__).parent / "smollm2_ids.json"
    target.write_text("[\n" + ",\n".join(json.dumps(pair) for pair in found) + "\n]\n")


def ids(address: str, text: str) -> list[int]:
    """One text's ids."""
    asked = {"content": text, "add_special": False, "parse_special": True}
    request = urllib.request.Request(
        f"{address}/tokenize", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


if __name__ == "__main__":
    main(sys.argv[1])
