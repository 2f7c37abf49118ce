"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "generation", "training", "evaluation", "flows")
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "controlnet_aux", "datasets", "prefect", "matplotlib"}

NO_SECRETS = {"_asdict", "_fields", "_replace", "_exit"}
"""Names with an underscore that their libraries document."""


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def project_files() -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip(f"not a git checkout: {git.stderr.strip()}")
    return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["weights", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from flows.cli import main\n"
        f"sys.argv = ['flexseg', *{arguments}]\n"
        "try:\n    main()\nfinally:\n    print('MODULES', *{m.split('.')[0] for m in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown, modules = done.stdout.split("MODULES")
    assert "Usage" in shown
    assert HEAVY.isdisjoint(modules.split())


def test_no_registry_host_is_written_down() -> None:
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))]
    found = [
        f"{file.relative_to(ROOT)}: {host}"
        for file in project_files()
        for host in hosts
        if host.encode() in file.read_bytes()
    ]
    assert not found


def test_lock_holds_hashes_and_no_addresses() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    assert len(entries) > 100
    assert [e.split("=")[0] for e in entries if "==" in e and "--hash=sha256:" not in e] == []


def test_lock_is_within_the_bounds_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["kubernetes"],
        *project["dependency-groups"]["dev"],
    ]
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, flags=re.MULTILINE))
    outside = [
        f"{line}: the lock has {locked.get(wanted.name)}"
        for line, wanted in zip(lines, map(Requirement, lines), strict=True)
        if not wanted.specifier.contains(locked.get(wanted.name.lower(), "none"))
    ]
    assert outside == []


def test_every_package_tells_type_checkers_and_the_version_is_in_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []
    assert [package for package in PACKAGES if "py.typed" not in data.get(package, [])] == []
    first = re.search(r"^## \[?([^\] ]+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert first is not None and first.group(1) == project["project"]["version"]


def test_hooks_and_workflow_run_what_make_and_ci_run() -> None:
    makefile = (ROOT / "Makefile").read_text()
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    for hook in (hook for repository in repositories for hook in repository["hooks"]):
        tool, *words = hook["entry"].split()
        known = f"{words[0]}:" if tool == "make" else f"$(BIN)/{Path(tool).name}"
        assert known in makefile, hook["id"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    assert workflow["jobs"]["ci"]["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_files_stay_under_300_lines(folder: str) -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in python_files(folder)}
    assert lengths
    assert {name: length for name, length in lengths.items() if length >= 300} == {}


def test_functions_stay_under_50_lines() -> None:
    long = {
        f"{file.relative_to(ROOT)}:{node.name}": lines
        for file in python_files(*PACKAGES)
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) >= 50
    }
    assert long == {}


def test_silenced_checks_give_a_reason() -> None:
    silent = re.compile(r"#\s*(?:type:\s*ignore(?:\[[\w,\s-]*\])?|noqa(?::\s*[A-Z0-9, ]+)?)\s*$")
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in python_files(*PACKAGES, "tests")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if silent.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package: str) -> None:
    bare = [
        f"{file.relative_to(ROOT)}:{node.name}"
        for file in python_files(package)
        for node in parsed(file).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert bare == []


def test_every_test_can_fail() -> None:
    checking = {"raises", "fail", "warns", "approx"}
    functions = [
        (file, node)
        for file in python_files("tests")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    @cache
    def called(function: ast.AST) -> set[str]:
        calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
        return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}

    @cache
    def checks(function: ast.AST) -> bool:
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
        return asserts or any(name in checking or "assert" in name for name in called(function))

    # A helper that checks counts, once it is called: not one that waits, whose only failure is time running out.
    helpers = {node.name for _, node in functions if checks(node) and not node.name.startswith(("test_", "wait"))}
    idle = [
        f"{file.relative_to(ROOT)}:{node.name}"
        for file, node in functions
        if node.name.startswith("test_") and not checks(node) and not called(node) & helpers
    ]
    assert idle == []


def test_private_names_of_libraries_are_listed() -> None:
    listed = (ROOT / "CONTRIBUTING.md").read_text()
    ours = {*PACKAGES, "tests", "benchmarks"}
    bare = []
    for file in python_files(*ours):
        tree = parsed(file)
        imported = {"torch", "ray"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {(a.asname or a.name).split(".")[0] for a in node.names if a.name.split(".")[0] not in ours}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in ours:
                imported |= {name.asname or name.name for name in node.names}
                private = "._" in node.module or any(name.name.startswith("_") for name in node.names)
                bare += [f"{file.relative_to(ROOT)}: {node.module}"] if private and node.module not in listed else []
        bare += [
            f"{file.relative_to(ROOT)}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and node.attr not in NO_SECRETS
            if ast.unparse(node).split(".")[0] in imported and node.attr not in listed
        ]
    assert bare == []


def test_what_a_field_is_stands_in_its_own_sentence() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value.value}"
        for file in python_files(*PACKAGES)
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if node.value.value.startswith("Of ")
    ]
    assert found == []


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for file in python_files(*PACKAGES):
        for node in parsed(file).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_messages_use_plain_words() -> None:
    guessed = re.compile(r"\b[Mm]en(?:d|ds|ded|ding)\b|\bthe way o[u]t\b")
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in project_files()
        if file.suffix in {".py", ".md", ".yaml", ".j2", ".toml"} and file.name != "CHANGELOG.md"
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if guessed.search(line)
    ]
    assert found == []
