"""The pages and the house: what README and docs name must exist, and the code keeps to its plan.

    python tests/test_docs.py --fix     # rewrites the line numbers of links to functions

A link such as [`generate`](explore.py#L40) is a promise: line 40 defines generate. After an edit
that moves functions, --fix mends all of them; what no longer exists it names.
"""
import ast
import doctest
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STAGES = ["explore", "refine", "reward", "select", "train"]
READING_PATH = [*(f"{stage}.py" for stage in STAGES), "envs.py", "run.sh"]
PACKAGE = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("nanoenvisions/*.py"))
DATA = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("data/*.py"))
PRODUCT = [*READING_PATH, *PACKAGE, *(f"nanoenvisions/{name}.sh" for name in ("methods", "setup", "sweep")), *DATA]
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*.py"))
README_LINES, FILE_LINES, COLUMNS = 200, 400, 100
# Programs of others whose flags and variables the pages may name.
FOREIGN = ("docker", "apt-get", "pip", "git", "playwright", "pytest", "nsjail")
FOREIGN_NAMES = {"OMP_NUM_THREADS", "CHROMIUM", "HF_HUB_OFFLINE", "HF_HOME", "TMPDIR", "PYTHONHASHSEED",
                 "CUDA_VISIBLE_DEVICES", "WANDB_MODE", "PIP_EXTRA_INDEX_URL", "IMAGE", "FILE", "PWD", "FOLDER", "STAGE", "OUT"}

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def prose(page) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def pages(test):
    return pytest.mark.parametrize("page", PAGES, ids=page_id)(test)


# --------------------------------------------------------------------------------------- Links --

@functools.cache
def definitions(path: Path) -> dict:
    """{name: line} of what a file defines: functions, classes, Class.method, constants, settings."""
    lines = {}
    if path.suffix == ".py":
        def visit(body, before):
            for node in body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    lines.setdefault(before + node.name, node.lineno)
                    lines.setdefault(node.name, node.lineno)  # a method's name alone will do
                    visit(node.body, f"{before}{node.name}." if isinstance(node, ast.ClassDef) else before)
                elif isinstance(node, ast.Assign):
                    for target in node.targets:
                        for name in ast.walk(target):
                            if isinstance(name, ast.Name):
                                lines.setdefault(before + name.id, node.lineno)
                elif isinstance(node, ast.If):  # select.py defines what it needs below one
                    visit(node.body + node.orelse, before)
        visit(ast.parse(path.read_text()).body, "")
    elif path.suffix == ".sh":
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := re.match(r"(?:setting )?(\w+)(?:\(\) \{|\s)| *: \"\$\{(\w+)", line):
                lines.setdefault(found[1] or found[2], number)
    return lines


def headings(page) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    titles = [re.sub(r"\]\([^)]*\)", "", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def promised(text: str) -> str | None:
    """The function that a link's text names: `generate` -> generate, else None."""
    found = re.fullmatch(r"`([A-Za-z_][\w.]*)`", text)
    return found[1] if found and "/" not in text and not re.search(r"\.(py|sh|md)$", found[1]) else None


def link_fault(page: Path, text: str, target: str) -> str | None:
    """What is wrong with a link; None if it points where it says."""
    if re.match(r"https?://", target):
        return None
    path, _, anchor = target.partition("#")
    path = (page.parent / path).resolve() if path else page
    if not path.exists():
        return "there is no such file"
    if path.suffix == ".md":
        return None if not anchor or anchor in headings(path) else "there is no such heading"
    name = promised(text)
    line = re.fullmatch(r"L(\d+)", anchor)
    if name is None:
        return None if not anchor else "a line number needs the name of a function as its text"
    if name not in definitions(path):
        return f"{path.name} does not define {name}"
    if not line or int(line[1]) != definitions(path)[name]:
        return f"{name} is in line {definitions(path)[name]} (python tests/test_docs.py --fix)"
    return None


@pages
def test_every_link_points_where_it_says(page):
    faults = [f"[{text}]({target}): {fault}" for _, text, target in LINK.findall(prose(page))
              if (fault := link_fault(page, text, target))]
    assert not faults


def test_a_link_that_has_moved_is_noticed(tmp_path):
    """The check itself: right, moved by a line, renamed, gone; without a line; a wrong heading."""
    (tmp_path / "code.py").write_text("def one():\n    pass\n\nclass Two:\n    def three(self): pass\n")
    page = tmp_path / "page.md"
    page.write_text("# A title, with *signs*\n")
    for text, target, good in (
            ("`one`", "code.py#L1", True), ("`one`", "code.py#L2", False), ("`Two.three`", "code.py#L5", True),
            ("`two`", "code.py#L4", False), ("`one`", "code.py", False), ("code", "code.py", True),
            ("`code.py`", "code.py", True), ("code", "gone.py", False), ("code", "code.py#L1", False),
            ("title", "#a-title-with-signs", True), ("title", "page.md#another", False)):
        assert (link_fault(page, text, target) is None) == good, (text, target)
    page.write_text("[`one`](code.py#L9) [`gone`](code.py#L9)\n```\nx[`one`](code.py)\n```\n")
    assert fix(page) == ["[`gone`](code.py#L9): code.py does not define gone"]
    assert page.read_text() == "[`one`](code.py#L1) [`gone`](code.py#L9)\n```\nx[`one`](code.py)\n```\n"


@pages
def test_pictures_are_there(page):
    """Also those of HTML; links are checked above."""
    for source in re.findall(r'<img[^>]*src="([^"]+)"', page.read_text()):
        assert (page.parent / source).exists(), source


def fix(page: Path) -> list[str]:
    """Mend the line numbers of a page; returns what cannot be mended."""
    faults = []

    def mend(found):
        whole, (_, text, target) = found[0], found.groups()
        path, name = (page.parent / target.partition("#")[0]).resolve(), promised(text)
        if name and path.is_file() and name in definitions(path):
            return f"[{text}]({target.partition('#')[0]}#L{definitions(path)[name]})"
        if fault := link_fault(page, text, target):
            faults.append(f"{whole}: {fault}")
        return whole
    parts = re.split(r"(^```.*?^```)", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    page.write_text("".join(part if part.startswith("```") else LINK.sub(mend, part) for part in parts))
    return faults


# -------------------------------------------------------------------------- Flags and settings --

@functools.cache
def help_of(script: str) -> str:
    """What `python SCRIPT --help` prints; for envs.py that of all its commands."""
    calls = [[]]
    if script == "envs.py":
        calls += [["make", "--env", env] for env in ("math", "logic", "web")] + [["import"], ["schedule"], ["show"]]
    texts = []
    for call in calls:
        done = subprocess.run([sys.executable, script, *call, "--help"], cwd=ROOT, text=True,
                              capture_output=True, timeout=120)
        if done.returncode:
            pytest.fail(f"{script} --help: {done.stderr.strip().splitlines()[-1]}", pytrace=False)
        texts.append(done.stdout)
    return "\n".join(texts)


@functools.cache
def flags_of(script: str) -> frozenset:
    """The flags that a script takes: as its --help says, or, beside the tests, as its source does."""
    if not (ROOT / script).exists():
        return frozenset()
    text = (ROOT / script).read_text() if script.startswith("tests/") else help_of(script)
    return frozenset(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


@functools.cache
def settings() -> frozenset:
    return frozenset(re.findall(r"^setting (\w+)", (ROOT / "run.sh").read_text(), re.MULTILINE))


def commands(page) -> list[str]:
    """Every shell command of a page, from its blocks (their comments cut) and from inline code."""
    blocks = [body for language, body in FENCE.findall(page.read_text()) if language in ("bash", "sh")]
    blocks += re.findall(r"(?:^    .+\n)+", prose(page), re.MULTILINE)  # indented blocks
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    parts = [part.strip() for line in lines + inline for part in re.split(r"&&|;|\|", line)]
    return [part for part in parts if re.search(r"(^|\s)(python \S+\.py|bash run\.sh)\b", part)]


def command_fault(command: str) -> str | None:
    words = shlex.split(command)
    start = next(i for i, word in enumerate(words) if word in ("python", "bash"))
    for word in words[:start]:
        name, _, value = word.partition("=")
        if "=" not in word:  # docker run ... IMAGE python reward.py
            continue
        if name not in settings() | FOREIGN_NAMES:
            return f"run.sh has no setting {name}"
        if name == "METHOD" and not re.search(
                rf"^    {value}\)", (ROOT / "nanoenvisions/methods.sh").read_text(), re.MULTILINE):
            return f"methods.sh has no METHOD {value}"
        if name.endswith("_FLAGS"):
            script = "envs.py" if name == "MAKE_FLAGS" else name.removesuffix("_FLAGS").lower() + ".py"
            for flag in re.findall(r"--[a-z][\w-]*", value):
                if flag not in flags_of(script):
                    return f"{script} has no flag {flag}"
    script, rest = words[start + 1], words[start + 2:]
    if script == "run.sh":
        files = rest[:1] == ["test"] and all((ROOT / one).exists() for one in rest[1:])
        return None if files or not rest else f"run.sh takes no {rest}"
    if script.isupper() or script == "STAGE.py":
        return None
    if not (ROOT / script).exists():
        return f"there is no {script}"
    for word in rest:
        if re.match(r"--[a-z]", word) and word.partition("=")[0] not in flags_of(script):
            return f"{script} has no flag {word}"
    return None


@pages
def test_every_command_has_its_flags_and_settings(page):
    faults = [f"{command}: {fault}" for command in commands(page) if (fault := command_fault(command))]
    assert not faults


@pages
def test_every_flag_and_setting_named_alone_exists(page):
    """Such as `--guards` or `FEW_SHOT` in a sentence."""
    scripts = [*(f"{stage}.py" for stage in STAGES), "envs.py", "data/report.py",
               *(name for name in TESTS if "/test_" not in name)]
    known = frozenset().union(*map(flags_of, scripts)) | {"--help"}
    source = "\n".join((ROOT / path).read_text() for path in PRODUCT)
    faults = []
    for code in re.findall(r"`([^`]+)`", prose(page)):
        if re.search(rf"\b({'|'.join(FOREIGN)})\b", code):
            continue
        faults += [f"{flag}: no script has it" for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
                   if flag not in known]
        for name in re.findall(r"^([A-Z][A-Z0-9_]{2,})(?==|$)", code):
            in_code = "=" not in code and re.search(rf"\b{name}\b", source)
            if name not in settings() | FOREIGN_NAMES and not in_code:
                faults.append(f"{name}: neither a setting nor in the code")
            value = code.partition("=")[2]
            if name == "METHOD" and value and (fault := command_fault(f"{code.split()[0]} bash run.sh")):
                faults.append(fault)
    assert not faults


def test_commands_with_a_wrong_word_are_noticed():
    for command, good in (("python reward.py --in a.jsonl --out b.jsonl", True),
                          ("python reward.py --in a.jsonl --output b.jsonl", False),
                          ("python rewards.py --in a.jsonl", False), ("ENV=logic bash run.sh", True),
                          ("ENVIRONMENT=logic bash run.sh", False), ("METHOD=no-pool bash run.sh", True),
                          ("METHOD=no-pol bash run.sh", False), ("bash run.sh tests", False),
                          ("bash run.sh test tests/test_docs.py", True), ("bash run.sh test tests/test_dogs.py", False),
                          ('TRAIN_FLAGS="--rank 32" bash run.sh', True),
                          ('TRAIN_FLAGS="--ranks 32" bash run.sh', False)):
        assert (command_fault(command) is None) == good, command


@pages
def test_examples_give_what_they_say(page, monkeypatch):
    """Python blocks with >>> are run from the repository."""
    monkeypatch.chdir(ROOT)
    for language, body in FENCE.findall(page.read_text()):
        if language == "python" and ">>>" in body:
            example = doctest.DocTestParser().get_doctest(body, {}, page.name, page.name, 0)
            assert example.examples and not doctest.DocTestRunner().run(example).failed


def test_every_stage_has_a_help_that_teaches():
    """Which stage, the article's formula, the command; and words about each flag."""
    formula = {"explore": "a_k ~ p_t(. | x)", "refine": "ã_k ~ p_t(. | x, a_k)", "reward": "b_k = 1[y_k = y]",
               "select": "n1 = min(N1, max(1, |P+| - 1))", "train": "log p(a_i | prompt, a_<i)"}
    for number, stage in enumerate(STAGES, 1):
        text = help_of(f"{stage}.py")
        assert f"Stage {number} of 5, {stage}" in text
        assert formula[stage] in " ".join(text.split()), stage
        assert f"python {stage}.py --in" in text
        silent = re.findall(r"^  (-(?:(?!\S  +\S).)+)\n(?!    )", text + "\n", re.MULTILINE)
        assert not silent, f"{stage}: no word about {silent}"


# ----------------------------------------------------------------------------------- The pages --

def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_the_readme_names_every_file():
    """A newcomer finds each file of the product on the first page."""
    text = (ROOT / "README.md").read_text()
    missing = [path for path in PRODUCT if not path.endswith("__init__.py")
               and not re.search(rf"\b{re.escape(Path(path).name)}\b", text)]
    missing += [page_id(page) for page in PAGES[1:] if f"({page_id(page)}" not in text]
    assert not missing


@pages
def test_nothing_is_left_to_fill_in(page):
    left = re.findall(r"<!-- fill: .*?-->", page.read_text())
    assert not left


# ----------------------------------------------------------------------------------- The house --

@pytest.mark.parametrize("name", [*PRODUCT, *TESTS])
def test_no_file_is_too_long(name):
    length = len((ROOT / name).read_text().splitlines())
    assert length <= FILE_LINES


@pytest.mark.parametrize("name", PRODUCT)
def test_no_line_is_too_long(name):
    lines = (ROOT / name).read_text().splitlines()
    wide = [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS]
    assert not wide


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it: {"envs", "nanoenvisions.records", "json"}."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name for name in inside if (ROOT / f"{name.replace('.', '/')}.py").exists()} or {node.module}
    return names


@pytest.mark.parametrize("name", PACKAGE)
def test_nothing_in_the_package_imports_a_stage(name):
    above = imports(ROOT / name) & {*STAGES, "envs"}
    if Path(name).name in ("jail.py", "server.py"):  # started where ours is hidden: the library's
        above -= {"select"}
    assert not above


@pytest.mark.parametrize("name", [name for name in PACKAGE if "__init__" not in name])
def test_a_module_says_what_it_imports(name):
    """Its docstring has `May import ...` with every module of the package that it does import."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text())) or ""
    may = re.search(r"May import\s", text)
    assert may, "no `May import ...` in the docstring"
    used = {module.removeprefix("nanoenvisions.") for module in imports(ROOT / name)
            if module.startswith("nanoenvisions.")}
    assert not {module for module in used if not re.search(rf"\b{module}\b", text)}


def test_no_circle_in_the_package():
    graph = {name: {module for module in imports(ROOT / f"nanoenvisions/{name}.py")}
             for name in (Path(path).stem for path in PACKAGE)}
    graph = {name: {one.partition(".")[2] for one in used if one.startswith("nanoenvisions.")}
             for name, used in graph.items()}
    while graph:
        free = {name for name, used in graph.items() if not used & set(graph)}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in free}


def test_stages_import_downwards_only():
    """No stage imports another one, nor does envs.py."""
    for name in ("envs", *STAGES):
        assert not imports(ROOT / f"{name}.py") & set(STAGES), name


@pytest.mark.parametrize("call", [["envs.py", "make", "--num", "2", "--out", os.devnull],
                                  ["reward.py", "--help"], ["select.py", "--help"]], ids=lambda call: call[0])
def test_it_starts_without_torch(call):
    code = ("import runpy, sys\nsys.argv = sys.argv[1:]\n"
            "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as end:\n    assert not end.code, end.code\n"
            "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, *call], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


if __name__ == "__main__":
    if sys.argv[1:] != ["--fix"]:
        sys.exit(__doc__)
    problems = [f"{page_id(page)}: {fault}" for page in PAGES for fault in fix(page)]
    sys.exit("\n".join(problems) or None)
