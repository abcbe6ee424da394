"""Pytrees as safe files: arrays as safetensors, their structure as JSON."""
