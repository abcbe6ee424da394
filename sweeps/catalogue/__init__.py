"""Lists of studies, configs and columns, and BibTeX entries of the methods that studies use."""

from testbed import moved

__getattr__ = moved.names(__name__, "families")
