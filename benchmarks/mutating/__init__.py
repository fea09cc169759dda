"""The parts of benchmarks/mutation.py: operators make mutants, forks run tests with a mutant in memory."""
