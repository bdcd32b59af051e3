"""Lab (f) of docs/COURSE.md: write `superior` and `training_rows` from the formulas. Not a test.

    python tests/lab_select.py             # checks the two functions below
    python tests/lab_select.py select.py   # checks those of another file

Change nothing but the two functions. Programs are dicts with `reward` (b) and `self_reward` (r).
"""
import runpy
import sys


def superior(explored, refined):
    """The better of a program and its rewrite: the table of formulas in the README says which."""
    raise NotImplementedError("write superior")


def training_rows(positives, negatives, n1_max, n2_max):
    """[(draft or None, program)]: U1 has no draft. positives, negatives: P+ and P-, best first."""
    raise NotImplementedError("write training_rows")


PAIRS = [  # (b, r), (b~, r~), is the rewrite kept?
    ((0, -1), (0, -.1), False), ((0, -.1), (1, -1), True), ((1, -1), (0, -.1), False),
    ((1, -1), (1, -.1), True), ((1, -.1), (1, -1), False), ((1, -.5), (1, -.5), False)]
ROWS = [  # |P+|, |P-|, N1, N2, rows
    (0, 3, 10, 2, []), (1, 3, 10, 2, [(None, "p0")]), (3, 0, 10, 2, [(None, "p0"), (None, "p1")]),
    (4, 3, 10, 2, [(None, "p0"), (None, "p1"), (None, "p2"), ("n0", "p3")]),
    (4, 3, 1, 2, [(None, "p0"), ("n0", "p2"), ("n1", "p3")]), (4, 1, 1, 2, [(None, "p0"), ("n0", "p3")]),
    (4, 3, 1, 0, [(None, "p0")])]


def check(superior, training_rows):
    """Yields what is wrong, an example a line."""
    for (b, r), (b_new, r_new), kept in PAIRS:
        draft, rewrite = {"reward": b, "self_reward": r}, {"reward": b_new, "self_reward": r_new}
        if superior(draft, rewrite) is not (rewrite if kept else draft):
            yield f"superior: b = {b}, r = {r}, rewrite b = {b_new}, r = {r_new}: keep the {'rewrite' if kept else 'draft'}"
    for right, wrong, n1, n2, rows in ROWS:
        got = training_rows([f"p{k}" for k in range(right)], [f"n{k}" for k in range(wrong)], n1, n2)
        if sorted(got, key=str) != sorted(rows, key=str):
            yield f"training_rows: |P+| = {right}, |P-| = {wrong}, N1 = {n1}, N2 = {n2}: {rows}, not {got}"


def other(path):
    """superior and training_rows of a file; select.py's rows as (draft, program)."""
    names = runpy.run_path(path)
    if "solve_row" not in names:
        return names["superior"], names["training_rows"]

    def rows(positives, negatives, n1, n2):
        sides = ([{"id": name, "env": "math", "question": "?", "program": name} for name in side]
                 for side in (positives, negatives))
        return [(row["prompt"].split("```")[1].removeprefix("python").strip() if row["kind"] == "refine" else None,
                 row["completion"].split("\n")[0]) for row in names["training_rows"](*sides, n1, n2)]
    return names["superior"], rows


if __name__ == "__main__":
    sys.path.insert(0, ".")
    faults = list(check(*(other(sys.argv[1]) if sys.argv[1:] else (superior, training_rows))))
    print("\n".join(faults) or f"all {len(PAIRS) + len(ROWS)} examples are right")
    sys.exit(bool(faults))
