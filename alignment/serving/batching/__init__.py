"""Engines: models, continuous batching with paged attention, and sampling by keyed noise."""
