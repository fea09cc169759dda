from fake_stages.common import Common, work

CONFIGS = (Common,)
PARENTS = {}


def run(settings):
    work("words", "tokenizer", settings, [])
