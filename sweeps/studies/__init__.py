"""Studies, one per file: claims, base configuration, axes and decision rules."""
