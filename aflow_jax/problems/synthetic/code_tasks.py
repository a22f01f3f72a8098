"""The programming tasks: what is asked, a reference solution, and how inputs are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

WORDS = (
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "jungle", "kettle", "lantern",
    "meadow", "noon", "orbit", "pepper", "quartz", "river", "level", "timber", "umbra", "valley", "willow", "radar",
)  # fmt: skip


def _no_constants(_: Random) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True)
class Task:
    """A family of programming problems.

    Attributes:
        names: names for the function, one of which is drawn.
        text: what the function does; `<constant>` is put in.
        code: the reference solution, with `<name>` and the constants put in.
        arguments: draws the arguments of one call, given the constants.
        constants: draws the constants.
    """

    names: tuple[str, ...]
    text: str
    code: str
    arguments: Callable[[Random, Mapping[str, object]], tuple]
    constants: Callable[[Random], Mapping[str, object]] = _no_constants


def _constant(name: str, low: int, high: int) -> Callable[[Random], Mapping[str, object]]:
    return lambda random: {name: random.randint(low, high)}


def _numbers(low: int, high: int, longest: int = 7, shortest: int = 0) -> Callable:
    return lambda random, _: ([random.randint(low, high) for _ in range(random.randint(shortest, longest))],)


def _number(low: int, high: int) -> Callable:
    return lambda random, _: (random.randint(low, high),)


def _text(longest: int = 3, shortest: int = 1) -> Callable:
    return lambda random, _: (" ".join(random.choice(WORDS) for _ in range(random.randint(shortest, longest))),)


def _words(longest: int = 6, shortest: int = 0) -> Callable:
    return lambda random, _: ([random.choice(WORDS) for _ in range(random.randint(shortest, longest))],)


def _square_matrix(random: Random, _: Mapping[str, object]) -> tuple:
    size = random.randint(1, 3)
    return ([[random.randint(0, 9) for _ in range(size)] for _ in range(size)],)


def _bracket_text(random: Random, _: Mapping[str, object]) -> tuple:
    shapes = ("()" * random.randint(0, 3), "((a))", "((" + "()" * random.randint(1, 3) + "))")
    return (random.choice((*shapes, "".join(random.choices("()a", k=6)))),)


TASKS: tuple[Task, ...] = (
    Task(
        ("count_multiples", "multiples_in", "how_many_divisible"),
        "returns how many numbers in the list are divisible by <k>.",
        "def <name>(values):\n    return sum(1 for value in values if value % <k> == 0)\n",
        _numbers(0, 40),
        _constant("k", 2, 9),
    ),
    Task(
        ("sum_above", "total_above", "add_large"),
        "returns the sum of the numbers in the list that are greater than <k>.",
        "def <name>(values):\n    return sum(value for value in values if value > <k>)\n",
        _numbers(-20, 60),
        _constant("k", 1, 40),
    ),
    Task(
        ("rotate_left", "shift_left", "cycle_left"),
        "moves the first <k> items of a list to its end, going round as often as needed.",
        "def <name>(values):\n    if not values:\n        return []\n    turn = <k> % len(values)\n"
        "    return values[turn:] + values[:turn]\n",
        _numbers(0, 30, longest=6),
        _constant("k", 1, 9),
    ),
    Task(
        ("running_total", "prefix_sums", "partial_sums"),
        "returns the running totals of a list, starting from <k>.",
        "def <name>(values):\n    total, totals = <k>, []\n    for value in values:\n        total += value\n"
        "        totals.append(total)\n    return totals\n",
        _numbers(-9, 20, longest=5),
        _constant("k", 0, 50),
    ),
    Task(
        ("clamp_all", "limit_values", "bounded"),
        "replaces every number below <low> by <low> and every number above <high> by <high>.",
        "def <name>(values):\n    return [min(max(value, <low>), <high>) for value in values]\n",
        _numbers(-30, 60, longest=5),
        lambda random: {"low": random.randint(-9, 9), "high": random.randint(15, 40)},
    ),
    Task(
        ("digit_sum", "sum_of_digits", "add_digits"),
        "returns the sum of the digits of n, plus <k>.",
        "def <name>(n):\n    return sum(int(digit) for digit in str(n)) + <k>\n",
        _number(0, 99999),
        _constant("k", 1, 60),
    ),
    Task(
        ("caesar", "shift_letters", "encode_text"),
        "shifts every lowercase letter <k> places forward in the alphabet, going round after z; spaces stay.",
        "def <name>(text):\n    shifted = []\n    for letter in text:\n        if letter.islower():\n"
        "            letter = chr((ord(letter) - 97 + <k>) % 26 + 97)\n        shifted.append(letter)\n"
        "    return ''.join(shifted)\n",
        _text(2),
        _constant("k", 1, 25),
    ),
    Task(
        ("long_words", "words_longer", "keep_long"),
        "returns the words with more than <k> letters, in order.",
        "def <name>(words):\n    return [word for word in words if len(word) > <k>]\n",
        _words(5),
        _constant("k", 4, 6),
    ),
    Task(
        ("chunks", "split_into", "grouped"),
        "splits a list into lists of <k> items; the last one may be shorter.",
        "def <name>(values):\n    return [values[start : start + <k>] for start in range(0, len(values), <k>)]\n",
        _numbers(0, 20),
        _constant("k", 2, 4),
    ),
    Task(
        ("nth_largest", "ranked_value", "largest_at"),
        "returns the <k>-th largest distinct number of the list, or None where there is none.",
        "def <name>(values):\n    ranked = sorted(set(values), reverse=True)\n"
        "    return ranked[<k> - 1] if len(ranked) >= <k> else None\n",
        _numbers(0, 30),
        _constant("k", 2, 5),
    ),
    Task(
        ("count_pairs", "pairs_with_sum", "pair_count"),
        "counts the pairs of positions i < j whose numbers add up to <k>.",
        "def <name>(values):\n    count = 0\n    for i in range(len(values)):\n"
        "        for j in range(i + 1, len(values)):\n"
        "            count += values[i] + values[j] == <k>\n    return count\n",
        lambda random, constants: ([random.randint(0, constants["k"]) for _ in range(random.randint(0, 7))],),
        _constant("k", 4, 12),
    ),
    Task(
        ("to_base", "in_base", "base_digits"),
        "writes the number n (n ≥ 0) in base <k> as a string.",
        "def <name>(n):\n    digits = ''\n    while n:\n        n, digit = divmod(n, <k>)\n"
        "        digits = str(digit) + digits\n    return digits or '0'\n",
        _number(0, 5000),
        _constant("k", 2, 9),
    ),
    Task(
        ("collatz_steps", "steps_to_one", "count_steps"),
        "counts the steps from n to 1: halve an even n, turn an odd n into 3n + 1; after <k> steps it gives up: -1.",
        "def <name>(n):\n    for step in range(<k> + 1):\n        if n == 1:\n            return step\n"
        "        n = n // 2 if n % 2 == 0 else 3 * n + 1\n    return -1\n",
        _number(1, 60),
        _constant("k", 8, 60),
    ),
    Task(
        ("primes_below", "list_primes", "all_primes"),
        "lists the primes p with n ≤ p < n + <k>.",
        "def <name>(n):\n    def prime(p):\n        return p > 1 and all(p % d for d in range(2, int(p**0.5) + 1))\n\n"
        "    return [p for p in range(n, n + <k>) if prime(p)]\n",
        _number(0, 120),
        _constant("k", 5, 25),
    ),
    Task(
        ("most_common", "top_item", "favourite"),
        "returns the number that is in the list most often, the smallest one on a tie, and <k> for an empty list.",
        "def <name>(values):\n    if not values:\n        return <k>\n"
        "    return min(values, key=lambda value: (-values.count(value), value))\n",
        _numbers(0, 5, longest=8),
        _constant("k", -30, -1),
    ),
    Task(
        ("drop_letter", "without_letter", "remove_letter"),
        "removes every letter '<letter>' from a text, and turns the rest to upper case.",
        "def <name>(text):\n    return text.replace('<letter>', '').upper()\n",
        _text(3),
        lambda random: {"letter": random.choice("aeiourlt")},
    ),
    Task(
        ("repeat_items", "stretch", "multiplied"),
        "repeats every item of a list <k> times in a row and leaves out the negative ones.",
        "def <name>(values):\n    return [value for value in values if value >= 0 for _ in range(<k>)]\n",
        _numbers(-5, 9, longest=4),
        _constant("k", 2, 4),
    ),
    Task(
        ("weighted_sum", "position_sum", "indexed_total"),
        "adds up each number times its position, positions counted from <k>.",
        "def <name>(values):\n    return sum(place * value for place, value in enumerate(values, start=<k>))\n",
        _numbers(-9, 12),
        _constant("k", 1, 9),
    ),
    Task(
        ("gap_count", "big_jumps", "count_gaps"),
        "counts the neighbours in a list that differ by at least <k>.",
        "def <name>(values):\n    return sum(abs(a - b) >= <k> for a, b in zip(values, values[1:]))\n",
        _numbers(0, 25),
        _constant("k", 2, 12),
    ),
    Task(
        ("vowel_score", "score_vowels", "letter_score"),
        "scores a text: <v> points for each vowel and <c> for each other letter; spaces count nothing.",
        "def <name>(text):\n    letters = text.replace(' ', '')\n"
        "    return sum(<v> if letter in 'aeiou' else <c> for letter in letters)\n",
        _text(3),
        lambda random: {"v": random.randint(2, 9), "c": random.randint(1, 5)},
    ),
    Task(
        ("is_balanced", "brackets_match", "well_nested"),
        "tells whether the round brackets in a text are balanced and never nested deeper than <k>.",
        "def <name>(text):\n    depth = 0\n    for letter in text:\n"
        "        depth += (letter == '(') - (letter == ')')\n"
        "        if not 0 <= depth <= <k>:\n            return False\n    return depth == 0\n",
        _bracket_text,
        _constant("k", 2, 4),
    ),
    Task(
        ("interleave", "zip_lists", "alternate"),
        "takes numbers in turn from a and b, then the rest of the longer list, and multiplies every number by <k>.",
        "def <name>(a, b):\n    shared = min(len(a), len(b))\n"
        "    mixed = [value for pair in zip(a, b) for value in pair]\n"
        "    return [<k> * value for value in mixed + a[shared:] + b[shared:]]\n",
        lambda random, _: tuple([random.randint(0, 9) for _ in range(random.randint(0, 4))] for _ in range(2)),
        _constant("k", 2, 9),
    ),
    Task(
        ("window_max", "sliding_max", "best_window"),
        "returns the largest sum of <k> numbers in a row, or None for a list shorter than that.",
        "def <name>(values):\n    sums = [sum(values[i : i + <k>]) for i in range(len(values) - <k> + 1)]\n"
        "    return max(sums) if sums else None\n",
        _numbers(-9, 15, longest=8),
        _constant("k", 2, 4),
    ),
    Task(
        ("compress", "run_lengths", "encode_runs"),
        "returns [number, length] for each run of equal numbers that is at least <k> long.",
        "def <name>(values):\n    runs = []\n    for value in values:\n        if runs and runs[-1][0] == value:\n"
        "            runs[-1][1] += 1\n        else:\n            runs.append([value, 1])\n"
        "    return [run for run in runs if run[1] >= <k>]\n",
        _numbers(1, 3, longest=9),
        _constant("k", 1, 2),
    ),
    Task(
        ("initials", "first_letters", "acronym"),
        "joins the first letters of the words in upper case with '<mark>' between them.",
        "def <name>(text):\n    return '<mark>'.join(word[0].upper() for word in text.split())\n",
        _text(4),
        lambda random: {"mark": random.choice(".-+/_|")},
    ),
    Task(
        ("count_words", "tally", "word_counts"),
        "returns a dict from each word with at least <k> letters to how often it is in the list.",
        "def <name>(words):\n    counts = {}\n    for word in words:\n        if len(word) >= <k>:\n"
        "            counts[word] = counts.get(word, 0) + 1\n    return counts\n",
        _words(5),
        _constant("k", 4, 6),
    ),
    Task(
        ("triangle_kind", "classify_sides", "side_kind"),
        "returns 'none' if a, b, c are not the sides of a triangle, 'small' if their sum is below <k>, else 'large'.",
        "def <name>(a, b, c):\n    first, second, longest = sorted((a, b, c))\n    if first + second <= longest:\n"
        "        return 'none'\n    return 'small' if a + b + c < <k> else 'large'\n",
        lambda random, _: tuple(random.randint(1, 15) for _ in range(3)),
        _constant("k", 15, 35),
    ),
    Task(
        ("matrix_trace", "diagonal_sum", "trace_plus"),
        "returns the sum of the diagonal of a square matrix after <k> is added to every entry.",
        "def <name>(matrix):\n    return sum(row[i] + <k> for i, row in enumerate(matrix))\n",
        _square_matrix,
        _constant("k", 1, 30),
    ),
    Task(
        ("discounted", "final_price", "price_after"),
        "returns the price in cents after <percent>% off, rounded down, but only for prices of at least <limit> cents.",
        "def <name>(cents):\n    return cents * (100 - <percent>) // 100 if cents >= <limit> else cents\n",
        _number(50, 9000),
        lambda random: {"percent": random.randint(3, 60), "limit": 100 * random.randint(2, 50)},
    ),
    Task(
        ("common_items", "in_both", "shared_values"),
        "returns the sorted distinct numbers above <k> that are in both lists.",
        "def <name>(a, b):\n    return sorted(value for value in set(a) & set(b) if value > <k>)\n",
        lambda random, _: tuple([random.randint(0, 12) for _ in range(random.randint(0, 7))] for _ in range(2)),
        _constant("k", 0, 5),
    ),
)
