"""Both engines for real: the same work from one params.yaml, nothing twice, and only what a change touches."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT, call
from helpers import ROOT, copy_project, write_params

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("dvc"))
    call(folder, "dvc", "repro")
    return folder


@pytest.fixture(scope="module")
def by_snakemake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("snakemake"))
    call(folder, "snakemake", "--cores", "2")
    return folder


def metrics(folder: Path) -> dict[str, dict]:
    found = sorted((folder / "runs").rglob("metrics.json"))
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in found}


def stale(folder: Path) -> tuple[set[str], set[str]]:
    """What DVC and Snakemake would run now: the folders of outputs, as each engine names them."""
    status = call(folder, "dvc", "status", "--json")
    dvc = {name.split("@")[0] + ":" + name.partition("@")[2] for name in json.loads(status)}
    rows = [line.split("\t") for line in call(folder, "snakemake", "--detailed-summary").splitlines() if "\t" in line]
    header = next(row for row in rows if row[0] == "output_file")
    plan, output = header.index("plan"), header.index("output_file")
    return dvc, {row[output] for row in rows if len(row) > plan and row[plan] != "no update" and row is not header}


def test_both_engines_unfold_the_same_stages(tmp_path: Path) -> None:
    from dvc.repo import Repo

    folder = copy_project(tmp_path)

    def change(params: dict) -> None:
        params["datasets"]["more"] = params["datasets"]["shapes"]
        params["grid"].update(
            data=["shapes", "more"], dataset=["shapes", "more"], target=["more", "shapes"], seed=[1, 2],
            method=["random", "supervised", "relational"],
        )  # fmt: skip

    write_params(folder, change)
    for leftover in ("methods/.pairs.py.swp", "methods/pairs.py~", "methods/#pairs.py#", "views/kernel.py.orig"):
        (folder / "rr" / leftover).write_text("what an editor leaves is no code")
    stages = {}
    with Repo(str(folder)) as repo:
        for stage in repo.index.stages:
            places = [dep.fs_path for dep in stage.deps if type(dep).__name__ == "Dependency"]
            code = [place for place in places if os.path.isdir(place) and place.startswith(f"{folder}/rr/")]
            within = [file for place in code for file in repo.dvcignore.find(stage.deps[0].fs, place)]
            inputs = {os.path.relpath(place, folder) for place in {*places, *within} - set(code)}
            outputs = {os.path.relpath(out.fs_path, folder) for out in stage.outs}
            for output in outputs:
                stages[output] = (stage.cmd, inputs)

    jobs, commands = {}, set()
    fields: dict[str, str] = {}
    for line in call(folder, "snakemake", "--dry-run", "--printshellcmds").splitlines():
        key, _, value = line.strip().partition(": ")
        fields[key] = value
        if key == "Shell command" and value.startswith("rr "):
            commands.add(" ".join(value.split(" > ")[0].split()))
            jobs |= {output: set(fields["input"].split(", ")) for output in fields["output"].split(", ")}

    assert commands == {command for command, _ in stages.values()}
    assert set(stages) == set(jobs)
    assert len(stages) == 2 * 2 + 2 * 4 + 12 * 4 + 12 * 2 * 2 * 5 + 5
    for output, (_, inputs) in stages.items():
        found = jobs[output]
        folders = {name for name in inputs if "." not in Path(name).name}
        # DVC's report depends on whole folders, since a matrix cannot be listed; Snakemake's files lie in them.
        assert {
            name for name in found if not any(Path(folder) in Path(name).parents for folder in folders)
        } == inputs - folders


def test_dvc_and_the_grid_agree_on_each_stages_parameters(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    from rr.workflow.grid import PARAMETERS

    stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    for stage, keys in PARAMETERS.items():
        assert tuple(key.replace("${item.", "{") for key in stages[stage]["params"]) == keys


def test_after_dvc_neither_engine_has_anything_to_do(by_dvc: Path) -> None:
    assert "Data and pipelines are up to date." in call(by_dvc, "dvc", "repro")
    call(by_dvc, "rr", "sync", "--from", "dvc")
    output = call(by_dvc, "snakemake", "-n")
    assert "Nothing to be done" in output
    assert "missing provenance" not in output
    assert "every artefact is what its record says" in call(by_dvc, "rr", "verify")


def test_after_snakemake_neither_engine_has_anything_to_do(by_snakemake: Path) -> None:
    assert "Nothing to be done" in call(by_snakemake, "snakemake", "-n")
    call(by_snakemake, "rr", "sync", "--from", "snakemake")
    assert call(by_snakemake, "dvc", "repro").count("didn't change, skipping") == 9
    assert "Data and pipelines are up to date." in call(by_snakemake, "dvc", "status")


def test_both_engines_find_the_same_figures(by_dvc: Path, by_snakemake: Path) -> None:
    assert metrics(by_dvc) == metrics(by_snakemake)
    assert len(metrics(by_dvc)) == 4
    cell = "shapes/conv4/relational/1"
    for place in (
        f"runs/pretrain/{cell}/backbone.safetensors", f"runs/pretrain/{cell}/views.png", f"runs/history/{cell}.csv",
    ):  # fmt: skip
        assert (by_dvc / place).read_bytes() == (by_snakemake / place).read_bytes()


def test_a_parameter_reruns_its_own_stages_alone(by_dvc: Path) -> None:
    call(by_dvc, "rr", "sync", "--from", "dvc")
    try:
        write_params(by_dvc, lambda params: params["methods"]["relational"].update(views=3))
        dvc, snakemake = stale(by_dvc)
        assert dvc == {"pretrain:shapes-conv4-relational-1"}
        assert snakemake
        assert all("/relational/" in name or name.startswith("report/") for name in snakemake)
        refused = call(by_dvc, "rr", "sync", "--from", "snakemake", code=2)
        assert "was made with other parameters" in refused
        assert "not synchronised" in refused
    finally:
        write_params(by_dvc)
    assert stale(by_dvc) == (set(), set())


def test_dvc_shows_metrics_params_and_curves(by_dvc: Path, tmp_path: Path) -> None:
    shown = json.loads(call(by_dvc, "dvc", "metrics", "show", "--json"))
    assert len(shown[""]["data"]) == 4
    assert "WARNING" not in call(by_dvc, "dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for axis in ("loss", "accuracy", "label", "prediction"):
        assert f'"field": "{axis}"' in page
    assert page.count('"field": "xy_count"') >= 4  # a confusion matrix of each evaluation
    try:
        write_params(by_dvc, lambda params: params["methods"]["relational"].update(views=3))
        assert "methods.relational.views" in call(by_dvc, "dvc", "params", "diff")
    finally:
        write_params(by_dvc)


def test_an_experiment_reruns_what_depends_on_its_parameter(by_dvc: Path) -> None:
    shutil.copy(by_dvc / "dvc.lock", by_dvc.parent / "kept.lock")
    output = call(by_dvc, "dvc", "exp", "run", "-S", "methods.relational.views=3")
    ran = {line.split("'")[1].split("@")[0] for line in output.splitlines() if line.startswith("Running stage")}
    assert ran == {"pretrain", "evaluate", "report"}
    assert "pretrain@shapes-conv4-random-1' didn't change" in output
    record = json.loads((by_dvc / "runs/pretrain/shapes/conv4/relational/1/run.json").read_text())
    assert record["params"]["methods.relational"]["views"] == 3
    write_params(by_dvc)
    call(by_dvc, "dvc", "repro")  # the cache has every output of before
    assert "every artefact is what its record says" in call(by_dvc, "rr", "verify")


@pytest.mark.parametrize("engine", [("dvc", "repro"), ("snakemake", "--cores", "2")])
def test_a_killed_engine_goes_on_to_the_same_bits(tmp_path: Path, by_dvc: Path, engine: tuple[str, ...]) -> None:
    folder = copy_project(tmp_path)
    process = subprocess.Popen(
        [str(BIN / engine[0]), *engine[1:]], cwd=folder, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    resume = folder / "runs/resume/shapes/conv4/relational/1/resume.pt"
    while not resume.exists():
        assert process.poll() is None, "the engine ended before it could be killed"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if engine[0] == "snakemake":
        call(folder, "snakemake", "--unlock")  # its own guard, after it was killed itself
    call(folder, *engine)
    assert metrics(folder) == metrics(by_dvc)
    place = "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    assert (folder / place).read_bytes() == (by_dvc / place).read_bytes()
    assert "every artefact is what its record says" in call(folder, "rr", "verify")


def test_a_config_that_would_not_reach_the_stages_is_refused(by_snakemake: Path) -> None:
    output = call(by_snakemake, "snakemake", "-n", "--config", "threads=1", code=1)
    assert "the stages read params.yaml: change it there" in output


def test_suites_come_by_configfile_several_at_once(tmp_path: Path) -> None:
    folder = copy_project(tmp_path)
    shutil.copy(ROOT / "params.yaml", folder)
    for name, seed in (("one", 7), ("two", 8)):
        (folder / f"{name}.yaml").write_text(
            f"suites: {{{name}: {{grid: {{data: [shapes], dataset: [shapes], backbone: [conv4], method: [{name}-run], "
            f"seed: [{seed}], target: [shapes], protocol: [knn]}}, "
            f"methods: {{{name}-run: {{like: relational, epochs: 1, views: {seed}}}}}}}}}"
        )
    before = (folder / "params.yaml").read_bytes()
    small = "sed -i 's/train: 5000, test: 2000/train: 200, test: 50/' params.yaml"
    subprocess.run(small, shell=True, cwd=folder, check=True)
    suites = ("--configfile", "one.yaml", "two.yaml")
    call(folder, "snakemake", "--cores", "2", *suites)
    for name, seed in (("one", 7), ("two", 8)):
        record = json.loads((folder / f"runs/pretrain/shapes/conv4/{name}-run/{seed}/run.json").read_text())
        assert record["params"][f"methods.{name}-run"]["views"] == seed
    assert len(metrics(folder)) == 2
    assert "Nothing to be done" in call(folder, "snakemake", "-n", *suites)
    call(folder, "rr", "verify", "--params", ".rr/suites/one+two.yaml")
    assert (folder / "params.yaml").read_bytes() != before  # by the line above alone
    assert "one-run" not in (folder / "params.yaml").read_text()
    assert "suite three: a suite has a section grid" in call(
        folder, "snakemake", "-n", "--config", 'suites={"three": {"methods": {}}}', code=1
    )


def test_a_broken_stage_shows_its_message_in_both_engines(by_snakemake: Path) -> None:
    def change(params: dict) -> None:
        params["datasets"]["mine"] = {
            **params["datasets"]["shapes"],
            "source": {"kind": "imagefolder", "path": "nowhere", "test_share": 0.2, "unreadable": "stop"},
        }
        params["grid"].update(data=["shapes", "mine"], dataset=["mine"])

    try:
        write_params(by_snakemake, change)
        expected = "rr: nowhere is not a folder: correct the source's path in params.yaml"
        assert expected in call(by_snakemake, "snakemake", "--cores", "1", code=1)
        assert expected in call(by_snakemake, "dvc", "repro", "fetch@mine", code=255)
    finally:
        write_params(by_snakemake)
