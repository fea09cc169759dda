"""What a run directory records: digests, lineage, versions, and what was run."""
