"""Packages of strangers, really installed: one that works, one that does not import, one that claims our name."""

import pytest


def test_an_outsiders_package_is_discovered_and_passes_its_contracts(cli, third_party):
    plugins = (third_party["acme_robustness"],)
    listed = cli.run("plugins", plugins=plugins)
    assert "acme_robustness (acme-robustness 1.3)" in listed.stdout
    for name in ("signs", "noise_training"):
        checked = cli.run("check", name, plugins=plugins)
        assert checked.returncode == 0, checked.stdout
        assert "passed" in checked.stdout
        assert "failed" not in checked.stdout


@pytest.mark.slow
def test_an_outsiders_attack_and_defense_appear_in_a_table(cli, third_party):
    plugins = (third_party["acme_robustness"], third_party["broken_import"], third_party["claims_pgd"])
    ran = cli.run("bench", "-d", "noise_training", "-a", "fgsm,signs", "--limit", "100", plugins=plugins)
    assert ran.returncode == 0, ran.stderr
    assert "noise_training" in ran.stdout
    assert "signs" in ran.stdout
    assert "worst case" in ran.stdout
    assert "warning: plugin broken_import (broken-import 0.2) not loaded" in ran.stderr


def test_a_package_that_does_not_import_is_reported_and_stops_nothing(cli, third_party):
    plugins = (third_party["broken_import"],)
    ran = cli.run("list", "defenses", plugins=plugins)
    assert ran.returncode == 0
    assert "aalp" in ran.stdout
    assert "plugin broken_import (broken-import 0.2) not loaded: ImportError" in ran.stderr
    assert "zero_gradients" in cli.run("plugins", "--trace", "broken_import", plugins=plugins).stdout
    assert cli.run("bench", "-d", "raw", "--strict-plugins", plugins=plugins).returncode == 2
    typo = cli.run("bench", "-d", "aapl", plugins=plugins)
    assert "broken_import" in typo.stderr


def test_a_package_that_claims_our_name_is_named_and_takes_only_that_name(cli, third_party):
    plugins = (third_party["claims_pgd"],)
    ran = cli.run("bench", "-d", "raw", "-a", "pgd-10", plugins=plugins)
    assert ran.returncode == 2
    assert "attack 'pgd-10' is provided twice: claims_pgd (claims-pgd 3.0) and harness_gradient" in ran.stderr
    listed = cli.run("list", "attacks", plugins=plugins)
    assert "pgd-20" in listed.stdout
    assert "pgd-10 " not in listed.stdout
    without = cli.run("list", "attacks", "--no-plugin", "claims-pgd", plugins=plugins)
    assert "pgd-10 " in without.stdout
    assert cli.run("show", "pgd-10", plugins=plugins).stdout.count("attack pgd-10") == 2
