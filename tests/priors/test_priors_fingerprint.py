"""A prior is known by what its pictures depend on, whatever lies beside that."""

from csd3d.priors.store.fingerprint import prior_fingerprint


def test_a_prior_is_known_by_what_its_pictures_depend_on(tmp_path):
    prior = tmp_path / "prior"
    (prior / "unet").mkdir(parents=True)
    (prior / "model_index.json").write_text("{}")
    (prior / "unet" / "weights.safetensors").write_bytes(b"1")
    before = prior_fingerprint(prior)
    (prior / "evaluation.json").write_text("[]")
    assert prior_fingerprint(prior) == before
    (prior / "safety_checker").mkdir()
    (prior / "safety_checker" / "config.json").write_text("{}")
    assert prior_fingerprint(prior) == before
    (prior / "unet" / "weights.safetensors").write_bytes(b"2")
    assert prior_fingerprint(prior) != before


def test_a_prior_of_the_hub_is_known_by_its_commit(tmp_path):
    """Which of its files are there depends on the device that asked for them first."""
    prior = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    prior.mkdir(parents=True)
    assert prior_fingerprint(prior) == "0123abc"
