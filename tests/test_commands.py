"""How commands end: the exit code, and what the user is told."""

import pytest

from aflow_jax.commands import exit_code
from aflow_jax.errors import UserError
from aflow_jax.llm import BudgetExhausted


def ending(error: BaseException, **options) -> int:
    def command() -> None:
        raise error

    return exit_code(command, **options)


def test_a_command_ends_with_its_own_code_or_with_0() -> None:
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 4) == 4


def test_a_mistake_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(UserError("seed: must be a number")) == 2
    assert capsys.readouterr().err == "error: seed: must be a number\n"


def test_a_bound_that_is_reached_is_code_3_where_the_command_says_so() -> None:
    spent = BudgetExhausted("budget.calls: 3 are spent")
    assert ending(spent, bound_reached=BudgetExhausted) == 3
    assert ending(UserError("x"), bound_reached=BudgetExhausted) == ending(spent) == 2


def test_ctrl_c_is_code_130_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_program_itself_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError())
