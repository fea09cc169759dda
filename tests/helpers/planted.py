"""Faults planted into the product's own source, so that a test can show which check finds them."""

import __future__

import inspect
import sys
import textwrap


def plant(monkeypatch, owner, name: str, *replacements: tuple[str, str]) -> None:
    """Replace a function or method by the same with some of its text changed.

    Args:
        owner: module or class that holds it.
        replacements: (text that the source holds exactly once, what stands there instead).
    """
    kept = vars(owner)[name] if inspect.isclass(owner) else getattr(owner, name)
    function = inspect.unwrap(kept.__func__ if isinstance(kept, classmethod | staticmethod) else kept)
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in replacements:
        found = text.count(old)
        assert found == 1, f"{owner.__name__}.{name} holds {old!r} {found} times: plant this fault anew"
        text = text.replace(old, new)
    # A method's `super()` and `__class__` are of the class that it stands in.
    source = f"def make(__class__):\n{textwrap.indent(text, '    ')}\n    return {function.__name__}\n"
    names: dict = {}
    flags = __future__.annotations.compiler_flag  # names of annotations may be there for type checkers alone
    code = compile(source, f"planted into {inspect.getsourcefile(function)}", "exec", flags)
    exec(code, sys.modules[function.__module__].__dict__, names)
    monkeypatch.setattr(owner, name, names["make"](owner))
