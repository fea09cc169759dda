"""Pretraining as a transformers Trainer, with Muon and a chunked loss."""
