"""Math word problems: templates with numbers drawn at random and the answer computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

NAMES = (
    "Ada", "Ben", "Chloe", "Dario", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam",
    "Mina", "Noor", "Omar", "Petra", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Viktor", "Wanda", "Yusuf",
)  # fmt: skip
THINGS = ("pencils", "apples", "stickers", "marbles", "books", "tickets", "cookies", "stamps", "shells", "candles")

Template = Callable[[Random], tuple[str, str]]


def _shop_total(random: Random) -> tuple[str, str]:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    count, price, discount = random.randint(3, 30), random.randint(2, 25), random.randint(1, 5)
    question = (
        f"{name} buys {count} {thing} at {price} dollars each and has a coupon for {discount} dollars off the total. "
        f"How many dollars does {name} pay?"
    )
    return question, str(count * price - discount)


def _leftover(random: Random) -> tuple[str, str]:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    boxes, size, given = random.randint(3, 15), random.randint(6, 24), random.randint(2, 17)
    question = (
        f"{name} has {boxes} boxes with {size} {thing} in each, and gives away {given} {thing}. "
        f"How many {thing} are left?"
    )
    return question, str(boxes * size - given)


def _packing(random: Random) -> tuple[str, str]:
    thing, total, size = random.choice(THINGS), random.randint(50, 900), random.randint(6, 19)
    question = f"A box holds {size} {thing}. How many boxes are needed for {total} {thing}?"
    return question, str(-(-total // size))


def _remainder(random: Random) -> tuple[str, str]:
    divisor, base = random.randint(5, 29), random.randint(100, 9999)
    return f"What is the remainder when {base} is divided by {divisor}?", str(base % divisor)


def _speed(random: Random) -> tuple[str, str]:
    first, second = random.randint(40, 110), random.randint(40, 110)
    hours, more = random.randint(2, 6), random.randint(2, 6)
    question = (
        f"A train travels {hours} hours at {first} km per hour and then {more} hours at {second} km per hour. "
        "How many kilometres does it travel in all?"
    )
    return question, str(hours * first + more * second)


def _ages(random: Random) -> tuple[str, str]:
    older, younger = random.sample(NAMES, 2)
    age, factor, years = random.randint(4, 15), random.randint(2, 5), random.randint(2, 20)
    question = (
        f"{older} is {factor} times as old as {younger}, who is {age}. "
        f"What will be the sum of their ages in {years} years?"
    )
    return question, str(age + factor * age + 2 * years)


def _percent_of(random: Random) -> tuple[str, str]:
    percent, total = random.choice((5, 10, 15, 20, 25, 30, 40, 60, 75)), 20 * random.randint(5, 95)
    question = f"In a school of {total} pupils, {percent}% come by bicycle. How many pupils do not come by bicycle?"
    return question, str(total - total * percent // 100)


def _price_rise(random: Random) -> tuple[str, str]:
    price, percent = 100 * random.randint(2, 60), random.randint(2, 45)
    question = f"A bicycle costs {price} dollars. Its price rises by {percent}%. What is the new price in dollars?"
    return question, str(price + price * percent // 100)


def _rectangle(random: Random) -> tuple[str, str]:
    width, length = random.randint(4, 60), random.randint(4, 60)
    question = (
        f"A rectangular garden has a perimeter of {2 * (width + length)} m and a width of {width} m. "
        "What is its area in square metres?"
    )
    return question, str(width * length)


def _path_around(random: Random) -> tuple[str, str]:
    width, length, border = random.randint(5, 30), random.randint(5, 30), random.randint(1, 4)
    question = (
        f"A pool is {length} m long and {width} m wide. A path {border} m wide runs all around it. "
        "What is the area of the path in square metres?"
    )
    return question, str((length + 2 * border) * (width + 2 * border) - length * width)


def _linear_equation(random: Random) -> tuple[str, str]:
    slope, root, offset = random.randint(2, 19), random.randint(-30, 30), random.randint(1, 60)
    return f"Solve for x: {slope}x + {offset} = {slope * root + offset}.", str(root)


def _two_equations(random: Random) -> tuple[str, str]:
    first, second = random.randint(5, 90), random.randint(5, 90)
    larger, smaller = max(first, second), min(first, second)
    question = (
        f"Two numbers have the sum {larger + smaller} and the difference {larger - smaller}. What is the larger number?"
    )
    return question, str(larger)


def _average(random: Random) -> tuple[str, str]:
    scores = [random.randint(45, 95) for _ in range(4)]
    fifth = 45 + -(sum(scores) + 45) % 5 + 5 * random.randint(0, 10)
    shown = ", ".join(map(str, scores))
    average = (sum(scores) + fifth) // 5
    return f"Four test scores are {shown}. Which fifth score makes the average of all five {average}?", str(fifth)


def _arithmetic_series(random: Random) -> tuple[str, str]:
    first, step, count = random.randint(1, 30), random.randint(2, 12), random.randint(8, 30)
    question = (
        f"A hall has {count} rows. The first row has {first} seats and each next row has {step} more than the one "
        "before. How many seats are there in all?"
    )
    return question, str(count * (2 * first + step * (count - 1)) // 2)


def _doubling(random: Random) -> tuple[str, str]:
    start, hours, every = random.randint(3, 40), random.randint(3, 8), random.choice((2, 3, 4))
    question = (
        f"A colony of {start} cells doubles every {every} hours. How many cells are there after {hours * every} hours?"
    )
    return question, str(start * 2**hours)


def _handshakes(random: Random) -> tuple[str, str]:
    people, absent = random.randint(8, 60), random.randint(1, 4)
    question = (
        f"{people} people are invited to a meeting and {absent} of them stay away. Everyone present shakes hands "
        "once with everyone else. How many handshakes are there?"
    )
    return question, str(math.comb(people - absent, 2))


def _committee(random: Random) -> tuple[str, str]:
    women, men = random.randint(3, 12), random.randint(3, 12)
    question = f"In how many ways can a committee of 2 women and 2 men be chosen from {women} women and {men} men?"
    return question, str(math.comb(women, 2) * math.comb(men, 2))


def _common_multiple(random: Random) -> tuple[str, str]:
    first, second = random.sample(range(4, 45), 2)
    question = (
        f"One bell rings every {first} minutes and another every {second} minutes. They ring together now. "
        "In how many minutes do they ring together again?"
    )
    return question, str(math.lcm(first, second))


def _common_divisor(random: Random) -> tuple[str, str]:
    divisor, first, second = random.randint(3, 40), random.randint(2, 30), random.randint(2, 30)
    question = (
        f"Two ropes of {divisor * first} cm and {divisor * second} cm are cut into pieces of one equal length with "
        "nothing left over. What is the greatest possible length of a piece in cm?"
    )
    return question, str(math.gcd(divisor * first, divisor * second))


def _work_rate(random: Random) -> tuple[str, str]:
    machines, hours, per_hour = random.randint(2, 9), random.randint(2, 9), random.randint(3, 25)
    more = random.randint(2, 9)
    question = (
        f"{machines} machines make {machines * hours * per_hour} parts in {hours} hours. "
        f"How many parts do {machines + more} such machines make in {hours + 1} hours?"
    )
    return question, str((machines + more) * (hours + 1) * per_hour)


def _savings(random: Random) -> tuple[str, str]:
    name, start, weekly, weeks = (
        random.choice(NAMES),
        random.randint(5, 90),
        random.randint(3, 30),
        random.randint(5, 40),
    )
    question = (
        f"{name} has {start} dollars and saves {weekly} dollars a week. After how many weeks does {name} have "
        f"{start + weekly * weeks} dollars?"
    )
    return question, str(weeks)


def _ratio_share(random: Random) -> tuple[str, str]:
    first, second = random.sample(NAMES, 2)
    part, other = random.sample(range(2, 10), 2)
    unit = random.randint(3, 40)
    question = (
        f"{first} and {second} share {unit * (part + other)} {random.choice(THINGS)} in the ratio {part} : {other}. "
        f"How many does {first} get?"
    )
    return question, str(unit * part)


def _digit_sum(random: Random) -> tuple[str, str]:
    base, exponent = random.randint(2, 30), random.randint(3, 9)
    return f"What is the sum of the digits of {base}^{exponent}?", str(sum(map(int, str(base**exponent))))


def _quadratic(random: Random) -> tuple[str, str]:
    root, other = random.sample(range(1, 30), 2)
    question = f"What is the larger solution of x^2 - {root + other}x + {root * other} = 0?"
    return question, str(max(root, other))


def _clock(random: Random) -> tuple[str, str]:
    hour, minute, hours, minutes = (
        random.randint(6, 11),
        random.randint(5, 55),
        random.randint(1, 3),
        random.randint(5, 55),
    )
    length = 60 * hours + minutes
    end = 60 * hour + minute + length
    question = (
        f"A film starts at {hour}:{minute:02d} and ends at {end // 60}:{end % 60:02d} on the same day. "
        "How many minutes does it last?"
    )
    return question, str(length)


def _change(random: Random) -> tuple[str, str]:
    name, count = random.choice(NAMES), random.randint(2, 7)
    cents = 5 * random.randint(9, 55)
    paid = 100 * (count * cents // 100 + random.randint(1, 10))
    question = (
        f"{name} buys {count} notebooks at {cents / 100:.2f} dollars each and pays with {paid // 100} dollars. "
        "How many cents of change are due?"
    )
    return question, str(paid - count * cents)


TEMPLATES: tuple[Template, ...] = (
    _shop_total, _leftover, _packing, _remainder, _speed, _ages, _percent_of, _price_rise, _rectangle, _path_around,
    _linear_equation, _two_equations, _average, _arithmetic_series, _doubling, _handshakes, _committee,
    _common_multiple, _common_divisor, _work_rate, _savings, _ratio_share, _digit_sum, _quadratic, _clock, _change,
)  # fmt: skip
