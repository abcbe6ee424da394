"""Pretrained decoders: their weights in `testbed.transformer.Transformer`, and their tokenizers."""
