"""Pretraining as a transformers Trainer, with Muon and a loss in chunks."""
