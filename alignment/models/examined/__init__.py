"""Examination of checkpoints before and after a library loads them, so that what is wrong is named."""
