"""Studies, one a file: claim, base configuration, axes and decision rule."""
