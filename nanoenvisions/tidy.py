"""Tidy programs: Python programs without what does nothing, so that equal computations are equal.

May import the standard library only. Programs are read, never run.
"""
from __future__ import annotations

import ast
import builtins

LONGEST = 20_000  # characters; longer ones, or too deep ones, stay as they are
ANSWERS = {"solution", "answer", "ans", "result"}  # what the environment reads after the program ran
PURE_CALLS = set("int float abs round min max sum len str sorted range pow divmod bool list tuple "
                 "set dict enumerate zip reversed".split())
ENDS = (ast.Return, ast.Raise, ast.Break, ast.Continue)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
EFFECTS = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


def tidy(program: str, ran: bool = True) -> str:
    """The program without unreachable statements; if it ran to its end, without idle ones, too.

    Idle are assignments and imports that nothing uses, statements without effect, and what is
    printed beside a solution() that returns. What ran raised nothing, so nothing that could have
    failed is mended by this; a program that failed (ran=False) keeps all that can be reached.

    >>> tidy("def solution():\\n    x = 3\\n    return 2\\n    return 7")
    'def solution():\\n    return 2'
    """
    program = program.strip("\n").rstrip()
    tree = parse(program)
    if tree is None:
        return program
    before = ast.dump(tree)
    clean(tree, ran)
    if ast.dump(tree) == before or not states_answer(tree):
        return program
    return keep_lines(program, tree)


def canonical(program: str, ran: bool = True) -> str:
    """The syntax tree of the tidied program: equal trees, same solution. Names count."""
    program = tidy(program, ran)
    tree = parse(program)
    return program.strip() if tree is None else ast.dump(tree)


def computes(program: str) -> bool:
    """False if the program only states a constant: `return 42` does, `return 6 * 7` computes."""
    tree = parse(program)
    work = (ast.BinOp, ast.Compare, ast.Subscript, ast.comprehension, ast.For, ast.While, ast.BoolOp)
    return tree is None or any(isinstance(node, work) or isinstance(node, ast.Call)
                               and getattr(node.func, "id", "") not in ("print", "solution")
                               for node in ast.walk(tree))


def parse(program: str):
    """The syntax tree without docstrings, or None where there is none to be had."""
    try:
        if len(program) > LONGEST:
            return None
        tree = ast.parse(program)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
                node.body[0].value = ast.Constant(0)
        ast.dump(tree)
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# ----------------------------------------------------------------------------------- Cleaning --

def clean(tree, ran: bool):
    """Take out of the tree what does nothing, until nothing is left to take out."""
    cut(tree)
    for _ in range(50 if ran else 0):
        before = ast.dump(tree)
        names = Names(tree)
        sweep(tree, names)
        for scope in ast.walk(tree):
            if isinstance(scope, (ast.Module, *FUNCTIONS)):
                overwritten(scope, names)
        cut(tree)
        if ast.dump(tree) == before:
            return


def blocks(node):
    """The lists of statements that a node holds: body, orelse, handlers' bodies ..."""
    for field in ("body", "orelse", "finalbody"):
        if isinstance(getattr(node, field, None), list):
            yield field, getattr(node, field)


def cut(tree):
    """Drop what stands behind a statement that never goes on to the next one, at any depth."""
    for node in ast.walk(tree):
        for _, block in blocks(node):
            for place, statement in enumerate(block):
                if leaves(statement):
                    del block[place + 1:]
                    break


def leaves(statement) -> bool:
    """Whether the statement behind it is never reached: return, or an if whose branches all do."""
    if isinstance(statement, ENDS):
        return True
    if isinstance(statement, ast.If) and statement.orelse:
        return any(map(leaves, statement.body)) and any(map(leaves, statement.orelse))
    return (isinstance(statement, ast.While) and isinstance(statement.test, ast.Constant)
            and bool(statement.test.value)
            and not any(isinstance(node, ast.Break) for node in ast.walk(statement)))


class Names:
    """Which names a program uses, and whether it hides how."""

    def __init__(self, tree):
        nodes = list(ast.walk(tree))
        self.loaded = {node.id for node in nodes if isinstance(node, ast.Name)
                       and not isinstance(node.ctx, ast.Store)}
        self.loaded |= {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal))
                        for name in node.names}
        self.bound = {node.id for node in nodes if isinstance(node, ast.Name)
                      and isinstance(node.ctx, ast.Store)}
        self.bound |= {node.name for node in nodes if isinstance(node, (ast.ClassDef, *FUNCTIONS))}
        self.bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        self.hidden = bool(self.loaded & {"eval", "exec", "locals", "globals", "vars", "dir"})
        functions = [node for node in getattr(tree, "body", []) if isinstance(node, ast.FunctionDef)
                     and node.name == "solution"]
        # A solution() that ends in a value is the answer: what is printed beside it is not.
        self.returns = bool(functions) and surely_returns(functions[-1].body)
        if not self.returns:
            self.loaded |= ANSWERS
        self.loaded.add("solution")


def surely_returns(body) -> bool:
    last = body[-1]
    if isinstance(last, ast.If) and last.orelse:
        return surely_returns(last.body) and surely_returns(last.orelse)
    empty = isinstance(last, ast.Return) and (
        last.value is None or isinstance(last.value, ast.Constant) and last.value.value is None)
    # an early `return` without a value might be the one that is taken
    bare = any(isinstance(node, ast.Return) and node.value is None
               for statement in body for node in ast.walk(statement))
    return isinstance(last, ast.Return) and not empty and not bare


def pure(node, names: Names) -> bool:
    """Whether working it out changes nothing: no call but of plain built-ins and of math."""
    def harmless(call):
        function = call.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            return function.value.id == "math" and "math" not in names.bound
        name = getattr(function, "id", None)
        if name in names.bound:
            return name == "solution" and names.returns
        return name in PURE_CALLS or name == "print" and names.returns and not names.hidden
    return not any(isinstance(one, EFFECTS) or isinstance(one, ast.Call) and not harmless(one)
                   for one in ast.walk(node))


def idle(statement, names: Names) -> bool:
    """Whether a statement could as well not be there."""
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return pure(statement.value, names)
    if names.hidden:
        return False
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return all((one.asname or one.name).partition(".")[0] not in names.loaded | {"*"}
                   for one in statement.names)
    if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        targets = getattr(statement, "targets", None) or [statement.target]
        return (all(isinstance(target, ast.Name) and target.id not in names.loaded
                    for target in targets)
                and (statement.value is None or pure(statement.value, names)))
    if isinstance(statement, (ast.ClassDef, *FUNCTIONS)):
        plain = not statement.decorator_list and isinstance(statement, FUNCTIONS)
        return plain and statement.name not in names.loaded
    if isinstance(statement, ast.If):
        return not statement.body and not statement.orelse and pure(statement.test, names)
    return False


def sweep(node, names: Names):
    """Drop idle statements, the innermost first."""
    for child in ast.iter_child_nodes(node):
        sweep(child, names)
    for field, block in blocks(node):
        block[:] = [statement for statement in block if not idle(statement, names)]
        if not block and field == "body" and not isinstance(node, (ast.Module, ast.If)):
            block.append(ast.Pass())
    if isinstance(node, ast.If) and not node.body and node.orelse:
        node.body = [ast.Pass()]


def overwritten(scope, names: Names):
    """Drop assignments that the same block makes anew before anything can have read them."""
    if names.hidden or any(isinstance(node, (ast.Global, ast.Nonlocal)) for node in ast.walk(scope)):
        return
    inner = {node.id for function in ast.walk(scope)
             if isinstance(function, (ast.Lambda, *FUNCTIONS, ast.ClassDef)) and function is not scope
             for node in ast.walk(function) if isinstance(node, ast.Name)}
    dead, kept = set(), []  # names that are assigned further down before they are read
    for statement in reversed(scope.body):
        simple = (isinstance(statement, ast.Assign) and len(statement.targets) == 1
                  and isinstance(statement.targets[0], ast.Name))
        name = statement.targets[0].id if simple else None
        if simple and name in dead and name not in inner and pure(statement.value, names):
            continue
        read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)
                and not isinstance(node.ctx, ast.Store)}
        # what may jump, or be skipped, makes nothing dead; every name in it counts as read
        if not isinstance(statement, (ast.Assign, ast.Expr, ast.Return, ast.Import)):
            read |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        dead = (dead | {name} if simple else dead) - read
        kept.append(statement)
    scope.body[:] = kept[::-1]


# --------------------------------------------------------------------------------------- Text --

def states_answer(tree) -> bool:
    """Whether something is left that an environment could read."""
    return any(getattr(node, "id", getattr(node, "name", None)) in ANSWERS | {"print", "agent"}
               for node in ast.walk(tree))


def keep_lines(program: str, tree) -> str:
    """The program's own lines, less those of removed statements; else the tree written anew."""
    lines = program.split("\n")
    wanted = ast.dump(tree)
    whole = ast.parse(program)
    left = {(node.lineno, node.col_offset) for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    gone, last = set(), max((node.end_lineno for node in ast.walk(tree)
                             if isinstance(node, ast.stmt)), default=0)
    for node in ast.walk(whole):
        if isinstance(node, ast.stmt) and (node.lineno, node.col_offset) not in left:
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            gone |= set(range(first, node.end_lineno + 1))
    kept = [line for number, line in enumerate(lines, 1) if number not in gone and number <= last]
    text = "\n".join(kept).strip("\n").rstrip()
    again = parse(text)
    return text if again is not None and ast.dump(again) == wanted else ast.unparse(tree)
