import os
import signal

from stmcdi_cli import trial


def test_what_ends_ends():
    assert trial.ends(lambda: None, 5)


def test_an_exception_is_an_end_and_stays_there(capfd):
    assert trial.ends(lambda: 1 / 0, 5)
    assert trial.ends(lambda: exit(3), 5)
    assert capfd.readouterr() == ("", "")


def test_what_crashes_does_not_end():
    assert not trial.ends(lambda: os.kill(os.getpid(), signal.SIGSEGV), 5)


def test_one_that_the_system_killed_says_nothing():
    assert trial.ends(lambda: os.kill(os.getpid(), signal.SIGKILL), 5)


def test_what_goes_on_for_ever_is_stopped():
    def turn():
        while True:
            pass

    assert not trial.ends(turn, 1)


def test_nothing_of_it_is_kept():
    made = []
    assert trial.ends(lambda: made.append(1), 5)
    assert not made
