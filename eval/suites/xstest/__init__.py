"""Are unsafe requests refused, and safe ones that only sound unsafe answered? XSTest."""
