"""Tools beside the course: what this machine can do, what fits into its memory, what a run has to
fetch.
"""
