"""Documentation and declarations against the code."""

import ast
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stages.engines import interface
from tests.conftest import REPO, run

STAGES = OmegaConf.to_container(OmegaConf.load(REPO / "dvc.yaml"))["stages"]
HOURS = {"train"}
"""Stages whose reruns cost hours: they depend on the modules that they import and on no others."""
UNTRACKED = ("stages/config/", "stages/__init__.py")
"""No dependencies, nor what they import. Parameters are tracked by value, and nothing in stages/config computes a part
of a result (test_config_holds_fields_and_checks_alone)."""
BACKENDS = {f"stages/engines/{module.replace('.', '/')}.py" for module in interface.BACKENDS.values()}


def holds_code(module: Path) -> bool:
    """Return whether a module has more content than a docstring."""
    return [node for node in ast.parse(module.read_text()).body if not isinstance(node, ast.Expr)] != []


def imported(module: Path, seen: set[Path]) -> set[Path]:
    """Our modules that a module imports, at its top or inside functions, directly or through others."""
    for node in ast.walk(ast.parse(module.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stages"):
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("stages")]
        for name in names:
            paths = [REPO / f"{name.replace('.', '/')}{end}" for end in (".py", "/__init__.py")]
            if name == "stages.engines.interface":
                # It imports the backend of a target by its name.
                paths += [REPO / backend for backend in BACKENDS]
            for path in paths:
                tracked = not path.relative_to(REPO).as_posix().startswith(UNTRACKED)
                if tracked and path.exists() and holds_code(path) and path not in seen:
                    seen.add(path)
                    imported(path, seen)
    return seen


@pytest.mark.parametrize("name", sorted(STAGES))
def test_deps_are_what_a_stage_imports(name: str) -> None:
    body = STAGES[name].get("do", STAGES[name])
    listed = [d for d in body["deps"] if d.startswith("stages/")]
    needed = {p.relative_to(REPO).as_posix() for p in imported(REPO / f"stages/{name}.py", set())}
    needed |= {f"stages/{name}.py"}

    # An engine's own device decides which of the two folders it depends on.
    listed = [x for d in listed for x in ([d.replace("${item.device}", v) for v in ("cpu", "cuda")])]

    def covers(dependency: str, path: str) -> bool:
        return path == dependency or path.startswith(f"{dependency}/")

    assert [p for p in sorted(needed) if not any(covers(d, p) for d in listed)] == []
    assert [d for d in listed if not any(covers(d, p) for p in needed)] == [], "nothing of it is imported"
    if name in HOURS:
        assert [d for d in listed if not d.endswith(".py")] == [], "a folder reruns hours of work after any edit in it"


def dependencies(name: str, device: str = "") -> list[str]:
    body = STAGES[name].get("do", STAGES[name])
    return [d.replace("${item.device}", device) for d in body["deps"]]


@pytest.mark.parametrize("name", ["export", "simplify", "precision"])
def test_an_edited_launch_plan_reruns_no_graph_and_an_edited_operator_does(name: str) -> None:
    assert [d for d in dependencies(name) if d.startswith("stages/engines")] == []
    assert "stages/operators" in dependencies(name)


def test_an_edited_kernel_rebuilds_no_engine_of_a_cpu(tmp_path: Path) -> None:
    listed = dependencies("engine", "cpu")
    assert [d for d in listed if d.startswith("stages/engines/cuda")] == ["stages/engines/cuda/gpu.py"]
    # Nothing else of that folder is imported to build and to run such an engine.
    code = (
        "import sys\nfrom pathlib import Path\nfrom stages import config, engine\nfrom stages.engines import loading\n"
        "from tests.support import graphs\n"
        "target = config.Target(builder=config.Builder.onnxruntime, builder_version='1.32')\n"
        "graph = graphs.write(Path('graph'), graphs.two_outputs(), target)\n"
        "engine.build(graph, Path('cpu'), 'cpu', target, Path('timing.cache'), Path('engine_metrics.json'))\n"
        "loading.load(Path('cpu'), 'cpu', target)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('stages.engines.cuda.')))\n"
    )
    done = run("python", "-c", code, cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["stages.engines.cuda.gpu"]


@pytest.mark.parametrize("name", sorted(STAGES))
def test_help_needs_no_heavy_import(name: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['{name}', '--help']\n"
        "try:\n    runpy.run_module('stages." + name + "', run_name='__main__')\n"
        "except SystemExit as e:\n    assert e.code == 0\n"
        "heavy = {'torch', 'tensorrt_rtx_bindings', 'openvino', 'nvidia_tao_pytorch', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run("python", "-c", code, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (REPO / "Makefile").read_text(), re.MULTILINE))


def test_make_help_lists_every_target() -> None:
    shown = run("make", "help", cwd=REPO).stdout
    assert set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE)) == make_targets()
    phony = set(re.findall(r"^\.PHONY: ([a-z-]+)", (REPO / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    assert phony <= make_targets() | {"help"}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/targets.md", "docs/benchmarks.md"])
def test_commands_in_documents_exist(document: str) -> None:
    text = (REPO / document).read_text()
    assert set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL)))) <= (
        make_targets()
    )
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((REPO / document).parent / link).exists(), link
    for profile in re.findall(r"PROFILE=([a-z_]+)", text):
        assert profile == "name" or (REPO / f"conf/profile/{profile}.yaml").exists()


def test_parameters_document_is_generated() -> None:
    from stages.commands import parameters_doc

    assert (REPO / "docs/parameters.md").read_text() == parameters_doc.text(), "run `make docs`"


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = run("mkdocs", "build", "--strict", "--site-dir", str(site), cwd=REPO, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [page.read_text() for page in site.rglob("*.html")]
    assert len(pages) > 8
    loaded = [
        url for page in pages for url in re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?://[^\"]+)", page)
    ]
    assert loaded == [], "the site must need no network"


def test_readme_is_filled_in() -> None:
    assert re.findall(r"@[A-Z0-9]+@", (REPO / "README.md").read_text()) == []


@pytest.mark.parametrize(
    ("path", "ignored"),
    [("data/raw/mapillary", True), ("data/raw/mapillary.dvc", False), ("data/metrics/x.json", False)],
)
def test_git_tracks_descriptions_and_not_data(path: str, ignored: bool) -> None:
    assert (run("git", "check-ignore", path, cwd=REPO).returncode == 0) == ignored


def test_ci_runs_the_test_command() -> None:
    assert "make test" in (REPO / ".ci/run").read_text()
