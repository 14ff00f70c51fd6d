"""Notebooks without a reader: the command line, papermill, sweeps, Slurm jobs and their status."""
