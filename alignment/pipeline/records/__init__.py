"""The records of a run directory: digests, lineage, environment, and what was run."""
