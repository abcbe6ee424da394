"""The execution of plans on a Ray cluster.

`driver` connects to the cluster and distributes the work, `workers` starts processes on hosts and receives their
progress, and `queue` holds the work that is left.
"""
