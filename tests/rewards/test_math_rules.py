import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aflow_jax.rewards.math_rules import grade_math
from aflow_jax.rewards.ruling import Ruling

# (gold, answer, level)
# fmt: off
CASES = [
    ("3", "3 apples", 1), ("3", "3 apples and 4 pears", 0.2), ("18", "$18", 1), ("18", "18 dollars per day", 1),
    ("1000000", "1 million", 1), ("1000000", "$1,000,000.00", 1), ("1000000", "1{,}000{,}000", 1),
    ("1000000", "10^6", 1), ("1000000", "10^{6}", 1), ("0.5", "50%", 1), (r"50\%", "0.5", 1), (r"50\%", "50", 1),
    (r"50\%", "50 percent", 1), (r"50\%", "500%", 0.2), ("25", "25%", 0.2), (r"\frac{3}{4}", "3/4", 1),
    (r"\frac{3}{4}", "0.75", 1), (r"\frac{3}{4}", ".75", 1), (r"\frac{3}{4}", "75/100", 1),
    (r"\frac{3}{4}", "-3/4", 0.2), (r"\frac{1}{3}", "0.3333", 0.2), (r"\frac{1}{3}", "0.333333333", 1),
    (r"\frac{1}{3}", "0.33", 0.2), (r"2\frac{1}{2}", "2.5", 1), (r"2\frac{1}{2}", "2 1/2", 1),
    (r"2\frac{1}{2}", "5/2", 1), ("-3", "−3", 1), ("-3", "-3.0", 1), ("0", "-0.0", 1), ("1.5", "1,5", 0.2),
    (r"6.02\times 10^{23}", "6.02e23", 1), (r"6.02\times 10^{23}", "6.02 x 10^23", 1), ("0.001", "1e-3", 1),
    ("0.001", "10^{-3}", 1), (r"\sqrt{3}", r"\sqrt3", 1), (r"\sqrt{3}", "3^{1/2}", 1), (r"\sqrt{3}", "√3", 1),
    (r"\sqrt{3}", "1.732", 0.2), (r"2\sqrt{3}", r"\sqrt{12}", 1), (r"2\sqrt{3}", "2*sqrt(3)", 1),
    (r"2\sqrt{3}", r"3\sqrt{2}", 0.2), (r"\sqrt[3]{2}", "2^{1/3}", 1), (r"\{1,2,3\}", r"\{3, 2, 1\}", 1),
    (r"\{1,2,3\}", "{1, 2, 3}", 1), (r"\{1,2,3\}", r"\{1,2\}", 0.2), ("1,2,3", "1, 2 and 3", 1),
    ("1,2,3", "(1,2,3)", 0.2), (r"\emptyset", r"\varnothing", 1), (r"\emptyset", "{}", 0), ("[0,1)", "[0, 1)", 1),
    ("[0,1)", "(0,1)", 0.2), ("[0,1)", r"\left[0,1\right)", 1), (r"(-\infty,3]", "(-oo, 3]", 1),
    (r"(-\infty,3]", r"x \le 3", 1), ("(1,2)", "(2,1)", 0.2), (r"(\frac{1}{2},3)", "(0.5, 3)", 1),
    (r"x \in [1,2]", "[1,2]", 1), ("[1,2]", r"x \in [1,2]", 1), ("[1,2]", r"1 \le x \le 2", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", 0.2),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "[[1, 2], [3, 4]]", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "Matrix([[1, 2], [3, 4]])", 1), (r"\text{even}", "even", 1),
    (r"\text{even}", "Even.", 1), (r"\text{even}", "odd", 0.2), (r"\text{Tuesday}", "It is Tuesday", 0.2),
    (r"\text{Tuesday}", "The answer is Tuesday.", 1), (r"\text{Tuesday}", "tues", 0.2), (r"45^\circ", "45", 1),
    ("45", r"45^\circ", 1), (r"45^\circ", "45 degrees", 1), (r"45^\circ", "45°", 1), (r"45^\circ", "46°", 0.2),
    (r"8\text{ cm}", "8", 1), (r"8\text{ cm}", "8 cm", 1), (r"8\text{ cm}", "8 m", 0.2),
    (r"8\text{ cm}", "8 centimeters", 1), (r"20\text{ square units}", "20", 1),
    (r"80\text{ cents}", "80 dollars", 0.2), ("5", "{5}", 1), ("5", "[]", 0), ("5", "nan", 0),
    ("5", "```python\nprint(5)\n```", 0), ("5", "import math\nprint(5)", 0), ("5", "lambda: 5", 0),
    ("5", "return 5", 0), ("10", "often", 0.2), ("10", "ten", 1), ("1", "money", 0.2), ("2", "network", 0.2),
    ("7", "seven", 1), ("-4", "negative four", 1), ("25", "twenty-five", 1), ("105", "one hundred and five", 1),
    ("x^2+2x+1", "(x+1)^2", 1), ("x^2+2x+1", "x**2 + 2*x + 1", 1), ("x^2+2x+1", "x^2+2x", 0.2),
    (r"\frac{\pi}{4}", "pi/4", 1), (r"\frac{\pi}{4}", "0.785398163", 1), (r"2\pi", "2 pi", 1), ("e^2", "e^{2}", 1),
    ("3+4i", "4i+3", 1), ("3+4i", "3-4i", 0.2), ("y=2x+3", "y = 3 + 2x", 1), ("y=2x+3", "2x+3", 1),
    ("y=2x+3", "y=2x+4", 0.2), ("12", "3*4", 1), ("5", "2 + 3 = 5", 1), ("5", "x=5", 1), ("x=5", "x = 5", 1),
    ("3:4", "3 : 4", 1), ("3:4", "4:3", 0.2), ("11010_2", "11010", 1), (r"(3,\frac{\pi}{2})", "(3, pi/2)", 1),
    ("-1, 4", "x = -1 or x = 4", 1), ("-1, 4", "4, -1", 1), ("-1,4", "x=4, x=-1", 1),
    (r"\frac{1+\sqrt{5}}{2}", "(1+sqrt(5))/2", 1), (r"\frac{1+\sqrt{5}}{2}", "1.6180339887", 1),
    (r"\log_2 3", r"\log_{2}{3}", 1), (r"\ln 2", "ln(2)", 1), ("n(n+1)/2", r"\frac{n(n+1)}{2}", 1),
    ("100", "100.0000000001", 0.2), ("5", "5.", 1), ("5", "5)", 1), (r"\frac{a}{b}", "a/b", 1), ("2^{10}", "1024", 1),
    ("1024", "2^{10}", 1), ("24", "4!", 1), ("10", r"\binom{5}{2}", 1), (r"120^\circ", r"\frac{2\pi}{3}", 0.2),
    (r"\frac{1}{2}", r"\frac12", 1), (r"\frac{1}{2}", r"\frac{2}{4}", 1), ("0.25", "1/4", 1), ("$32,348", "32348", 1),
    (r"4:30 \text{ p.m.}", "4:30 pm", 1), (r"4:30 \text{ p.m.}", "4:30 am", 0.2), ("7", "The answer is 7", 1),
    ("7", "7 is the answer", 1), ("540", "540 cubic feet", 1), ("5", "5 or 6", 0.2), ("5", "4 5", 0.2),
    ("5", "5, 6", 0.2), ("5", "between 4 and 5", 0.2), ("123", "1 2 3", 0.2),
    ("1200", "1,200", 1), ("1200", "1 200", 1), ("1200", "1.2 thousand", 1), ("1200", "1,2,0,0", 0.2),
    ("1200", "1200.00", 1), ("1200", r"\$1{,}200", 1), ("1200", "USD 1200", 1), ("1200", "1200 USD", 1),
    ("1200", "€1200", 1), ("1200", "12,00", 0.2), ("0.05", "5%", 1), ("5", "5 %", 0.2), ("12.5", "12.5 percent", 0.2),
    (r"12.5\%", "12.5", 1), (r"12.5\%", r"\frac{1}{8}", 1), (r"33\frac{1}{3}\%", "33.333%", 0.2),
    (r"33\frac{1}{3}\%", r"\frac{100}{3}\%", 1), ("-0", "0", 1), ("0", "-0", 1), ("0", "+0", 1), ("0", "0.000", 1),
    ("0", "zero", 1), ("0", "nothing", 0.2), ("0", "none", 0), ("5", "five", 1), ("5", "Five", 1),
    ("15", "fifteen apples", 1), ("7", "sevenfold", 0.2), ("8", "weight", 0.2), ("1", "someone", 0.2), ("1", "one", 1),
    ("9", "canine", 0.2), ("10", "tenant", 0.2), ("6", "sixty", 0.2), ("2", "Two.", 1), ("1e3", "1000", 1),
    ("0.00012", "1.2e-4", 1), ("0.00012", r"1.2\times10^{-4}", 1), ("0.00012", r"1.2 \cdot 10^{-4}", 1),
    ("3e8", r"3 \times 10^8", 1), ("3e8", r"3 \times 10^7", 0.2), (r"\frac{3}{4}", r"\tfrac{3}{4}", 1),
    (r"-\frac{3}{4}", r"\frac{-3}{4}", 1), (r"-\frac{3}{4}", r"\frac{3}{-4}", 1), (r"\frac{3}{4}", r"\frac{6}{8}", 1),
    (r"\frac{3}{4}", "¾", 1), (r"\frac{3}{4}", "three quarters", 0.2), (r"\frac{3}{4}", "three fourths", 0.2),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", 1), (r"3\sqrt{2}", "3√2", 1), (r"3\sqrt{2}", r"\sqrt{18}", 1),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{3}+\sqrt{2}", 1), (r"\sqrt[3]{4}", "4^{1/3}", 1),
    (r"\sqrt[3]{4}", r"\sqrt{4}", 0.2), (r"\{-1,0,1\}", r"\{0,1,-1\}", 1), (r"\{-1,0,1\}", "-1, 0, 1", 1),
    (r"\{-1,0,1\}", r"\{0,1\}", 0.2), (r"\{1\}", "1", 1), (r"\{1,2\}", r"\{1,2,2\}", 0.2), ("(2,5)", "2<x<5", 1),
    ("(2,5]", "(2,5)", 0.2), (r"(-\infty, 2) \cup (5, \infty)", r"(5,\infty)\cup(-\infty,2)", 1),
    (r"(-\infty, 2) \cup (5, \infty)", r"x<2 \text{ or } x>5", 1), (r"[3,\infty)", r"x \geq 3", 1),
    (r"[3,\infty)", "x > 3", 0.2),
    (r"\begin{pmatrix} 1/2 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix} \frac12 & 0 \\ 0 & 1 \end{pmatrix}", 1),
    (r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix}", 0.2),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", 0.2),
    (r"\text{Monday}", "Monday", 1), (r"\text{Monday}", r"\text{monday}", 1), (r"\text{Monday}", "Sunday", 0.2),
    (r"\text{(B)}", "B", 1), (r"\text{(B)}", "(B)", 1), (r"\text{(B)}", "(C)", 0.2), (r"\text{No}", "no", 1),
    (r"\text{True}", "true", 1), (r"60^\circ", r"60^{\circ}", 1), ("60", r"60\text{ degrees}", 1),
    (r"60^\circ", r"\frac{\pi}{3}", 0.2), ("5", "{}", 0), ("5", "None", 0), ("5", "", 0), ("5", "   ", 0),
    ("5", "null", 0), ("5", "N/A", 0), ("5", "def f(): return 5", 0), ("5", "x = 5\nprint(x)", 0),
    ("5", r"\boxed{}", 0), ("5", r"\boxed{None}", 0), ("5", "<answer></answer>", 0), ("5", "answer = 5", 1),
    ("5", "[5]", 1), ("12 cm^2", "12", 1), (r"12\text{ cm}^2", r"12\text{ cm}^3", 0.2),
    (r"12\text{ cm}^2", "12 square centimeters", 1), (r"5 \text{ mph}", "5 miles per hour", 1),
    (r"5\text{ hours}", "5 h", 1), (r"5\text{ hours}", "300 minutes", 0.2), ("x^2-1", "(x-1)(x+1)", 1),
    ("2x", "x+x", 1), ("2x", "2y", 0.2), ("f(x)=2x", "2x", 1), ("f(x)=2x", "f(x) = x+x", 1), ("x=2", "2", 1),
    ("x=2", "y=2", 0.2), ("3", "3 or 4", 0.2), ("3", "3...", 1), ("3", "~3", 1), ("0.1", "1/10", 1),
    ("0.333", "1/3", 0.2), ("1/3", "0.33333333", 1), ("0.5", "0,5", 0.2),
    ("2^{100}", "1267650600228229401496703205376", 1), ("2^{100}", "1267650600228229401496703205377", 0.2),
    ("10!", "3628800", 1), ("1+i", "i+1", 1), ("1+i", "1+j", 0.2), ("e", "2.71828", 0.2), (r"\pi", "3.14159", 0.2),
    (r"\pi", "3.14", 0.2), (r"\infty", r"+\infty", 1), (r"-\infty", r"\infty", 0.2), (r"\infty", "infinity", 1),
    ("11:30", "11:30 AM", 1), ("3, 5", "(3, 5)", 0.2), ("3, 5", "3 and 5", 1), ("3, 5", "5", 0.2),
    ("undefined", "undefined", 1), (r"\text{undefined}", "undefined", 1), ("no solution", "No solution.", 1),
    ("40_9", "40", 1), ("40_9", "40_{9}", 1), ("40_9", "40_8", 0.2), ("5", "٥", 1), ("5", "５", 1), ("-5", "(−5)", 1),
    ("-5", "-(5)", 1), ("5", "--5", 1), ("100", "one hundred", 1), ("1000000", "a million", 0.2),
    ("21", "twenty one", 1), ("1.5", "one and a half", 0.2),
]
# fmt: on


@pytest.mark.parametrize(("gold", "answer", "level"), CASES)
def test_the_level_of_an_answer(gold: str, answer: str, level: float) -> None:
    assert grade_math(gold, answer).level == level


def test_percent_signs_go_as_the_question_asks() -> None:
    assert grade_math("25", "25%", "What percent of the cake is left?").level == 1.0
    assert grade_math("25", "25%", "How many apples are left?").level == 0.2


def test_a_list_is_in_order_only_where_the_question_says_so() -> None:
    golds = r"\text{Softball, Kickball, Picnic}"
    assert grade_math("1,2", "2,1", "Find all roots.").level == 1.0
    assert grade_math("1,2", "2,1", "List them in increasing order.").level == 1.0
    assert grade_math("1,2", "2,1", "Find a and b, respectively.").level == 0.2
    assert grade_math(golds, "Picnic, Softball, Kickball", "List them in order from least to greatest.").level == 0.2


def test_the_question_handed_back_is_no_solution_of_it() -> None:
    question = r"Evaluate $\left\lceil3\left(6-\frac12\right)\right\rceil$."
    assert grade_math("17", r"\lceil 3(6-\frac{1}{2}) \rceil", question).level == 0.2
    assert grade_math("17", "17", question).level == 1.0
    assert grade_math("(x-1)(x+1)", "x^2-1", "Factor $x^2-1$.").level == 0.2
    assert grade_math(r"\frac{1}{2}", "1/2", r"Which is larger, $1/2$ or $1/3$?").level == 1.0


def test_closeness_earns_nothing() -> None:
    assert grade_math("1000", "999.999").level == grade_math("1000", "-3").level == 0.2


def test_what_cannot_be_read_as_mathematics_is_left_open() -> None:
    assert grade_math("12", "a dozen") == Ruling(0.2, settled=False)
    assert grade_math("12", "13") == Ruling(0.2, settled=True)
    assert grade_math("12", "None") == Ruling(0.0, settled=True)


def test_hedging_is_wrong() -> None:
    for answer in ("5 or 6", "5, 6", "4 < 5 < 6", r"\boxed{5} or rather \boxed{6}", "5 6 7 8", r"5 \pm 1"):
        assert grade_math("5", answer).level == 0.2


def test_an_endless_expression_is_wrong_and_spoils_nothing() -> None:
    hostile = (
        "9^{9^{9^{9^9}}}",
        r"\sqrt" * 300 + "2",
        "(x+y+z+1)^{500}",
        r"\frac{1}{1+" * 100 + "x" + "}" * 100,
        r"\begin{pmatrix}" + r" \\ ".join(["&".join(["x+1"] * 15)] * 15) + r"\end{pmatrix}",
    )
    with ThreadPoolExecutor(4) as threads:
        levels = threads.map(lambda answer: grade_math("x+1", rf"\boxed{{{answer}}}").level, hostile)
    assert list(levels) == [0.2] * len(hostile)
    assert grade_math("x+1", "1+x").level == 1.0


def test_grading_works_in_any_thread() -> None:
    levels = []
    threads = [
        threading.Thread(target=lambda: levels.append(grade_math(r"2\sqrt{3}", r"\sqrt{12}").level)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert levels == [1.0] * 6
