"""Tidy programs: Python programs without what does nothing, so that equal computations are equal.

May import effects. Programs are read, never run. A program that ran has the same
answer when tidied: what may do something stays, and if it is not simple, all that can be reached.
"""
from __future__ import annotations

import ast
import functools
import warnings

from nanoenvisions.effects import (ANSWERS, BINDING, SCOPES, UNREACHED, Facts, answering, binds,
                                   blocks, count, leaves, own, reads, targets, types_of, unread)

LONGEST = 20_000  # characters; longer programs stay as they are,
DEEPEST = 20      # and so do those with more different indentations
BRIEF, FEW = 1_000, 2  # with `finally` or `match`: no more characters, no more of these
ROUNDS = 8        # what one round takes out may leave more to take out for the next


@functools.lru_cache(4096)  # the same program is asked for again and again: K samples, the pool
def tidy(program: str, ran: bool = True) -> str:
    """The program without unreachable statements; if it ran to its end, without idle ones, too.

    Idle are assignments and imports that nothing uses, statements without effect, and what is
    printed beside a solution() that returns. What ran raised nothing, so nothing that could have
    failed is mended by this; a program that failed (ran=False) keeps all that can be reached.

    >>> tidy("def solution():\\n    x = 3\\n    return 2\\n    return 7")
    'def solution():\\n    return 2'
    """
    program = program.strip("\n").rstrip()
    try:
        for clean in (sweep, cut) if ran else (cut,):
            tree = parse(program)
            if tree is None:
                break
            before, nodes = local_names(tree), count(tree)
            if clean(tree) and keeps_scopes(tree, before):
                changed = count(tree) != nodes and states_answer(tree)
                return keep_lines(program, tree) if changed else program
    except (RecursionError, MemoryError, ValueError):  # too deep, or numbers too long to write
        pass
    return program


def canonical(program: str, ran: bool = True) -> str:
    """The syntax tree of the tidied program: equal trees, same solution. Names count, types not."""
    tree = parse(tidy(untyped(program) if ran else program, ran))
    return program.strip() if tree is None else ast.dump(tree)


def computes(program: str) -> bool:
    """False if the program only states a constant: `return 42` does, `return 6 * 7` computes."""
    work = (ast.BinOp, ast.AugAssign, ast.Compare, ast.Subscript, ast.comprehension, ast.For,
            ast.While, ast.BoolOp)
    tree = parse(untyped(program))
    if tree is None:
        return True
    known = {"print", "solution", "int", "float", "round", "abs", "str"}.union(
        # to call these is no work; what is done in them may be
        node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    return any(
        isinstance(node, work) and getattr(getattr(node, "left", 0), "id", "") != "__name__"
        or isinstance(node, ast.Call) and getattr(node.func, "id", "") not in known
        for part in answering(tree) for node in ast.walk(part))


def parse(program: str):
    """The syntax tree, or None if there is none to be had, or only one too deep or too costly."""
    indents = {len(line) - len(line.lstrip()) for line in program.split("\n")}
    if len(program) > LONGEST or len(indents) > DEEPEST or "\f" in program:
        return None
    try:
        with warnings.catch_warnings():  # about "\d" and the like: not the user's business
            warnings.simplefilter("ignore")
            tree = ast.parse(program)
            ast.dump(tree)  # fails for trees that are too deep for what follows
            # To compile what nests `finally` or `match` may take for ever.
            slow = sum(bool(getattr(node, "finalbody", 0)) or isinstance(node, ast.Match)
                       for node in ast.walk(tree))
            if not slow or slow <= FEW and len(program) <= BRIEF:
                # `return 1; break` parses, but is no program; without the break it would be one.
                compile(program, "<program>", "exec", dont_inherit=True)
                return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        pass
    return None


# ---------------------------------------------------------------------------------- Cleaning --

def cut(tree, gone=frozenset()) -> bool:
    """Drop what is in `gone` or never reached, at any depth: `if False:`, and what stands behind a
    statement that never goes on to the next one."""
    for node in reversed([*ast.walk(tree)]):  # what is inside comes first
        for block in blocks(node):
            run = [one for statement in block for one in taken(statement) if one not in gone]
            while run and run[0] is not block[0] and is_constant(run[0]):
                del run[0]  # it would become a docstring
            end = next((n for n, statement in enumerate(run, 1) if leaves(statement)), len(run))
            block[:] = run if any(map(matters, run[end:])) else run[:end]
        fill(node)
    return True


def taken(statement) -> list:
    """What is run of an `if True:` or a `while False:`; of others, the statement itself."""
    test = getattr(statement, "test", None)
    if isinstance(test, ast.Constant) and (
            isinstance(statement, ast.If) or isinstance(statement, ast.While) and not test.value):
        run, dead = statement.body, statement.orelse
        if not test.value:
            run, dead = dead, run
        if not any(map(matters, dead)):
            return run
    return [statement]


def matters(unreached) -> bool:
    """Whether it means something though it is never reached."""
    return any(isinstance(node, UNREACHED) for node in ast.walk(unreached))


def is_constant(statement) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def fill(node):
    """A body that has become empty is no program."""
    if [] == getattr(node, "body", 0):
        node.body.append(ast.Pass())


def sweep(tree) -> bool:
    """Take out of the tree what does nothing; False if that cannot be known, or takes too long."""
    for _ in range(ROUNDS):
        nodes = count(tree)
        cut(tree, unread(tree))
        facts = Facts(tree)
        if not facts.simple:
            return False
        OnceOnly().visit(tree)
        drop(tree, facts)
        if count(tree) == nodes:
            return True
    return False


ARITHMETIC = ast.BinOp, ast.UnaryOp, ast.operator, ast.USub, ast.UAdd


class OnceOnly(ast.NodeTransformer):
    """`75 + 12 * 1` -> `75 + 12`: numbers alone, since a list times 1 is another list."""

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult) and is_arithmetic(node):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                if getattr(one, "value", 0) == 1 and type(one.value) is int:
                    return other
        return node


def is_arithmetic(node) -> bool:
    """Numbers, + - * / and the like alone. `not 3` is no number: times 1 it becomes one."""
    return all(isinstance(part, ARITHMETIC)
               or isinstance(part, ast.Constant) and type(part.value) in (int, float)
               for part in ast.walk(node))


def drop(scope, facts: Facts, end=frozenset(), behind=frozenset()):
    """Drop what is idle and binds nothing that is read, or only what is bound anew before that.

    end: the names that nothing reads behind this function, {"x"} if x is local to it; behind: those
    that nothing reads behind this statement.
    """
    for block in blocks(scope):
        if isinstance(scope, (ast.FunctionDef, ast.Module)):
            behind = end = set(map(binds, own(scope))) - facts.lasting - {"solution"}
        dead, kept = set(behind), []
        for statement in reversed(block):
            drop(statement, facts, end, dead if isinstance(statement, ast.If) else ())
            names = targets(statement)
            binding = isinstance(statement, (*BINDING, ast.AugAssign))
            if isinstance(statement, ast.Pass) or facts.idle(statement) and (
                    not names & facts.needed or binding and names <= dead):
                continue
            kept.append(statement)
            fill(statement)
            if isinstance(statement, ast.Return):
                dead = set(end)
            elif blocks(statement) and not binding or isinstance(statement, (
                    ast.Break, ast.Continue, ast.Raise)):
                dead = set()
            elif binding and getattr(statement, "value", 0) is not None:
                dead |= names - facts.lasting
            dead.difference_update(reads(ast.walk(statement)))
        block[:] = kept[::-1]


def local_names(tree) -> dict:
    """{function or class: the names bound in it}."""
    return {scope: {binds(node) for node in own(scope)} for scope in ast.walk(tree)
            if isinstance(scope, SCOPES)}


def keeps_scopes(tree, before: dict) -> bool:
    """Whether every name still in use means the same: without its `x = 1`, x would be global."""
    return not any((before[scope] - names).intersection(reads(ast.walk(scope)))
                   for scope, names in local_names(tree).items() if before[scope] - names)


# -------------------------------------------------------------------------------------- Text --

def untyped(program: str) -> str:
    """The program without types, if there are any, and if to read them calls nothing."""
    tree = parse(program)
    types = [] if tree is None else types_of(ast.walk(tree))
    if types and not any(isinstance(node, (ast.Call, ast.NamedExpr)) for node in types):
        try:
            return ast.unparse(Untyped().visit(tree))
        except (RecursionError, MemoryError, ValueError):
            pass
    return program


class Untyped(ast.NodeTransformer):
    """`def f(a: int) -> int: ...` -> `def f(a): ...`, and `x: int = 1` -> `x = 1`."""

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        plain = ast.Assign([node.target], node.value)
        return node if node.value is None else ast.copy_location(plain, node)

    def visit_ClassDef(self, node):
        return node  # in a class they may make fields


def states_answer(tree) -> bool:
    """Whether something is left that an environment could read."""
    return any(getattr(node, "id", getattr(node, "name", None)) in ANSWERS | {"print"}
               for node in ast.walk(tree))


def keep_lines(program: str, tree) -> str:
    """The program's own lines, less those of removed statements; else the tree written anew."""
    lines, wanted, gone, last = program.split("\n"), ast.dump(tree), set(), 0
    left = {(node.lineno, node.col_offset) for node in ast.walk(tree)
            if isinstance(node, ast.stmt) and hasattr(node, "lineno")}
    for node in ast.walk(parse(program)):
        if isinstance(node, ast.stmt) and (node.lineno, node.col_offset) in left:
            last = max(last, node.lineno if blocks(node) else node.end_lineno)
        elif isinstance(node, ast.stmt):
            first = min([node, *getattr(node, "decorator_list", [])], key=lambda one: one.lineno)
            gone.update(range(first.lineno, node.end_lineno + 1))
    kept = [line for number, line in enumerate(lines, 1) if number not in gone and number <= last]
    for text in ("\n".join(kept).strip("\n").rstrip(), ast.unparse(tree)):
        again = parse(text)
        if again is not None and ast.dump(again) == wanted:
            return text
    return program
