"""The execution of plans on a Ray cluster.

`driver` connects and decides who does what, `workers` starts processes on hosts and hears how far they are, and `queue`
holds what is still to do.
"""
