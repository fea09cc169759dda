"""Random numbers by key."""

import torch

from alignment.keyed_seeds import keyed_generator, keyed_rng, keyed_seed


def test_seeds_of_keys_stay_what_they_are():
    """Other seeds would change what resumed runs, rollouts and samples draw."""
    assert keyed_seed("prompts", 0, 1) == 27761211863990038
    assert keyed_seed((1, 2), 3) != keyed_seed(1, 2, 3)


def test_a_generator_depends_on_its_key_alone():
    first = torch.rand(3, generator=keyed_generator("a", 1))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=keyed_generator("a", 1)))
    assert not torch.equal(first, torch.rand(3, generator=keyed_generator("a", 2)))


def test_global_generators_are_seeded_within_and_restored():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with keyed_rng(torch.device("cpu"), "a", 1):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=keyed_generator("a", 1)))
    assert torch.equal(torch.rand(3), expected)
