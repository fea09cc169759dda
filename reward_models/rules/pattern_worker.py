"""The process that `rules.matches` starts: reads [pattern, whole, text] as JSON lines, writes whether they match.

A script; do not import it. It limits its own processor time per text: a pattern such as (a+)+$ would otherwise search
for ever in a text that almost matches, and Python's `re` cannot be interrupted by another thread.
"""

import json
import re
import signal
import sys

SECONDS = 1.0


def main() -> None:
    for line in sys.stdin:
        pattern, whole, text = json.loads(line)
        compiled = re.compile(pattern, re.DOTALL)  # from re's cache
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process at any point
        found = compiled.fullmatch(text) if whole else compiled.search(text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(found is not None), flush=True)


if __name__ == "__main__":
    main()
