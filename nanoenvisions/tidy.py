"""Tidy programs: Python programs without what does nothing, so that equal computations are equal.

May import the standard library only. Programs are read, never run. A program that ran has the same
answer when tidied: what may do something stays, and if it is not simple, all that can be reached.
"""
from __future__ import annotations

import ast
import collections
import warnings

LONGEST = 20_000  # characters; longer programs stay as they are,
DEEPEST = 20      # and so do those with more different indentations
ROUNDS = 8        # what one round takes out may leave more to take out for the next
ANSWERS = {"solution", "answer", "ans", "result", "agent"}  # what environments read of a program
LAZY = set("zip enumerate reversed map filter".split())  # what they give can be read only once
PURE = LAZY | set("int float abs round len str pow divmod bool range sum min max sorted list tuple "
                  "set dict any all math".split())  # "math": any function of that module
QUIET = set("math cmath random datetime fractions decimal statistics time typing itertools os sys "
            "functools collections re string json operator copy numpy sympy scipy pandas".split())
DISPLAYS = (ast.List, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp,
          ast.SetComp, ast.DictComp, ast.GeneratorExp)
IMPORTS = (ast.Import, ast.ImportFrom)
BINDING = (ast.Assign, ast.AnnAssign, ast.FunctionDef, *IMPORTS)
# These mean something even where they are never reached: a `yield` makes a function a generator.
UNREACHED = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)
# With these, a program may notice an error, or what an operator does, or call what has no name.
ODD = (*UNREACHED, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.AsyncFor, ast.Delete,
       ast.AsyncFunctionDef, ast.ClassDef, ast.Starred, ast.Lambda)


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
            before, size = local_names(tree), count(tree)
            if clean(tree) and keeps_scopes(tree, before):
                changed = count(tree) != size and states_answer(tree)
                return keep_lines(program, tree) if changed else program
    except (RecursionError, MemoryError, ValueError):  # too deep, or numbers too long to write
        pass
    return program


def canonical(program: str, ran: bool = True) -> str:
    """The syntax tree of the tidied program: equal trees, same solution. Names count."""
    program = tidy(program, ran)
    tree = parse(program)
    return program.strip() if tree is None else ast.dump(tree)


def computes(program: str) -> bool:
    """False if the program only states a constant: `return 42` does, `return 6 * 7` computes."""
    work = (ast.BinOp, ast.Compare, ast.Subscript, ast.comprehension, ast.For, ast.While,
            ast.BoolOp)
    tree = parse(program)
    return tree is None or any(
        isinstance(node, work) and getattr(getattr(node, "left", 0), "id", "") != "__name__"
        or isinstance(node, ast.Call) and getattr(node.func, "id", "") not in ("print", "solution")
        for node in ast.walk(tree))


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
            if not any(getattr(node, "finalbody", 0) or isinstance(node, ast.Match)
                       for node in ast.walk(tree)):
                # `return 1; break` parses, but is no program; without the break it would be one.
                compile(program, "<program>", "exec", dont_inherit=True)
                return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        pass
    return None


# ------------------------------------------------------------------------------------- Names --

def binds(node):
    """The name that a node binds, or None: "x" for the x of `x = 1`, "f" for `def f(): ...`."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.alias):
        return (node.asname or node.name).partition(".")[0]
    return node.arg if isinstance(node, ast.arg) else getattr(node, "name", None)


def reads(nodes) -> list:
    """The names that nodes use, once for each use: ["x", "y"] of `x += y`."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            names += node.names
    return names


def targets(part) -> set:
    """The names that an assignment, import or def surely binds: {"a", "b"} of `a, b = 1, 2`."""
    if isinstance(part, (ast.Name, ast.FunctionDef, ast.alias)):
        return {binds(part)}
    parts = [getattr(part, "target", None)]
    for field in ("targets", "names", "elts"):
        parts += getattr(part, field, [])
    return {name for one in parts if isinstance(one, ast.AST) for name in targets(one)}


def own(scope):
    """The nodes of a function, without those of the functions and comprehensions in it."""
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, SCOPES):
            todo += ast.iter_child_nodes(node)


def local_names(tree) -> dict:
    """{function or class: the names bound in it}."""
    return {scope: {binds(node) for node in own(scope)} for scope in ast.walk(tree)
            if isinstance(scope, SCOPES)}


def keeps_scopes(tree, before: dict) -> bool:
    """Whether every name still in use means the same: without its `x = 1`, x would be global."""
    return not any((before[scope] - names).intersection(reads(ast.walk(scope)))
                   for scope, names in local_names(tree).items() if before[scope] - names)


def count(tree) -> int:
    return sum(1 for _ in ast.walk(tree))


# ------------------------------------------------------------------------------------- Facts --

class Facts:
    """What must be known of a whole program before anything in it can be called idle."""

    def __init__(self, tree):
        nodes = list(ast.walk(tree))
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        defined = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        self.bound = collections.Counter(map(binds, nodes))
        self.functions = {node.name for node in defined}
        self.modules = {binds(one): getattr(node, "module", one.name)
                        for node in nodes if isinstance(node, IMPORTS) for one in node.names}
        self.variables = self.bound.keys() - self.functions - self.modules.keys()
        # Where a thing may stand that can be read only once, and where None may, and functions.
        self.once = {node.iter for node in nodes if isinstance(node, (ast.For, ast.comprehension))}
        self.once.update(one for call in calls if self.known(call) in PURE for one in call.args)
        self.alone = {node.value for node in nodes if isinstance(node, ast.Expr)}
        self.called = {call.func for call in calls} | {
            node.value for node in nodes if isinstance(node, ast.Attribute)}
        types = [getattr(node, field, 0) for node in nodes for field in ("annotation", "returns")]
        typed = {inner for one in types if one for inner in ast.walk(one)}
        self.simple = not any(self.odd(node) for node in nodes if node not in typed)
        # Where nothing is None or a function, solution() gives the answer, and no print() does.
        self.returns = (
            sum(one.name == "solution" and count(one.args) == 1
                for one in tree.body if one in defined)
            == self.bound["solution"] > 0 and all(leaves(one.body[-1]) for one in defined)
            and all(node.value for node in nodes if isinstance(node, ast.Return)))
        # A list that has a name may have two, so that `b += [1]` changes what a is.
        self.lists = any(isinstance(one, DISPLAYS) and one not in self.once
                         for one in nodes) or any(
            self.known(one) in (None, "list", "set", "dict", "sorted", "divmod") for one in calls)
        settled = {name for one in tree.body if isinstance(one, BINDING) for name in targets(one)
                   if self.bound[name] == 1}
        self.harmless = set()  # functions that change nothing, those defined earlier first
        for one in defined:
            free = {*reads(own(one))} - set(map(binds, own(one)))
            fixed = set() if self.lists else {*settled}  # lists change without being bound anew
            if self.bound[one.name] == 1 and not free & self.variables - fixed:
                self.harmless.add(one.name)  # it may call itself
                if not self.pure(one):
                    self.harmless.remove(one.name)
        # What only its own `x = x + 1` reads is not read.
        self.read = collections.Counter(reads(nodes))
        for node in nodes:
            names = targets(node) if isinstance(node, (*BINDING, ast.AugAssign)) else ()
            if len(names) == 1 and (self.bound[min(names)] == 1 or node not in defined) \
                    and self.idle(node):
                self.read.subtract(name for name in reads(ast.walk(node)) if name in names)
        self.read += collections.Counter()  # without those at 0
        # What functions use of the scopes around them may be read whenever they are called.
        self.outer = {name for scope in nodes if isinstance(scope, SCOPES)
                      for name in {*reads(own(scope))} - set(map(binds, own(scope)))}

    def known(self, call):
        """"sum" if Python's own sum is called, "math" for math.sqrt, else None."""
        name = getattr(getattr(call.func, "value", call.func), "id", None)
        if self.modules.get(name) == "math" and self.bound[name] == 1:
            return "math"
        return name if isinstance(call.func, ast.Name) and name not in self.bound else None

    def odd(self, node) -> bool:
        """Whether its effect is not plain to see: an unknown call, None, a function as a value."""
        if isinstance(node, ast.Call):  # in statements of their own: also xs.append(3) and print()
            name = self.known(node)
            fine = name in PURE - LAZY or node in self.once and name in LAZY
            owner = getattr(getattr(node.func, "value", None), "id", None)
            alone = node in self.alone and (name == "print" or owner in self.variables)
            return not (fine or alone or getattr(node.func, "id", None) in self.functions)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id != "__name__":
            special = node.id in self.functions or node.id in self.modules
            return special and node not in self.called or (
                node.id not in self.bound and node not in self.called)
        if isinstance(node, ast.Attribute):
            return node.attr.startswith("_") or node not in self.called and node.attr not in (
                "pi", "e", "tau", "inf")
        return (isinstance(node, ODD)
                or isinstance(node, ast.GeneratorExp) and node not in self.once
                or isinstance(node, ast.Constant) and (
                    node.value is None or "__" in str(node.value) != "__main__"))

    def pure(self, *nodes) -> bool:
        """Whether running it changes nothing but the names it binds: `x = abs(y)` is pure."""
        def changes(node):
            if isinstance(node, ast.Call):
                name = self.known(node)
                return not (name in PURE or name == "print" and self.returns
                            or getattr(node.func, "id", None) in self.harmless)
            return (isinstance(node, (ast.Attribute, ast.Subscript))
                    and isinstance(node.ctx, ast.Store)
                    or isinstance(node, ast.AugAssign) and self.lists
                    or bool(getattr(node, "decorator_list", 0)))
        return not any(changes(inner) for node in nodes if node for inner in ast.walk(node))

    def idle(self, node) -> bool:
        """Whether a statement is of no use but for the names that it binds."""
        if isinstance(node, IMPORTS):
            return QUIET.issuperset(self.modules[binds(one)] for one in node.names)
        if isinstance(node, ast.FunctionDef):
            return not node.decorator_list and self.pure(node.args, node.returns)
        if isinstance(node, (ast.If, ast.For, ast.While)):
            return not node.body and not node.orelse and self.pure(node)
        return (isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Assert))
                and self.pure(node))


# ---------------------------------------------------------------------------------- Cleaning --

def blocks(node) -> list:
    """The lists of statements in a node: body and orelse of an `if`."""
    some = [getattr(node, field, None) for field in ("body", "orelse")]
    return [block for block in some if isinstance(block, list)]


def cut(tree) -> bool:
    """Drop what stands behind a statement that never goes on to the next one, at any depth."""
    for block in (block for node in ast.walk(tree) for block in blocks(node)):
        end = next((n for n, statement in enumerate(block, 1) if leaves(statement)), len(block))
        if not any(isinstance(one, UNREACHED) for dead in block[end:] for one in ast.walk(dead)):
            del block[end:]
    return True


def leaves(statement) -> bool:
    """Whether the statement behind it is never reached: return, or an if whose branches all do."""
    def one(block):
        return any(map(leaves, block))
    if isinstance(statement, ast.If):
        return one(statement.body) and one(statement.orelse)
    if isinstance(statement, ast.Try):
        return (one(statement.body) or one(statement.orelse)) and all(
            one(handler.body) for handler in statement.handlers)
    if isinstance(statement, ast.While) and isinstance(statement.test, ast.Constant):
        return bool(statement.test.value) and not any(
            isinstance(node, ast.Break) for node in ast.walk(statement))
    return isinstance(statement, (ast.Return, ast.Raise, ast.Break, ast.Continue))


def sweep(tree) -> bool:
    """Take out of the tree what does nothing; False if that cannot be known, or takes too long."""
    for _ in range(ROUNDS):
        cut(tree)
        facts, size = Facts(tree), count(tree)
        if not facts.simple:
            return False
        drop(tree, facts, set())
        if count(tree) == size:
            return True
    return False


def drop(scope, facts: Facts, end: set):
    """Drop what is idle and binds nothing that is read, or only what is bound anew before that.

    end: the names that nothing reads behind this function, {"x"} if x is local to it.
    """
    always = facts.outer if facts.returns else facts.outer | ANSWERS
    needed = {"solution", *facts.read} if facts.returns else ANSWERS.union(facts.read)
    for block in blocks(scope):
        dead, kept = set(), []
        if isinstance(scope, ast.FunctionDef):
            dead = end = set(map(binds, own(scope))) - always
        for statement in reversed(block):
            drop(statement, facts, end)
            names = targets(statement)
            binding = isinstance(statement, BINDING)
            if isinstance(statement, ast.Pass) or facts.idle(statement) and (
                    not names & needed or binding and names <= dead):
                continue
            kept.append(statement)
            if [] == getattr(statement, "body", 0):
                statement.body.append(ast.Pass())
            if isinstance(statement, ast.Return):
                dead = set(end)
            elif blocks(statement) and not binding or isinstance(statement, (
                    ast.Break, ast.Continue, ast.Raise)):
                dead = set()
            elif binding and getattr(statement, "value", 0) is not None:
                dead |= names - always
            dead.difference_update(reads(ast.walk(statement)))
        block[:] = kept[::-1]


# -------------------------------------------------------------------------------------- Text --

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
