"""Questions about a made-up paragraph; several need two facts joined."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_FIRST_NAMES = (
    "Alma", "Boris", "Carla", "Denis", "Elena", "Felix", "Greta", "Hassan", "Irma", "Jakob", "Keiko", "Lucia", "Milan",
    "Nadia", "Oskar", "Paula", "Rashid", "Sofia", "Tomas", "Vera", "Walter", "Yara", "Anton", "Bella", "Cyril", "Dora",
)  # fmt: skip
_LAST_NAMES = (
    "Reyes", "Lindt", "Okoye", "Varga", "Marsh", "Amado", "Holm", "Idris", "Castell", "Stern", "Tanaka", "Ferro",
    "Petrov",
    "Solis", "Brandt", "Nkemi", "Aziz", "Duarte", "Berg", "Kovacs", "Quist", "Haddad", "Moreau", "Lund", "Sato",
    "Weiss",
)  # fmt: skip
_TOWN_STARTS = (
    "Ar", "Bre", "Cor", "Dun", "East", "Far", "Glen", "Har", "Il", "Jor", "Kes", "Lor", "Mar", "Nord", "Os", "Pel",
    "Raven", "Silver", "Tam", "Umber", "Vin", "West",
)  # fmt: skip
_TOWN_ENDS = ("holt", "wick", "ville", "more", "mere", "sted", "ton", "haven", "ley", "brook", "dale", "ford", "burg")
RIVERS = ("Elva", "Tarn", "Mossel", "Ister", "Orlo", "Brenn", "Calder", "Sava", "Nerra", "Lune", "Vesk", "Ardo")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "crimson", "purple", "brown", "grey")
ANIMALS = ("falcon", "otter", "badger", "heron", "lynx", "marten", "owl", "beaver", "stork", "ibex")
JOBS = ("baker", "surgeon", "carpenter", "pilot", "librarian", "chemist", "violinist", "gardener", "judge", "printer")
THINGS = ("clock", "violin", "lamp", "carpet", "telescope", "mirror", "globe", "vase", "compass", "bell")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip


def _people(random: Random, count: int) -> list[str]:
    first, last = random.sample(_FIRST_NAMES, count), random.sample(_LAST_NAMES, count)
    return [f"{name} {family}" for name, family in zip(first, last, strict=True)]


def _towns(random: Random, count: int) -> list[str]:
    return [start + random.choice(_TOWN_ENDS) for start in random.sample(_TOWN_STARTS, count)]


# A template gives (context, question, answer).
Template = Callable[[Random], tuple[str, str, str]]


def _founder(random: Random) -> tuple[str, str, str]:
    (town, other), (person, rival) = _towns(random, 2), _people(random, 2)
    year, later = random.randint(1210, 1500), random.randint(1501, 1900)
    context = (
        f"{town} was founded in {year} by {person}. The neighbouring town of {other} was founded much later, "
        f"in {later}, by {rival}."
    )
    questions = ((f"Who founded {town}?", person), (f"In which year was {town} founded?", str(year)))
    return context, *random.choice(questions)


def _river_of_home(random: Random) -> tuple[str, str, str]:
    (town, other), (river, stream) = _towns(random, 2), random.sample(RIVERS, 2)
    person, neighbour = _people(random, 2)
    context = (
        f"{person} lives in {town}, while {neighbour} moved to {other}. The river {stream} flows through {other}. "
        f"The river {river} flows through {town}."
    )
    return context, f"Which river flows through the town where {person} lives?", river


def _older(random: Random) -> tuple[str, str, str]:
    people = _people(random, 3)
    years = random.sample(range(1850, 1990), 3)
    facts = " ".join(f"{person} was born in {year}." for person, year in zip(people, years, strict=True))
    town = _towns(random, 1)[0]
    eldest = people[years.index(min(years))]
    return f"Three painters worked in {town}. {facts}", f"Which of the three painters of {town} was born first?", eldest


def _years_between(random: Random) -> tuple[str, str, str]:
    town, start, span = _towns(random, 1)[0], random.randint(1700, 1920), random.randint(3, 48)
    month = random.choice(MONTHS)
    context = (
        f"Work on the bridge of {town} began in {month} {start}. After floods and a strike it was opened in "
        f"{month} {start + span}."
    )
    return context, f"How many years did it take to build the bridge of {town}?", str(span)


def _owner_job(random: Random) -> tuple[str, str, str]:
    (person, other), (job, craft) = _people(random, 2), random.sample(JOBS, 2)
    thing, town = random.choice(THINGS), _towns(random, 1)[0]
    context = (
        f"The old {thing} in the hall of {town} was a gift of {person}. {other}, a {craft}, repaired it. "
        f"{person} was a {job} by profession."
    )
    return context, f"What was the profession of the person who gave {town} the {thing}?", job


def _emblem(random: Random) -> tuple[str, str, str]:
    (town, other), (animal, beast) = _towns(random, 2), random.sample(ANIMALS, 2)
    colour, shade = random.sample(COLOURS, 2)
    context = f"The flag of {town} shows a {colour} {animal}. The flag of {other} shows a {shade} {beast}."
    questions = (
        (f"What colour is the animal on the flag of {town}?", colour),
        (f"Which animal is on the flag of {town}?", animal),
    )
    return context, *random.choice(questions)


def _championship(random: Random) -> tuple[str, str, str]:
    (home, guest), won = _towns(random, 2), random.randint(2, 7)
    lost, year = random.randint(0, won - 1), random.randint(1950, 2020)
    context = f"In the final of {year}, {home} met {guest}. {home} led early, but {guest} won by {won} goals to {lost}."
    questions = (
        (f"Which team won the final between {home} and {guest}?", guest),
        (f"By how many goals did {guest} win the final?", str(won - lost)),
        (f"Which team lost the final between {home} and {guest}?", home),
    )
    return context, *random.choice(questions)


def _market_day(random: Random) -> tuple[str, str, str]:
    (town, other), (month, later) = _towns(random, 2), random.sample(MONTHS, 2)
    thing = random.choice(THINGS)
    context = (
        f"The fair of {town} is held every {month} and the fair of {other} every {later}. "
        f"In {later} a {thing} is the first prize, in {month} a goose."
    )
    return context, f"What is the first prize at the fair of {other}?", thing


def _teacher(random: Random) -> tuple[str, str, str]:
    teacher, pupil, last = _people(random, 3)
    town = _towns(random, 1)[0]
    context = f"{pupil} learned to draw maps from {teacher} in {town}. Years later {last} became the pupil of {pupil}."
    return context, f"Who taught the teacher of {last}?", teacher


def _population(random: Random) -> tuple[str, str, str]:
    towns = _towns(random, 3)
    counts = random.sample(range(1200, 98000, 100), 3)
    facts = ", ".join(f"{town} has {count} inhabitants" for town, count in zip(towns, counts, strict=True))
    largest = towns[counts.index(max(counts))]
    return (
        f"In the valley of the {random.choice(RIVERS)}, {facts}.",
        "Which of these towns has the most inhabitants?",
        largest,
    )


def _total_exports(random: Random) -> tuple[str, str, str]:
    town, first, second = _towns(random, 1)[0], random.randint(20, 900), random.randint(20, 900)
    goods, other = random.sample(THINGS, 2)
    context = (
        f"Last year the workshops of {town} sold {first} {goods}s at home and {second} abroad, and no {other}s at all."
    )
    return context, f"How many {goods}s did the workshops of {town} sell in all?", str(first + second)


def _book(random: Random) -> tuple[str, str, str]:
    author, translator = _people(random, 2)
    colour, animal, year = random.choice(COLOURS), random.choice(ANIMALS), random.randint(1880, 2015)
    town = _towns(random, 1)[0]
    context = (
        f'"The {colour.title()} {animal.title()}" is a novel that {author} wrote in {town}. '
        f"{translator} translated it in {year}."
    )
    questions = (
        (f"Who wrote the novel that {translator} translated?", author),
        (f"In which town was the novel written that {translator} translated?", town),
        (f"When was the novel by {author} translated?", str(year)),
    )
    return context, *random.choice(questions)


def _spouse_town(random: Random) -> tuple[str, str, str]:
    person, spouse, friend = _people(random, 3)
    town, other, third = _towns(random, 3)
    context = (
        f"{person} was born in {other} and married {spouse}. {spouse} was born in {town}. "
        f"Their friend {friend} was born in {third}."
    )
    return context, f"Where was the person born whom {person} married?", town


def _expedition(random: Random) -> tuple[str, str, str]:
    leader, second = _people(random, 2)
    river, animal, days = random.choice(RIVERS), random.choice(ANIMALS), random.randint(9, 90)
    month = random.choice(MONTHS)
    context = (
        f"The expedition to the source of the {river} left in {month} under {leader}. After {days} days {second} took "
        f"over. It was {second} who first saw the mountain {animal}."
    )
    questions = (
        (f"Who led the expedition before {second} took over?", leader),
        (f"Which animal was seen by the one who took over from {leader}?", f"mountain {animal}"),
        (f"After how many days did {second} take over?", str(days)),
    )
    return context, *random.choice(questions)


TEMPLATES: tuple[Template, ...] = (
    _founder, _river_of_home, _older, _years_between, _owner_job, _emblem, _championship, _market_day, _teacher,
    _population, _total_exports, _book, _spouse_town, _expedition,
)  # fmt: skip
