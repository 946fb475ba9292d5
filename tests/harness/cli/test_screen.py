"""What is told while work goes on: a training that starts another one, and one that failed."""

from types import SimpleNamespace

import pytest

from harness.cli.screen import Screen
from harness.reporter import EpochReport


class Heard(Screen):
    """Keeps the lines."""

    def __init__(self):
        super().__init__("plain")
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def screen():
    return Heard()


def subject(name, epochs=3):
    return SimpleNamespace(defense=name, recipe=SimpleNamespace(epochs=epochs))


def report(clean):
    return EpochReport(epoch=0, loss=1.0, clean=clean, robust=0.25)


def cell_named(attack):
    return SimpleNamespace(subject=SimpleNamespace(defense="ours"), attack=attack)


def test_a_training_within_a_training_ends_under_its_own_name(screen):
    screen.train_start(subject("outer"), 0)
    screen.train_epoch(report(0.5))
    screen.train_start(subject("inner"), 0)
    screen.train_epoch(report(0.75))
    screen.train_end()
    screen.train_batch(1, 1, 2, 0.5)
    screen.train_end()
    first, second = screen.lines
    assert first.startswith("train inner: val clean 75.0 robust 25.0 done in ")
    assert second.startswith("train outer: val clean 50.0 robust 25.0 done in ")


def test_a_training_that_failed_is_not_taken_for_an_attack(screen):
    screen.train_start(subject("broken"), 0)
    screen.attack_start((cell_named("fgsm"), cell_named("pgd-10")), 2)
    screen.shard_done((cell_named("fgsm"),), 1, 2, 250)
    screen.attack_end((cell_named("fgsm"),))
    (line,) = screen.lines
    assert line.startswith("ours <- fgsm, pgd-10: done in ")
    assert screen.running == []
