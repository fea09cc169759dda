"""Post-training alignment: importing this package makes the GPT known to transformers' Auto classes.

It imports neither torch nor transformers (`registration.py`), so that verbs without a model start at once.
"""

from .registration import register

register()
