"""The project's eval suites: one folder per suite, with a YAML file per format."""
