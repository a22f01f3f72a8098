"""Problems for the simulator, and prompts about them."""

PROBLEMS = [
    {"question": "What is 6 times 7?", "answer": "42", "source": "gsm8k"},
    {"question": "What is 6 times 7 plus 1?", "answer": "43", "source": "gsm8k"},
    {"question": "Simplify the root of 8.", "answer": "2\\sqrt{2}", "domain": "math"},
    {
        "question": "Write add(a, b).\n\ndef add(a, b):",
        "answer": "def add(a, b):\n    return a + b\n",
        "source": "mbpp",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    },
    {
        "question": "Who founded Arholt?",
        "answer": "Alma Reyes",
        "domain": "qa",
        "context": "Alma Reyes founded Arholt.",
    },
    {
        "question": "Who founded Arholt?",
        "answer": "Boris Lindt",
        "domain": "qa",
        "context": "Boris Lindt built Arholt.",
    },
    {"question": "Which bird sings?\n\nA. stone\nB. robin\nC. chair", "answer": "B", "source": "mmlu"},
    {"question": "Is water wet?", "answer": "yes", "source": "hotpotqa", "context": "Water is wet."},
]


def messages(operator: str, question: str, **sections: str) -> list[dict[str, str]]:
    """Return a prompt in the form that the operators use."""
    first = f"You are the {operator} operator of a workflow."
    if operator == "judge":
        first = "You are the judge of an answer."
    parts = {"problem": question, **sections}
    user = "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts.items())
    return [{"role": "system", "content": f"{first}\nDo it well."}, {"role": "user", "content": user}]
