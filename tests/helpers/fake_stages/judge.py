from fake_stages.common import Common, work
from fake_stages.tuned import ModelOptions

CONFIGS = (Common, ModelOptions)
PARENTS = {"model_name_or_path": "causal-lm"}


def run(settings, options):
    work("judge", "ForSequenceClassification", settings, [options.model_name_or_path])
