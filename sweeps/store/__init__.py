"""Results on disk: Parquet files of rows, a JSON file about the study, and a progress file."""

from testbed import moved

__getattr__ = moved.names(__name__, "store")
