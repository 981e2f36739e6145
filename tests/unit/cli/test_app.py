"""The command as a whole: help, usage errors, exit codes, start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ostnode.cli.app import cli as root_group
from ostnode.cli.app import run
from ostnode.errors import AllowanceExceededError, BusyError, NotFoundError
from tests.support.cli import Cli, usr


def test_help_lists_every_command_and_the_exit_codes(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0
    for name in root_group.list_commands(None):
        assert f"\n  {name} " in result.out
    assert "6 unreachable" in result.out


@pytest.mark.parametrize("name", root_group.list_commands(None))
def test_every_command_can_be_loaded_and_explains_itself(name: str, cli: Cli) -> None:
    result = cli(name, "--help")
    assert result.code == 0
    assert f"Usage: ostnode {name}" in result.out


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    result = cli("frobnicate")
    assert result.code == 2
    assert "No such command 'frobnicate'" in result.err


def test_a_missing_argument_names_itself(cli: Cli) -> None:
    result = cli("key", "show")
    assert result.code == 2
    assert "FILE" in result.err


def test_usage_errors_are_json_too(cli: Cli) -> None:
    result = cli.as_caller("user", "show", "--json", "usr1nonsense")
    assert result.code == 2
    assert result.error["code"] == "usage"
    assert "63 characters" in result.error["message"]


def test_a_refusal_is_told_with_its_details_and_what_to_do(cli: Cli) -> None:
    cli.client.failure = AllowanceExceededError("over", limit=10, used=4, reserved=1, needed=6)
    result = cli.as_caller("user", "show")
    assert result.code == 5
    assert result.err.splitlines()[0] == "error: over (limit 10, used 4, reserved 1, needed 6)"
    assert result.err.splitlines()[1].startswith("hint: remove something")


def test_a_refusal_as_json_carries_code_and_details(cli: Cli) -> None:
    cli.client.failure = AllowanceExceededError("over", limit=10, used=4, reserved=1, needed=6)
    error = cli.as_caller("user", "show", "--json").error
    assert error["code"] == "allowance_exceeded"
    assert error["details"] == {"limit": 10, "used": 4, "reserved": 1, "needed": 6}


@pytest.mark.parametrize(("failure", "code"), [(NotFoundError(), 3), (BusyError(), 6)])
def test_exit_codes_reach_the_shell(cli: Cli, failure: Exception, code: int) -> None:
    cli.client.failure = failure
    assert cli.as_caller("user", "show").code == code


def test_a_bug_is_not_told_as_a_refusal(cli: Cli) -> None:
    cli.client.failure = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        cli.as_caller("user", "show")


def test_an_interrupt_is_told_as_shells_expect(cli: Cli, monkeypatch) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ostnode.cli.target.trio.run", interrupted)
    assert cli.as_caller("user", "show").code == 130


def test_an_interrupt_inside_a_nursery_is_one_too(cli: Cli) -> None:
    cli.client.failure = BaseExceptionGroup("nursery", [KeyboardInterrupt()])
    assert cli.as_caller("user", "show").code == 130


def test_the_version(capsys) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ostnode, version ")


@pytest.mark.slow
def test_commands_about_keys_do_not_load_the_http_stack(cli: Cli) -> None:
    program = (
        "import sys; from ostnode.cli.app import run; run(['key', 'show', 'caller.key']);"
        "print({'httpx2', 'quart', 'hypercorn', 'lmdb', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"
    assert usr(cli.key) in done.stdout
